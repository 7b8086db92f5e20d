"""The page in headless Chromium: it opens offline and without a complaint, and its controls do what they say."""

import copy
import os
import shutil

import pytest
from playwright.sync_api import sync_playwright
from report_demo import DEMO, only_run, with_failures, with_tuning

from apical.report import write
from waiting import PATIENCE, until

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
CURVES = "#section-1-learning .scatterlayer .trace"


@pytest.fixture(scope="module")
def chromium():
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        missing = "no Chromium found: `apt-get install chromium`"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS, timeout=1000 * PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of each kind of document, written once."""
    folder = tmp_path_factory.mktemp("pages")
    demo = copy.deepcopy(DEMO)
    long = copy.deepcopy(DEMO)
    long |= {"title": "a" * 200, "command": "apical " + "b" * 300}
    long["arms"][1]["title"] = "c" * 80
    long["config"]["model"] = "/a/path/without/spaces/" + "d" * 120 + ".py:network"
    documents = {
        "demo": demo,
        "several": [with_failures(copy.deepcopy(DEMO)), only_run(copy.deepcopy(DEMO))],
        "single": only_run(copy.deepcopy(DEMO)),
        "long": with_failures(long),
        "tuned": with_tuning(copy.deepcopy(DEMO)),
    }
    return {name: write(document, folder / f"{name}.html") for name, document in documents.items()}


@pytest.fixture
def visit(chromium, pages):
    """Open a page; at the end, check that it complained of nothing and asked for nothing but itself."""
    contexts, complaints, requests, opened = [], [], [], []

    def visit(name, *, width=1280, scheme="light", **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        opened.append(pages[name].as_uri())
        page.goto(opened[-1])
        for plot in page.locator(".plot").all():
            plot.locator(".main-svg").first.wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == opened


def look(page):
    """The colours of the page and of a figure's words."""
    return page.evaluate(
        """() => ({
            page: getComputedStyle(document.body).backgroundColor,
            figure: getComputedStyle(document.querySelector(".plot .xtick text")).fill,
        })"""
    )


def test_curves_are_drawn_and_a_click_on_the_legend_hides_a_rule_in_its_figure(visit):
    page = visit("demo")
    curves = page.locator(CURVES)
    angles = page.locator("#section-1-angles .scatterlayer .trace")
    mirror = page.locator("[data-figure='section-1-learning']", has_text="Weight mirror")
    assert page.locator("[data-figure='section-1-learning']").count() == 7
    assert curves.count() == 7 * 2 * 2  # rules, panels, mean and band
    assert angles.count() == 7 * 3 * 2
    assert page.locator("#section-1-accuracy .scatterlayer .trace").count() == 7 * 2
    assert page.locator("#section-1-cost .scatterlayer .trace").count() == 6

    mirror.click()
    assert mirror.get_attribute("aria-pressed") == "false"
    assert curves.count() == 6 * 2 * 2
    assert angles.count() == 7 * 3 * 2
    page.locator("#theme").click()
    assert curves.count() == 6 * 2 * 2  # hidden stays hidden in the other theme
    mirror.focus()
    page.keyboard.press("Enter")
    assert mirror.get_attribute("aria-pressed") == "true"
    assert curves.count() == 7 * 2 * 2

    mirror.dblclick()
    assert curves.count() == 2 * 2
    mirror.dblclick()
    assert curves.count() == 7 * 2 * 2


def test_the_table_shows_badges_rates_and_intervals(visit):
    page = visit("tuned")
    headings = page.locator("table.results thead").inner_text()
    assert "Points from backprop" in headings
    assert "Learning rate" in headings
    row = page.locator("table.results tbody tr", has_text="Feedback alignment").first
    assert row.locator(".badge").all_inner_texts() == ["diverged", "loss rose", "rate at the edge of the grid"]
    assert " to " in row.locator("td small").first.inner_text()
    assert "0.1" in row.inner_text()
    assert page.locator("table.results tbody tr .badge").count() == 3
    assert "Each rule took the best of the learning rates 0.01, 0.05 and 0.1" in page.inner_text("main")
    assert "set apart: Feedback alignment (diverged, loss rose)" in page.inner_text("main")


def becomes_true(page, expression):
    """Wait for it by asking from outside: the page's own rules forbid the polling that Playwright would do inside."""
    until(lambda: page.evaluate(expression), expression)


def test_the_page_follows_the_system_and_the_toggle(visit):
    page = visit("single")
    toggle = page.locator("#theme")
    light = look(page)
    assert toggle.get_attribute("aria-pressed") == "false"
    toggle.click()
    dark = look(page)
    assert light["page"] != dark["page"]
    assert light["figure"] != dark["figure"]
    assert toggle.get_attribute("aria-pressed") == "true"

    other = visit("single", scheme="dark")
    assert look(other) == dark
    assert other.locator("#theme").get_attribute("aria-pressed") == "true"
    other.emulate_media(color_scheme="light")
    becomes_true(other, "document.querySelector('#theme').ariaPressed === 'false'")
    assert look(other) == light


@pytest.mark.parametrize("name", ["several", "long", "tuned"])
def test_a_phone_needs_no_sideways_scrolling(visit, name):
    page = visit(name, width=360, is_mobile=True, has_touch=True)
    page.evaluate("document.querySelectorAll('details').forEach(e => (e.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("Math.max(...[...document.querySelectorAll('.plot')].map(e => e.scrollWidth))") <= 360


def test_one_run_needs_no_legend_and_its_figures_take_the_width_of_the_window(visit):
    page = visit("single", permissions=["clipboard-read", "clipboard-write"])
    assert page.locator("[data-figure]").count() == 0
    assert page.locator("figure").count() == 2
    assert page.locator(CURVES).count() == 2

    wide = page.locator("#section-1-learning .main-svg").first.bounding_box()
    page.set_viewport_size({"width": 360, "height": 800})
    becomes_true(page, "document.querySelector('#section-1-learning .main-svg').clientWidth <= 360")
    narrow = page.locator("#section-1-learning .main-svg").first.bounding_box()
    assert wide["width"] > 900
    assert narrow["height"] > wide["height"]  # the panels now stand above one another

    # The button says so for two seconds only: what it says is noted in the page.
    page.evaluate(
        """() => {
            const button = document.querySelector(".copy");
            window.said = [];
            new MutationObserver(() => said.push(button.textContent)).observe(button, { childList: true });
        }"""
    )
    page.locator(".copy").click()
    becomes_true(page, "said.includes('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == only_run(copy.deepcopy(DEMO))["command"]
