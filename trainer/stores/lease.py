"""Lease: lets one process at a time work on a run in a store, using a lock file that it renews."""

import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from datetime import datetime
from typing import Self

from trainer.errors import EnvironmentFault, InputError
from trainer.stores.store import Store
from trainer.stores.url import scheme_name

logger = logging.getLogger("trainer")

LOCK = ".lock"
"""The name of the lock file in the run's folder."""
RENEWAL_PERIOD = 20.0
"""Seconds between two renewals of the lock file."""
EXPIRES = 90.0
"""Seconds without a renewal after which another machine may take over the run."""
POLL = 3.0
"""Seconds between two reads of another machine's lock file."""


class Lease:
    """Context manager in which no other process works on the run in the object store `store`.

    Stores have no locks, so the file `.lock` names the process that holds the lease, and a thread
    of that process renews the file. Another process that finds the file waits until EXPIRES seconds
    have passed without a renewal, and raises EnvironmentFault if the file is renewed.

    `place` identifies the working copy on this machine. A lock of the operating system already
    protects that copy, so a lock file with the same `place` is left over from a dead process. If
    the lease's holder was suspended for longer than EXPIRES seconds, its next upload (`check`)
    detects that another process has taken over the run.
    """

    def __init__(self, store: Store, place: str) -> None:
        self._store, self._place = store, place
        self._token = secrets.token_hex(8)
        self._number = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._wait_for_another()
        self._write()
        self.check()
        # in a hub repository each write is a commit, so the lock file is not renewed there
        url = self._store.url
        if scheme_name(url) != "hf" or url.startswith("hf://buckets/"):
            self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if self._is_ours(self._holder()):
                self._store.remove([LOCK])
        except (EnvironmentFault, InputError) as fault:
            logger.warning(
                "the run's lock could not be removed and expires in %g s: %s", EXPIRES, fault
            )

    def check(self) -> None:
        """Raise EnvironmentFault if another process has taken over the run."""
        holder = self._holder()
        if not self._is_ours(holder):
            who = _name(holder) if holder else "another process, which has removed the lock"
            raise EnvironmentFault(f"{self._store.url}: this run was taken over by {who}")

    def _wait_for_another(self) -> None:
        found, since = self._holder(), time.monotonic()
        while found is not None and found.get("place") != self._place:
            if time.monotonic() - since > EXPIRES:
                logger.warning("%s: taken over from %s", self._store.url, _name(found))
                return
            if self._number == 0:
                text = "%s: locked by %s; waiting up to %g s to see whether it is still running"
                logger.warning(text, self._store.url, _name(found), EXPIRES)
                self._number = 1
            time.sleep(POLL)
            now = self._holder()
            if now is not None and now != found:
                raise EnvironmentFault(f"{self._store.url}: in use by {_name(now)}")
            found = now

    def _is_ours(self, holder: dict[str, object] | None) -> bool:
        return holder is not None and holder.get("token") == self._token

    def _renew(self) -> None:
        while not self._over.wait(RENEWAL_PERIOD):
            with suppress(EnvironmentFault, InputError):  # the next upload will report the error
                if not self._is_ours(self._holder()):
                    return
                self._write()

    def _write(self) -> None:
        self._number += 1
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "renewed": since}
        holder |= {"number": self._number, "place": self._place, "token": self._token}
        self._store.write(LOCK, json.dumps(holder).encode())

    def _holder(self) -> dict[str, object] | None:
        """The content of the lock file; None if it does not exist."""
        try:
            content = self._store.read(LOCK)
        except FileNotFoundError:
            return None
        try:
            found = json.loads(content)
        except ValueError:  # the file was not written completely
            return {}
        return found if isinstance(found, dict) else {}


def _name(holder: dict[str, object]) -> str:
    pid, host, renewed = (str(holder.get(key, "?"))[:80] for key in ("pid", "host", "renewed"))
    return f"pid {pid} on {host} (renewed {renewed})"
