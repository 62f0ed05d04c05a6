"""SealedStore: the store of a rendezvous, whose messages are authenticated by the run's secret.

Anyone who can reach the port of torch's store can read and write its entries. So each key is
replaced by a keyed digest (HMAC) of its name, and each value is preceded by a keyed digest of its
key and content. Values written without the secret are refused, and keys cannot be guessed.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.errors import EnvironmentFault

if TYPE_CHECKING:
    from torch.distributed import PrefixStore, Store

SECRET = "TEMPERING_SECRET"
"""The environment variable with the secret.

On one machine the launcher chooses a random secret; for several machines the user sets it.
"""
MAX_VALUE = 16 << 20
"""The maximum size of a message in bytes; the config of a run with a million labels is smaller."""
DIGEST = hashlib.sha256().digest_size


def new_secret() -> str:
    """A random secret of 256 bits, as hexadecimal digits."""
    return secrets.token_hex(32)


class SealedStore:
    """One namespace of a torch store, through which processes exchange messages."""

    def __init__(self, store: "Store", secret: str | None = None, prefix: str = "") -> None:
        """Use a torch store with a secret, by default the environment variable SECRET."""
        self.raw = store
        self._secret = os.environ.get(SECRET, "") if secret is None else secret
        self._prefix = prefix

    def within(self, name: str) -> "SealedStore":
        """A namespace below this one."""
        return SealedStore(self.raw, self._secret, f"{self._prefix}{name}/")

    def for_group(self, name: str) -> "PrefixStore":
        """A store for torch's process group, whose keys begin with a digest of the secret."""
        from torch.distributed import PrefixStore

        return PrefixStore(self._key(f"group {name}"), self.raw)

    def set(self, key: str, text: str) -> None:
        """Store a text under a key."""
        data = text.encode()
        assert len(data) <= MAX_VALUE, f"{key}: {len(data)} bytes"
        self.raw.set(self._key(key), self._seal(key, data) + data)  # type: ignore[arg-type]

    def get(self, key: str) -> bytes:
        """Wait for the message under a key. Raises EnvironmentFault if it is not authentic."""
        return self._opened(key, self.raw.get(self._key(key)))

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """Wait for the messages under several keys, as `get` does."""
        found = self.raw.multi_get([self._key(key) for key in keys])
        return [self._opened(key, value) for key, value in zip(keys, found, strict=True)]

    def add(self, key: str, amount: int) -> int:
        """Add to a counter; returns the sum."""
        return self.raw.add(self._key(key), amount)

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all of these keys exist."""
        return self.raw.check([self._key(key) for key in keys])

    def _key(self, name: str) -> str:
        return self._digest(b"key", f"{self._prefix}{name}".encode()).hex()

    def _seal(self, key: str, data: bytes) -> bytes:
        return self._digest(b"value", self._key(key).encode() + data)

    def _digest(self, kind: bytes, data: bytes) -> bytes:
        return hmac.digest(self._secret.encode(), kind + b"\0" + data, "sha256")

    def _opened(self, key: str, value: bytes) -> bytes:
        data = value[DIGEST:]
        fits = len(value) <= MAX_VALUE + DIGEST
        if not fits or not hmac.compare_digest(value[:DIGEST], self._seal(key, data)):
            found = f"the message '{key}' was not written with this run's secret"
            raise EnvironmentFault(f"launch: {found} ({SECRET}, equal on all machines)")
        return data
