"""Writes the README's table of rules, and the picture of a comparison's page beside it, from today's rules.

python docs/readme.py                    the table
python docs/readme.py runs/comparison    the table and the picture (needs Chromium)
"""

import shutil
import sys
import tempfile
from pathlib import Path

import apical
from apical import report
from apical.study import Comparison

ROOT = Path(__file__).parents[1]
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "images" / "page.png"
HEAD = "| rule | how it teaches | source |\n|---|---|---|\n"


def table() -> str:
    """A row for each rule of apical's own, with the first sentence that its class says of it."""
    kinds = [apical.rules.get(name) for name in apical.rules.names()]
    own = [kind for kind in kinds if kind.__module__.startswith("apical.")]
    return HEAD + "".join(f"| `{kind.name}` | {kind.summary} | {kind.paper} |\n" for kind in own)


def with_table(text: str) -> str:
    """The README with the table of today's rules in the place of its own."""
    start = text.index(HEAD)
    return text[:start] + table() + text[text.index("\n\n", start) + 1 :]


def picture(comparison: Comparison) -> bytes:
    """The top of the comparison's page, as PNG."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = report.write(comparison, Path(folder) / "page.html")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1250}, color_scheme="light")
        page.goto(path.as_uri())
        page.locator(".plot .main-svg").first.wait_for()
        shot = page.screenshot()
        browser.close()
    return shot


def main(folders: list[str]) -> None:
    """Write the table, and the picture where the folder of a comparison is given."""
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    for folder in folders[:1]:
        PICTURE.write_bytes(picture(Comparison.load(Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
