"""RunStore: the folder of a run in a store, and its working copy on this machine."""

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from trainer.checkpoint import files
from trainer.checkpoint.publish import discard, published, repair
from trainer.checkpoint.state import read_progress
from trainer.checkpoint.verify import MANIFEST, CorruptCheckpoint, verify
from trainer.errors import EnvironmentFault, InputError
from trainer.local_copies import stage_folder
from trainer.stores.inputs import remember_url, staged
from trainer.stores.lease import Lease
from trainer.stores.published import PublishedFolders
from trainer.stores.store import AT_ONCE, Store
from trainer.stores.url import check_url, is_in_store, is_url, plain_path

logger = logging.getLogger("trainer")

RECORD = ".store.json"
"""The file that holds the working copy's name, and its newest checkpoint that is in the store."""
METRICS = "metrics.jsonl"
RESULTS = "results.json"
MODEL = "model"


class RunStore:
    """A run in a store. Its files are written to a local folder, `stage`, and uploaded from there.

    Only the content of the store counts: a checkpoint exists as soon as its manifest, which is
    uploaded last, is in the store. The local folder (the working copy) avoids downloads and
    contains the files that could not be uploaded yet.
    """

    def __init__(self, url: str) -> None:
        """Raises InputError for a URL that cannot be written to; does not contact the store."""
        check_url(url, "output_dir", writes=True)
        self.url = url.rstrip("/")
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.stage = stage_folder() / "runs" / digest / self.url.rpartition("/")[2]
        self._lease: Lease | None = None
        self._uploaded: dict[str, tuple[int, int, int]] = {}
        """Name of an uploaded file outside of checkpoints and the model -> its `_state` when it was
        uploaded."""

    @cached_property
    def store(self) -> Store:
        """The client of the store. Raises InputError if the store cannot be opened."""
        return Store(self.url, "output_dir", writes=True)

    @cached_property
    def folders(self) -> PublishedFolders:
        """The checkpoints and the model in the store."""
        return PublishedFolders(self.store)

    def shown(self, path: Path) -> str:
        """The URL of a file or folder in the working copy; other paths are returned unchanged."""
        if not path.is_relative_to(self.stage):
            return str(path)
        inside = path.relative_to(self.stage).as_posix()
        return self.url if inside == "." else f"{self.url}/{inside}"

    def read_results(self) -> bytes | None:
        """The content of results.json if the run's model is published, else None.

        Raises InputError if the store refuses access, and EnvironmentFault if it fails.
        """
        listing = self.store.listing()
        if RESULTS not in listing or f"{MODEL}/{MANIFEST}" not in listing:
            return None
        return self.store.read(RESULTS)

    def make_stage(self) -> None:
        """Create the folder of the working copy, which only this user can access."""
        files.make_folder(self.stage.parent, private=True)
        files.make_folder(self.stage, private=True)
        if not files.is_private(self.stage):
            raise EnvironmentFault(
                f"{self.stage}: another user may write to it; accepted: TEMPERING_STAGE=FOLDER"
            )
        remember_url(self.stage.parent, self.url)

    @contextmanager
    def held(self, resume: str) -> Iterator[None]:
        """Context manager in which only this process works on the run.

        The caller must hold the lock of the working copy. On entry, the working copy is brought up
        to date. If the block ends normally, the remaining files are uploaded, and uploaded
        checkpoints and the model are removed from the working copy. If the block raises, only the
        upload is attempted. Raises InputError if `resume` is `never` and the store contains a run.
        Raises EnvironmentFault if another process is working on the run, or if the store has only
        damaged checkpoints and the working copy has none.
        """
        place = self._place()
        with Lease(self.store, place) as lease:
            self._lease = lease
            self._pull(resume)
            try:
                yield
                self.push_files()
                self._drop_copies()
            except BaseException:
                with suppress(EnvironmentFault, InputError):
                    self.push_files()
                raise
            finally:
                self._lease = None

    def publish(self, folder: Path, limit: int | None = None, best: int | None = None) -> None:
        """Upload the files of `push_files`, and then a checkpoint or the model from `folder`.

        With `limit`, old checkpoints are then removed from the store (`PublishedFolders.retain`).
        Raises EnvironmentFault if the store fails or another machine has taken over the run.
        """
        self.push_files()
        self.folders.upload(folder, self._check_lease)
        if folder.name != MODEL:
            self._note_newest(folder)
        if limit is not None:
            self.folders.retain(limit, best)

    def push_files(self, pattern: str = "*") -> None:
        """Upload changed files that belong to no checkpoint or model, such as metrics.jsonl.

        Only names that match `pattern` are uploaded. results.json is uploaded last, because it
        marks the run as finished. Raises EnvironmentFault if the store fails or another machine has
        taken over the run.
        """
        self._check_lease()
        states = {}
        for name in _other_files(self.stage):
            with suppress(FileNotFoundError):  # a tracker has removed it in the meantime
                states[name] = _state(self.stage / name)
        changed = {
            name: state
            for name, state in states.items()
            if self._uploaded.get(name) != state and fnmatchcase(name, pattern)
        }
        last = changed.pop(RESULTS, None)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._upload, changed))
        if last is not None:
            self.store.upload(RESULTS, self.stage / RESULTS)
            changed[RESULTS] = last
        self._uploaded |= changed

    def _upload(self, name: str) -> None:
        """Upload a file of the working copy, unless a tracker has removed it."""
        try:
            self.store.upload(name, self.stage / name)
        except (EnvironmentFault, InputError):
            if (self.stage / name).exists():
                raise

    def _place(self) -> str:
        """The unique name of this working copy; the first call creates it."""
        record = self._record()
        if not isinstance(record.get("place"), str):
            record = {"place": secrets.token_hex(8), "newest": None}
            files.write_json(self.stage / RECORD, record)
        return str(record["place"])

    def _record(self) -> dict[str, object]:
        try:
            found = json.loads(files.read_bytes(self.stage / RECORD))
        except (FileNotFoundError, ValueError, RecursionError, EnvironmentFault):
            return {}
        return found if isinstance(found, dict) else {}

    def _note_newest(self, folder: Path | None) -> None:
        newest = None if folder is None else [folder.name, _digest(folder)]
        files.write_json(self.stage / RECORD, {**self._record(), "newest": newest})

    def _pull(self, resume: str) -> None:
        """Bring the working copy up to date with the store."""
        listing = self.folders.repair()
        remote = self.folders.steps(listing)
        if resume == "never":
            self._refuse_a_run(listing)
        repair(self.stage)
        if not self._continues(remote):
            self._set_aside()
        self._uploaded = {}
        for name in sorted({n for n in listing if _is_other(n)} - _other_files(self.stage)):
            self.folders.download(name, listing[name], self.stage)
            self._uploaded[name] = _state(self.stage / name)
        if RESULTS not in listing:  # the last upload did not finish, so the run writes these again
            for leftover in (self.stage / RESULTS, self.stage / MODEL):
                if leftover.exists():
                    files.remove_folder(leftover)
        newest = self._pull_newest(remote)
        if newest is not None:
            self._pull_best(newest, remote)
        self._note_newest(newest)

    def _refuse_a_run(self, listing: Collection[str]) -> None:
        traces = [
            name for name in listing if name.startswith(("checkpoint-", f"{MODEL}/", RESULTS))
        ]
        if traces:
            found = f"trainer.resume: found never, but {self.url} holds a run ({traces[0]})"
            raise InputError(f"{found}; accepted: auto, or another output_dir")

    def _continues(self, remote: Mapping[int, str]) -> bool:
        """Whether the working copy is empty or belongs to the run that is in the store.

        A copy no longer belongs to the run if the run was continued on another machine or removed
        from the store.
        """
        local = published(self.stage)
        if not local and not (self.stage / METRICS).exists():
            return True
        newest = max(remote, default=None)
        if newest is None:
            return self._record().get("newest") is None
        name, digest = f"checkpoint-{newest}", remote[newest]
        if self._record().get("newest") == [name, digest]:
            return True
        return newest in local and _digest(local[newest]) == digest

    def _set_aside(self) -> None:
        """Move the files of the working copy, which belong to another run, to a separate folder."""
        place = files.unused(self.stage / ".aside")
        names = [p for p in self.stage.iterdir() if not p.name.startswith(".") or _is_bad(p.name)]
        if not names:
            return
        files.make_folder(place, private=True)
        for path in names:
            files.rename(path, place / path.name)
        logger.warning(
            "%s: the copy on this machine does not belong to the run in the store; it was moved "
            "to %s",
            self.url,
            place,
        )

    def _pull_newest(self, remote: Mapping[int, str]) -> Path | None:
        """The local path of the newest intact checkpoint, or None if there is none.

        A checkpoint that is only in the store is copied from it, and one that is only in the
        working copy is uploaded.
        """
        local = published(self.stage)
        for step in sorted(remote.keys() | local, reverse=True):
            name = f"checkpoint-{step}"
            if step in local and self._is_whole(local[step], in_store=step in remote):
                if step not in remote:
                    logger.info("%s: uploading %s, which is not there yet", self.url, name)
                    self.folders.upload(local[step], self._check_lease)
                return local[step]
            if step in remote and (found := self.folders.fetch(name, self.stage)):
                return found
        if self.folders.damaged() and not local:
            raise EnvironmentFault(
                f"{self.url}: no checkpoint verifies; not starting over: choose another output_dir"
            )
        return None

    def _is_whole(self, checkpoint: Path, in_store: bool) -> bool:
        """Whether a local checkpoint is intact; a damaged one is removed if it is in the store."""
        try:
            verify(checkpoint)
        except CorruptCheckpoint as fault:
            if in_store:
                logger.warning("%s; it is copied from the store again", fault)
                files.remove_folder(checkpoint)
            return False
        return True

    def _check_lease(self) -> None:
        if self._lease is not None:  # job=evaluate holds no lease
            self._lease.check()

    def _pull_best(self, newest: Path, remote: Mapping[int, str]) -> None:
        """Copy the checkpoint of the best evaluation so far, since the run may need its weights."""
        step = read_progress(newest / "state").best_step
        if step in remote and step not in published(self.stage):
            self.folders.fetch(f"checkpoint-{step}", self.stage)

    def _drop_copies(self) -> None:
        """Free disk space by removing the uploaded checkpoints and model from the working copy."""
        remote = self.folders.steps(self.store.listing())
        for step, checkpoint in published(self.stage).items():
            is_sound = checkpoint.name not in self.folders.suspects
            if is_sound and remote.get(step) == _digest(checkpoint):
                discard(checkpoint)
        if (self.stage / MODEL).exists():
            discard(self.stage / MODEL)


