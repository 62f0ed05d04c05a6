"""Markup: builds HTML elements from text, which is always escaped."""

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup, escape

VOID = ("meta", "link", "br", "line", "rect", "path", "circle")
"""Elements that are written without content and without an end tag."""
LONGEST_CELL = 300
"""The maximum number of characters to show in a table cell."""


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """`<name attributes>content</name>`; everything except Markup is escaped.

    `class_` becomes the attribute class, and other underscores become hyphens. Attributes that are
    None or False are left out; the value True makes an attribute without a value.
    """
    texts = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{texts}/>")
    return Markup(f"<{name}{texts}>{joined(content)}</{name}>")


def _attribute(key: str, value: object) -> str:
    """An attribute with a leading space; a plain f-string is faster than `Markup.format`."""
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def joined(parts: Iterable[object]) -> Markup:
    """Concatenate the parts; everything except Markup is escaped."""
    return Markup(
        "".join(part if isinstance(part, Markup) else escape(str(part)) for part in parts)
    )


def section(title: str, *content: object, note: str = "") -> Markup:
    """A section of the report with its heading; `note` is a sentence that explains the section."""
    name = anchor(title)
    heading = element("h2", title, id=f"{name}-title")
    explanation = element("p", note, class_="note") if note else ""
    return element(
        "section", heading, explanation, *content, id=name, aria_labelledby=f"{name}-title"
    )


def anchor(title: str) -> str:
    """The HTML id of the section with this title."""
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> Markup:
    """A table, which scrolls sideways if it is too wide; cells are formatted texts or Markup.

    The first cell of each row is the row's header. Only screen readers read `caption`.
    """
    head = joined(element("th", text, scope="col") for text in headers)
    body = joined(_row(cells) for cells in rows)
    inside = element(
        "table",
        element("caption", caption, class_="hidden"),
        element("thead", element("tr", head)),
        element("tbody", body),
    )
    return scrolling(inside, caption)


def texts_table(headers: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> Markup:
    """Like `table`, but with left-aligned cells, for texts."""
    return element("div", table(headers, rows, caption), class_="left")


def scrolling(content: Markup, label: str) -> Markup:
    """A frame whose content can be scrolled sideways, including with the keyboard."""
    return element("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


def _row(cells: Sequence[object]) -> Markup:
    first = element("th", _cell(cells[0]), scope="row")
    return element("tr", first, *(element("td", _cell(cell)) for cell in cells[1:]))


def _cell(value: object) -> object:
    return value if isinstance(value, Markup) else shortened(str(value), LONGEST_CELL)


def shortened(text: str, most: int) -> str:
    """The text, cut to `most` characters with an ellipsis if it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def definitions(entries: Mapping[str, object]) -> Markup:
    """A list of names with their values."""
    pairs = (
        element("div", element("dt", name), element("dd", value)) for name, value in entries.items()
    )
    return element("dl", *pairs, class_="facts")


def tiles(entries: Mapping[str, str]) -> Markup:
    """The main figures of a report: name -> value, shown in large print."""
    found = (
        element("div", element("dt", name), element("dd", value)) for name, value in entries.items()
    )
    return element("dl", *found, class_="tiles")


def folded(summary: str, *content: object, opened: bool = False) -> Markup:
    """Content that is hidden until its summary is clicked."""
    return element("details", element("summary", summary), *content, open=opened)


def cards(parts: Iterable[Markup]) -> Markup:
    """Place figures side by side, as far as they fit."""
    return element("div", *parts, class_="cards")


def figure(title: str, *content: object, note: str = "", **attributes: object) -> Markup:
    """A figure with a title above the content, and the sentence `note` below it."""
    heading = element("figcaption", element("h3", title))
    explanation = element("p", note, class_="note") if note else ""
    return element("figure", heading, *content, explanation, **attributes)
