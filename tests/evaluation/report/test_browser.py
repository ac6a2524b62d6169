"""Report and study page in a real browser: what is there to see, what is asked of the network, what a rater's clicks leave.

The browser is a headless Chromium that is already on the machine (`apt-get install chromium`, or
`playwright install chromium`); no package of Python's brings one. Without one these tests are skipped, and say so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api as playwright

from talkswap.evaluation.report.report import write_report
from talkswap.evaluation.results import Evaluation
from talkswap.evaluation.study.scores import read_answers, score
from talkswap.evaluation.study.study import QUESTIONS, Study, read_key

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
HOSTILE = "<script>alert('x')</script>"


@dataclass
class Watch:
    """What a page asked for, and what it complained of."""

    page: Any
    network: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        own = Path(driver.chromium.executable_path)
        found = str(own) if own.is_file() else next((path for name in NAMES if (path := shutil.which(name))), None)
        if found is None:
            pytest.skip("no Chromium on this machine: `apt-get install chromium`, or `playwright install chromium`")
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses to run as root
        opened = driver.chromium.launch(
            executable_path=found,
            # should anything slip past the watch, no name leads anywhere
            args=["--host-resolver-rules=MAP * ~NOTFOUND", "--mute-audio", *(["--no-sandbox"] if root else [])],
        )
        yield opened
        opened.close()


def watched(browser: Any, **options: Any) -> Watch:
    context = browser.new_context(accept_downloads=True, **options)
    context.set_default_timeout(90_000)  # the machine may be busy
    watch = Watch(context.new_page())
    local = ("file:", "data:", "blob:")
    watch.page.on("request", lambda r: r.url.startswith(local) or watch.network.append(r.url))
    watch.page.on("console", lambda m: watch.complaints.append(m.text) if m.type in ("error", "warning") else None)
    watch.page.on("pageerror", lambda error: watch.complaints.append(str(error)))
    watch.page.on("dialog", lambda dialog: (watch.complaints.append(dialog.message), dialog.dismiss()))
    return watch


@pytest.fixture(scope="module")
def report(evaluation_folder: tuple[Path, Evaluation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page alone, away from its folder: all it needs must be in it."""
    folder, evaluation = evaluation_folder
    copy = tmp_path_factory.mktemp("browser")
    shutil.copytree(folder / "pictures", copy / "made" / "pictures")
    return write_report(copy / "made", evaluation).page.rename(copy / "report.html")


def test_tables_plots_and_pictures_are_there_and_nothing_is_asked_for(browser: Any, report: Path) -> None:
    watch = watched(browser)
    page = watch.page
    page.goto(report.as_uri(), wait_until="load")
    boxes = page.evaluate(
        """() => {
            for (const closed of document.querySelectorAll("details")) closed.open = true;
            const sizes = (which) => [...document.querySelectorAll(which)].map((e) => {
                const box = e.getBoundingClientRect(); return Math.min(box.width, box.height); });
            return { tables: sizes("table"), plots: sizes("svg.plot"), dots: sizes("svg.plot circle"),
                     pictures: sizes("img"), decoded: [...document.images].map((i) => i.complete && i.naturalWidth),
                     names: sizes("svg.plot text") }; }"""
    )
    assert len(boxes["tables"]) >= 8 and min(boxes["tables"]) > 10
    assert len(boxes["plots"]) == 5 and min(boxes["plots"]) > 50  # SSIM and LSE-C twice, LMD where the truth is known
    assert len(boxes["dots"]) == 5 * 8 and min(boxes["dots"]) > 1  # three methods, three pairs, one failed
    assert len(boxes["pictures"]) == 38 and min(boxes["pictures"]) >= 44
    assert min(boxes["decoded"]) >= 112
    assert min(boxes["names"]) > 3
    assert "not run: inswapper_128.onnx is missing" in page.inner_text("main")
    assert HOSTILE in page.inner_text("main")
    assert page.evaluate("document.scripts.length") == 0
    assert watch.network == [] and watch.complaints == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_a_phone_by_day_and_night(browser: Any, report: Path, scheme: str) -> None:
    watch = watched(browser, viewport={"width": 360, "height": 640}, color_scheme=scheme)
    page = watch.page
    page.goto(report.as_uri(), wait_until="load")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360  # tables and strips scroll within themselves
    found = page.evaluate(
        """() => { const luminance = (text) => { const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255)
                .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
            const paper = luminance(getComputedStyle(document.body).backgroundColor);
            return { paper, ratios: [...document.querySelectorAll("h1, td, td small, .best, .mark, tr.paper td, a, .faint")].map((e) => {
                const ink = luminance(getComputedStyle(e).color);
                return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05); }) }; }"""
    )
    assert (found["paper"] > 0.5) == (scheme == "light")
    assert len(found["ratios"]) > 20 and min(found["ratios"]) >= 4.5  # WCAG 2.2, 1.4.3
    assert watch.complaints == []
    page.context.close()


