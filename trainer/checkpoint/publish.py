"""Publishing: a folder appears complete or not at all, since it is renamed after it was synced.

A crash may leave one of these folders next to the published one, and `repair` handles them at the
next start: `.tmp-<name>` was being filled, `.del-<name>` was being removed, and `.old-<name>` is
the previously published folder, which is restored if the new one has not taken its place.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trainer.checkpoint import files
from trainer.checkpoint.verify import MANIFEST, Manifest, regular_files
from trainer.errors import EnvironmentFault, InputError, NumericsError

logger = logging.getLogger("trainer")
Result = TypeVar("Result")

LEFTOVER = re.compile(
    r"\.(tmp|del|old)-(\.(tmp|old)-)?((checkpoint-[0-9]+|model)(-[0-9]+)?"
    r"|(config\.yaml|(metrics|dropped|samples)\.jsonl|(results|facts)\.json"
    r"|predictions(-[\w.-]+)?\.jsonl)(-[0-9a-f]{8})?)"
)
"""The names that a crash of this program may leave in a run's folder."""
FAULTS = {kind.exit_code: kind for kind in (InputError, EnvironmentFault, NumericsError)}


class Ranks(Protocol):
    """The interface of a run's processes that publishing needs."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def world_size(self) -> int:
        """The number of processes."""

    def at_work(self) -> AbstractContextManager[None]:
        """Context manager: the other ranks wait for this one, however long it takes."""

    def gather_after_work(self, value: Any) -> list[Any]:
        """The value of every rank, in order, on every rank."""


@dataclass(frozen=True)
class Alone:
    """`Ranks` for a single process."""

    rank: int = 0
    world_size: int = 1

    def at_work(self) -> AbstractContextManager[None]:
        """No other rank waits."""
        return nullcontext()

    def gather_after_work(self, value: object) -> list[Any]:
        """This rank's value alone."""
        return [value]


def publish(
    final: Path,
    fill: Callable[[Path], None],
    *,
    facts: Mapping[str, Any],
    expected_bytes: int = 0,
    ranks: Ranks | None = None,
) -> Path:
    """Publish the files that `fill(folder)` writes as the folder `final`.

    `facts` are written to the manifest. Every rank calls this and fills the folder; rank 0
    publishes if no rank failed. After a failure each rank raises its own error or, if it has none,
    an error of the same class that names the rank that failed. A folder `final` that is empty or
    was published by this function is replaced once the new one is complete. Raises InputError for
    any other existing `final`, NumericsError if a tensor is not finite, and EnvironmentFault if the
    disk fails or has less than `expected_bytes` free. After a failure `final` is unchanged.
    """
    ranks = ranks or Alone()
    staging = begin(final, expected_bytes, ranks)
    return complete(staging, final, fill, facts=facts, ranks=ranks)


def begin(final: Path, expected_bytes: int, ranks: Ranks) -> Path:
    """Create the empty folder that `complete` fills and publishes. Every rank calls it."""
    staging = final.with_name(f".tmp-{final.name}")
    with _removed_on_failure(staging, ranks):
        main = ranks.rank == 0
        together(ranks, lambda: _prepare(final, staging, expected_bytes) if main else None)
        together(ranks, lambda: check_seen(staging))
    return staging


def deferred(
    staging: Path, fill: Callable[[Path], None], ranks: Ranks
) -> tuple[files.Deferred, bool]:
    """Copy to host memory the files that `fill` would write.

    Also returns whether ranks other than 0 write files. Every rank calls it for its own files.
    """

    def fill_later() -> bool:
        fill(staging)
        return bool(copies)

    with _removed_on_failure(staging, ranks), files.deferred() as copies:
        writes = together(ranks, fill_later)
    return copies, any(writes[1:])


def complete(
    staging: Path,
    final: Path,
    fill: Callable[[Path], None],
    *,
    facts: Mapping[str, Any],
    ranks: Ranks,
) -> Path:
    """Fill the folder that `begin` has made, and publish it. Every rank calls it."""
    main = ranks.rank == 0
    with _removed_on_failure(staging, ranks):
        sealed = together(ranks, lambda: _fill(staging, fill))
        # list on one rank only, since a network filesystem may show ranks different files
        names = together(ranks, lambda: sorted(regular_files(staging)) if main else [])[0]
        known = {name: (n, digest) for part in sealed for name, (n, digest) in part.items()}
        others = [name for name in names if name not in known]
        shares = together(ranks, lambda: _seal(staging, others, ranks.rank, ranks.world_size))
        known |= {name: (n, digest) for part in shares for name, (n, digest) in part.items()}
        manifest = Manifest({name: known[name] for name in names}, facts)
        together(ranks, lambda: _put_in_place(staging, final, manifest) if main else None)
    return final


@contextmanager
def _removed_on_failure(staging: Path, ranks: Ranks) -> Iterator[None]:
    """Context manager: removes the unfinished folder after a failure."""
    try:
        yield
    except BaseException:
        if ranks.rank == 0 and staging.exists():
            discard(staging)
        raise


