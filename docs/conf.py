"""How Sphinx builds the documentation: sphinx-build -W docs docs/_build."""

import re
from importlib.metadata import version as version_of
from pathlib import Path

project = "apical"
author = "The apical developers"
copyright = f"2026, {author}"
version = release = version_of("apical")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
smartquotes = False  # they would make dashes of the options in running text

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"apical {version}"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples):$")


def as_read_in_code(lines: list[str]) -> list[str]:
    """A docstring, written to be read in the code, as reStructuredText.

    An indented block below a blank line is an equation or a drawing: it is set as it stands, and so is a table. In
    running text the marks that reStructuredText would take for links and substitutions (`B_(l+1)`, `|W - B|`) are
    plain signs.
    """
    shown: list[str] = []
    in_section = in_block = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        after_blank = not shown or not shown[-1]
        if re.fullmatch(r"\|.*\|", line):
            shown += [] if in_block else ["::", ""]
            shown.append(f"    {line}")
            in_block, in_section = True, False
            continue
        if line and indent == 0:
            in_section, in_block = bool(SECTION.match(line)), False
        elif line and not in_section and not in_block and after_blank:
            shown += ["::", ""]
            in_block = True
        shown.append(line if in_block else escape(line))
    return shown


def escape(line: str) -> str:
    """Running text: `code` as reStructuredText writes it; a trailing underscore, a bar or a star as plain signs."""
    marks = re.compile(r"(?<=\w)_(?!\w)|\||(?<!\*)\*(?!\*)")
    pieces = re.split(r"(`[^`]+`)", line)
    return "".join(f"`{piece}`" if piece.startswith("`") else marks.sub(r"\\\g<0>", piece) for piece in pieces)


def ledger() -> str:
    """The claims that come with this version, as Markdown: for each protocol a table of claims and one of controls."""
    from apical import papers

    verdicts = papers.verdicts()
    lines = [papers.summary(papers.CLAIMS, verdicts), ""]
    for protocol in dict.fromkeys(claim.protocol for claim in papers.CLAIMS):
        lines += [f"### {protocol.name}", "", f"{protocol.paper.citation} {protocol.paper.link}".strip(), ""]
        lines += [f"Where: {protocol.where}.", "", f"Protocol: {protocol.theirs}", ""]
        lines += [f"- Departs: {departure}" for departure in protocol.departures]
        own = [claim for claim in papers.CLAIMS if claim.protocol == protocol]
        lines += rows([claim for claim in own if not claim.control], verdicts, "claim | says", "verdict")
        lines += rows([claim for claim in own if claim.control], verdicts, "control | level", "came out")
    return "\n".join(lines)


def rows(claims: list, verdicts: dict, first: str, last: str) -> list[str]:
    """Claims or controls as a table of Markdown; no lines where there are none."""
    from apical import papers

    measured = papers.measurements()
    lines = ["", f"| {first} | ours | seeds | epochs | {last} |", "|---|---|---|---|---|---|"] if claims else []
    for claim in claims:
        own, verdict = measured.get(claim.name), verdicts[claim.name]
        numbers = ["–"] * 3
        if own is not None:
            value = f"{100 * claim.says.value(own):.2f} ± {100 * own.deviation:.2f} %"
            numbers = [value, str(len(own.seeds)), str(own.epochs)]
        flag = f" ({verdict.flag})" if verdict.flag else ""
        said = (verdict.level or verdict.outcome.replace("control", "measured")) + flag
        outcome = said if own is None and not claim.out_of_reach else f"{said}: {verdict.why}"
        lines.append(f"| {' | '.join([f'`{claim.name}`', claim.says.text, *numbers, outcome])} |")
    return [*lines, ""]


def steps() -> str:
    """The tables that benchmarks/steps.py wrote last, if they are kept here."""
    tables = Path(__file__).parents[1] / "benchmarks" / "results" / "steps.md"
    return f"## Figures\n\n{tables.read_text(encoding='utf-8')}" if tables.exists() else ""


GENERATED = {"claims": ("<!-- the ledger -->", ledger), "benchmarks": ("<!-- the tables -->", steps)}


def read_source(app, name, source):
    if name in GENERATED:
        place, make = GENERATED[name]
        source[0] = source[0].replace(place, make())


def process_docstring(app, what, name, obj, options, lines):
    lines[:] = as_read_in_code(lines)


def process_signature(app, what, name, obj, options, signature, returns):
    """Classes without arguments of their own do not show those of nn.Module."""
    return ("()", returns) if what == "class" and signature == "(*args: Any, **kwargs: Any)" else None


def setup(app):
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", process_docstring, priority=400)  # before napoleon's 500
    app.connect("autodoc-process-signature", process_signature)
