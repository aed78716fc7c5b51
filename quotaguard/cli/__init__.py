"""The command line: ``quotaguard``. It needs the extra ``cli``, the library does not."""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = {"rich", "typer"}


def main() -> int:
    """Run the command line and leave with its exit code; 2 without the extra ``cli``."""
    try:
        from quotaguard.cli.app import app  # noqa: PLC0415 - what it needs may be missing
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(
            "quotaguard: the command line needs an extra: pip install 'quotaguard[cli]'",
            file=sys.stderr,
        )
        return 2
    app(prog_name="quotaguard")
    return 0
