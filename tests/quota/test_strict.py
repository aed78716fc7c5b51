"""JSON read without mercy: `quotaguard.quota.strict`."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotaguard.quota import strict

REFUSED: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "not a number": b'{"a": NaN}',
    "infinity": b"[Infinity]",
    "minus infinity": b"-Infinity",
    "overflow": b'{"a": 1e400}',
    "negative overflow": b"-1e400",
    "too many digits": b"1" * 4301,
    "same key twice": b'{"a": 1, "a": 1}',
    "same key twice, deep": b'[{"b": {"a": 1, "\\u0061": 2}}]',
    "byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "utf-16 without mark": '{"a": 1}'.encode("utf-16-le"),
    "utf-32": '{"a": 1}'.encode("utf-32"),
    "latin-1": '{"a": "é"}'.encode("latin-1"),
    "half a surrogate pair": b'{"a": "\\ud800"}',
    "half a surrogate pair as key": b'{"\\uDFFF": 1}',
    "trailing garbage": b'{"a": 1} x',
    "two values": b"{}{}",
    "truncated": b'{"a": {"b": 1',
    "single quotes": b"{'a': 1}",
    "trailing comma": b"[1,]",
    "html": b"<html><body>502</body></html>",
    "raw control character": b'"a\nb"',
    "arrays too deep": b"[" * 65 + b"]" * 65,
    "objects too deep": b'{"a":' * 65 + b"1" + b"}" * 65,
    "arrays deeper than the stack": b"[" * 200_000,
    "objects deeper than the stack": b'{"a":' * 40_000,
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_could_be_taken_for_numbers_is_refused(body: bytes) -> None:
    """Everything that a lenient parser would bend into a value is a ValueError."""
    with pytest.raises(ValueError, match=r"^[ \w,-]+$") as caught:
        strict.load(body)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    ("body", "value"),
    [
        pytest.param(b"null", None, id="null"),
        pytest.param(b" [1, 2.5, -3e2] \r\n", [1, 2.5, -300.0], id="numbers"),
        pytest.param(b'{"a": {"a": [true]}}', {"a": {"a": [True]}}, id="a key below itself"),
        pytest.param(b'"\\ud83d\\ude00"', "\N{GRINNING FACE}", id="a whole surrogate pair"),
        pytest.param(b"1" * 4300, int("1" * 4300), id="4,300 digits"),
        pytest.param(b"[" * 64 + b"]" * 64, None, id="64 levels"),
        pytest.param(b"[[]," + b"[" * 63 + b"1" + b"]" * 64, None, id="64 levels and more arrays"),
        pytest.param(b"[" + b"[]," * 500 + b"1]", [[]] * 500 + [1], id="broad, not deep"),
    ],
)
def test_plain_json_is_read_as_it_is(body: bytes, value: object) -> None:
    """What is JSON and within the bounds comes back as json.loads has it."""
    assert strict.load(body) == (json.loads(body) if value is None else value)


def test_a_refusal_quotes_nothing_of_the_body_not_even_in_its_context() -> None:
    """A decoder's own error carries the whole text; ours stands alone."""
    for body in (b'{"key": "s3cret', b"\xffs3cret", b'{"s3cret": 1, "s3cret": 2}'):
        with pytest.raises(ValueError, match=r"it is|twice") as caught:
            strict.load(body)
        assert caught.value.__context__ is None
        shown = "".join(traceback.format_exception(caught.value))
        assert "s3cret" not in shown


EXAMPLES = max(300, settings.default.max_examples if settings.default else 0)
"""By default; the soak profile asks for more."""

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(
    SCALARS.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=EXAMPLES)
@given(value=JSON)
def test_whatever_json_can_say_comes_back(value: Any) -> None:
    """Reading is the inverse of writing, in UTF-8 and in escapes."""
    assert strict.load(json.dumps(value).encode()) == value
    assert strict.load(json.dumps(value, ensure_ascii=False).encode()) == value


@settings(max_examples=EXAMPLES)
@given(
    body=st.binary(max_size=200)
    | st.text(alphabet='[]{}:,"\\ue+-.0123456789truefalsnN').map(str.encode)
)
def test_arbitrary_bytes_are_json_or_a_value_error(body: bytes) -> None:
    """Nothing but ValueError comes out, and what is read is JSON to Python too."""
    try:
        value = strict.load(body)
    except ValueError:
        return
    assert json.loads(body) == value
