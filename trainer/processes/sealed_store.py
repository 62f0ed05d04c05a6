"""SealedStore: the store of a rendezvous, where every message carries a secret of the run.

Whoever reaches the port of torch's store may read and write all of it. So each key is replaced by
a keyed digest of its name, and each value is preceded by one of its key and content: what was
written without the secret is refused, and nobody can foresee which key to write.
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
"""The variable with the secret: made anew for ranks of one machine, the user's among machines."""
MAX_VALUE = 16 << 20
"""Bytes of a message; the config of a run with a million labels has fewer."""
DIGEST = hashlib.sha256().digest_size


def new_secret() -> str:
    """A secret that nobody can guess."""
    return secrets.token_hex(32)


class SealedStore:
    """What processes tell each other in a torch store, in one namespace of it."""

    def __init__(self, store: "Store", secret: str | None = None, prefix: str = "") -> None:
        """`secret` None: that of the environment, which may have none."""
        self.raw = store
        self._secret = os.environ.get(SECRET, "") if secret is None else secret
        self._prefix = prefix

    def within(self, name: str) -> "SealedStore":
        """The part of the store whose keys have nothing to do with others."""
        return SealedStore(self.raw, self._secret, f"{self._prefix}{name}/")

    def for_group(self, name: str) -> "PrefixStore":
        """A part for torch's own use, whose keys begin with what only the secret tells."""
        from torch.distributed import PrefixStore

        return PrefixStore(self._key(f"group {name}"), self.raw)

    def set(self, key: str, text: str) -> None:
        """Leave a text under a key."""
        data = text.encode()
        assert len(data) <= MAX_VALUE, f"{key}: {len(data)} bytes"
        self.raw.set(self._key(key), self._seal(key, data) + data)  # type: ignore[arg-type]

    def get(self, key: str) -> bytes:
        """What was left under a key, once it is. Raises EnvironmentFault without a valid seal."""
        return self._opened(key, self.raw.get(self._key(key)))

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """As `get`, of several keys."""
        found = self.raw.multi_get([self._key(key) for key in keys])
        return [self._opened(key, value) for key, value in zip(keys, found, strict=True)]

    def add(self, key: str, amount: int) -> int:
        """Add to a counter; returns what it is then."""
        return self.raw.add(self._key(key), amount)

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all of these keys are there."""
        return self.raw.check([self._key(key) for key in keys])

    def _key(self, name: str) -> str:
        return self._digest(b"key", f"{self._prefix}{name}".encode()).hex()

    def _seal(self, key: str, data: bytes) -> bytes:
        return self._digest(b"value", self._key(key).encode() + data)

    def _digest(self, kind: bytes, data: bytes) -> bytes:
        return hmac.digest(self._secret.encode(), kind + b"\0" + data, "sha256")

    def _opened(self, key: str, value: bytes) -> bytes:
        data = value[DIGEST:]
        whole = len(value) <= MAX_VALUE + DIGEST
        if not whole or not hmac.compare_digest(value[:DIGEST], self._seal(key, data)):
            found = f"the message '{key}' was not written with this run's secret"
            raise EnvironmentFault(f"launch: {found} ({SECRET}, equal on all machines)")
        return data
