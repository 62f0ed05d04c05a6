"""End summary: the results, their folder, and the commands to continue with."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from trainer.plurals import plural
from trainer.rendering.classes import class_report
from trainer.rendering.figures import amount, duration, epochs_passed, measure, memory
from trainer.rendering.layout import labelled


def end_summary(summary: Mapping[str, Any], width: int, *, report: bool) -> RenderableType:
    """Format the content of results.json for `width` columns.

    With `report`, the metrics by class are included. Paths and commands are not wrapped, so that
    they can be copied.
    """
    by_class = class_report(summary["report"], width) if report and summary.get("report") else None
    results = {key: measure(value) for key, value in summary.get("metrics", {}).items()}
    if best := summary.get("best"):
        results["best"] = f"{best['metric']} {measure(best['value'])} at step {best['step']:,}"
    if peak := memory(summary.get("peak_memory_gib")):
        results["peak memory"] = peak
    paths = {"model": summary["model_path"]} if summary.get("model_path") else {}
    paths |= {"report": summary["report_path"]} if summary.get("report_path") else {}
    paths |= summary.get("commands") or {}
    parts: list[RenderableType] = [] if by_class is None else [Text(), by_class]
    parts += [Text(), _headline(summary)]
    parts += [labelled(results, width), Text()] if results else []
    parts += [labelled(paths), Text()] if paths else []
    return Group(*parts)


def _headline(summary: Mapping[str, Any]) -> Text:
    steps = plural(summary["steps"], "step")
    epochs = "" if summary["epochs"] is None else f"{epochs_passed(summary['epochs'])}, "
    size = f"{epochs}{amount(summary['samples'], 'sample')}"
    facts = f"{steps} ({size}) in {duration(summary['seconds'])}"
    if summary.get("stopped"):
        return Text(f"stopped after {facts}", style="bold").append(
            f"\n{summary['stopped']}", "not bold"
        )
    return Text(f"finished {facts}", style="bold")
