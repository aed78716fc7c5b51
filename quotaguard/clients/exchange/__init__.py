"""What all HTTP clients share: from a request to its reservation, from a reply to its bill.

Nothing here knows a client library, waits, or does I/O. A client makes a `Call` of its
request, asks `guarded` for a `Passage`, reserves, sends, and tells the passage what came
back: `answered`, or `lost`. Every passage ends exactly once, whatever happens in between.
"""

from __future__ import annotations

from quotaguard.clients.exchange.bodies import BODY_CAP, decoded
from quotaguard.clients.exchange.passage import Passage, Receipt, Tap, guarded, options
from quotaguard.clients.exchange.refused import TurnedAway, turned_away
from quotaguard.clients.exchange.sending import (
    AsyncWitness,
    HeaderView,
    Witness,
    leaves,
    origin_of,
    refused_stream,
    repeats,
)

__all__ = [
    "BODY_CAP",
    "AsyncWitness",
    "HeaderView",
    "Passage",
    "Receipt",
    "Tap",
    "TurnedAway",
    "Witness",
    "decoded",
    "guarded",
    "leaves",
    "options",
    "origin_of",
    "refused_stream",
    "repeats",
    "turned_away",
]
