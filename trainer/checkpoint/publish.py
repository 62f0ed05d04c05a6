"""Publishing a folder whole or not at all: staged, synced, sealed by a manifest, renamed once.

A crash leaves one of these beside the folder, and `repair` at the next start knows each:
`.tmp-<name>` was being filled, `.del-<name>` was being removed, and `.old-<name>` is what was
published before: it is put back if the crash came before the new folder had taken its name.
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
    r"|(config\.yaml|metrics\.jsonl|results\.json|predictions(-[\w.-]+)?\.jsonl)(-[0-9a-f]{8})?)"
)
"""What a crash of ours leaves in a run's folder; whatever else is there is somebody else's."""
FAULTS = {kind.exit_code: kind for kind in (InputError, EnvironmentFault, NumericsError)}


class Ranks(Protocol):
    """The processes of a run, as far as publishing must know them."""

    @property
    def rank(self) -> int:
        """Which process this is, from 0."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    def at_work(self) -> AbstractContextManager[None]:
        """Within it the other ranks wait for this one, however long it takes."""

    def gather_after_work(self, value: Any) -> list[Any]:
        """The value of every rank, in order, on every rank."""


@dataclass(frozen=True)
class Alone:
    """The Ranks of a single process."""

    rank: int = 0
    world_size: int = 1

    def at_work(self) -> AbstractContextManager[None]:
        """Nobody waits."""
        return nullcontext()

    def gather_after_work(self, value: Any) -> list[Any]:
        """Just this one."""
        return [value]


def publish(
    final: Path,
    fill: Callable[[Path], None],
    *,
    facts: Mapping[str, Any],
    expected_bytes: int = 0,
    ranks: Ranks | None = None,
) -> Path:
    """Make the folder `final` of what `fill` writes into the folder that it is given.

    Every rank calls it and fills; rank 0 publishes, and only if no rank failed: each rank raises
    its own failure, or an error of the same kind that names the rank. Nothing but a folder that
    was published before is ever replaced (InputError), and that one stays until the new one is
    whole. Raises NumericsError if a tensor to be published is not finite, EnvironmentFault if the
    disk fails or has less than `expected_bytes` free. After any failure all is as it was.
    """
    ranks = ranks or Alone()
    staging = begin(final, expected_bytes, ranks)
    return complete(staging, final, fill, facts=facts, ranks=ranks)


def begin(final: Path, expected_bytes: int, ranks: Ranks) -> Path:
    """Make the empty folder that `complete` fills and publishes as `final`. Every rank calls it."""
    staging = final.with_name(f".tmp-{final.name}")
    with _undone(staging, ranks):
        main = ranks.rank == 0
        together(ranks, lambda: _prepare(final, staging, expected_bytes) if main else None)
        together(ranks, lambda: check_seen(staging))
    return staging


def deferred(
    staging: Path, fill: Callable[[Path], None], ranks: Ranks
) -> tuple[files.Deferred, bool]:
    """What `fill` would write, copied into host memory, and whether ranks beside 0 write too.

    Every rank calls it, for itself.
    """

    def fill_later() -> bool:
        fill(staging)
        return bool(kept)

    with _undone(staging, ranks), files.deferred() as kept:
        writes = together(ranks, fill_later)
    return kept, any(writes[1:])


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
    with _undone(staging, ranks):
        sealed = together(ranks, lambda: _fill(staging, fill))
        # the list of one rank: on a network's filesystem each may see another for a while
        names = together(ranks, lambda: sorted(regular_files(staging)) if main else [])[0]
        known = {name: (n, digest) for part in sealed for name, (n, digest) in part.items()}
        others = [name for name in names if name not in known]
        shares = together(ranks, lambda: _seal(staging, others, ranks.rank, ranks.world_size))
        known |= {name: (n, digest) for part in shares for name, (n, digest) in part.items()}
        manifest = Manifest({name: known[name] for name in names}, facts)
        together(ranks, lambda: _put_in_place(staging, final, manifest) if main else None)
    return final


@contextmanager
def _undone(staging: Path, ranks: Ranks) -> Iterator[None]:
    """After a failure within it nothing is left."""
    try:
        yield
    except BaseException:
        if ranks.rank == 0 and staging.exists():
            discard(staging)
        raise