def local_folder(place: str) -> Path:
    """The local folder of a run at a path or URL; for a run in a store, its working copy."""
    if is_in_store(place):
        return RunStore(place).stage
    return Path(os.path.expanduser(plain_path(place)))


def run_files(place: str, where: str, folders: tuple[str, ...] = ()) -> Path:
    """The local folder of a run; the files of a run in a store are first copied to it.

    Of checkpoints and the model, only the manifests are copied, except for files whose paths begin
    with one of `folders`. Raises the same errors as `staged`.
    """

    def is_wanted(name: str) -> bool:
        return _is_other(name) or name.endswith(MANIFEST) or name.startswith(folders)

    if is_in_store(place):
        return staged(place, where, is_wanted)
    if is_url(place):
        check_url(place, where)
    return Path(os.path.expanduser(plain_path(place)))


def model_files(url: str, where: str) -> Path:
    """Copy a model's folder from a store, and return the path of the copy.

    If the model is part of a run, the other files of the run are copied to the folder above it.
    Raises the same errors as `staged`.
    """
    above, _, name = url.rstrip("/").rpartition("/")
    if not above.endswith("/") and Store(above, where).listing(METRICS):
        return run_files(above, where, (f"{name}/",)) / name
    return staged(url, where)


def _digest(folder: Path) -> str:
    return hashlib.sha256(files.read_bytes(folder / MANIFEST)).hexdigest()


def _is_other(name: str) -> bool:
    """Whether a run's file is neither hidden nor in a checkpoint or the model's folder."""
    first = name.partition("/")[0]
    return not first.startswith((".", "checkpoint-")) and first != MODEL


def _is_bad(name: str) -> bool:
    """Whether a name is that of a damaged checkpoint, which keeps a run from starting over."""
    return name.startswith(".bad-checkpoint-")


def _other_files(stage: Path) -> set[str]:
    """The names of a run's files that are neither hidden nor in a checkpoint or the model's folder.

    Leaves out files that are still being written, and symbolic links: trackers such as W&B create
    links to their newest files.
    """
    found = set()
    for path in stage.iterdir() if stage.is_dir() else ():
        if _is_other(path.name) and not path.is_symlink():
            inner = [path] if path.is_file() else _files_below(path)
            found |= {each.relative_to(stage).as_posix() for each in inner}
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        for path in (Path(where, name) for name in names if not name.startswith(".tmp-")):
            if path.is_file() and not path.is_symlink():
                yield path


def _state(path: Path) -> tuple[int, int, int]:
    """The size, the modification time and the inode of a file.

    The inode distinguishes files of the same size that were written within one tick of the
    filesystem's clock.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
