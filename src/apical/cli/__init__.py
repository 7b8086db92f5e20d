"""The command `apical`: every verb reads its options, calls one function of the library, and shows what came back.

Results go to standard output, progress and complaints to standard error. The exit code is 0 for success, 1 when
nothing that was asked for could be finished, 2 for a mistake in what was asked, 130 after Ctrl-C. What is heavy is
imported inside the verbs, so that `--help` answers at once.
"""

from apical.cli import terminal
from apical.cli.app import app
from apical.cli.claims import papers, reproduce
from apical.cli.comparing import compare, figure, report
from apical.cli.forgetting import continual, protections
from apical.cli.hippocampus import hippocampus
from apical.cli.locality import locality
from apical.cli.lookup import data, rules
from apical.cli.timing import bench
from apical.cli.training import evaluate, resume, train

EXPERIMENTS, KNOWLEDGE, FIGURES = "Experiments", "What there is", "Figures"

app.command(rich_help_panel=EXPERIMENTS)(compare)
app.command(rich_help_panel=EXPERIMENTS)(continual)
app.command(rich_help_panel=EXPERIMENTS)(train)
app.command(rich_help_panel=EXPERIMENTS)(resume)
app.command(rich_help_panel=EXPERIMENTS)(evaluate)
app.command(rich_help_panel=EXPERIMENTS)(hippocampus)
app.command(rich_help_panel=EXPERIMENTS)(report)
app.command(rich_help_panel=EXPERIMENTS)(figure)
app.command(rich_help_panel=KNOWLEDGE)(rules)
app.command(rich_help_panel=KNOWLEDGE)(protections)
app.add_typer(data, name="data", rich_help_panel=KNOWLEDGE)
app.command(rich_help_panel=FIGURES)(bench)
app.command(rich_help_panel=FIGURES)(locality)
app.command(rich_help_panel=FIGURES)(papers)
app.command(rich_help_panel=FIGURES)(reproduce)


def main() -> None:
    """Run the command with the arguments of this process."""
    terminal.admit_all_characters()
    app(prog_name="apical")
