"""Runs contenders in turns, once for each seed, and prints their scores and CPU time."""

import os
import time
from collections.abc import Callable, Mapping

import numpy as np

Run = Callable[[int], dict[str, float]]
"""Trains with a seed and returns scores by name."""
CPU_SECONDS = "CPU seconds"


def compare(contenders: Mapping[str, Run], seeds: int, first: int = 0) -> None:
    """Print the scores of each run as it ends, then mean and standard deviation of each score."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for seed in range(first, first + seeds):
        for name, run in contenders.items():
            found[name].append(run(seed))
            print(f"seed {seed}, {name}: {shown(found[name][-1])}", flush=True)
    for name, scores in found.items():
        parts = []
        for key in scores[0]:
            values = [each[key] for each in scores]
            parts.append(f"{key} {np.mean(values):.4f} +- {np.std(values, ddof=1):.4f}")
        print(f"{name}, {seeds} seeds: {', '.join(parts)}", flush=True)
    print_costs(found)


def print_costs(found: Mapping[str, list[dict[str, float]]]) -> None:
    """Print each contender's median CPU time as a multiple of the first contender's."""
    medians = {
        name: float(np.median([each[CPU_SECONDS] for each in scores]))
        for name, scores in found.items()
        if CPU_SECONDS in scores[0]
    }
    for name, seconds in medians.items():
        ratio = seconds / next(iter(medians.values()))
        print(f"{name}: {ratio:.2f} times the CPU seconds of {next(iter(medians))}", flush=True)


def cost_of(train: Callable[[], object]) -> dict[str, float]:
    """Run `train` and return its CPU seconds and wall-clock seconds.

    CPU seconds count all threads and the child processes that have ended. They depend less than
    the wall clock on what else the machine does.
    """
    used, started = sum(os.times()[:4]), time.perf_counter()
    train()
    return {
        CPU_SECONDS: sum(os.times()[:4]) - used,
        "seconds": time.perf_counter() - started,
    }


def shown(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