def together(ranks: Ranks, work: Callable[[], Result]) -> list[Result]:
    """Every rank's result of `work` (a JSON value); if it failed on any rank, every rank raises.

    It may take as long as a disk does: the ranks meet in the store, not in a collective.
    """
    result, failure = None, None
    try:
        with ranks.at_work():
            result = work()
    except Exception as error:
        failure = error
    told = (getattr(failure, "exit_code", 1), str(failure)) if failure is not None else None
    reports = ranks.gather_after_work((told, result))
    if failure is not None:
        raise failure
    for rank, (other, _) in enumerate(reports):
        if other:
            code, text = other
            raise FAULTS.get(code, EnvironmentFault)(f"rank {rank}: {text}")
    return [part for _, part in reports]


def check_seen(path: Path) -> None:
    """Raise EnvironmentFault where what another rank has made is not on this machine's disk."""
    if not path.exists():
        raise EnvironmentFault(f"{path}: this machine does not see it; use a shared filesystem")


def repair(folder: Path) -> None:
    """Finish or undo what a crash left half done in a folder that nobody else writes to."""
    names = [path.name for path in folder.iterdir() if LEFTOVER.fullmatch(path.name)]
    for name in sorted(names, key=lambda name: not name.startswith(".old-")):
        if name.startswith(".old-"):
            _restore(folder / name, folder / name.removeprefix(".old-"))
        else:
            files.remove_folder(folder / name)


def discard(folder: Path) -> None:
    """Remove a folder that nobody needs; a failure to do so costs a warning."""
    try:
        files.remove_folder(folder)
    except EnvironmentFault as fault:
        logger.warning("something stays that is not needed: %s", fault)


def checkpoint_path(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step is published."""
    return output_dir / f"checkpoint-{step}"


def published(output_dir: Path) -> dict[int, Path]:
    """Step -> folder of every published checkpoint, oldest first; none of them verified yet."""
    names = [path.name for path in output_dir.glob("checkpoint-*")]
    steps = [int(name[11:]) for name in names if re.fullmatch("checkpoint-(0|[1-9][0-9]*)", name)]
    return {step: checkpoint_path(output_dir, step) for step in sorted(steps)}


def _prepare(final: Path, staging: Path, expected_bytes: int) -> None:
    files.make_folder(final.parent)
    _restore(final.with_name(f".old-{final.name}"), final)
    if os.path.lexists(final) and not _replaceable(final):
        raise InputError(f"{final}: exists and was not published by this program; remove it first")
    if staging.exists():
        files.remove_folder(staging)
    free = files.free_bytes(final.parent)
    if free < expected_bytes:
        sizes = f"need {files.readable(expected_bytes)}, free {files.readable(free)}"
        raise EnvironmentFault(f"{final}: no space left on device ({sizes})")
    files.make_folder(staging, fresh=True)


def _replaceable(final: Path) -> bool:
    return (final / MANIFEST).is_file() or (final.is_dir() and not any(final.iterdir()))


def _fill(staging: Path, fill: Callable[[Path], None]) -> dict[str, tuple[int, str]]:
    """Path -> (bytes, sha256) of the files that were written here: hashed on their way to disk."""
    check_seen(staging)
    with files.operation("fill", staging), files.sealing() as seals:
        fill(staging)
    return {path.relative_to(staging).as_posix(): seal for path, seal in seals.items()}


def _seal(
    staging: Path, names: Sequence[str], rank: int, world_size: int
) -> dict[str, tuple[int, str]]:
    """Path -> (bytes, sha256) of this rank's share of the files, synced and found finite."""
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
    """Put what was published before back, unless its successor is in place."""
    if not old.exists():
        return
    if final.exists():
        discard(old)
    else:
        files.rename(old, final)
        files.fsync_folder(final.parent)


def _check_finite(path: Path) -> None:
    from safetensors import safe_open

    from trainer.checkpoint.tensors import all_finite

    with safe_open(path, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (not a mapping)
            all_finite(path.name, {name: tensors.get_tensor(name)})
