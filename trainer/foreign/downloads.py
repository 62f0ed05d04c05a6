"""Downloads from the hub, which are verified with the hub's digests."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault
from trainer.terminal.console import in_notebook
from trainer.terminal.standard_streams import can_redraw

log = logging.getLogger("trainer")
UNVERIFIED = "unverified.json"
"""The name of a file in a repository's cache. It lists the files that were verified before a
download, and is removed once the new files are verified."""
SHA256 = re.compile(r"[0-9a-f]{64}")


def verified(repository: Path, download: Callable[[], Path], offline: bool = False) -> Path:
    """Call `download`, verify the new files in a repository's cache, and return its result.

    `repository` is the folder `models--org--name` of the hub's cache. Large files are named after
    their SHA-256 there, but the hub's client compares only sizes. Damaged files are removed and
    downloaded once more. If an earlier download was killed before its files were verified, they
    are verified now, even if `offline`. Raises EnvironmentFault if files are damaged again.
    """
    marker = repository / UNVERIFIED
    if offline and not marker.exists():
        return download()
    before = _known_files(repository)
    try:
        found = download()
        if damaged := _damaged(repository, before):
            for file in damaged:
                log.warning("%s: does not match the digest of the hub; downloading it again", file)
            _drop(repository, damaged)
            found = download()
        if damaged := _damaged(repository, before):
            _drop(repository, damaged)
            raise EnvironmentFault(
                f"{damaged[0]}: downloaded twice, and its sha256 is wrong both times; accepted: "
                "another mirror (HF_ENDPOINT), or a network that does not change files"
            )
    except BaseException:
        if before.issuperset(file.name for file in _large_files(repository)):
            _forget(repository)
        raise
    _forget(repository)
    return found


@contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    """Context manager that hides the progress bars of the hub's client if there is no terminal.

    In a log, each bar would fill many lines.
    """
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if can_redraw(sys.stderr) or in_notebook() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _forget(repository: Path) -> None:
    """Remove the marker, and then the folder if it is empty."""
    with suppress(EnvironmentFault, OSError):  # another process may have removed them
        files.remove_file(repository / UNVERIFIED)
        if not any(repository.iterdir()):
            files.remove_folder(repository)


def _known_files(repository: Path) -> set[str]:
    """The names of the verified files, which are also saved on disk until new ones are verified."""
    marker = repository / UNVERIFIED
    with suppress(OSError, ValueError):
        return {str(name) for name in json.loads(marker.read_text(encoding="utf-8"))}
    known = {file.name for file in _large_files(repository)}
    with suppress(EnvironmentFault):  # a download to a read-only cache fails anyway
        files.make_folder(repository)
        files.write_json(marker, sorted(known))
    return known


def _large_files(repository: Path) -> Iterator[Path]:
    """Yield the files whose names are their SHA-256."""
    for file in (repository / "blobs").glob("*"):
        if SHA256.fullmatch(file.name):
            yield file


def _damaged(repository: Path, verified_before: set[str]) -> list[Path]:
    """The new files whose content does not match their names."""
    new = [file for file in _large_files(repository) if file.name not in verified_before]
    digests = files.sha256_of_all(new)
    return [file for file, digest in zip(new, digests, strict=True) if digest != file.name]


def _drop(repository: Path, damaged: list[Path]) -> None:
    """Remove files and the links to them, which the hub's client would consider complete."""
    for link in (repository / "snapshots").rglob("*"):
        if link.is_symlink() and link.resolve() in [file.resolve() for file in damaged]:
            files.remove_file(link)
    for file in damaged:
        files.remove_file(file)
