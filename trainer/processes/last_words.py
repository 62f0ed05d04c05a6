"""Last words: why a rank ended, told to the launcher through the store that they share."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

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
    from torch.distributed import PrefixStore

    from trainer.processes.meeting import visit

    words = LastWords(int(os.environ["RANK"]), line, code, is_cause)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = PrefixStore("words", visit(address, port, PATIENCE, "launch"))
        store.set(str(store.add("number", 1)), json.dumps(asdict(words)))
        return True
    except RuntimeError:
        return False


def read(store: "Store") -> Iterator[LastWords]:
    """What all ranks have said, the first one first; nothing where the store is gone."""
    try:
        for number in range(1, store.add("number", 0) + 1):
            if store.check([str(number)]):
                yield LastWords(**json.loads(store.get(str(number))))
    except RuntimeError:
        return
