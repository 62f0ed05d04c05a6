"""Changes: decides which files a push sends and removes, without losing files of other people."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import InputError
from trainer.pushing.push_record import FILE, Identity, record_bytes
from trainer.pushing.remote import Remote

CARD = "README.md"
CHECKPOINT = re.compile(r"checkpoint-[0-9]+/")
WEIGHTS = re.compile(
    r"(model|adapter_model|pytorch_model|tf_model|flax_model)[\w.-]*"
    r"\.(safetensors|bin|h5|msgpack|index\.json)|(adapter_|model_)?config\.json"
)
"""Matches files from which loaders read weights; an old one could take precedence over the new
weights."""
MAX_SHOWN = 3
"""The maximum number of paths in an error message."""


@dataclass(frozen=True)
class Changes:
    """The differences between a repository and the files that it should hold."""

    send: tuple[str, ...]
    remove: tuple[str, ...]
    kept: tuple[str, ...]
    """Paths of files that someone else edited; the push leaves them unchanged."""
    record: Mapping[str, Identity]
    """The content of pushed.json after the push."""

    @property
    def sent_files(self) -> tuple[str, ...]:
        """The paths to send, except pushed.json."""
        return tuple(path for path in self.send if path != FILE)

    @property
    def any(self) -> bool:
        """Whether there is anything to send or remove."""
        return bool(self.send or self.remove)


def changes(
    wanted: Mapping[str, Identity], remote: Remote, repo: str, *, replace: bool, partial: bool
) -> Changes:
    """Compare the `wanted` files with the repository.

    Only files that this program wrote are replaced or removed. A model card that someone edited is
    kept. If any other file that this program did not write would have to be replaced or removed,
    InputError is raised. `replace` lifts these restrictions. Checkpoints of earlier pushes are
    kept. `partial` also keeps all other files of earlier pushes except weights.
    """
    ours = {p for p, seen in remote.record.items() if seen.has(remote.oids.get(p))}
    differ = {p for p, new in wanted.items() if not new.has(remote.oids.get(p))}
    foreign = {p for p in differ if p in remote.oids and p not in ours}
    kept = set() if replace else foreign & {CARD}
    stale = {
        p
        for p in remote.record
        if p in remote.oids and p not in wanted and _is_outdated(p, partial)
    }
    weights: set[str] = set()
    if any(WEIGHTS.fullmatch(path) for path in wanted):
        found = {path for path in remote.oids if WEIGHTS.fullmatch(path)}
        weights = found - wanted.keys()
    _refuse(repo, ((foreign - kept) | (weights - ours)) if not replace else set())
    remove = (stale & ours) | weights
    record = {p: e for p, e in remote.record.items() if p in remote.oids and p not in remove}
    record |= {path: entry for path, entry in wanted.items() if path not in kept}
    send = differ - kept
    if not Identity.of(record_bytes(record)).has(remote.oids.get(FILE)):
        send = send | {FILE}
    edited = kept | (stale - remove)
    return Changes(tuple(sorted(send)), tuple(sorted(remove)), tuple(sorted(edited)), record)


def _is_outdated(path: str, partial: bool) -> bool:
    """Whether to remove a file of an earlier push that this push does not contain."""
    return not partial and path != FILE and not CHECKPOINT.match(path)


def _refuse(repo: str, blocking: set[str]) -> None:
    """Raise InputError if there are files that the push must not replace or remove."""
    if not blocking:
        return
    names = sorted(blocking)
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    found = f"it holds {', '.join(names[:MAX_SHOWN])}{more}, which this program did not write"
    accepted = (
        "replace=true (the old files remain in the repository's history), another repository or "
        "another branch"
    )
    raise InputError(f"push to '{repo}': {found}; accepted: {accepted}")
