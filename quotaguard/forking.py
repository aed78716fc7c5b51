"""What holds locks takes them before the process forks, and begins anew in the child.

A child has one thread. A lock that another thread of its parent held would stay locked
there for ever; so a fork waits until all of ours are free.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

__all__ = ["LOCK", "Forked", "follow"]


class Forked(Protocol):
    """What must know of a fork."""

    def before_fork(self) -> None:
        """Take every lock, in the order in which they are always taken."""

    def after_fork_in_parent(self) -> None:
        """Release them."""

    def after_fork_in_child(self) -> None:
        """Begin anew: with new locks, without threads, without what the parent holds."""


class _Lock:
    """Held while the process forks, and while something that must know of it is born.

    Two threads may want to fork at once, and a fork goes over all that must know.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()


LOCK = _Lock()
_KNOWN: weakref.WeakSet[Forked] = weakref.WeakSet()
_STORES: weakref.WeakSet[Forked] = weakref.WeakSet()
_FORKING: list[Forked] = []


def follow(one: Forked, *, last: bool = False) -> None:
    """Tell *one* of every fork, as long as it lives.

    last: after the others, who may hold their locks while they wait for the one of this.
    """
    with LOCK.lock:
        (_STORES if last else _KNOWN).add(one)


def _each(act: Callable[[Forked], None]) -> None:
    """Do *act* with all of them, whatever becomes of one: none may stay locked."""
    failed: Exception | None = None
    for one in _FORKING:
        try:
            act(one)
        except Exception as error:  # noqa: BLE001 - raised again, and shown by Python
            failed = error
    if failed is not None:
        raise failed


def _before_fork() -> None:
    LOCK.lock.acquire()
    _FORKING.extend([*_KNOWN, *_STORES])
    _each(lambda one: one.before_fork())


def _after_fork_in_parent() -> None:
    try:
        _each(lambda one: one.after_fork_in_parent())
    finally:
        _FORKING.clear()
        LOCK.lock.release()


def _after_fork_in_child() -> None:
    LOCK.lock = threading.Lock()  # the parent's stays locked by the thread that forked
    try:
        _each(lambda one: one.after_fork_in_child())
    finally:
        _FORKING.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
