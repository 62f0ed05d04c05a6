"""Run folders, with names and texts that are HTML unless escaped."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer.reports.facts import Facts, Histogram, Start

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>&amp;\"'</style>"
LABELS = ("good", "bad", HOSTILE)


def write_run(folder: Path, *, name: str = "a run", scale: float = 1.0, **changed: Any) -> Path:
    """A finished run of a classifier with two evaluation sets, slices, texts and dropped rows."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    facts(name, **changed).write(folder)
    write_lines(folder / "metrics.jsonl", rows(scale))
    for set_name in ("dev", HOSTILE_SET):
        write_lines(folder / f"predictions-{set_name}.jsonl", predictions(scale))
    write_lines(folder / "samples.jsonl", texts())
    dropped = {"place": f"{HOSTILE}.csv:3", "reason": HOSTILE, "row": {"text": HOSTILE}}
    write_lines(folder / "dropped.jsonl", [dropped])
    results = {"steps": 200, "total_steps": 200, "seconds": 12.5, "tokens": 5000, "model_step": 200}
    results["best"] = {"metric": "eval_dev_accuracy", "value": 0.75, "step": 200}
    results["metrics"] = {k: v for k, v in rows(scale)[-1].items() if k.startswith("eval_")}
    results["commands"] = {"predict": f"python launch.py {HOSTILE}"}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


HOSTILE_SET = "a&b"
"""The name of an evaluation set, which is part of a file's name."""


def facts(name: str, **changed: Any) -> Facts:
    found = Facts(
        name=name,
        task="sequence_classification",
        starts=[Start("2026-01-31 12:00:00", 0, "cpu", 1, "finished")],
        summary={"model": HOSTILE, "labels": HOSTILE},
        total_steps=200,
        eval_sets={"dev": 60, HOSTILE_SET: 60},
        best_metric="eval_dev_accuracy",
        greater_is_better=True,
        directions={"loss": False, "accuracy": True},
        class_counts={label: 10 * number for number, label in enumerate(LABELS, start=1)},
        lengths={"train": Histogram.of(np.arange(1, 120)), HOSTILE: Histogram.of(np.ones(3, int))},
        truncated={"train": 7},
        environment={"system": HOSTILE},
        config={"run_name": name, "trainer": {"learning_rate": 1e-3}, "recipe": {"text": HOSTILE}},
        defaults={"trainer.learning_rate": 5e-5},
    )
    return replace(found, **changed)


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for step in range(1, 201):
        about = {"step": step, "epoch": step / 100, "samples": 8 * step, "tokens": 100 * step}
        loss = None if step == 50 else scale * (2 / math.sqrt(step) + 0.1 * math.sin(step))
        speed = {"samples_per_second": 90 + step % 7, "tokens_per_second": 2000.0, "data_wait": 0.1}
        memory = {"memory_gib": 1.0, "peak_memory_gib": 1.5}
        rest = {"learning_rate": 1e-3 * (1 - step / 200), "grad_norm": 1.0, "margin": step / 200}
        found.append({**about, "loss": loss, **speed, **memory, **rest})
        if step % 50 == 0:
            results = {"loss": scale / step, "accuracy": 0.5 + step / 800}
            sliced = {"short_samples": 12, "short_loss": 0.5, "short_accuracy": 0.25}
            named = {
                f"eval_{set_name}_{metric}": value
                for set_name in ("dev", HOSTILE_SET)
                for metric, value in {**results, **sliced}.items()
            }
            found.append({**about, **named})
    return found


def predictions(scale: float = 1.0) -> list[dict[str, Any]]:
    """60 predictions, a fifth of which are wrong if `scale` is 1."""
    found = []
    for row in range(60):
        reference = LABELS[row % 3]
        wrong = row % 5 < scale
        label = LABELS[(row + 1) % 3] if wrong else reference
        odds = dict.fromkeys(LABELS, 0.1) | {label: 0.8 - 0.005 * row}
        answer = {"label": label, "score": odds[label], "probabilities": odds}
        loss = scale * (2.0 - row / 60 if wrong else 0.1)
        about = {"row": row, "loss": loss, **answer, "reference": reference}
        found.append(
            {**about, "input": {"text": f"row {row} {HOSTILE} " + "long " * (row % 2 * 300)}}
        )
    return sorted(found, key=lambda line: -line["loss"])


def texts() -> list[dict[str, Any]]:
    steps = range(0, 201, 25)
    return [{"step": step, "prompt": HOSTILE, "text": f"{HOSTILE} at {step}"} for step in steps]


def write_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
