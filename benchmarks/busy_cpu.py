"""Measures how OpenMP's way of waiting changes training speed, on a quiet CPU and on a busy one.

    python benchmarks/busy_cpu.py                         # about 20 minutes on 2 cores
    python benchmarks/busy_cpu.py --busy 0 1 --rounds 1   # a shorter run

launch.py trains MiniLM on short texts, in a new process for each setting of the environment, while
0, 1, 2, ... other processes keep the CPU busy. `default` is the setting that launch.py chooses
(trainer/launching/cpu_threads.py). The script prints samples per second, the median of the rounds,
and the ratio to the fastest setting on the quiet CPU. It needs a machine that does nothing else, so
it prints the load average first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "libgomp's own": {"GOMP_SPINCOUNT": "300000"},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
    "spin 20000": {"GOMP_SPINCOUNT": "20000"},
    "spin 5000": {"GOMP_SPINCOUNT": "5000"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
VARIABLES = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"


def main() -> None:
    options = parse()
    print(f"cores {os.cpu_count()}, load average {os.getloadavg()}", flush=True)
    speeds: dict[tuple[int, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder))
        for number in range(options.rounds):
            for busy in options.busy:
                for name in options.settings:
                    with busy_processes(busy):
                        speed = train(Path(folder), SETTINGS[name], options.steps)
                    speeds.setdefault((busy, name), []).append(speed)
                    print(f"round {number + 1}, busy {busy}, {name}: {speed:.1f}", flush=True)
    show(speeds, options.busy, options.settings)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    return parser.parse_args()


def write_rows(folder: Path) -> None:
    """Write 512 rows of 8 to 40 words."""
    text = "a quiet river runs below the old bridge and nobody counts its stones"
    words = text.split()
    rows = [
        {"text": " ".join(words[(i + k) % 13] for k in range(8 + i % 33)), "label": "ab"[i % 2]}
        for i in range(512)
    ]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Run processes that use as much CPU time as they get, until the context ends."""
    loop = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(loop) for _ in range(number)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def train(folder: Path, setting: dict[str, str], steps: int) -> float:
    """Train; returns the samples per second of the last half of the steps."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with tempfile.TemporaryDirectory(dir=folder) as run:
        command = [
            *(sys.executable, str(ROOT / "launch.py"), "model=minilm"),
            *(f"dataset.train={folder / 'rows.jsonl'}", "dataset.validation_fraction=0"),
            *(f"trainer.max_steps={steps}", f"trainer.logging_steps={steps // 2}"),
            *("trainer.eval_steps=0", "trainer.save_steps=0", "trainer.precision=fp32"),
            f"output_dir={run}/run",
        ]
        subprocess.run(
            command, env={**environment, **setting}, check=True, stdout=subprocess.DEVNULL
        )
        lines = (Path(run) / "run" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "samples_per_second" in row][-1][
        "samples_per_second"
    ]


def show(speeds: dict[tuple[int, str], list[float]], busy: list[int], settings: list[str]) -> None:
    """Print a row for each setting: samples per second, and the ratio to the best quiet speed."""
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    best = max(medians[busy[0], name] for name in settings)
    print("| setting |" + "".join(f" beside {number} | share |" for number in busy))
    print("|---|" + "---:|---:|" * len(busy))
    for name in settings:
        cells = (f" {medians[n, name]:.0f} | {medians[n, name] / best:.2f} |" for n in busy)
        print(f"| {name} |" + "".join(cells))


if __name__ == "__main__":
    main()
