"""Classes: precision, recall and F1 of each class, and the confusion matrix."""

from collections import Counter
from collections.abc import Sequence

from trainer.rendering.figures import measure
from trainer.reports.digest import ClassCounts
from trainer.reports.markup import Markup, element, folded, joined, scrolling, table, texts_table

MOST_ROWS = 500
"""The maximum number of classes in the table."""
MOST_IN_MATRIX = 40
"""With more classes than this, only the list of confused pairs is shown, not the confusion
matrix."""
MOST_PAIRS = 25
"""The maximum number of pairs of classes to list."""


def classes(found: ClassCounts, known: Sequence[str]) -> Markup | str:
    """The tables for an evaluation set; `known` are the class names in the order of their ids."""
    names = _ordered({*found.predicted, *found.wanted}, known)
    if not names:
        return ""
    matrix = confusion(found.pairs, names) if found.pairs and len(names) <= MOST_IN_MATRIX else ""
    confused = confused_pairs(found.pairs, found.wanted)
    return joined((class_table(found, names), matrix, confused))


def class_table(found: ClassCounts, names: Sequence[str]) -> Markup:
    """A table with precision, recall, F1, support and number of predictions of each class."""
    rows = []
    for name in names[:MOST_ROWS]:
        hits, predicted, wanted = found.hits[name], found.predicted[name], found.wanted[name]
        sides = ((hits, predicted), (hits, wanted), (2 * hits, predicted + wanted))
        ratios = (measure(_ratio(*side)) for side in sides)
        rows.append((name, *ratios, f"{wanted:,}", f"{predicted:,}"))
    headers = ("class", "precision", "recall", "F1", "support", "predicted")
    is_cut = len(names) > MOST_ROWS
    extent = f"The table shows the first {MOST_ROWS:,} of {len(names):,} classes."
    note = element("p", extent, class_="note") if is_cut else ""
    return joined((element("h3", "By class"), note, table(headers, rows, "results by class")))


def _ordered(names: set[str], known: Sequence[str]) -> list[str]:
    """Sort the names: first those in `known`, in its order, then the others."""
    first = [name for name in known if name in names]
    return first + sorted(names - set(first))


def confusion(pairs: Counter[tuple[str, str]], names: Sequence[str]) -> Markup:
    """The confusion matrix: rows are references, columns are predictions, colors show shares."""
    columns = joined(element("th", element("span", name), scope="col") for name in names)
    head = element("tr", element("td", ""), columns)
    rows = []
    for wanted in names:
        total = sum(pairs[wanted, name] for name in names)
        cells = joined(_matrix_cell(pairs[wanted, name], total, wanted, name) for name in names)
        rows.append(element("tr", element("th", wanted, scope="row"), cells))
    caption = element("caption", "confusion matrix", class_="hidden")
    inside = element("table", caption, element("thead", head), element("tbody", *rows))
    note = element("p", "The reference is at the left, the prediction above.", class_="note")
    frame = scrolling(inside, "confusion matrix")
    return element("div", element("h3", "Confusion matrix"), note, frame, class_="confusion")


def _matrix_cell(number: int, total: int, wanted: str, found: str) -> Markup:
    if not number:
        return element("td", "", class_="right" if wanted == found else None)
    share = f"--share:{number / total:.2f}"
    tooltip = f"{wanted} predicted as {found}: {number:,} of {total:,}"
    return element(
        "td", number, style=share, title=tooltip, class_="right" if wanted == found else None
    )


def confused_pairs(pairs: Counter[tuple[str, str]], wanted: Counter[str]) -> Markup | str:
    """A table of the most confused pairs of classes; empty if there are no errors."""
    wrong = Counter({pair: number for pair, number in pairs.items() if pair[0] != pair[1]})
    rows = [
        (one, other, f"{number:,}", f"{100 * number / wanted[one]:.1f} %")
        for (one, other), number in wrong.most_common(MOST_PAIRS)
    ]
    headers = ("reference", "predicted", "samples", "% of reference")
    found = texts_table(headers, rows, "most confused pairs")
    return folded("Most confused pairs", found) if rows else ""


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
