"""The loop: a reader and a seed make a case; failing cases are described."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hostile.files import READERS, Reader
from tests.hostile.mutations import hostile_text, mutate
from tests.hostile.worker import PATIENCE

ALLOWED = (0, 2, 3, 4)
MEGABYTES = 2048
WRITTEN = ("run", "again", "new", "cache", "sweep")
"""Folders of a case where its command may write."""


class Loop:
    """A worker process, the seeds' folder, and a folder for the current case."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder, self.repository = folder, repository
        self.seeds = folder / "seeds"
        self._worker: subprocess.Popen[str] | None = None
        self.seeds.mkdir(parents=True)
        answer = self._ask(self.seeds, Reader((), call="make"), {})
        assert answer["code"] == 0, answer["err"]

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            assert self._worker.stdin is not None
            self._worker.stdin.close()
            self._worker.wait()

    def fault_of(self, name: str, seed: int) -> str:
        """The failures of a case, with all that is needed to repeat it; empty if there are none."""
        reader, dice = READERS[name], random.Random(f"{name} {seed}")
        case = self.folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        for need in reader.needs:
            source = self.seeds / need
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, case / need)
        tried = self.seeds / "cache" / ".tried"  # a trial takes as long as some cases
        shutil.copytree(tried, case / "cache" / ".tried", dirs_exist_ok=True)
        said, environment = _prepare(case, reader, dice)
        before = _tree(case)
        answer = self._ask(case, reader, environment)
        faults = _faults(answer)
        changed = sorted(path for path in before if before[path] != _tree(case).get(path))
        added = sorted(_tree(case).keys() - before.keys())
        named = {value.split("/")[0] for key, value in environment.items() if "CACHE" in key}
        outside = [p for p in (*changed, *added) if p.split("/")[0] not in {*WRITTEN, *named}]
        if outside:
            faults.append(f"wrote {outside[:3]}")
        if not faults:
            return ""
        told = f"exit {answer['code']}, {answer['err'].strip()[-600:]!r}"
        return f"{name} {seed}: {said}: {'; '.join(faults)}: {told}"

    def _ask(self, case: Path, reader: Reader, environment: dict[str, str]) -> dict[str, Any]:
        worker = self._started()
        assert worker.stdin is not None and worker.stdout is not None
        request = {
            "folder": str(case),
            "arguments": list(reader.arguments),
            "environment": {"TEMPERING_CACHE": str(case / "cache"), **environment},
            "call": reader.call,
        }
        worker.stdin.write(json.dumps(request) + "\n")
        worker.stdin.flush()
        return json.loads(worker.stdout.readline())

    def _started(self) -> subprocess.Popen[str]:
        if self._worker is None:
            environment = {
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "HOME": str(self.folder / "home"),
            }
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.worker"],
                cwd=self.repository,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._worker.stdout is not None
            assert self._worker.stdout.readline() == "ready\n"
        return self._worker


def _prepare(case: Path, reader: Reader, dice: random.Random) -> tuple[str, dict[str, str]]:
    """Mutate one of the reader's files, or a variable; returns what was done."""
    if reader.environment:
        name = dice.choice(reader.environment)
        value = dice.choice([hostile_text(dice), str(dice.choice([-1, 0, 1, 2, 99999]))])
        more = {"RANK": "0", "WORLD_SIZE": "1"} if name in ("RANK", "WORLD_SIZE") else {}
        return f"{name}={value!r:.60}", {**more, name: value}
    found = sorted(path for glob in reader.files for path in case.glob(glob) if path.is_file())
    path = dice.choice(found)
    said = f"{path.relative_to(case)}: {mutate(path, dice)}"
    if reader.sealed and path.name != "manifest.json":
        _seal(next(parent for parent in path.parents if (parent / "manifest.json").exists()))
    return said, {}


def _seal(checkpoint: Path) -> None:
    """Make the manifest fit, as anyone who passes on a checkpoint can."""
    from trainer.checkpoint import files
    from trainer.checkpoint.verify import Manifest

    manifest = checkpoint / "manifest.json"
    facts = json.loads(manifest.read_text())["facts"]
    manifest.unlink()
    found = {
        path.relative_to(checkpoint).as_posix(): (
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    manifest.write_bytes(files.json_bytes(Manifest(found, facts).to_json()))


def _faults(answer: dict[str, Any]) -> list[str]:
    """The guarantees that an answer violates."""
    lines = [line for line in answer["err"].splitlines() if line.strip()]
    faults = []
    if answer["code"] not in ALLOWED:
        faults.append(f"exit code {answer['code']}")
    if len([line for line in lines if not line.startswith("CONNECTION")]) > 1:
        faults.append(f"{len(lines)} lines on standard error")
    if any(line.startswith("CONNECTION") for line in lines):
        faults.append("opened a connection")
    if answer["late"]:
        faults.append(f"did not end within {PATIENCE} s")
    if answer["megabytes"] > MEGABYTES:
        faults.append(f"took {answer['megabytes']} MB")
    if answer["left"]:
        faults.append(f"left processes {answer['left']}")
    if "\x1b" in answer["out"] + answer["err"]:
        faults.append("an escape reached the terminal")
    return faults


def _tree(case: Path) -> dict[str, tuple[int, int]]:
    """Relative path -> (bytes, last change) of every file of a case."""
    return {
        path.relative_to(case).as_posix(): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in case.rglob("*")
        if not path.is_dir()
    }
