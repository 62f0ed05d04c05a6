"""Side by side: makes tables of the runs, their results and the settings in which they differ."""

from collections.abc import Mapping
from typing import Any

from trainer.rendering.figures import count, duration, measure
from trainer.reports.markup import Markup, element, section, table, texts_table
from trainer.reports.result_names import result_names
from trainer.reports.run_record import RunRecord
from trainer.reports.sections.overview import status
from trainer.reports.sections.settings import NOT_CHANGES, code, shown
from trainer.reports.settings_defaults import flattened

Runs = Mapping[str, RunRecord]
"""Name of a run on the page -> its record."""


def runs_table(runs: Runs) -> Markup:
    """A table with a row for each run: its folder, status, duration and number of tokens."""
    rows = [
        (name, str(record.folder), status(record), _time(record), _tokens(record))
        for name, record in runs.items()
    ]
    headers = ("run", "folder", "status", "time", "tokens")
    return section("Runs", texts_table(headers, rows, "the runs"))


def results_table(runs: Runs) -> Markup | str:
    """A table with a row for each result; if the direction is known, the best value is marked."""
    found = {name: _results(record) for name, record in runs.items()}
    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    if not keys:
        return ""
    better = _directions(runs, keys)
    rows = [
        (key.removeprefix("eval_"), *_marked([v.get(key) for v in found.values()], better[key]))
        for key in keys
    ]
    note = (
        "These are results of the final model or, for a run without one, of the last evaluation. "
        "The best value in a row is marked."
    )
    return section("Results", table(("result", *runs), rows, "results of the runs"), note=note)


def differing_settings(runs: Runs) -> Markup | str:
    """A table with a row for each setting that differs between runs."""
    found = {name: flattened(record.config) for name, record in runs.items()}
    keys = sorted(set().union(*found.values()) - set(NOT_CHANGES))
    differing = [
        key for key in keys if len({shown(values.get(key, "–")) for values in found.values()}) > 1
    ]
    if not differing:
        return section("Settings", element("p", "All settings are equal."))
    rows = [
        (code(key), *(shown(values[key]) if key in values else "–" for values in found.values()))
        for key in differing
    ]
    note = "The settings in which the runs differ."
    headers = ("setting", *runs)
    return section("Settings", texts_table(headers, rows, "differing settings"), note=note)


def _results(record: RunRecord) -> dict[str, Any]:
    last = record.results.get("metrics") or (record.evaluations or [{}])[-1]
    return {key: last[key] for key in result_names(last, record.sets)}


def _directions(runs: Runs, keys: list[str]) -> dict[str, bool | None]:
    """Result -> whether a greater value is better; None if this is unknown."""
    found: dict[str, bool | None] = dict.fromkeys(keys)
    for record in runs.values():
        known = record.facts.directions if record.facts else {}
        for key, name in result_names(keys, record.sets).items():
            if name.metric in known:
                found[key] = known[name.metric]
    return found


def _marked(values: list[Any], greater_is_better: bool | None) -> list[object]:
    texts: list[object] = [measure(value) if value is not None else "–" for value in values]
    known = [v for v in values if isinstance(v, (int, float)) and v == v]
    if greater_is_better is None or len(set(known)) < 2:
        return texts
    best = max(known) if greater_is_better else min(known)
    return [
        element("strong", text, " ✓", title="best") if value == best else text
        for value, text in zip(values, texts, strict=True)
    ]


def _time(record: RunRecord) -> str:
    seconds = record.results.get("seconds")
    return "–" if seconds is None else duration(seconds)


def _tokens(record: RunRecord) -> str:
    last = record.rows[-1].get("tokens") if record.rows else None
    return "–" if last is None else count(last)
