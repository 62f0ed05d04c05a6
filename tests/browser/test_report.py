"""The report in a real browser: it is drawn, readable, and loads nothing."""

from pathlib import Path
from typing import Any

import pytest

from tests.browser.contrast import MEASURES
from tests.unit.reports.run_folders import HOSTILE, rows, write_run
from trainer.reports.run_report import write_report

pytestmark = pytest.mark.slow

PHONE, DESKTOP = 360, 1280
CONTRAST = f"""
(() => {{
  {MEASURES}
  for (let number = 0; number < 8; number++) {{
    const line = document.createElement('b');
    line.style.color = `var(--c${{number}})`;
    document.querySelector('section').append(line);
    const ratio = contrast(rgba(getComputedStyle(line).color), behind(line));
    if (ratio < 3) faint[`curve ${{number}}`] = ratio.toFixed(2);
    line.remove();
  }}
  return faint;
}})()
"""
"""Texts and curves with less contrast to their background than WCAG 2.2 AA requires."""
LINES = """
[...document.querySelectorAll('svg path, svg circle')].filter((node) => {
  const box = node.getBBox(), view = node.ownerSVGElement.viewBox.baseVal;
  return box.x < 0 || box.y < 0
    || box.x + box.width > view.width || box.y + box.height > view.height;
}).length
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("runs") / "run", name=HOSTILE))


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("dark", [False, True])
def test_it_reads_well(browser: Any, page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    browser.open(page, width, dark=dark)
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert browser.complaints == []
    assert browser.requests == [page.as_uri()]
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 27)" if dark else "rgb(245, 246, 248)"
    )
    for details in ("false", "true"):
        browser.ask(f"document.querySelectorAll('details').forEach(d => d.open = {details})")
        assert browser.ask(CONTRAST) == {}
        assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(LINES) == 0


def test_texts_are_texts(browser: Any, page: Path) -> None:
    browser.open(page, DESKTOP)
    assert browser.complaints == []
    assert browser.ask("document.querySelectorAll('img, iframe, object, embed').length") == 0
    assert browser.ask("document.querySelectorAll('script').length") == 1
    assert browser.ask("document.title") == HOSTILE
    assert browser.ask("document.querySelector('h1').textContent") == HOSTILE
    assert browser.ask("document.body.innerText").count("<script>alert('x')</script>") > 20


def test_charts_are_described_and_show_values_at_the_pointer(browser: Any, page: Path) -> None:
    browser.open(page, DESKTOP)
    charts = browser.ask("document.querySelectorAll('svg').length")
    assert charts >= 12
    assert browser.ask("document.querySelectorAll('svg[role=img][aria-label]').length") == charts
    chart = "document.querySelector('figure.chart svg')"
    browser.ask(f"{chart}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    place = f"{chart}.getBoundingClientRect()"
    left, top = browser.ask(f"[{place}.left + {place}.width / 2, {place}.top + 40]")
    shown = "document.querySelector('figure.chart .values')"
    assert browser.ask(f"{shown}.hidden")
    browser.point(left, top)
    text = browser.ask(f"{shown}.textContent")
    assert not browser.ask(f"{shown}.hidden")
    first, training, *others = text.split("\n")
    step = int(first.removeprefix("step "))
    assert 60 < step < 140
    (loss,) = (row["loss"] for row in rows() if row["step"] == step and "loss" in row)
    assert training == f"training  {loss:.5g}"
    assert others == ["dev  0.01  (step 100)", "a&b  0.01  (step 100)"]
    assert browser.complaints == []


def test_a_button_switches_the_colours(browser: Any, page: Path) -> None:
    browser.open(page, DESKTOP)
    before = browser.ask("getComputedStyle(document.body).backgroundColor")
    place = "document.getElementById('theme').getBoundingClientRect()"
    left, top = browser.ask(f"[{place}.left, {place}.top]")
    browser.point(left + 5, top + 5, click=True)
    assert browser.ask("getComputedStyle(document.body).backgroundColor") != before


def test_a_script_in_the_page_is_not_run(browser: Any, page: Path, tmp_path: Path) -> None:
    """The page's policy protects even from markup that is not escaped."""
    forged = tmp_path / "forged.html"
    attack = "<script>window.ran = 1</script><img src='https://example.org/x.png'>"
    forged.write_text(page.read_text().replace("<main>", f"<main>{attack}"))
    browser.open(forged, DESKTOP)
    assert browser.ask("window.ran") is None
    assert browser.complaints
    loaded = [url for url in browser.requests if url.startswith("http")]
    blocked = [e for e in browser.events if e.get("method") == "Network.loadingFailed"]
    assert len(blocked) >= len(loaded)