def test_the_watch_sees_requests_and_complaints(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        "<meta charset=utf-8><title>t</title><img src='https://talkswap.invalid/a.png'><script>nowhere()</script>"
    )
    watch = watched(browser)
    watch.page.goto((tmp_path / "bad.html").as_uri(), wait_until="load")
    assert watch.network == ["https://talkswap.invalid/a.png"]
    assert any("nowhere" in complaint for complaint in watch.complaints)
    watch.page.context.close()


def test_a_rater_rates_by_mouse_and_keyboard_and_the_answers_are_scored(
    browser: Any, study_folder: tuple[Path, Study], tmp_path: Path
) -> None:
    out, study = study_folder
    key = read_key(study.key)
    given = {"ground-truth": 5, "swaptalk": 4, "swaptalk-sync-swap": 2}
    watch = watched(browser)
    page = watch.page
    page.goto((out / "index.html").as_uri(), wait_until="load")
    page.get_by_label("Your name").fill('Ann "A", 1')
    page.keyboard.press("Enter")
    plays = page.evaluate(
        """document.createElement("video").canPlayType('video/mp4; codecs="avc1.42E01E, mp4a.40.2"')"""
    )
    seen = []
    for number in range(study.clips):
        assert page.inner_text("h1:visible") == f"Clip {number + 1} of {study.clips}"
        name = Path(page.get_attribute("#clip", "src")).stem
        seen.append(name)
        rating = given[key.clips[name].method]
        page.wait_for_function("document.getElementById('photo').naturalWidth > 0")
        if plays:  # a Chromium without H.264 shows the page all the same
            page.wait_for_function("document.getElementById('clip').videoWidth > 0")
        if number == 1:  # by mouse
            for question in QUESTIONS:
                group = page.get_by_role("group", name=question.text)
                group.get_by_role("radio", name=f"{rating} of 5").check()
        else:  # by keyboard: what is missing is said, and has the focus then
            page.get_by_role("button", name="Next").press("Enter")
            assert "Please answer: How well do the lips fit the voice?" in page.inner_text("#missing")
            for _ in QUESTIONS:
                page.keyboard.press(str(rating))
                page.keyboard.press("Tab")
        if number == 1:  # back, and again: the answers are still there
            page.get_by_role("button", name="Back").click()
            assert page.locator("input:checked").count() == len(QUESTIONS)
            page.get_by_role("button", name="Next").click()
            assert page.locator("input:checked").count() == len(QUESTIONS)
        page.get_by_role("button", name="Next").click()
    assert sorted(seen) == sorted(key.clips)
    assert f"You rated all {study.clips} clips" in page.inner_text("#summary")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save answers").click()
    assert download.value.suggested_filename == f"answers-{key.study}-Ann_A_1.csv"
    download.value.save_as(tmp_path / "answers.csv")
    assert watch.network == [] and watch.complaints == []
    page.context.close()

    answers = read_answers([tmp_path / "answers.csv"], key)
    assert answers.bad == () and len(answers.ratings) == study.clips * len(QUESTIONS)
    assert {rating.rater for rating in answers.ratings} == {'Ann "A", 1'}
    scores = score(answers, key)
    assert {(one.setting, one.method, one.question, one.interval.mean) for one in scores} == {
        (setting, method, question.key, rating)
        for setting in ("self", "cross")
        for method, rating in given.items()
        for question in QUESTIONS
    }


def test_a_rater_who_comes_back_goes_on_and_each_has_an_order_of_their_own(
    browser: Any, study_folder: tuple[Path, Study]
) -> None:
    out, study = study_folder
    watch = watched(browser)
    page = watch.page

    def begin(rater: str) -> list[str]:
        page.goto((out / "index.html").as_uri(), wait_until="load")
        page.get_by_label("Your name").fill(rater)
        page.get_by_role("button", name="Begin").click()
        order: list[str] = page.evaluate("order.map((clip) => clip.name)")
        return order

    first = begin("ann")
    for question in QUESTIONS:
        page.get_by_role("group", name=question.text).get_by_role("radio", name="3 of 5").check()
    page.get_by_role("button", name="Next").click()
    orders = {tuple(begin(f"rater {number}")) for number in range(2)}
    assert len(orders | {tuple(first)}) == 3 and all(sorted(order) == sorted(first) for order in orders)
    assert page.locator("input:checked").count() == 0  # another rater sees nobody's answers
    assert begin("ann") == first
    assert page.inner_text("h1:visible") == f"Clip 2 of {study.clips}"
    page.get_by_role("button", name="Back").click()
    assert page.locator("input:checked").count() == len(QUESTIONS)
    assert watch.network == [] and watch.complaints == []
    page.context.close()
