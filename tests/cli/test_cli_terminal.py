"""What the command writes where the terminal has few characters, or where there is none."""

import io
import sys

from apical.cli import terminal
from apical.study.runs import display


def test_a_terminal_of_ascii_gets_other_words(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    terminal.admit_all_characters()
    terminal.table(["accuracy ± spread"], [["97.3\u00a0± 0.1 % → é −1.2"]])
    sys.stdout.flush()
    assert "97.3 +- 0.1 % -> ? -1.2" in written.getvalue().decode("ascii")


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(display, "LINES_APART", -1.0)
    with display.Bar("comparing", 40, shown=None) as bar:
        bar.show(10, "loss 0.5")
    with display.Bar("quiet", 40, shown=False) as bar:
        bar.show(10, "loss 0.5")
    assert capsys.readouterr().err == "comparing: 10 of 40 after 0 s  loss 0.5\n"
