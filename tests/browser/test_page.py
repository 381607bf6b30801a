"""The page in a browser: everything loads, the three views move together, the keyboard suffices."""

import itertools
import os
import shutil

import pytest

from experiments import run_all
from experiments.arguments import FIGURES
from experiments.report.page import main

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


def report_missing(program):
    """Skip the test, or fail it in CI, where the program must be installed."""
    if os.environ.get("CI"):
        pytest.fail(f"{program} is missing")
    pytest.skip(f"{program} is missing")


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        report_missing("Chromium (apt-get install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        report_missing("playwright (make test-browser installs it)")
    with sync_playwright() as play:
        opened = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    """Address of the smoke preset's page; figures already in results/ are only drawn."""
    assert run_all.main(["--preset", "smoke"]) == 0
    path = tmp_path_factory.mktemp("report") / "index.html"
    assert main(["--preset", "smoke", "--out", str(path)]) == 0
    return path.as_uri()


@pytest.fixture
def page(browser, address, request):
    """Page opened from disk without a network; an error in its console fails the test."""
    options = {"viewport": {"width": 1280, "height": 900}} | getattr(request, "param", {})
    context = browser.new_context(offline=True, **options)
    opened = context.new_page()
    errors, requests = [], []
    opened.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(address)
    yield opened
    outside = [url[:80] for url in requests if not url.startswith(("file:", "data:"))]
    context.close()
    assert (errors, outside) == ([], [])


def views(page):
    """Return the positions of the two cursors and the pixels of the cloud."""
    return page.evaluate(
        """() => [
            document.querySelector("#loss .now").getAttribute("x1"),
            document.querySelector("#eigenvalues .now").getAttribute("x1"),
            document.getElementById("cloud").toDataURL(),
        ]"""
    )


def test_every_image_loads_and_has_an_alternative_text(page):
    images = page.evaluate(
        "() => [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt.length])"
    )
    assert len(images) > len(FIGURES)
    assert all(loaded and words > 20 for loaded, words in images)


def test_every_figure_and_claim_is_shown(page):
    for name in FIGURES:
        assert page.locator(f"section#{name} .picture img").count() == 1
    assert page.locator("table.claims tbody tr").count() == len(FIGURES)
    assert page.locator("table.claims .verdict").count() == len(FIGURES)


def test_the_slider_moves_all_three_views_of_every_run(page):
    radios = page.locator('input[name="run"]')
    assert radios.count() == 4
    clouds = set()
    for i in range(radios.count()):
        radios.nth(i).check()
        slider = page.locator("#moment")
        slider.focus()
        page.keyboard.press("Home")
        before = views(page)
        page.keyboard.press("End")
        after = views(page)
        assert all(a != b for a, b in zip(before, after, strict=True)), radios.nth(i).get_attribute(
            "value"
        )
        clouds.add(after[2])
        assert "modes learned" in slider.get_attribute("aria-valuetext")
    assert len(clouds) == 4


def test_the_cloud_grows_from_a_point(page):
    ink = """() => {
        const c = document.getElementById("cloud");
        const box = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let n = 0; for (let i = 3; i < box.length; i += 4) n += box[i] > 0; return n; }"""
    page.locator("#moment").focus()
    page.keyboard.press("Home")
    point = page.evaluate(ink)
    page.keyboard.press("End")
    assert page.evaluate(ink) > 1.5 * point


def test_dragging_over_a_chart_moves_the_slider(page):
    chart = page.locator("#loss")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    moments = []
    for share in (0.3, 0.9):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.up()
        moments.append(int(page.locator("#moment").input_value()))
    assert moments[0] < moments[1]


def test_a_replay_plays_and_pauses(page):
    page.locator("#moment").focus()
    page.keyboard.press("Home")
    page.locator("#play").press("Enter")
    page.wait_for_function("() => Number(document.getElementById('moment').value) >= 2")
    page.locator("#play").press("Enter")
    assert page.locator("#play").inner_text() == "Play"


def test_dark_and_light_differ_and_both_have_contrast(page):
    colours = []
    for _ in range(2):
        colours.append(
            page.evaluate(
                "() => { const s = getComputedStyle(document.body); return [s.color, "
                "s.backgroundColor]; }"
            )
        )
        page.locator("#theme").click()
    assert colours[0] != colours[1]
    assert all(abs(brightness(ink) - brightness(paper)) > 120 for ink, paper in colours)


def brightness(colour):
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) / 3


@pytest.mark.parametrize("page", [{"viewport": {"width": 390, "height": 800}}], indirect=True)
def test_on_a_phone_nothing_is_wider_than_the_screen(page):
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert page.locator("#moment").bounding_box()["width"] > 150


def test_headings_do_not_skip_and_every_control_has_a_name(page):
    levels = page.evaluate(
        "() => [...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - level <= 1 for level, later in itertools.pairwise(levels))
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input,button')]
            .filter(e => !(e.labels?.length || e.textContent.trim())).length"""
    )
    assert unnamed == 0
