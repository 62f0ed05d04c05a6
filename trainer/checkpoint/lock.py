"""RunLock: a kernel lock that lets only one process at a time use an output folder."""

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault

LOCK = ".lock"
ATTEMPTS = 20


class RunLock:
    """Context manager: only one process at a time can hold the lock of an output folder.

    The kernel releases the lock however the process dies. The file `.lock` names the holder and is
    removed at a normal end. Raises EnvironmentFault naming the holder's pid, host and start.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / LOCK
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        files.make_folder(self.path.parent, synced=True)
        for _ in range(ATTEMPTS):
            if self._try_to_lock():
                return self
            holder = self._holder()
            if holder and _is_alive(holder):
                break
            time.sleep(0.05)  # the holder is about to write the file or to remove it
        who = "pid {pid} on {host} since {since}".format_map(holder) if holder else "a process"
        raise EnvironmentFault(f"{self.path.parent}: in use by {who}")

    def __exit__(self, *_: object) -> None:
        assert self._descriptor is not None
        try:
            files.remove_file(self.path)
        finally:
            os.close(self._descriptor)
            self._descriptor = None

    def _try_to_lock(self) -> bool:
        with files.operation("lock", self.path):
            descriptor = files.open_regular(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with files.operation("lock", self.path), suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_ours(descriptor):
                    self._refuse_other_names(descriptor)
                    self._write_holder()
                    self._descriptor = descriptor
        finally:
            if self._descriptor is None:
                os.close(descriptor)
        return self._descriptor is not None

    def _is_ours(self, descriptor: int) -> bool:
        """Whether the opened file still exists; the last holder may have removed it in between."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        return False

    def _refuse_other_names(self, descriptor: int) -> None:
        """Raise an error for a file with several hard links, since a write changes all of them."""
        if os.fstat(descriptor).st_nlink > 1:
            raise OSError(errno.EMLINK, "it has other names (hard links); remove it")

    def _write_holder(self) -> None:
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        files.truncate(self.path, 0)
        files.append_line(self.path, json.dumps(holder))

    def _holder(self) -> dict[str, Any] | None:
        """The holder that the lock file names; None if it names none."""
        try:
            holder = json.loads(files.read_bytes(self.path))
        except (OSError, ValueError, EnvironmentFault, RecursionError):
            return None
        if not isinstance(holder, dict) or holder.keys() != {"pid", "host", "since"}:
            return None
        texts = all(isinstance(holder[name], str) for name in ("host", "since"))
        return holder if texts and type(holder["pid"]) is int else None


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether the named process is alive. The file may still name the previous holder."""
    if holder["host"] != socket.gethostname():
        return True
    return Path("/proc", str(holder["pid"])).exists() or not Path("/proc/self").exists()
