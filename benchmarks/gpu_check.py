"""Runs the parts of the GPU check as processes with time limits, and writes a table of results.

Start it with benchmarks/gpu_check.sh. The table is written after every part, so that no result is
lost if the script is stopped. The exit code is 1 if a part failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """One process of the check."""

    name: str
    seconds: float
    """The time limit."""
    script: str = "gpu_parts.py"


PARTS = [
    Part("versions", 40),
    Part("masks", 30),
    Part("waits", 45),
    Part("ranks", 90),
    Part("resume", 90),
    Part("generation", 40),
    *(
        Part(f"throughput {name}", 50, "gpu_speed.py")
        for name in ("bert-128", "bert-512", "modernbert-512", "llama-1b", "lora-8b")
    ),
    Part("memory", 60, "gpu_speed.py"),
    Part("profile", 45, "gpu_speed.py"),
    *(
        Part(f"peer {name}", 45, "gpu_speed.py")
        for name in ("bert-128", "bert-512", "modernbert-512", "llama-1b", "lora-8b")
    ),
    Part("tests", 150),
]
"""The parts in the order in which they run: the most important first, in case the time runs out."""


@dataclass
class Outcome:
    """The result of a part."""

    part: Part
    verdict: str
    """done, skipped, or the reason why it failed."""
    seconds: float
    rows: list[tuple[str, str]] = field(default_factory=list)
    printed: str = ""


def main() -> None:
    options = parse()
    deadline = time.monotonic() + 60 * options.minutes
    chosen = [p for p in PARTS if not options.parts or p.name.split()[0] in options.parts]
    started = datetime.now()
    kind = "cpu" if options.cpu else "gpu"
    file = options.output or HERE / "results" / f"{started:%Y-%m-%d}-{kind}-check.md"
    outcomes: list[Outcome] = []
    for part in chosen:
        left = deadline - time.monotonic()
        if left < 5:
            outcomes.append(Outcome(part, "no time left", 0.0))
        else:
            outcomes.append(run(part, options.cpu, min(part.seconds, left)))
        show(outcomes[-1])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(report(outcomes, started, options.cpu), encoding="utf-8")
    failed = [o.part.name for o in outcomes if o.verdict not in ("done", "skipped")]
    print(f"\n{len(outcomes) - len(failed)} parts done, {len(failed)} not: {', '.join(failed)}")
    print(file)
    sys.exit(bool(failed))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="run with tiny sizes on a CPU")
    parser.add_argument(
        "--output", type=Path, help="the file to write; default: a dated file in results/"
    )
    parser.add_argument(
        "--minutes", type=float, default=8.5, help="time limit for all parts together"
    )
    parser.add_argument("--parts", nargs="*", help="run only the parts with these first words")
    return parser.parse_args()


def run(part: Part, cpu: bool, seconds: float) -> Outcome:
    """Run one part in a process; after the time limit, kill it and all processes it started."""
    name, *more = part.name.split()
    command = [sys.executable, "-u", str(HERE / part.script), name, *more, *["--cpu"] * cpu]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""} if cpu else dict(os.environ)
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
        verdict = {0: "done", 5: "skipped"}.get(process.returncode, f"exit {process.returncode}")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        verdict = f"over {seconds:.0f} s"
    lines = printed.splitlines()
    found = [json.loads(line[4:]) for line in lines if line.startswith("ROW ")]
    rest = "\n".join(line for line in lines if not line.startswith("ROW "))
    rows = [(str(what), str(value)) for what, value in found]
    return Outcome(part, verdict, time.monotonic() - begun, rows, rest)


def show(outcome: Outcome) -> None:
    print(f"\n== {outcome.part.name}: {outcome.verdict}, {outcome.seconds:.0f} s", flush=True)
    for what, value in outcome.rows:
        print(f"   {what}: {value}", flush=True)
    if outcome.verdict not in ("done", "skipped"):
        print("\n".join(outcome.printed.splitlines()[-15:]), flush=True)


def report(outcomes: list[Outcome], started: datetime, cpu: bool) -> str:
    """The report in Markdown: a table, and the last output lines of each part that failed."""
    title = f"# {'CPU' if cpu else 'GPU'} check, {started:%Y-%m-%d %H:%M}"
    command = f"bash benchmarks/gpu_check.sh{' --cpu' * cpu}"
    lines = [title, "", f"Commit {commit()}; `{command}`.", ""]
    lines += ["| part | what | found |", "|---|---|---|"]
    for outcome in outcomes:
        state = f"{outcome.verdict}, {outcome.seconds:.0f} s"
        lines.append(f"| **{outcome.part.name}** | | {state} |")
        lines += [f"| | {cell(what)} | {cell(value)} |" for what, value in outcome.rows]
    for outcome in outcomes:
        if outcome.verdict not in ("done", "skipped", "no time left"):
            tail = outcome.printed.splitlines()[-30:]
            lines += ["", f"## {outcome.part.name}: {outcome.verdict}", "", "```", *tail, "```"]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def commit() -> str:
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
