"""Measures the share of a run's time that writing its report takes.

python benchmarks/report_cost.py                         # the quickstart, in a temporary folder
python benchmarks/report_cost.py trainer.max_steps=60    # with settings, as for launch.py
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import launch
from trainer.training.report_writing import ReportWriting

METHODS = ("begin", "evaluated", "ended", "closed")


def main() -> int:
    """Run the quickstart; print the seconds of each method, and their share of the whole time."""
    spent = dict.fromkeys(METHODS, 0.0)
    for name in METHODS:
        setattr(ReportWriting, name, timed(getattr(ReportWriting, name), name, spent))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        code = launch.main([f"output_dir={folder}/run", *sys.argv[1:]])
        size = (Path(folder) / "run" / "report.html").stat().st_size
    total = time.perf_counter() - started
    reporting = sum(spent.values())
    parts = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in spent.items())
    print(f"report: {reporting:.3f} s of {total:.1f} s, {100 * reporting / total:.2f} %: {parts}")
    print(f"report.html: {size:,} bytes")
    return code


def timed(method: Callable[..., None], name: str, spent: dict[str, float]) -> Callable[..., None]:
    """The method, wrapped to add its seconds to `spent`."""

    def call(*arguments: Any) -> None:
        started = time.perf_counter()
        method(*arguments)
        spent[name] += time.perf_counter() - started

    return call


if __name__ == "__main__":
    raise SystemExit(main())
