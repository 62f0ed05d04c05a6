"""Which checkpoints stay: the newest ones and the best, counting only those that verify."""

import logging
from pathlib import Path

from trainer.checkpoint.publish import discard, published
from trainer.checkpoint.verify import regular_files, verify
from trainer.errors import EnvironmentFault

logger = logging.getLogger("trainer")
_VERIFIED: dict[Path, object] = {}
"""Checkpoint that this process has verified -> what its files were then."""


def retain(output_dir: Path, limit: int, best: int | None = None) -> None:
    """Remove checkpoints until `limit` that verify are left, the one of step `best` among them.

    The older ones go, never `best`. One that does not verify is not counted; what cannot be
    removed costs a warning. Rank 0 calls it, after a checkpoint was published.
    """
    assert limit >= 2, limit
    found = published(output_dir)
    if len(found) <= limit:
        return
    room = limit - (best in found and _verifies(found[best]))
    for step in sorted(found.keys() - {best}, reverse=True):
        if room <= 0:
            discard(found[step])
        elif _verifies(found[step]):
            room -= 1


def _verifies(checkpoint: Path) -> bool:
    """Whether it verifies; not asked again while no file of it was touched since."""
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
