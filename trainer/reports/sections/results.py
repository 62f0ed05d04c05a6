"""Results: shows the results of the last evaluation, also by slice, and of all evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.rendering.figures import measure
from trainer.reports.markup import Markup, element, folded, joined, section, table
from trainer.reports.result_names import ResultName, by_metric, result_names
from trainer.reports.run_record import RunRecord

MAX_OPENED = 8
"""If the table of all evaluations has more rows, it is collapsed at first."""


def results(record: RunRecord) -> Markup | str:
    """The section: results of the final model by set, slices, and all evaluations."""
    last = record.results.get("metrics") or (record.evaluations or [{}])[-1]
    names = result_names(last, record.sets)
    if not names:
        return ""
    step = record.results.get("model_step") or record.last_step
    note = f"Results of the weights after step {step:,}."
    return section(
        "Evaluation", _by_set(last, names), _slices(last, names), _history(record), note=note
    )


def _by_set(last: Mapping[str, Any], names: Mapping[str, ResultName]) -> Markup:
    """A table with a row for each metric and a column for each evaluation set."""
    sets = list(dict.fromkeys(name.set_name for name in names.values() if not name.part))
    rows = []
    for metric, keys in by_metric(names).items():
        values = {names[key].set_name: measure(last[key]) for key in keys}
        rows.append((metric, *(values.get(name, "–") for name in sets)))
    return table(("metric", *(name or "value" for name in sets)), rows, "results by set")


def _slices(last: Mapping[str, Any], names: Mapping[str, ResultName]) -> Markup | str:
    """A table for each evaluation set with the results of its slices or tasks."""
    found = []
    for set_name in dict.fromkeys(name.set_name for name in names.values()):
        own = {key: n for key, n in names.items() if n.part and n.set_name == set_name}
        metrics = list(dict.fromkeys(name.metric for name in own.values()))
        by_part: dict[str, dict[str, Any]] = {}
        for key, name in own.items():
            by_part.setdefault(name.part, {})[name.metric] = last[key]
        rows = [(part, *_values(values, metrics)) for part, values in by_part.items()]
        if rows:
            title = f"Slices of {set_name}" if set_name else "Slices"
            found += [element("h3", title), table(("slice", *metrics), rows, title)]
    return joined(found)


def _values(values: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    return [measure(values[metric]) if metric in values else "–" for metric in metrics]


def _history(record: RunRecord) -> Markup | str:
    """A table of all evaluations of whole sets, the newest first."""
    rows = record.evaluations[::-1]
    names = result_names(dict.fromkeys(key for row in rows for key in row), record.sets)
    keys = [key for keys in by_metric(names).values() for key in keys]
    if not keys or len(rows) < 2:
        return ""
    lines = [(f"{row['step']:,}", *_values(row, keys)) for row in rows]
    headers = ("step", *(key.removeprefix("eval_") for key in keys))
    found = table(headers, lines, "all evaluations")
    return folded(f"All {len(rows)} evaluations", found, opened=len(rows) <= MAX_OPENED)
