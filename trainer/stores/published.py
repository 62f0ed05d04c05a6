"""PublishedFolders: the checkpoints and the model of a run in a store, published atomically.

A folder counts as published if it has a manifest, which is uploaded last and removed first. A crash
can leave folders without a manifest, or the folder `.new-model`. At the next start, `repair`
removes or completes them.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.checkpoint import files
from trainer.checkpoint.verify import (
    MANIFEST,
    CorruptCheckpoint,
    Manifest,
    manifest_of,
    regular_files,
    verify,
)
from trainer.errors import EnvironmentFault, InputError
from trainer.stores.inputs import download
from trainer.stores.store import AT_ONCE, Store, size_of
from trainer.terminal.activity import doing

logger = logging.getLogger("trainer")

MARK = ".run.json"
"""The file that marks a folder in a store as the folder of a run."""
NEW = ".new-model"
"""The folder to which a new model is uploaded before it replaces the old one."""
BAD = ".bad-"
"""The prefix of the folders to which damaged checkpoints are renamed."""
OWN = re.compile(r"(checkpoint-(0|[1-9][0-9]*)|model)/")
"""Matches the start of the names of files that belong to a checkpoint or the model."""
Listing = Mapping[str, Mapping[str, str]]
"""Name of each file in a store -> its identity (`Store.listing`)."""


class PublishedFolders:
    """The checkpoints and the model in a run's store. The caller must hold the run's lease."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._digests: dict[str, tuple[Mapping[str, str], str]] = {}
        """Folder -> the identity of its manifest in the last listing, and the manifest's digest."""
        self._verified: dict[str, str] = {}
        """Folder -> the digest of the manifest against which its files were verified."""
        self.suspects: set[str] = set()
        """The names of checkpoints that were damaged when they were read back."""

    def steps(self, listing: Listing) -> dict[int, str]:
        """Step -> digest of the manifest, for every published checkpoint."""
        steps = sorted(
            int(own[2])
            for name in listing
            if (own := OWN.match(name)) and own[2] and name == f"{own[0]}{MANIFEST}"
        )
        return {step: self._digest(f"checkpoint-{step}", listing) for step in steps}

    def damaged(self) -> list[str]:
        """The names of the folders to which damaged checkpoints were renamed."""
        names = {name.partition("/")[0] for name in self.store.listing() if name.startswith(BAD)}
        return sorted(names)

    def repair(self) -> dict[str, dict[str, str]]:
        """Complete or remove the folders that a crash left unfinished; returns a new listing.

        Raises InputError if there are unfinished folders but no file that marks a run.
        """
        listing = self.store.listing()
        unpublished = sorted(
            name
            for name in listing
            if (own := OWN.match(name)) and f"{own[0]}{MANIFEST}" not in listing
        )
        if MARK not in listing:
            if unpublished:
                found = f"{self.store.url}/{unpublished[0]} was not published by this program"
                raise InputError(f"output_dir: {found}; accepted: another output_dir")
            self.store.write(MARK, files.json_bytes({"format_version": 1}))
        if f"{NEW}/{MANIFEST}" in listing:
            self._replace_model()
        else:
            self.store.remove([*unpublished, *_below(NEW, listing)])
        return self.store.listing()

    def upload(self, folder: Path, check: Callable[[], None]) -> None:
        """Publish a local folder, unless it is already published.

        `check` is called just before the manifest is uploaded; it must raise an error if the folder
        must not be published. Raises EnvironmentFault if the store fails or has lost uploaded data.
        """
        name = folder.name
        content = files.read_bytes(folder / MANIFEST)
        listing = self.store.listing(name)
        is_there = f"{name}/{MANIFEST}" in listing
        if is_there and self._digest(name, listing) == hashlib.sha256(content).hexdigest():
            return
        replaces_model = is_there and name == "model"
        target = NEW if replaces_model else name
        if target != name or listing:
            self._unpublish(target)
        local = sorted(regular_files(folder) - {MANIFEST})
        self.store.upload_all({f"{target}/{each}": folder / each for each in local})
        self._check_sizes(target, manifest_of(folder / MANIFEST, content))
        check()
        self.store.upload(f"{target}/{MANIFEST}", folder / MANIFEST)
        if replaces_model:
            self._replace_model()

    def fetch(self, name: str, stage: Path) -> Path | None:
        """Copy a checkpoint from the store into the folder `stage`, and return the copy's path.

        Returns None if the checkpoint is damaged in the store; it is then renamed to .bad-<name>,
        and a warning is logged. Raises EnvironmentFault if the store or the disk fails.
        """
        final, staging = stage / name, stage / f".tmp-{name}"
        doing(f"copying {self.store.url}/{name}")
        for attempt in (1, 2):
            try:
                self._fetch(name, staging)
            except CorruptCheckpoint as fault:
                files.remove_folder(staging)
                if attempt == 2:
                    logger.warning("%s; checkpoint skipped and renamed to %s%s", fault, BAD, name)
                    self._rename(name, f"{BAD}{name}")
                continue
            files.rename(staging, final)
            files.fsync_folder(stage)
            return final
        return None

    def download(self, name: str, identity: Mapping[str, str], folder: Path) -> None:
        """Copy a single file into a local folder."""
        download(self.store, name, identity, folder)

    def retain(self, limit: int, best: int | None) -> None:
        """Remove old checkpoints until `limit` intact ones are left, including that of step `best`.

        The best one is never removed. As for local runs (trainer/checkpoint/retain.py), a
        checkpoint counts toward the limit only after it was read back and verified. If the store
        fails, a warning is logged.
        """
        try:
            found = self.steps(self.store.listing())
            if len(found) <= limit:
                return
            room = limit - (best in found and self._verifies(best, found[best]))
            for step in sorted(found.keys() - {best}, reverse=True):
                if room <= 0:
                    self._unpublish(f"checkpoint-{step}")
                elif self._verifies(step, found[step]):
                    room -= 1
        except EnvironmentFault as fault:
            logger.warning("old checkpoints remain: %s", fault)

    def _verifies(self, step: int, digest: str) -> bool:
        """Whether the files in the store match the manifest; a positive result is cached."""
        name = f"checkpoint-{step}"
        if self._verified.get(name) == digest:
            return True
        try:
            manifest = self._manifest(name)
            self._check_sizes(name, manifest)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(
                    pool.map(lambda each: self._check_content(name, each, manifest), manifest.files)
                )
        except CorruptCheckpoint as fault:
            logger.warning("%s; not counted among the checkpoints to keep", fault)
            self.suspects.add(name)
            return False
        self._verified[name] = digest
        return True

    def _check_content(self, folder: str, name: str, manifest: Manifest) -> None:
        size, wanted = manifest.files[name]
        digest = hashlib.sha256()
        for piece in self.store.pieces(f"{folder}/{name}", size):
            digest.update(piece)
        if digest.hexdigest() != wanted:
            raise CorruptCheckpoint(self._place(folder, name), "its content is not what was saved")

    def _check_sizes(self, folder: str, manifest: Manifest) -> None:
        """Raise CorruptCheckpoint unless the store has all files, each with the right size."""
        listing = self.store.listing(folder)
        found = {name.removeprefix(f"{folder}/"): size_of(each) for name, each in listing.items()}
        for name, (size, _) in manifest.files.items():
            if name not in found:
                raise CorruptCheckpoint(self._place(folder, name), "missing")
            if found[name] != size:
                reason = f"has {found[name]} bytes, {size} were saved"
                raise CorruptCheckpoint(self._place(folder, name), reason)

    def _fetch(self, name: str, staging: Path) -> None:
        manifest = self._manifest(name)
        self._check_sizes(name, manifest)
        if staging.exists():
            files.remove_folder(staging)
        files.make_folder(staging, fresh=True)

        def copy(each: str) -> None:
            files.make_folder((staging / each).parent)
            pieces = self.store.pieces(f"{name}/{each}", manifest.files[each][0])
            files.write_pieces(staging / each, pieces)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(copy, manifest.files))
        files.write_bytes(staging / MANIFEST, files.json_bytes(manifest.to_json()))
        verify(staging)

    def _manifest(self, folder: str) -> Manifest:
        return manifest_of(self._place(folder, MANIFEST), self._content(folder))

    def _digest(self, folder: str, listing: Listing) -> str:
        """The digest of a folder's manifest, which is read again only if it has changed."""
        identity = listing[f"{folder}/{MANIFEST}"]
        known = self._digests.get(folder)
        if known is None or known[0] != identity:
            known = identity, hashlib.sha256(self._content(folder)).hexdigest()
            self._digests[folder] = known
        return known[1]

    def _content(self, folder: str) -> bytes:
        try:
            return self.store.read(f"{folder}/{MANIFEST}")
        except FileNotFoundError:
            raise CorruptCheckpoint(self._place(folder, MANIFEST), "missing") from None

    def _place(self, folder: str, name: str) -> str:
        return f"{self.store.url}/{folder}/{name}"

    def _replace_model(self) -> None:
        """Replace the old model with the new one, which has been uploaded completely."""
        self._unpublish("model")
        names = self._files_of(NEW)
        for name in [n for n in names if n != MANIFEST] + [MANIFEST]:
            self.store.copy(f"{NEW}/{name}", f"model/{name}")
        self._unpublish(NEW)

    def _rename(self, folder: str, target: str) -> None:
        for name in self._files_of(folder):
            self.store.copy(f"{folder}/{name}", f"{target}/{name}")
        self._unpublish(folder)

    def _unpublish(self, folder: str) -> None:
        """Remove a folder. The manifest is removed first, so that an incomplete folder has none."""
        names = self._files_of(folder)
        if MANIFEST in names:
            self.store.remove([f"{folder}/{MANIFEST}"])
        self.store.remove(f"{folder}/{name}" for name in names if name != MANIFEST)

    def _files_of(self, folder: str) -> list[str]:
        return [name.removeprefix(f"{folder}/") for name in self.store.listing(folder)]


def _below(folder: str, listing: Collection[str]) -> list[str]:
    return [name for name in listing if name.startswith(f"{folder}/")]
