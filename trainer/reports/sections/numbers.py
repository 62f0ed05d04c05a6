"""Numbers: plots the predictions of a regression against the reference values."""

from collections.abc import Sequence

from trainer.reports.axes import Axis, axis_of
from trainer.reports.digest import Digest
from trainer.reports.line_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, frame
from trainer.reports.markup import Markup, cards, element, figure, joined

MOST_POINTS = 2000
"""The maximum number of points; if there are more samples, only every n-th one is drawn."""


def numbers(digest: Digest) -> Markup | str:
    """A scatter plot with a point for each sample, and the line of exact predictions."""
    every = list(zip(digest.references, digest.numbers, strict=True))
    pairs = every[:: 1 + len(every) // MOST_POINTS]
    if not pairs:
        return ""
    across = axis_of((reference for reference, _ in pairs), LEFT, WIDTH - RIGHT)
    up = axis_of((found for _, found in pairs), HEIGHT - BOTTOM, TOP)
    points = joined(
        element("circle", cx=f"{across.place(x):.1f}", cy=f"{up.place(y):.1f}", r=2, class_="c0")
        for x, y in pairs
    )
    errors = [abs(found - reference) for reference, found in every]
    description = (
        f"Mean absolute error {sum(errors) / len(errors):.4g} over {len(errors):,} samples."
    )
    picture = element(
        "svg",
        frame(across, up, "reference"),
        _diagonal(across, up),
        points,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"Prediction by reference: {description}",
    )
    return cards([figure("Prediction, by reference", picture, note=description)])


def _diagonal(across: Axis, up: Axis) -> Markup | str:
    """The part of the line of exact predictions that is inside the frame."""
    low, high = max(across.low, up.low), min(across.high, up.high)
    if low >= high:
        return ""
    ends: Sequence[str] = [f"{across.place(v):.1f} {up.place(v):.1f}" for v in (low, high)]
    return element("path", class_="diagonal", d=f"M{ends[0]}L{ends[1]}")
