"""Page: assembles sections into one HTML file, which contains its styles and script."""

import base64
import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files as package_files

from trainer.errors import InputError
from trainer.reports.markup import Markup, anchor, element, joined, section

NOT_READABLE = (
    ArithmeticError,
    AttributeError,
    InputError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""The exceptions that a section may raise for files that were removed or changed."""

Sections = Iterable[tuple[str, Callable[[], Markup | str]]]
"""(title, function that makes the section); the function returns '' if there is nothing to show."""


def page(title: str, status: str, subtitle: str, sections: Sections) -> bytes:
    """Make the HTML file in UTF-8. An error message replaces a section that cannot be made."""
    made = [(name, found) for name, make in sections if (found := _made(name, make))]
    links = joined(element("a", name, href=f"#{anchor(name)}") for name, _ in made)
    button = element("button", "Light or dark", id="theme", type="button", hidden=True)
    status_line = element("span", status, class_="status") if status else ""
    body = element(
        "body",
        element("header", element("h1", title), status_line, element("p", subtitle)),
        element("nav", element("div", links, button), aria_label="Sections"),
        element("main", *(found for _, found in made)),
        element("footer", element("p", "Written by tempering. This file loads nothing.")),
        element("script", _asset("script.js")),
    )
    html = element("html", _head(title), body, lang="en")
    return (Markup("<!doctype html>\n") + html).encode("utf-8", "replace")


def _made(name: str, make: Callable[[], Markup | str]) -> Markup | str:
    try:
        return make()
    except NOT_READABLE as error:
        message = (
            f"This part could not be read from the run's files: {type(error).__name__}: {error}"
        )
        return section(name, element("p", message))


def _head(title: str) -> Markup:
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy()),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", _asset("style.css")),
    )


def _policy() -> str:
    """The content security policy: allows the page's script and styles, and no requests."""
    digest = hashlib.sha256(_asset("script.js").encode()).digest()
    script = f"script-src 'sha256-{base64.b64encode(digest).decode()}'"
    return f"default-src 'none'; {script}; style-src 'unsafe-inline'; img-src data:"


@cache
def _asset(name: str) -> Markup:
    """The content of a file in this package, unescaped."""
    return Markup(package_files(__package__).joinpath(name).read_text(encoding="utf-8"))
