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
    priority: str,
    lent: Mapping[str, int],
    now: Moment,
    terms: Terms,
    *,
    fresh: bool,
) -> bool:
    """Return whether a call of *cost* goes although nobody can enter it.

    books: as they were last seen. lent: units that this holder took in this outage.
    fresh: the books were seen within a lease before it began.

    ``open`` lets everything go and counts it. ``share`` lets go half of what was left above
    the line of *priority*, divided by the holders of then: doorman's safe capacity. What
    others drew since then is not known: by that much it may go past the quota.
    """
    for name, count in cost.items():
        choice = terms.meters[name].policy.on_ledger_down
        if choice == "open" or not count:
            continue
        meter = books.meters.get(name)
        if choice == "closed" or not fresh or meter is None or not meter.read or meter.blocked:
            return False
        if books.distrusted is not None or books.age(name, now) > terms.meters[name].max_age:
            return False
        room = books.room(name, now, terms)
        if room is not None:
            room -= books.held_back(name, priority, now, terms)
            if lent.get(name, 0) + count > room // (2 * max(1, active(books))):
                return False
    return True
