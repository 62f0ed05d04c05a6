"""Last words: why a rank ended, told to the launcher through the store that they share."""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from trainer.errors import EnvironmentFault

if TYPE_CHECKING:
    from trainer.processes.sealed_store import SealedStore

logger = logging.getLogger("trainer")

MAX_LINE = 4096
"""Characters of a line; longer ones are cut."""
PATIENCE = 5.0
"""Seconds to find the store, which is there unless the launcher is gone."""


@dataclass(frozen=True)
class LastWords:
    """What a rank says when it ends early."""

    rank: int
    line: str
    code: int
    is_cause: bool
    """False where it only felt that another rank was gone."""


def leave(line: str, code: int, is_cause: bool) -> bool:
    """Tell the launcher that started us; False where it cannot be reached."""
    from trainer.processes.meeting import visit
    from trainer.processes.sealed_store import SealedStore

    try:
        words = LastWords(int(os.environ["RANK"]), line[:MAX_LINE], code, is_cause)
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):  # nobody started us, whatever the environment says
        return False
    try:
        store = SealedStore(visit(address, port, PATIENCE, "launch")).within("words")
        store.set(str(store.add("number", 1)), json.dumps(asdict(words)))
        return True
    except RuntimeError:
        return False


def read(store: "SealedStore", world_size: int) -> Iterator[LastWords]:
    """What all ranks have said, the first one first; nothing where the store is gone.

    What no rank of ours can have said is left out, and logged.
    """
    try:
        spoken = min(store.add("number", 0), 2 * world_size)
        for number in range(1, spoken + 1):
            if store.check([str(number)]):
                try:
                    yield _understood(store.get(str(number)), world_size)
                except (ValueError, TypeError, EnvironmentFault, RecursionError) as error:
                    logger.warning("launch: last words that no rank has said: %s", error)
    except RuntimeError:
        return


def _understood(said: bytes, world_size: int) -> LastWords:
    """Raises ValueError for what cannot be the last words of a rank that failed."""
    words = LastWords(**json.loads(said))
    rank_fits = type(words.rank) is int and 0 <= words.rank < world_size
    line_fits = isinstance(words.line, str) and len(words.line) <= MAX_LINE
    code_fits = type(words.code) is int and 0 < words.code < 256  # 0 is no cause of an end
    if not (rank_fits and line_fits and code_fits and isinstance(words.is_cause, bool)):
        raise ValueError(f"{said!r:.80}")
    return words
