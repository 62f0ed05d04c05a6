"""Kills training runs at random times until they finish, and checks that nothing was lost.

    python benchmarks/kills.py               # 200 kills
    python benchmarks/kills.py --kills 20 --seed 1
    python benchmarks/kills.py --async-save  # a thread writes the checkpoints
    python benchmarks/kills.py --store       # runs in S3, which moto's server simulates

A run is a process that trains a small BERT with AdamW, averaged weights and selection of the best
model, and saves at every second step. It gets SIGKILL after a random time. Then every published
checkpoint must verify, and the same run is started again. With --store the checkpoints in the store
must verify, and every second restart has an empty disk. When a run has finished, the SHA-256 of its
model and its last optimizer state, and its logged rows, must equal those of an uninterrupted run.
The script prints the number of kills, how many were during a save, and all differences.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = 30
STEPS_IN_STORE = 8
BUCKET = "kills"
SERVER = """
import time
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
time.sleep(10**8)
"""
"""A server on a free port, which it prints."""
BAD = ("unloadable checkpoints", "runs with other weights, moments or rows", "failures")


def main() -> int:
    options = parse()
    draw = random.Random(options.seed)
    outcome: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=options.folder) as name, ExitStack() as stack:
        folder = Path(name)
        import_everything()
        place = Disk(folder) if not options.store else stack.enter_context(opened_store(folder))
        seconds = undisturbed(place, options.async_save)
        wanted = digests(place.files("whole"), place.steps)
        run = 0
        while outcome["kills"] < options.kills:
            run += 1
            left = options.kills - outcome["kills"]
            outcome += disturbed(place, f"{run}", draw, seconds, left, options.async_save)
            if digests(place.files(f"{run}"), place.steps) != wanted:
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
    parser.add_argument("--async-save", action="store_true", help="save while training continues")
    parser.add_argument("--store", action="store_true", help="write runs to a store")
    parser.add_argument("--folder", help="the folder for the runs; default: a temporary one")
    return parser.parse_args()


@dataclass
class Disk:
    """Runs in a folder of this machine."""

    folder: Path
    steps: int = STEPS
    window: tuple[float, float] = (0.0, 0.6)
    """When to kill, as shares of the time of a whole run."""

    def output_dir(self, run: str) -> str:
        return str(self.folder / run)

    def files(self, run: str) -> Path:
        """A folder with the current files of a run."""
        return self.folder / run

    def killed(self) -> None:
        """Do what follows each kill: nothing."""


@dataclass
class Bucket(Disk):
    """Runs in a bucket of a server on this machine; every second kill also deletes the disk."""

    client: Any = None
    steps: int = STEPS_IN_STORE
    window: tuple[float, float] = (0.2, 0.9)
    kills: int = 0

    def output_dir(self, run: str) -> str:
        return f"s3://{BUCKET}/{run}"

    def files(self, run: str) -> Path:
        target = Path(tempfile.mkdtemp(dir=self.folder))
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=f"{run}/"
        )
        for each in (found for page in pages for found in page.get("Contents", ())):
            path = target / each["Key"].removeprefix(f"{run}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            self.client.download_file(BUCKET, each["Key"], str(path))
        for folder in target.glob("checkpoint-*"):  # without a manifest it is not published
            if not (folder / "manifest.json").exists():
                folder.rename(folder.with_name(f".tmp-{folder.name}"))
        return target

    def killed(self) -> None:
        self.kills += 1
        if self.kills % 2:
            shutil.rmtree(self.folder / "stage", ignore_errors=True)


@contextmanager
def opened_store(folder: Path) -> Iterator[Bucket]:
    """Run a server that simulates S3, with an empty bucket."""
    import boto3
    import s3fs  # noqa: F401 (imported before forking, so that runs start quickly)

    from trainer.stores import lease

    lease.EXPIRES, lease.POLL, lease.RENEWAL_PERIOD = 0.3, 0.05, 0.1
    keys = {"AWS_ACCESS_KEY_ID": "kills", "AWS_SECRET_ACCESS_KEY": "kills"}
    os.environ |= keys | {"AWS_DEFAULT_REGION": "us-east-1"}
    os.environ["TEMPERING_STAGE"] = str(folder / "stage")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()  # once it is ready
        assert address, "the store's server did not start"  # boto3 would ask the real AWS
        os.environ["AWS_ENDPOINT_URL"] = address
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield Bucket(folder, client=client)
    finally:
        process.kill()
        process.wait()


def undisturbed(place: Disk, async_save: bool) -> float:
    """Train once without a kill; returns the seconds that this took."""
    started = time.perf_counter()
    status = os.waitpid(start(place, "whole", async_save), 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0, "the undisturbed run failed"
    return time.perf_counter() - started


def disturbed(
    place: Disk, run: str, draw: random.Random, seconds: float, max_kills: int, async_save: bool
) -> Counter[str]:
    """Kill a run at random times, at most `max_kills` times, until it finishes."""
    outcome: Counter[str] = Counter()
    while True:
        child = start(place, run, async_save)
        if outcome["kills"] < max_kills:
            time.sleep(draw.uniform(*place.window) * seconds)
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return outcome
        if code != -signal.SIGKILL:
            outcome[BAD[2]] += 1
            return outcome
        outcome["kills"] += 1
        outcome += checked_after_kill(place.files(run))
        place.killed()


def start(place: Disk, run: str, async_save: bool) -> int:
    """Start or continue a run in a child process; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train(place.output_dir(run), async_save, place.steps)
        code = 0
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def import_everything() -> None:
    """Import all modules before forking, so that runs start quickly and most kills hit training."""
    import torch._dynamo  # noqa: F401

    import recipes.sequence_classification  # noqa: F401
    import trainer.trainer  # noqa: F401
    from trainer.metrics.classification import Accuracy

    torch.set_num_threads(1)
    Accuracy().prepare()


def train(output_dir: str, async_save: bool, steps: int) -> None:
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
            max_steps=steps,
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
        output_dir=output_dir,
    ).fit()


def checked_after_kill(folder: Path) -> Counter[str]:
    """Count whether the kill was during a save, and how many published checkpoints verify."""
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


def digests(folder: Path, steps: int) -> dict[str, Any]:
    """What must be equal between runs: model, last moments, averaged weights and logged rows."""
    last = folder / f"checkpoint-{steps}"
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
            if not name.endswith(("per_second", "data_wait", "memory_gib"))
        }
        for row in rows
    ]
    return found


if __name__ == "__main__":
    sys.exit(main())
