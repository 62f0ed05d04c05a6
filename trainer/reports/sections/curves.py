"""Curves: loss, evaluation results, learning rate, gradient norm, speed and memory over steps."""

from collections.abc import Iterable, Sequence

from trainer.reports.line_chart import LineChart, Series
from trainer.reports.markup import Markup, cards, folded, joined, section
from trainer.reports.result_names import by_metric, result_names
from trainer.reports.run_record import ABOUT_STEPS, RunRecord

NAMES = {
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "samples_per_second": "Samples per second",
    "tokens_per_second": "Tokens per second",
    "memory_gib": "Memory, GiB",
    "peak_memory_gib": "Peak memory, GiB",
    "data_wait": "Share of time spent waiting for data",
}
"""Key of a logged figure -> title of its chart, in the order of the charts; without the loss."""
STEADY = ("learning_rate", "memory_gib", "peak_memory_gib", "data_wait")
"""Figures that are drawn without a moving average."""
TOGETHER = {"memory_gib": ("peak_memory_gib",)}
"""Figure -> other figures that are drawn in the same chart."""
MOST_CHARTS = 24
"""If there are more charts, the others are collapsed at first."""


def curves(record: RunRecord) -> Markup | str:
    """The section, with charts of the logged quantities."""
    drawn = [chart.render() for chart in charts(record)]
    if not drawn:
        return ""
    rest = drawn[MOST_CHARTS:]
    more = folded(f"{len(rest)} more curves", cards(rest)) if rest else ""
    return section("Curves", joined((cards(drawn[:MOST_CHARTS]), more)))


def charts(record: RunRecord) -> list[LineChart]:
    """The charts of the loss, the evaluation results and the other logged figures."""
    training = [_chart(record, key) for key in _quantities(record)]
    found = [_loss(record), *_results(record), *training]
    return [chart for chart in found if any(series.points for series in chart.series)]


def title_of(key: str) -> str:
    """The title of a figure's chart: "grad_norm" becomes "Gradient norm"."""
    text = NAMES.get(key, key.replace("_", " "))
    return text[:1].upper() + text[1:]


def _loss(record: RunRecord) -> LineChart:
    keys = by_metric(result_names(_result_keys(record), record.sets)).get("loss", [])
    trained = [Series("training", record.points("loss"), noisy=True)] if record.training else []
    found = result_names(keys, record.sets)
    measured = [
        Series(found[key].set_name or "evaluation", record.points(key), marked=True) for key in keys
    ]
    return LineChart("Loss", [*trained, *measured])


def _results(record: RunRecord) -> Iterable[LineChart]:
    """A chart for each metric, with a curve for each evaluation set."""
    names = result_names(_result_keys(record), record.sets)
    for metric, keys in by_metric(names).items():
        if metric != "loss":
            series = [
                Series(names[key].set_name or "evaluation", record.points(key), marked=True)
                for key in keys
            ]
            yield LineChart(f"Evaluation: {metric}", series)


def _result_keys(record: RunRecord) -> list[str]:
    return list(dict.fromkeys(key for row in record.evaluations for key in row))


def _quantities(record: RunRecord) -> Sequence[str]:
    """The keys of the charts of training figures except the loss; the recipe's keys are first."""
    logged = dict.fromkeys(key for row in record.training for key in row)
    drawn = {key for others in TOGETHER.values() for key in others}
    known = [key for key in NAMES if key in logged and key not in drawn]
    own = [key for key in logged if key not in {*NAMES, *ABOUT_STEPS, "loss"}]
    return [*own, *known]


def _chart(record: RunRecord, key: str) -> LineChart:
    others = TOGETHER.get(key, ())
    series = [
        Series(title_of(each), record.points(each), noisy=key not in STEADY)
        for each in (key, *others)
    ]
    if others:
        series = [
            Series(n, s.points) for n, s in zip(("now", "highest so far"), series, strict=True)
        ]
    return LineChart(title_of(key), [s for s in series if s.points], zero=key != "loss")
