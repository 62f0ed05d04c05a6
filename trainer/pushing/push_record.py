"""The record of a push, pushed.json: which files this program wrote to a repository."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.foreign.json_values import parse_json

FILE = "pushed.json"
FORMAT = 1
LARGEST_IN_GIT = 10 << 20
"""Files with more bytes than this are stored outside of git and identified only by their SHA-256.
"""

Content = Path | bytes
"""A local file, or the bytes of a file."""


@dataclass(frozen=True)
class Identity:
    """The digests by which the hub may identify a file's content."""

    sha256: str
    git: str | None
    """The SHA-1 of the content as a git blob; None for a large file."""

    @classmethod
    def of(cls, content: Content) -> "Identity":
        """Compute the digests of a file or of bytes."""
        if isinstance(content, bytes):
            return cls(hashlib.sha256(content).hexdigest(), _blob(content))
        if content.stat().st_size > LARGEST_IN_GIT:
            return cls(files.sha256_of(content), None)
        return cls.of(files.read_bytes(content))

    def has(self, oid: str | None) -> bool:
        """Whether the hub's object id `oid` identifies this content."""
        return oid is not None and oid in (self.sha256, self.git)

    def to_json(self) -> dict[str, str]:
        """The entry in pushed.json."""
        return {"sha256": self.sha256, **({"git": self.git} if self.git else {})}


Record = Mapping[str, Identity]
"""Path in the repository -> the content that this program wrote there."""


def record_bytes(record: Record) -> bytes:
    """The content of pushed.json."""
    entries = {path: record[path].to_json() for path in sorted(record)}
    return files.json_bytes({"format_version": FORMAT, "files": entries})


def read_record(content: bytes) -> dict[str, Identity] | None:
    """The record in the content of pushed.json; None if it is not in this program's format."""
    try:
        found = parse_json(content.decode())
        if found["format_version"] != FORMAT:
            return None
        return {str(path): _identity(entry) for path, entry in found["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _identity(entry: Mapping[str, Any]) -> Identity:
    sha256, git = entry["sha256"], entry.get("git")
    if not isinstance(sha256, str) or not isinstance(git, str | None):
        raise TypeError(json.dumps(entry))
    return Identity(sha256, git)


def _blob(content: bytes) -> str:
    head = f"blob {len(content)}\0".encode()
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()
