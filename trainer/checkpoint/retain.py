"""Which checkpoints stay: the newest ones and the best, counting only those that verify."""

import logging
from pathlib import Path

from trainer.checkpoint.publish import discard, published
from trainer.checkpoint.verify import CorruptCheckpoint, verify

logger = logging.getLogger("trainer")


def retain(output_dir: Path, limit: int, best: int | None = None) -> None:
    """Remove checkpoints until `limit` that verify are left, the one of step `best` among them.

    The older ones go, never `best`. One that does not verify is not counted; what cannot be
    removed costs a warning. Rank 0 calls it, after a checkpoint was published.
    """
    assert limit >= 2, limit
    found = published(output_dir)
    room = limit - (best in found and _verifies(found[best]))
    for step in sorted(found.keys() - {best}, reverse=True):
        if room <= 0:
            discard(found[step])
        elif _verifies(found[step]):
            room -= 1


def _verifies(checkpoint: Path) -> bool:
    try:
        verify(checkpoint)
    except CorruptCheckpoint as fault:
        logger.warning("%s; not counted among the checkpoints to keep", fault)
        return False
    return True
