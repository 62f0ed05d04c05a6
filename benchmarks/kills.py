"""Kills training runs at random instants until they are through, and counts what was lost.

    python benchmarks/kills.py               # 200 kills
    python benchmarks/kills.py --kills 20 --seed 1
    python benchmarks/kills.py --async-save  # the checkpoints are written by a thread

A run is a process of its own that trains a small BERT with AdamW, an average of the weights and
the best model, saves at every other step, and gets SIGKILL after a random time. Then every
checkpoint that is published must verify, and the same run is started again. When a run is through,
the sha256 of its model, its last moments and its logged rows must be those of a run that nobody
disturbed. Printed: kills by what they hit, and the differences, of which there must be none.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

STEPS = 30
BAD = ("unloadable checkpoints", "runs with other weights, moments or rows", "failures")


def main() -> int:
    options = parse()
    draw = random.Random(options.seed)
    outcome: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        import_everything()
        seconds = undisturbed(folder / "whole", options.async_save)
        wanted = digests(folder / "whole")
        run = 0
        while outcome["kills"] < options.kills:
            run += 1
            left = options.kills - outcome["kills"]
            outcome += disturbed(folder / f"{run}", draw, seconds, left, options.async_save)
            if digests(folder / f"{run}") != wanted:
                outcome[BAD[1]] += 1
            outcome["runs"] += 1
    print(json.dumps({**dict.fromkeys(BAD, 0), **outcome}, indent=2))
    return 1 if any(outcome[what] for what in BAD) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--async-save", action="store_true", help="save while training goes on")
    parser.add_argument("--folder", help="where the runs lie; default: the system's temporary one")
    return parser.parse_args()


def undisturbed(folder: Path, async_save: bool) -> float:
    """Train once without a kill; the seconds that it took."""
    started = time.perf_counter()
    status = os.waitpid(start(folder, async_save), 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0, "the undisturbed run failed"
    return time.perf_counter() - started


def disturbed(
    folder: Path, draw: random.Random, seconds: float, most: int, async_save: bool
) -> Counter[str]:
    """Kill a run at random instants, at most so many times, until it is through."""
    outcome: Counter[str] = Counter()
    while True:
        child = start(folder, async_save)
        if outcome["kills"] < most:
            time.sleep(draw.uniform(0, 0.6 * seconds))
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return outcome
        if code != -signal.SIGKILL:
            outcome[BAD[2]] += 1
            return outcome
        outcome["kills"] += 1
        outcome += what_was_hit(folder)


def start(folder: Path, async_save: bool) -> int:
    """The process id of a run that begins, or goes on, in `folder`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train(folder, async_save)
        code = 0
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def import_everything() -> None:
    """Here, so that each process starts at once and most kills come while something is done."""
    import torch._dynamo  # noqa: F401

    import recipes.sequence_classification  # noqa: F401
    import trainer.trainer  # noqa: F401
    from trainer.metrics.classification import Accuracy

    torch.set_num_threads(1)
    Accuracy().prepare()


def train(folder: Path, async_save: bool) -> None:
    import numpy as np
    import torch

    from recipes.sequence_classification import SequenceClassification
    from trainer.data.tokens import TokenTable
    from trainer.metrics.classification import Accuracy
    from trainer.models.auto import AutoModelForSequenceClassification
    from trainer.models.config import ModelConfig
    from trainer.settings import TrainSettings
    from trainer.trainer import Trainer

    def table(seed: int, num_samples: int) -> TokenTable:
        draw = np.random.default_rng(seed)
        lengths = draw.integers(3, 30, num_samples)
        return TokenTable(
            input_ids=draw.integers(5, 97, lengths.sum()).astype(np.int32),
            token_type_ids=None,
            sequence_offsets=np.concatenate([[0], np.cumsum(lengths)]),
            sample_offsets=np.arange(num_samples + 1),
            fields={"labels": draw.integers(0, 3, num_samples)},
            axes=SequenceClassification.fields,
        )

    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_labels": 3}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(0)
    config = ModelConfig({"model_type": "bert", **sizes, **layers})
    Trainer(
        AutoModelForSequenceClassification.from_config(config),
        SequenceClassification(problem="single_label", labels=list("abc")),
        TrainSettings(
            max_steps=STEPS,
            global_batch_size=8,
            learning_rate=1e-3,
            save_steps=2,
            async_save=async_save,
            eval_steps=5,
            logging_steps=1,
            ema_decay=0.9,
            load_best_model_at_end=True,
            precision="fp32",
        ),
        train_dataset=table(0, 77),
        eval_dataset=table(1, 20),
        metrics={"accuracy": Accuracy()},
        output_dir=folder,
    ).fit()


def what_was_hit(folder: Path) -> Counter[str]:
    """Which leftovers a kill left, and whether every published checkpoint verifies."""
    from trainer.checkpoint.publish import published
    from trainer.checkpoint.verify import CorruptCheckpoint, verify

    found: Counter[str] = Counter()
    leftovers = {name for kind in ("tmp", "del", "old") for name in folder.glob(f".{kind}-*")}
    found["kills in a save"] = int(bool(leftovers))
    for checkpoint in published(folder).values():
        try:
            verify(checkpoint)
            found["checkpoints verified after a kill"] += 1
        except CorruptCheckpoint as fault:
            print(fault, file=sys.stderr)
            found[BAD[0]] += 1
    return found


def digests(folder: Path) -> dict[str, Any]:
    """What must be equal: the model, the last moments and averages, and the logged rows."""
    last = folder / f"checkpoint-{STEPS}"
    files = [folder / "model" / "model.safetensors", last / "model.safetensors"]
    files += [last / "state" / f"{name}.safetensors" for name in ("optimizer", "ema")]
    found: dict[str, Any] = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["rows"] = [
        {
            name: value
            for name, value in row.items()
            if not name.endswith(("per_second", "data_wait"))
        }
        for row in rows
    ]
    return found


if __name__ == "__main__":
    sys.exit(main())
