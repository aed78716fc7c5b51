"""A poll that a dead holder has claimed: others need not wait for it as long as it might take."""

from __future__ import annotations

import pytest

from quotaguard.quota.account import Books, Terms
from quotaguard.quota.leases import tend
from quotaguard.quota.polls import PollTerms
from quotaguard.quota.readings import Moment
from quotaguard.testing.desks import terms_of
from quotaguard.testing.rules import Rules


@pytest.mark.parametrize(("claim", "pending"), [("dead.7", False), ("alive.7", True)])
def test_the_claim_of_a_dead_holder_ends_with_its_lease(claim: str, pending: bool) -> None:
    """It would stand for 15 s, however short the lease."""
    mine = terms_of(Rules(name="example", lag=1))
    terms = Terms("p", "a", {"m": mine}, PollTerms(30.0, 900.0, 27.0))
    books = Books()
    tend(books, "dead", Moment(0, 0, 0), terms, 2.0)
    books.polls.claim(claim, Moment(1, 1, 1), terms.polls)
    now = Moment(5, 5, 5)
    tend(books, "alive", now, terms, 2.0)
    assert books.polls.pending(now) is pending
