"""The report's page in a real Chromium: it loads nothing, says nothing, fits, can be read and prints."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser
from reporting import HOSTILE, Story, declared, eventful, report_of, story

from sensor.record.report.page import render

CONTRAST = """(() => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = color => color.slice(0, 3).map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const color = numbers(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    throw new Error("nothing is behind it");
  };
  document.querySelectorAll("details").forEach(one => one.open = true);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.tagName === "title" || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const color = element.tagName === "text" ? style.fill : style.color;
    const [a, b] = [light(numbers(color)), light(behind(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
})()"""
"""Each visible text and how it stands out: the contrast ratio of WCAG 2.2, least first."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("chromium"))
    yield one
    one.close()


def page_of(place: Path, fill: object) -> Path:
    with story(place) as told:
        assert callable(fill)
        fill(told)
    page = place / "report.html"
    page.write_text(render(*report_of(place, declared("rome-rl", "evals", "crawler"))), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(tmp_path_factory.mktemp("report"), eventful)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def fill(told: Story) -> None:
        told.at(1).start(host=HOSTILE)
        for number in range(3):
            names = {"agent": f"{HOSTILE}{number}", "owner": "x" * 3000, "title": HOSTILE * 20, "rule": f"r{number}"}
            told.respond(
                command=HOSTILE,
                cgroup="/" + "long/" * 300,
                reason=HOSTILE,
                outcome="failed" if number else "done",
                **names,
            )
        told.audit.append("drill", agent=HOSTILE, behaviour=HOSTILE, passed=False, error=HOSTILE)
        told.audit.append("loss", what=HOSTILE)

    return page_of(tmp_path_factory.mktemp("hostile"), fill)


def pages_of(browser: Browser) -> int:
    printed = base64.b64decode(browser.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])
    assert printed.startswith(b"%PDF-")
    return len(re.findall(rb"/Type\s*/Page\b", printed))


@pytest.mark.parametrize("which", ["page", "hostile"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_loads_nothing_and_fits(
    browser: Browser, which: str, scheme: str, width: int, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(which)
    browser.open(path, width, scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.complaints() == []
    assert browser.requests() == [path.as_uri()]
    shown = browser.evaluate("[...document.querySelectorAll('svg[role=img]')].filter(o => o.checkVisibility()).length")
    assert shown == 5, "one timeline, two distributions, two ranges"
    if which == "page":
        cut = "[...document.querySelectorAll('.scroll')].filter(o => o.scrollWidth > o.clientWidth).length"
        assert browser.evaluate(cut) == 0 or width == 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, 1280, scheme)
    found = browser.evaluate(CONTRAST)
    assert len(found) > 500
    assert [one for one in found if one[0] < 4.5] == []
    backgrounds = {"light": "rgb(255, 255, 255)", "dark": "rgb(16, 21, 29)"}
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == backgrounds[scheme]


def test_it_prints_on_white(browser: Browser, page: Path) -> None:
    browser.open(page, 1280, "dark", media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert [one for one in browser.evaluate(CONTRAST) if one[0] < 4.5] == []
    browser.open(page, 1280)
    assert 4 <= pages_of(browser) <= 14


def test_a_thousand_incidents_are_a_page_that_people_can_use(browser: Browser, tmp_path: Path) -> None:
    def fill(told: Story) -> None:
        for number in range(1001):
            told.at(number * 0.029).respond(agent=f"agent-{number % 40}", outcome="failed" if number == 3 else "done")

    path = page_of(tmp_path, fill)
    browser.open(path, 1280)
    assert browser.evaluate("document.querySelectorAll('.incident').length") == 100
    assert browser.evaluate("document.querySelector('.incident .tag').textContent") == "failed"
    assert "1,001 in all; 100 are shown" in browser.evaluate("document.body.innerText")
    assert path.stat().st_size < 1 << 20
    assert pages_of(browser) <= 20


def test_each_plot_has_words_for_who_cannot_see_it(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    images = [node["name"]["value"] for node in tree if node.get("role", {}).get("value") == "image"]
    assert len(images) == 5 and all(len(name) > 30 for name in images)
    assert browser.evaluate("[...document.querySelectorAll('svg[role=img]')].every(o => /ms|UTC/.test(o.textContent))")


def test_a_page_that_does_otherwise_would_be_seen(browser: Browser, page: Path, tmp_path: Path) -> None:
    """The same page with what a hole in the escaping would let in."""
    bad = tmp_path / "bad.html"
    added = "<script>console.log(1)</script><img src='http://127.0.0.1:9/x.png'><p style='width:5000px'>x</p>"
    bad.write_text(page.read_text().replace("<main>", f"<main>{added}"))
    browser.open(bad, 390)
    said = " ".join(browser.complaints())
    assert "script" in said and "img" in said.lower() and browser.evaluate("document.scripts.length") == 1
    wild = tmp_path / "wild.html"
    wild.write_text(
        re.sub("<meta http-equiv[^>]*>", "", bad.read_text()).replace("--quiet: #566173", "--quiet: #b6c1d3")
    )
    browser.open(wild, 390)
    assert len(browser.requests()) == 2 and browser.complaints()
    assert browser.evaluate("document.documentElement.scrollWidth") > 390
    assert browser.evaluate(CONTRAST)[0][0] < 4.5
