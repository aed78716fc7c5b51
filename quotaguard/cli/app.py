"""All commands of the command line, put together."""

from __future__ import annotations

from typing import Annotated

import typer

import quotaguard
from quotaguard.cli.demo import demo
from quotaguard.cli.status import status

__all__ = ["app"]

app = typer.Typer(
    help="Quota-aware client middleware for metered APIs.",
    add_completion=False,
    no_args_is_help=True,
    # A traceback with local variables would print the API key.
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:  # noqa: FBT001 - typer's way to call it
    if asked:
        typer.echo(f"quotaguard {quotaguard.__version__}")
        raise typer.Exit


@app.callback()
def _quotaguard(
    _asked: Annotated[  # noqa: FBT002 - an option on the command line
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """Keep calls of metered APIs within their quota."""


app.command()(demo)
app.command()(status)
