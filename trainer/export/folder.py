"""The folder of an export, which gets its final name only after it was written and checked."""

import os
from collections.abc import Callable
from pathlib import Path

from trainer.checkpoint import files
from trainer.checkpoint.publish import publish
from trainer.errors import InputError
from trainer.export.card import Card


def new_folder(path: str) -> Path:
    """The absolute path of the folder to write. Raises InputError if it exists and is not empty."""
    target = Path(os.path.expanduser(path)).absolute()
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"output.path: {path} exists; accepted: a folder that does not exist")
    return target


def publish_export(target: Path, card: Card, fill: Callable[[Path], None], size: int) -> None:
    """Publish the files that `fill` writes and checks, and the card, as the folder `target`.

    After a failure, no files remain. `size` is the expected number of bytes.
    """

    def fill_all(folder: Path) -> None:
        fill(folder)
        card.write(folder)

    files.make_folder(target.parent, synced=True)
    facts = {"exported": card.source, "format": card.format, "dtype": card.dtype}
    publish(target, fill_all, facts=facts, expected_bytes=size)
