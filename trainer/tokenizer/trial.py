"""Trial: a tokenizer.json is loaded and used in a bounded process before it is loaded in ours."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault, InputError

PROGRAM = Path(__file__).with_name("trial_process.py")
SECONDS, MEMORY = 3, 3 << 30
"""Processor time, and bytes of address space, that any file may use; larger files may use more."""
PATIENCE = 300.0
"""Seconds that the trial may take in all, on a machine that is busy with something else."""
ENDED = {
    signal.SIGKILL: "takes too long, or too much memory, to load and try",
    signal.SIGXCPU: "takes too long to load and try",
    signal.SIGABRT: "needs too much memory, or makes its library abort",
    signal.SIGSEGV: "makes its library crash",
}


def check(file: Path, text: str) -> None:
    """Refuse a tokenizer.json that its library cannot load, or not within bounds.

    A file that has passed with this version of the library is remembered by its digest, in the
    user's cache, so that it is tried once. Raises InputError.
    """
    verdict = _verdict(text)
    if _passed(verdict):
        return
    if fault := _tried(text):
        raise InputError(f"{file}: {fault}; accepted: what `tokenizers` saves")
    try:
        files.make_folder(verdict.parent, private=True)
        files.write_text(verdict, "ok\n", private=True)
    except EnvironmentFault:
        pass  # it is tried again next time


def _tried(text: str) -> str:
    """What is wrong with it, in a few words; empty where nothing is."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(PROGRAM), str(SECONDS), str(MEMORY)],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"takes more than {PATIENCE:g} s to load and try"
    if done.returncode < 0:
        number = signal.Signals(-done.returncode)
        return ENDED.get(number, f"makes its library end with {number.name}")
    found = done.stdout.decode(errors="replace").strip()
    if done.returncode or not found:
        return "cannot be tried: the process ended with " + str(done.returncode)
    return "" if found == "ok" else found[:300]


def _verdict(text: str) -> Path:
    """Where it is remembered that a file has passed."""
    import tokenizers

    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = Path(os.environ.get("TEMPERING_CACHE") or user_cache / "tempering" / "tokens")
    program = PROGRAM.read_text(encoding="utf-8")
    parts = f"{tokenizers.__version__}\n{SECONDS} {MEMORY}\n{program}\n{text}"
    return folder.expanduser() / ".tried" / hashlib.sha256(parts.encode()).hexdigest()


def _passed(verdict: Path) -> bool:
    try:
        return verdict.lstat().st_uid == os.geteuid() and files.read_bytes(verdict) == b"ok\n"
    except (OSError, EnvironmentFault):
        return False
