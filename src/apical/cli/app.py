"""The application that the verbs are added to, and what becomes of their errors."""

import signal
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from apical import __version__
from apical.cli import terminal
from apical.errors import ApicalError

MISTAKE = 2


class Verbs(TyperGroup):
    """A group of commands that shows errors on purpose as a message, and keeps the traceback for bugs."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ApicalError as error:
            terminal.complain(str(error))
            raise typer.Exit(MISTAKE) from error
        except KeyboardInterrupt as interruption:
            terminal.say(str(interruption) or "Interrupted.")
            number = getattr(interruption, "signal", signal.SIGINT)
            raise typer.Exit(128 + number) from interruption


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"apical {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Any PyTorch network, learning by the brain's rules instead of backpropagation, measured honestly.

    Start with [bold]apical compare[/bold]: every learning rule on real handwritten digits, within a minute.
    """
