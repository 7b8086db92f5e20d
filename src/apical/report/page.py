"""From comparison documents to one HTML file that needs nothing beside itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from apical.errors import DataError
from apical.report import findings, styles
from apical.report.canvas import Figure
from apical.report.document import layer_title, read, without_folders
from apical.report.figures import figures
from apical.report.spikes import firing
from apical.study.comparison.schema import Arm, Comparison, flatten
from apical.study.runs import files

Document = Mapping[str, Any] | Comparison


@dataclass(frozen=True)
class Section:
    """One comparison on the page."""

    id: str
    comparison: Comparison
    figures: Sequence[Figure]


def render(comparison: Document | Sequence[Document]) -> str:
    """The page as HTML text.

    Args:
        comparison: a comparison document (what `comparison.json` holds), or several, which become sections of
            one page in which a rule keeps its colour and marker.

    Raises:
        DataError: when a document is not a comparison, is of a later format, or none is given.
    """
    documents = [comparison] if isinstance(comparison, Mapping | Comparison) else list(comparison)
    if not documents:
        raise DataError("There is nothing to report: give at least one comparison.")
    comparisons = [without_folders(read(document)) for document in documents]
    looks = styles.assign((arm.rule, arm.label) for each in comparisons for arm in each.arms)
    sections = [
        Section(f"section-{number}", each, figures(each, looks)) for number, each in enumerate(comparisons, start=1)
    ]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=comparisons[0].title
            if len(comparisons) == 1
            else f"{findings.count(len(comparisons)).capitalize()} comparisons",
            sections=sections,
            looks=looks,
            palette={"light": styles.LIGHT, "dark": styles.DARK},
            specs={f"{section.id}-{f.name}": f.spec for section in sections for f in section.figures},
            plotly=get_plotlyjs(),
        )
    )


def write(comparison: Document | Sequence[Document], path: str | Path = "report.html") -> Path:
    """Write the page to `path`, whole or not at all, making its folder where needed, and return the path.

    Raises:
        DataError: as `render`.
        RunError: it cannot be written.
    """
    return write_text(render(comparison), path)


def write_text(page: str, path: str | Path) -> Path:
    """Write a page that was made, whole or not at all, and return its path.

    Raises:
        RunError: it cannot be written.
    """
    path = Path(path).expanduser()
    files.make_folder(path.parent)
    files.atomic_write(path, page.encode())
    return path


def environment() -> jinja2.Environment:
    """The templates of the report, with its filters."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("apical.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # JSON has no NaN: a browser would refuse the whole page, so refuse to write it.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {"date": _date, "setting": _setting, "layer_title": layer_title, "firing": firing}
    environment.globals |= {
        "headline": findings.headline,
        "details": findings.details,
        "points": findings.points_beside_reference,
        "ahead": findings.ahead_of_floor,
        "shared_settings": _shared_settings,
        "own_settings": _own_settings,
    }
    return environment


def _date(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M}"


def _setting(value: Any) -> str:
    """A setting as a reader expects it: lists without Python's brackets, switches in words."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " × ".join(map(str, value)) or "–"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _shared_settings(comparison: Comparison) -> dict[str, Any]:
    """The configuration without what each rule and each seed has of its own."""
    settings = dict(comparison.config)
    if len(comparison.arms) > 1:
        settings.pop("rule", None)
    if comparison.task.stream is None:
        settings.pop("stream", None)
        settings.pop("protect", None)
    elif len(comparison.arms) > 1:
        settings.pop("protect", None)
    if len(comparison.seeds) > 1:
        settings.pop("seed", None)
    return {key: value for key, value in flatten(settings).items() if value is not None}


def _own_settings(arm: Arm) -> dict[str, Any]:
    """The settings in which a rule may differ from the others."""
    return {key: value for key, value in flatten(arm.settings.model_dump()).items() if value is not None}
