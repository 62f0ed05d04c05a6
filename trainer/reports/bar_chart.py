"""Bar charts: draws histograms as inline SVG, and tables in which bars show shares."""

from collections.abc import Mapping

from trainer.reports.axes import Axis, axis_of, short
from trainer.reports.facts import Histogram
from trainer.reports.line_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, frame
from trainer.reports.markup import Markup, element, figure, joined


def histogram(title: str, found: Histogram, x_name: str, note: str = "") -> Markup:
    """A histogram as bars; pointing at a bar shows its count."""
    across = Axis(found.edges[0], found.edges[-1], LEFT, WIDTH - RIGHT)
    up = axis_of(found.counts, HEIGHT - BOTTOM, TOP, zero=True)
    pairs = zip(found.edges, found.edges[1:], found.counts, strict=False)
    bars = joined(_bar(low, high, number, across, up, x_name) for low, high, number in pairs)
    description = (
        f"{title}: {found.total:,} in all, mean {found.mean:.1f}, highest {found.longest:,}"
    )
    box = f"0 0 {WIDTH} {HEIGHT}"
    inside = (frame(across, up, x_name), bars)
    picture = element("svg", *inside, viewBox=box, role="img", aria_label=description)
    return figure(title, picture, note=note)


def _bar(low: float, high: float, number: int, across: Axis, up: Axis, x_name: str) -> Markup:
    left, right = across.place(low), across.place(high)
    top, bottom = up.place(number), up.place(0)
    tooltip = f"{short(low)} to {short(high)} {x_name}: {number:,}"
    return element(
        "g",
        element("title", tooltip),
        element(
            "rect",
            class_="bar",
            x=f"{left:.1f}",
            y=f"{top:.1f}",
            width=f"{max(0.5, right - left - 1):.1f}",
            height=f"{bottom - top:.1f}",
        ),
    )


def shares(counts: Mapping[str, int], label: str) -> Markup:
    """A table with a row for each name: the name's count, and its share as a number and a bar."""
    total, most = sum(counts.values()), max(counts.values(), default=0)
    rows = (
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", f"{number:,}"),
            element("td", f"{100 * number / total:.1f} %" if total else "–"),
            element("td", _share_bar(number / most if most else 0.0), class_="wide"),
        )
        for name, number in counts.items()
    )
    caption = element("caption", label, class_="hidden")
    return element("table", caption, element("tbody", *rows), class_="shares")


def _share_bar(share: float) -> Markup:
    inner = element("span", style=f"width:{100 * share:.1f}%")
    return element("div", inner, class_="share", aria_hidden="true")
