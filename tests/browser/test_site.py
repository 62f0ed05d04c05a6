"""The documentation as a site: built strictly, readable in a real browser, and loads nothing."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.browser.contrast import TEXTS

pytestmark = pytest.mark.slow

PHONE, DESKTOP = 360, 1280
SHOWN = (
    *("index.html", "own_data.html", "extending.html", "from_transformers.html"),
    *("reference/keys.html", "reference/python.html", "reference/command.html"),
)
"""One page of each kind."""
HEADINGS = {f"h{level}" for level in range(1, 7)}
LOADING = {"src", "srcset", "data", "poster"}
"""Attributes whose address a browser loads by itself; of links it loads only those in the head."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The folder of the built site; BUILT_SITE names one that is there already."""
    if "BUILT_SITE" in os.environ:
        return Path(os.environ["BUILT_SITE"])
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """What the tests look at in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.language = ""
        self.title = ""
        self.headings: list[int] = []
        self.ids: list[str] = []
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._tag = tag
        self.loaded += [str(given[name]) for name in LOADING & given.keys()]
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(str(given["href"]))
        self.pictures += [given] if tag == "img" else []
        self.headings += [int(tag[1])] if tag in HEADINGS else []
        self.ids += [str(given["id"])] if "id" in given else []
        self.language = given.get("lang") or self.language if tag == "html" else self.language

    def handle_data(self, data: str) -> None:
        self.title += data if self._tag == "title" else ""


def pages(site: Path) -> dict[str, Page]:
    found = {p.relative_to(site).as_posix(): p for p in sorted(site.rglob("*.html"))}
    return {name: Page(file.read_text(encoding="utf-8")) for name, file in found.items()}


def test_no_page_loads_from_elsewhere_or_has_pictures_without_words(site: Path) -> None:
    found = pages(site)
    assert len(found) > 40
    for name, page in found.items():
        outside = [each for each in page.loaded if "//" in each and not each.startswith("data:")]
        assert not outside, (name, outside)
        assert all(len(each.get("alt") or "") > 10 for each in page.pictures), (name, page.pictures)
    styles = [file.read_text(encoding="utf-8") for file in site.rglob("*.css")]
    assert not any("url(http" in style or "url(//" in style for style in styles)


def test_pages_are_well_formed(site: Path) -> None:
    """What a reader's software relies on: titles, headings in order, and names that are unique."""
    found = pages(site)
    for name, page in found.items():
        assert page.language == "en", name
        assert page.headings[0] == 1 and page.headings.count(1) == 1, (name, page.headings)
        pairs = zip(page.headings, page.headings[1:], strict=False)
        assert all(below <= above + 1 for above, below in pairs), (name, page.headings)
        assert len(page.ids) == len(set(page.ids)), name
    titles = [page.title.strip() for name, page in found.items() if name != "404.html"]
    assert len(titles) == len(set(titles))


def test_the_reference_has_every_key(site: Path) -> None:
    from trainer.config.groups import CONFIGS, options
    from trainer.config.known_keys import OPEN_KINDS, fixed_keys, option_keys

    found = pages(site)
    keys = found["reference/keys.html"].ids
    assert [key.name for key in fixed_keys() if key.name not in keys] == []
    recipes = found["reference/recipes.html"].ids
    for option in options("recipe", [CONFIGS]):
        for key in option_keys("recipe", option, [CONFIGS]):
            assert f"{option}.{key.name}" in recipes
    places = {"dataset": "datasets", "recipe": "recipes"}
    for group in OPEN_KINDS:
        text = (site / f"reference/{places.get(group, group)}.html").read_text(encoding="utf-8")
        assert all(option in text for option in options(group, [CONFIGS]))
    assert "trainer.trainer.Trainer.fit" in found["reference/python.html"].ids


@pytest.mark.parametrize(("width", "dark"), [(PHONE, True), (DESKTOP, False), (DESKTOP, True)])
def test_it_reads_well(browser: Any, site: Path, width: int, dark: bool) -> None:
    for name in SHOWN:
        browser.open(site / name, width, dark=dark)
        assert browser.complaints == [], name
        outside = [each for each in browser.requests if not each.startswith(("file:", "data:"))]
        assert outside == [], name
        assert browser.ask("document.documentElement.scrollWidth") <= width, name
        scheme = "document.body.getAttribute('data-md-color-scheme')"
        assert browser.ask(scheme) == ("slate" if dark else "default"), name
        assert browser.ask(TEXTS) == {}, name


def test_the_search_works_without_a_server(browser: Any, site: Path) -> None:
    browser.open(site / "index.html", DESKTOP)
    browser.ask("document.querySelector('[data-md-toggle=search]').click()")
    browser.ask("document.querySelector('[data-md-component=search-query]').focus()")
    browser.do("Input.insertText", text="learning rat")
    for kind in ("keyDown", "keyUp"):
        browser.do("Input.dispatchKeyEvent", type=kind, key="e", text="e")
    found = "[...document.querySelectorAll('.md-search-result__link')].map((a) => a.href)"
    soon = f"""new Promise((done) => {{
      const look = (left) => {{
        const found = {found};
        if (found.length || !left) done(found); else setTimeout(look, 100, left - 1);
      }};
      look(3000);
    }})"""
    answer = browser.do("Runtime.evaluate", expression=soon, awaitPromise=True, returnByValue=True)
    links = answer["result"]["value"]
    assert any("optimizers.html" in link for link in links), links
    assert browser.complaints == []