def together(ranks: Ranks, work: Callable[[], Result]) -> list[Result]:
    """Run `work` on every rank and return all results, which are JSON values.

    If `work` fails on any rank, every rank raises. It may take long, since ranks wait through the
    store and not in a collective, which could time out.
    """
    result, failure = None, None
    try:
        with ranks.at_work():
            result = work()
    except Exception as error:
        failure = error
    report = (getattr(failure, "exit_code", 1), str(failure)) if failure is not None else None
    reports = ranks.gather_after_work((report, result))
    if failure is not None:
        raise failure
    for rank, (other, _) in enumerate(reports):
        if other:
            code, text = other
            raise FAULTS.get(code, EnvironmentFault)(f"rank {rank}: {text}")
    return [part for _, part in reports]


def check_seen(path: Path) -> None:
    """Raise EnvironmentFault if this machine does not see a file that another rank has made."""
    if not path.exists():
        raise EnvironmentFault(f"{path}: this machine does not see it; use a shared filesystem")


def repair(folder: Path) -> None:
    """Finish or undo what a crash left half done. No other process may write to the folder."""
    names = [path.name for path in folder.iterdir() if LEFTOVER.fullmatch(path.name)]
    for name in sorted(names, key=lambda name: not name.startswith(".old-")):
        if name.startswith(".old-"):
            _restore(folder / name, folder / name.removeprefix(".old-"))
        else:
            files.remove_folder(folder / name)


def discard(folder: Path) -> None:
    """Remove a folder that is no longer needed; a failure is logged as a warning."""
    try:
        files.remove_folder(folder)
    except EnvironmentFault as fault:
        logger.warning("a folder that is no longer needed remains: %s", fault)


def checkpoint_path(output_dir: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return output_dir / f"checkpoint-{step}"


def published(output_dir: Path) -> dict[int, Path]:
    """Step -> the folder of each published checkpoint, oldest first; nothing is verified."""
    names = [path.name for path in output_dir.glob("checkpoint-*")]
    steps = [int(name[11:]) for name in names if re.fullmatch("checkpoint-(0|[1-9][0-9]*)", name)]
    return {step: checkpoint_path(output_dir, step) for step in sorted(steps)}


def _prepare(final: Path, staging: Path, expected_bytes: int) -> None:
    files.make_folder(final.parent)
    _restore(final.with_name(f".old-{final.name}"), final)
    if os.path.lexists(final) and not _is_replaceable(final):
        raise InputError(f"{final}: exists and was not published by this program; remove it first")
    if staging.exists():
        files.remove_folder(staging)
    free = files.free_bytes(final.parent)
    if free < expected_bytes:
        sizes = f"need {files.readable(expected_bytes)}, free {files.readable(free)}"
        raise EnvironmentFault(f"{final}: no space left on device ({sizes})")
    files.make_folder(staging, fresh=True)


def _is_replaceable(final: Path) -> bool:
    return (final / MANIFEST).is_file() or (final.is_dir() and not any(final.iterdir()))


def _fill(staging: Path, fill: Callable[[Path], None]) -> dict[str, tuple[int, str]]:
    """Call `fill`; return path -> (bytes, sha256) of the files hashed while they were written."""
    check_seen(staging)
    with files.operation("fill", staging), files.sealing() as seals:
        fill(staging)
    return {path.relative_to(staging).as_posix(): seal for path, seal in seals.items()}


def _seal(
    staging: Path, names: Sequence[str], rank: int, world_size: int
) -> dict[str, tuple[int, str]]:
    """Sync this rank's share, require finite tensors, and return path -> (bytes, sha256)."""
    share = names[rank::world_size]
    for name in share:
        if name.endswith(".safetensors"):
            _check_finite(staging / name)
        files.fsync_file(staging / name)
    digests = files.sha256_of_all([staging / name for name in share])
    sizes = [(staging / name).stat().st_size for name in share]
    return dict(zip(share, zip(sizes, digests, strict=True), strict=True))


def _put_in_place(staging: Path, final: Path, manifest: Manifest) -> None:
    files.write_json(staging / MANIFEST, manifest.to_json())
    for folder, _, _ in os.walk(staging, topdown=False):
        files.fsync_folder(Path(folder))
    old = final.with_name(f".old-{final.name}")
    if final.exists():
        files.rename(final, old)
    try:
        files.rename(staging, final)
    except EnvironmentFault:
        _restore(old, final)
        raise
    files.fsync_folder(final.parent)
    _restore(old, final)


def _restore(old: Path, final: Path) -> None:
    """Restore the previously published folder, or remove it if the new one is in its place."""
    if not old.exists():
        return
    if final.exists():
        discard(old)
    else:
        files.rename(old, final)
        files.fsync_folder(final.parent)


def _check_finite(path: Path) -> None:
    from safetensors import safe_open

    from trainer.checkpoint.tensors import require_finite

    with safe_open(path, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (not a mapping)
            require_finite(path.name, {name: tensors.get_tensor(name)})
