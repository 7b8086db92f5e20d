"""How the command speaks: results to standard output, everything else to standard error."""

import codecs
import io
import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

# How a terminal of plain ASCII shows what results are written with.
_PLAIN = {
    "−": "-",
    "\u00a0": " ",
    "±": "+-",
    "°": " deg",
    "×": "x",
    "–": "-",
    "—": "-",
    "…": "...",
    "“": '"',
    "”": '"',
    "’": "'",
    "→": "->",
}


def admit_all_characters() -> None:
    """Write characters that standard output or standard error does not have in other words, rather than fail."""

    def plain(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        return "".join(_PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end

    codecs.register_error("apical", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="apical")


def results() -> Console:
    """Standard output; 80 columns wide where it is not a terminal."""
    return Console(highlight=False)


def messages() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def complain(message: str) -> None:
    """Show an error, on standard error."""
    messages().print(Panel(Text(message), title="Error", title_align="left", border_style="red"))


def say(message: str) -> None:
    """A line on standard error, never broken, so that a command in it can be copied."""
    messages().print(Text(message), soft_wrap=True)


def line(text: str = "") -> None:
    """A line of results, never broken, so that a path in it can be copied."""
    results().print(Text(text), soft_wrap=True)


def paragraph(text: str) -> None:
    """A sentence or more about the results, broken at the width of the terminal."""
    results().print(Text(text, style="dim" if sys.stdout.isatty() else ""))


def text(written: str) -> None:
    """A docstring: prose is broken at the width of the terminal, lines that are set in keep to themselves."""
    width = results().width
    lines: list[str] = []
    for own in written.splitlines():
        prose = own and not own.startswith(" ")
        if prose and lines and lines[-1] and not lines[-1].startswith(" ") and not lines[-1].endswith(":"):
            lines[-1] += f" {own}"
        else:
            lines.append(own)
    for own in lines:
        indent = " " * (len(own) - len(own.lstrip()))
        line("\n".join(textwrap.wrap(own, width, subsequent_indent=indent, break_long_words=False)))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", words: Sequence[int] = ()) -> None:
    """A table of results.

    Args:
        columns: the headings.
        rows: of text.
        title: above it.
        words: the columns that hold words, beside the first; these are broken over lines where there is no room.
    """
    shown = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, heading in enumerate(columns):
        left = number == 0 or number in words
        shown.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    console = results()
    console.print(shown)
    console.print()


def as_json(value: Any) -> None:
    """A value as JSON, for programs."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def count(number: int, what: str) -> str:
    """A number of things: "1 epoch", "2 epochs"."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def percent(fraction: float, decimals: int = 2) -> str:
    """0.9712 as "97.12 %"."""
    return f"{100 * fraction:.{decimals}f} %"


def megabytes(size: float) -> str:
    """A number of bytes as "11.6 MB", small ones as "41 kB"."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 or not size else f"{size / 1e3:.1f} kB"
