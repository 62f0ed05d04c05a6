"""End summary: what came out, where it is, and the commands that go on from here."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from trainer.rendering.classes import class_report
from trainer.rendering.figures import count, duration, measure, plural
from trainer.rendering.layout import labelled


def end_summary(summary: Mapping[str, Any], width: int, *, report: bool) -> RenderableType:
    """What results.json holds, in `width` columns; `report`: the numbers by class as well."""
    by_class = class_report(summary["report"], width) if report and summary.get("report") else None
    results = {key: measure(value) for key, value in summary.get("metrics", {}).items()}
    if best := summary.get("best"):
        results["best"] = f"{best['metric']} {measure(best['value'])} at step {best['step']:,}"
    places = {"model": summary["model_path"]} if summary.get("model_path") else {}
    places |= summary.get("commands") or {}
    parts: list[RenderableType] = [] if by_class is None else [Text(), by_class]
    parts += [Text(), _headline(summary)]
    for lines in (results, places):
        parts += [labelled(lines), Text()] if lines else []
    return Group(*parts)


def _headline(summary: Mapping[str, Any]) -> Text:
    steps = plural(summary["steps"], "step")
    amount = f"{summary['epochs']:.4g} epochs, {count(summary['samples'])} samples"
    said = f"{steps} ({amount}) in {duration(summary['seconds'])}"
    if summary.get("stopped"):
        return Text(f"stopped after {said}", style="bold").append(
            f"\n{summary['stopped']}", "not bold"
        )
    return Text(f"finished {said}", style="bold")
