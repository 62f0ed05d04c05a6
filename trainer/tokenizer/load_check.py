"""Load check: tries a tokenizer.json in a process with limits, before this process loads it."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault, InputError

PROGRAM = Path(__file__).with_name("load_check_process.py")
SECONDS, MEMORY = 3, 3 << 30
"""The CPU seconds and bytes of address space for a small file; a larger file may use more."""
PATIENCE = 300.0
"""The maximum duration of the check in seconds of real time, even on a busy machine."""
ENDED = {
    signal.SIGKILL: "takes too long, or too much memory, to load and try",
    signal.SIGXCPU: "takes too long to load and try",
    signal.SIGABRT: "needs too much memory, or makes the library abort",
    signal.SIGSEGV: "makes the library crash",
}
"""The signal that ended the process -> the fault of the file."""


def check(file: Path, text: str) -> None:
    """Raise InputError for a tokenizer.json that the library cannot load within the limits.

    A digest of each accepted file is stored in the user's cache, so that a file is tried only once
    for each version of the library.
    """
    verdict = _verdict(text)
    if _passed(verdict):
        return
    if fault := _tried(text):
        raise InputError(f"{file}: {fault}; accepted: a file that `tokenizers` saved")
    try:
        files.make_folder(verdict.parent, private=True)
        files.write_text(verdict, f"{verdict.name}\n", private=True)
    except EnvironmentFault:
        pass  # the file will be tried again the next time


def _tried(text: str) -> str:
    """The fault of the file in a few words; empty if the file is accepted."""
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
        return ENDED.get(number, f"makes the library end with {number.name}")
    found = done.stdout.decode(errors="replace").strip()
    if done.returncode or not found:
        return "cannot be tried: the process ended with " + str(done.returncode)
    return "" if found == "ok" else found[:300]


def _verdict(text: str) -> Path:
    """The path of the cache entry that records an accepted file."""
    import tokenizers

    user_cache = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    folder = Path(os.environ.get("TEMPERING_CACHE") or user_cache / "tempering" / "tokens")
    program = PROGRAM.read_text(encoding="utf-8")
    parts = f"{tokenizers.__version__}\n{SECONDS} {MEMORY}\n{program}\n{text}"
    return Path(os.path.expanduser(folder)) / ".tried" / hashlib.sha256(parts.encode()).hexdigest()


def _passed(verdict: Path) -> bool:
    """Whether this user has written the verdict, in a folder to which nobody else can write.

    A verdict contains its own file name, so a verdict on another file that was copied is rejected.
    """
    try:
        ours = files.is_private(verdict.parent) and verdict.lstat().st_uid == os.geteuid()
        return ours and files.read_bytes(verdict) == f"{verdict.name}\n".encode()
    except (OSError, EnvironmentFault):
        return False
