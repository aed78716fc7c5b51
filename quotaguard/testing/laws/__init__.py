"""The laws that every provider keeps, each a function that raises `BrokenLaw`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from quotaguard.testing.laws import answers, calls, conduct, identity
from quotaguard.testing.laws import reports as of_reports
from quotaguard.testing.laws.answers import Speed
from quotaguard.testing.laws.subject import (
    Answer,
    BrokenLaw,
    Make,
    Paid,
    Subject,
    outcome_of,
)

__all__ = ["LAWS", "Answer", "BrokenLaw", "Make", "Paid", "Speed", "Subject", "outcome_of"]

LAWS: Mapping[str, Callable[[Subject], object]] = MappingProxyType(
    {
        "shape": identity.shape,
        "config": identity.config,
        "account": identity.account,
        "keys": identity.keys,
        "request": identity.request,
        "reading": answers.reading,
        "speed": answers.speed,
        "secrets": identity.secrets,
        "errors": answers.errors,
        "statuses": answers.statuses,
        "forbidden": answers.forbidden,
        "remains": answers.remains,
        "price": calls.price,
        "bill": calls.bill,
        "most": calls.most,
        "doubt": calls.doubt,
        "foreign": calls.foreign,
        "reports": of_reports.reports,
        "pure": conduct.pure,
        "threads": conduct.threads,
    }
)
"""By name, in the order in which they are judged: what a beginner meets first comes
first, and speed before whatever reads many answers."""
