"""Retention: keeps the newest checkpoints and the best one, and counts only valid ones."""

import logging
from pathlib import Path

from trainer.checkpoint.publish import discard, published
from trainer.checkpoint.verify import regular_files, verify
from trainer.errors import EnvironmentFault

logger = logging.getLogger("trainer")
_VERIFIED: dict[Path, object] = {}
"""The checkpoints that this process has verified, with the state of their files at that time."""


def retain(output_dir: Path, limit: int, best: int | None = None) -> None:
    """Remove checkpoints until `limit` valid ones are left, including the one of step `best`.

    The oldest are removed first, and the best is never removed. Invalid ones are not counted. A
    failure to remove one is logged as a warning. Rank 0 calls it after each checkpoint.
    """
    assert limit >= 2, limit
    found = published(output_dir)
    if len(found) <= limit:
        return
    remaining = limit - (best in found and _is_valid(found[best]))
    for step in sorted(found.keys() - {best}, reverse=True):
        if remaining <= 0:
            discard(found[step])
        elif _is_valid(found[step]):
            remaining -= 1


def _is_valid(checkpoint: Path) -> bool:
    """Whether a checkpoint is valid; the result is reused until one of its files changes."""
    try:
        identity = _identity(checkpoint)
        if _VERIFIED.get(checkpoint) != identity:
            verify(checkpoint)
            _VERIFIED[checkpoint] = identity
    except EnvironmentFault as fault:
        logger.warning("%s; not counted among the checkpoints to keep", fault)
        return False
    return True


def _identity(checkpoint: Path) -> object:
    found = {name: (checkpoint / name).lstat() for name in sorted(regular_files(checkpoint))}
    return {name: (at.st_ino, at.st_size, at.st_ctime_ns) for name, at in found.items()}
