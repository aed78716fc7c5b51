"""The laws that every ledger and every store keeps, each a function that raises `BrokenLaw`."""

from __future__ import annotations
