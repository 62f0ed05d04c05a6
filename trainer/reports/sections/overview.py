"""Overview: shows the main figures of the run."""

import shlex
from pathlib import Path
from typing import Any

from trainer.rendering.figures import count, duration, measure
from trainer.reports.markup import Markup, definitions, element, section, tiles
from trainer.reports.result_names import result_names
from trainer.reports.run_record import RunRecord

MOST_RESULTS = 4
MODEL = "model"


def overview(record: RunRecord) -> Markup:
    """The section: the main figures, a summary of model and data, and commands to continue with."""
    lines = dict(record.facts.summary) if record.facts else {}
    commands = {name: element("code", text) for name, text in _commands(record).items()}
    return section("Overview", tiles(figures(record)), definitions({**lines, **commands}))


def _commands(record: RunRecord) -> dict[str, str]:
    """Commands to continue with. Those in results.json are not used, since it may be untrusted."""
    folder = record.folder.absolute()
    known = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    same_run = f"python launch.py {shlex.quote(f'from={known}')}"
    model = f"python launch.py job=predict {shlex.quote(f'model.path={known / MODEL}')}"
    return {
        **({"predict": f"{model} ..."} if record.results else {}),
        "evaluate": f"{same_run} job=evaluate",
        "repeat": f"{same_run} output_dir=runs/another",
    }


def status(record: RunRecord) -> str:
    """Whether and how the run has ended, in a few words."""
    results = record.results
    if results.get("stopped"):
        return f"stopped at step {results['steps']:,}: {results['stopped']}"
    if results:
        return f"finished {results['steps']:,} steps"
    total = f" of {record.facts.total_steps:,}" if record.facts else ""
    ended = record.facts.starts[-1].ended if record.facts and record.facts.starts else ""
    return f"not finished: step {record.last_step:,}{total}" + f"; {ended}" * bool(ended)


def figures(record: RunRecord) -> dict[str, str]:
    """Name -> figure: the best and the last results, the time, the speed and the memory."""
    found: dict[str, str] = {}
    results = record.results
    if best := results.get("best"):
        found[f"best {best['metric']}, step {best['step']:,}"] = measure(best["value"])
    metrics: dict[str, Any] = dict(results.get("metrics") or (record.evaluations or [{}])[-1])
    names = result_names(metrics, record.sets)
    for key in [key for key, name in names.items() if not name.part][:MOST_RESULTS]:
        found[key] = measure(metrics[key])
    if record.training:
        found["training loss, last"] = measure(record.training[-1]["loss"])
    if "seconds" in results:
        found["time"] = duration(results["seconds"])
    if "tokens" in results:
        found["tokens"] = count(results["tokens"])
    if peaks := [y for _, y in record.points("peak_memory_gib")]:
        found["peak memory"] = f"{max(peaks):.2f} GiB"
    return found
