"""Whether a call goes while the books cannot be reached: `Policy.on_ledger_down`."""

from __future__ import annotations

from collections.abc import Mapping

from quotaguard.quota.account import Books, Terms
from quotaguard.quota.leases import active
from quotaguard.quota.readings import Moment

__all__ = ["goes_without"]


def goes_without(
    books: Books,
    cost: Mapping[str, int],
    lent: Mapping[str, int],
    now: Moment,
    terms: Terms,
) -> bool:
    """Return whether a call of *cost* goes although nobody can enter it.

    books: as they were last seen. lent: units that this holder took in this outage.

    ``open`` lets everything go and counts it. ``share`` lets go half of what was left,
    divided by the holders of then: doorman's safe capacity. Each takes no more than that
    share, so that together they stay within the quota unless holders came meanwhile.
    """
    for name, count in cost.items():
        choice = terms.meters[name].policy.on_ledger_down
        if choice == "open" or not count:
            continue
        if choice == "closed" or name not in books.meters or not books.meters[name].read:
            return False
        room = books.room(name, now, terms)
        if room is not None and lent.get(name, 0) + count > room // (2 * max(1, active(books))):
            return False
    return True
