"""Whether a signal's handler runs above a call of this package that it has stopped half way."""

from __future__ import annotations

from traceback import walk_stack

__all__ = ["interrupts"]

_APART = ("quotaguard.testing", "quotaguard.cli", "quotaguard.clients")
"""They hold no locks themselves, and run what others have written."""


def interrupts() -> bool:
    """Whether this thread is in a call of ours already, below what has called us now.

    That may hold any of our locks, and cannot let go of them before we return. True, too,
    where a listener calls us, which only makes us careful.
    """
    called = False
    for frame, _ in walk_stack(None):
        name = frame.f_globals.get("__name__", "")
        ours = name.partition(".")[0] == "quotaguard" and not name.startswith(_APART)
        if ours and called:
            return True
        called = called or not ours
    return False
