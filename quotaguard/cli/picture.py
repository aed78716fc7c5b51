"""The file that the picture of a run goes into, made sure of before the run starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quotaguard.cli.contacts import FileFault
from quotaguard.cli.drawing import DPI, drawn

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from quotaguard.cli.history import Series

__all__ = ["Picture"]

MARK = "quotaguard demo"
"""Stands in each picture that can carry it: one that has it may be written over."""

MARKED_AS = {"png": "Software", **dict.fromkeys(("svg", "pdf", "eps", "ps"), "Creator")}

LARGEST = 16 * 1024 * 1024
"""Bytes. A larger file is no picture of ours."""

ASKS_FOR_MORE = {"pgf"}
"""What matplotlib writes only where a program beside it (LaTeX) is installed."""


class Picture:
    """A file that will hold the picture of a run: a context, and `draw` makes it.

    Until then an old one stays.

    Raises:
        FileFault: matplotlib is missing, its ending is not a picture's, it cannot be
            written, or it is somebody else's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ending = path.suffix.removeprefix(".").lower()
        endings = _endings()
        if self._ending not in endings:
            known = ", ".join(f".{ending}" for ending in endings)
            raise FileFault(f"--plot {path}: the name of a picture ends in one of {known}")
        _check_ours(path, self._ending)
        self._partial = path.with_name(f".{path.name}.partial")
        try:
            self._partial.touch()
        except OSError as error:
            raise FileFault(f"--plot {path}: cannot write it: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._partial.unlink(missing_ok=True)

    def draw(self, series: Series) -> None:
        """Draw the picture, and put it into its place at once.

        Raises:
            FileFault: it cannot be written after all.
        """
        from matplotlib import rc_context, rcdefaults  # noqa: PLC0415 - an extra

        told = MARKED_AS.get(self._ending)
        marked: dict[str, Any] = {} if told is None else {"metadata": {told: MARK}}
        try:
            with rc_context():
                # Not as somebody's own settings would have it.
                rcdefaults()
                drawn(series).savefig(self._partial, format=self._ending, dpi=DPI, **marked)
            self._partial.replace(self.path)
        except OSError as error:
            raise FileFault(f"cannot write {self.path}: {error.strerror}") from None


def _endings() -> list[str]:
    """Return what the name of a picture may end in.

    Raises:
        FileFault: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "matplotlib":
            raise
        raise FileFault("--plot needs an extra: pip install 'quotaguard[plot]'") from None
    return sorted(set(Figure().canvas.get_supported_filetypes()) - ASKS_FOR_MORE)


def _check_ours(path: Path, ending: str) -> None:
    if not path.exists():
        return
    if not path.is_file():
        raise FileFault(f"--plot {path}: this is not a regular file")
    size = path.stat().st_size
    if not size:
        return
    if ending not in MARKED_AS:
        said = "it stays, since nobody can tell whose such a picture is"
        raise FileFault(f"{path} exists; {said}. Choose another name, or .png")
    if size > LARGEST or MARK.encode() not in path.read_bytes():
        raise FileFault(f"{path} exists and is not one of ours; it stays. Choose another name")
