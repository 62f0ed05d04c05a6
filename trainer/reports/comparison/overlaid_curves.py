"""Overlaid curves: draws one chart for each quantity, with a curve for each run."""

from collections.abc import Mapping

from trainer.reports.line_chart import LineChart, Series
from trainer.reports.markup import Markup, cards, folded, joined, section
from trainer.reports.result_names import result_names
from trainer.reports.run_record import ABOUT_STEPS, RunRecord
from trainer.reports.sections.curves import MOST_CHARTS, NAMES, STEADY, title_of


def overlaid_curves(runs: Mapping[str, RunRecord]) -> Markup | str:
    """The section with the charts; `runs` maps the name of each run on the page to its record."""
    results, training = _keys(runs)
    charts = [_chart(runs, key) for key in ("loss", *results, *training)]
    found = [chart.render() for chart in charts if chart.series]
    if not found:
        return ""
    rest = found[MOST_CHARTS:]
    more = folded(f"{len(rest)} more curves", cards(rest)) if rest else ""
    return section("Curves", joined((cards(found[:MOST_CHARTS]), more)))


def _keys(runs: Mapping[str, RunRecord]) -> tuple[list[str], list[str]]:
    """The keys of evaluation results except slices, and of training figures except the loss."""
    results: dict[str, None] = {}
    training: dict[str, None] = {}
    for record in runs.values():
        keys = dict.fromkeys(key for row in record.evaluations for key in row)
        names = result_names(keys, record.sets)
        results |= dict.fromkeys(key for key, name in names.items() if not name.part)
        training |= dict.fromkeys(key for row in record.training for key in row)
    own = [key for key in training if key not in {*NAMES, *ABOUT_STEPS, "loss"}]
    return list(results), [*own, *(key for key in NAMES if key in training)]


def _chart(runs: Mapping[str, RunRecord], key: str) -> LineChart:
    """A chart with a curve for each run; a run has the same color in every chart."""
    is_result = key.startswith("eval_")
    series = [
        Series(name, record.points(key), marked=is_result, noisy=key not in STEADY)
        for name, record in runs.items()
    ]
    title = "Training loss" if key == "loss" else title_of(key)
    if is_result:
        title = f"Evaluation: {key.removeprefix('eval_')}"
    zero = not is_result and key != "loss"
    return LineChart(title, series if any(s.points for s in series) else [], zero=zero)
