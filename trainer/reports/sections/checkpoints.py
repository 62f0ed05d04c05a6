"""Checkpoints: lists the kept checkpoints with their sizes and evaluations."""

from pathlib import Path

from trainer.checkpoint import files
from trainer.checkpoint.verify import MANIFEST, manifest_of
from trainer.errors import EnvironmentFault
from trainer.rendering.figures import measure
from trainer.reports.markup import Markup, section, table
from trainer.reports.run_record import RunRecord

MIB = 1 << 20


def checkpoints(record: RunRecord) -> Markup | str:
    """The section, with a table of checkpoints; the table's last row is the final model."""
    best = (record.results.get("best") or {}).get("step")
    metric = record.facts.best_metric if record.facts else "eval_loss"
    values = {row["step"]: row.get(metric) for row in record.evaluations}
    rows = [
        (
            folder.name,
            f"{step:,}",
            measure(values.get(step)),
            _size(folder),
            "best" * (step == best),
        )
        for step, folder in record.checkpoints.items()
    ]
    model = record.folder / "model"
    if record.results and model.is_dir():
        step = record.results.get("model_step")
        rows.append((model.name, f"{step:,}", measure(values.get(step)), _size(model), "to use"))
    if not rows:
        return ""
    headers = ("folder", "step", metric, "size", "")
    return section("Checkpoints", table(headers, rows, "kept checkpoints"))


def _size(folder: Path) -> str:
    """The size from the manifest, because other files of a run in a store may not be local."""
    path = folder / MANIFEST
    try:
        size = sum(n for n, _ in manifest_of(path, files.read_bytes(path)).files.values())
    except (FileNotFoundError, EnvironmentFault):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{size / MIB:,.1f} MiB"
