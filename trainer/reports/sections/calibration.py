"""Calibration: shows whether predicted probabilities match the share of right answers."""

from collections.abc import Sequence

from trainer.rendering.figures import measure
from trainer.reports.axes import Axis
from trainer.reports.digest import NUM_BINS, CalibrationBins
from trainer.reports.line_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, frame
from trainer.reports.markup import Markup, cards, element, figure, joined

FEWEST = 20
"""The minimum number of probabilities for which the charts are drawn."""

Bin = tuple[int, float, float]
"""The number of probabilities in a bin, their mean, and the share of right answers."""


def calibration(found: CalibrationBins) -> Markup | str:
    """A reliability diagram with summary figures (Guo et al., ICML 2017)."""
    total = found.total
    if total < FEWEST:
        return ""
    note = (
        f"Of {total:,} probabilities. Expected calibration error "
        f"{measure(found.calibration_error)}, Brier score {measure(found.brier)}, mean probability "
        f"{measure(sum(found.sums) / total)}, share of right answers "
        f"{measure(sum(found.true) / total)}. "
        "Bars below the line mean that the model is overconfident."
    )
    bins = [
        (number, expected / number if number else 0.0, true / number if number else 0.0)
        for number, expected, true in zip(found.counts, found.sums, found.true, strict=True)
    ]
    return joined((element("h3", "Calibration"), cards([_diagram(bins, note), _sizes(bins)])))


def _diagram(bins: Sequence[Bin], note: str) -> Markup:
    across, up = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, HEIGHT - BOTTOM, TOP)
    bars = joined(
        _bar(number, across, up, found[2], f"true {found[2]:.3f} of {found[0]:,}")
        for number, found in enumerate(bins)
        if found[0]
    )
    line = element(
        "path",
        class_="diagonal",
        d=f"M{across.place(0):.1f} {up.place(0):.1f}L{across.place(1):.1f} {up.place(1):.1f}",
    )
    description = "; ".join(
        f"near {mean:.2f}: {true:.2f} true of {n}" for n, mean, true in bins if n
    )
    return _drawn(
        "Share of right answers, by probability", (bars, line), across, up, description, note
    )


def _sizes(bins: Sequence[Bin]) -> Markup:
    across = Axis(0, 1, LEFT, WIDTH - RIGHT)
    up = Axis(0, 1.05 * max(number for number, *_ in bins), HEIGHT - BOTTOM, TOP)
    bars = joined(
        _bar(number, across, up, found[0], f"{found[0]:,} probabilities")
        for number, found in enumerate(bins)
    )
    description = "; ".join(
        f"{number / NUM_BINS:.1f}: {found[0]}" for number, found in enumerate(bins)
    )
    return _drawn("Number of answers, by probability", (bars,), across, up, description, "")


def _bar(number: int, across: Axis, up: Axis, height: float, tooltip: str) -> Markup:
    left, right = (across.place(each / NUM_BINS) for each in (number, number + 1))
    top = up.place(height)
    rect = element(
        "rect",
        class_="bar",
        x=f"{left + 1:.1f}",
        y=f"{top:.1f}",
        width=f"{right - left - 2:.1f}",
        height=f"{up.place(0) - top:.1f}",
    )
    return element("g", element("title", tooltip), rect)


def _drawn(
    title: str, inside: Sequence[Markup], across: Axis, up: Axis, description: str, note: str
) -> Markup:
    picture = element(
        "svg",
        frame(across, up, "probability"),
        *inside,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}: {description}",
    )
    return figure(title, picture, note=note)
