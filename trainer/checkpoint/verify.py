"""Verification: checks that a checkpoint's files are exactly those that its manifest lists."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
MAX_STEP = 10**11
CHANGED = "its content changed since it was saved (sha256 differs)"


class CorruptCheckpoint(EnvironmentFault):
    """Raised if a checkpoint's content is not what was saved; names the file and the reason."""

    def __init__(self, file: Path | str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")


@dataclass(frozen=True)
class Manifest:
    """The content of a folder: each file's size and SHA-256, and facts such as the step."""

    files: Mapping[str, tuple[int, str]]
    """The size in bytes and the hexadecimal SHA-256 of each file, by relative path."""
    facts: Mapping[str, Any]
    format_version: int = MANIFEST_FORMAT

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json, including a digest of itself."""
        entries = {name: {"bytes": n, "sha256": digest} for name, (n, digest) in self.files.items()}
        body = {"format_version": self.format_version, "facts": dict(self.facts), "files": entries}
        return body | {"sha256": _digest(body)}


class NewerFormat(EnvironmentFault):
    """Raised for a checkpoint of a later version of this program, which may be intact."""


def verify(checkpoint: Path, among: Collection[str] | None = None) -> Manifest:
    """Check that a folder has exactly the files of its manifest, unchanged; return the manifest.

    With `among`, only files of these names are compared with the manifest; others may be missing.
    Raises CorruptCheckpoint naming the first file that differs, NewerFormat for the format of a
    later version, EnvironmentFault if the disk cannot be read.
    """
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        raise CorruptCheckpoint(checkpoint, "not a folder")
    found = regular_files(checkpoint)
    if MANIFEST not in found:
        raise CorruptCheckpoint(checkpoint / MANIFEST, "missing")
    manifest = manifest_of(checkpoint / MANIFEST, _content(checkpoint / MANIFEST))
    names = sorted(manifest.files.keys() | found - {MANIFEST})
    if among is not None:
        names = sorted(set(among) - {MANIFEST})
    for name in names:
        if name not in found:
            raise CorruptCheckpoint(checkpoint / name, "missing")
        if name not in manifest.files:
            raise CorruptCheckpoint(checkpoint / name, f"not named in {MANIFEST}")
    with ThreadPoolExecutor(files.READERS) as pool:
        entries = [(checkpoint / name, *manifest.files[name]) for name in names]
        list(pool.map(lambda entry: _check_file(*entry), entries))
    return manifest


def regular_files(folder: Path) -> set[str]:
    """The relative paths of all files below a folder; links and devices are refused."""
    found = set()
    for where, folders, names in os.walk(folder, onerror=_unreadable):
        for name in folders + names:
            path = Path(where, name)
            kind = path.lstat().st_mode
            if stat.S_ISLNK(kind):
                raise CorruptCheckpoint(path, f"a symbolic link to {os.readlink(path)}")
            if stat.S_ISREG(kind):
                found.add(path.relative_to(folder).as_posix())
            elif not stat.S_ISDIR(kind):
                raise CorruptCheckpoint(path, "neither a file nor a folder")
    return found


def read_json(path: Path) -> Any:
    """The value of a strict JSON file. Raises CorruptCheckpoint, or EnvironmentFault if the disk
    cannot be read."""
    return _parsed(path, _content(path))


def manifest_of(place: Path | str, content: bytes) -> Manifest:
    """Parse the content of manifest.json.

    Raises CorruptCheckpoint for invalid content; its message begins with `place`.
    """
    value = _parsed(place, content)
    if not isinstance(value, dict):
        raise CorruptCheckpoint(place, "not a JSON object")
    if value.get("sha256") == _digest(value):  # otherwise its content may be damaged
        check_format(place, value.get("format_version"), MANIFEST_FORMAT)
    elif value.get("format_version") != MANIFEST_FORMAT:
        raise CorruptCheckpoint(place, f"format_version is {value.get('format_version')!r}")
    facts, entries = value.get("facts"), value.get("files")
    if not isinstance(facts, dict) or not isinstance(entries, dict):
        raise CorruptCheckpoint(place, "has no facts or no files")
    if "step" in facts:
        check_step(place, facts["step"])
    manifest = Manifest({name: _read_entry(place, name, entries[name]) for name in entries}, facts)
    if files.json_bytes(manifest.to_json()) != content:
        raise CorruptCheckpoint(place, CHANGED)
    return manifest


def _parsed(place: Path | str, content: bytes) -> Any:
    try:
        return json.loads(content, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(place, f"not valid JSON ({error})") from None


def _content(path: Path) -> bytes:
    try:
        return files.read_bytes(path)
    except FileNotFoundError:
        raise CorruptCheckpoint(path, "missing") from None
    except OSError as error:
        raise unreadable(path, error) from error


def check_format(path: Path | str, found: object, known: int) -> None:
    """Raise CorruptCheckpoint for an invalid format version, NewerFormat for a later one."""
    if type(found) is not int or found < 1:
        raise CorruptCheckpoint(
            path, f"format_version is {found!r}, not a whole number of at least 1"
        )
    if found > known:
        raise NewerFormat(f"{path}: format {found} is newer than this program's ({known}); update")


def check_step(path: Path | str, found: object) -> None:
    """Raise CorruptCheckpoint unless `found` can be the number of a step."""
    if type(found) is not int or not 0 <= found <= MAX_STEP:
        raise CorruptCheckpoint(path, f"step is {found!r}, not a whole number from 0 to {MAX_STEP}")


def _digest(manifest: Mapping[str, Any]) -> str:
    body = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(files.json_bytes(body)).hexdigest()


def _read_entry(manifest: Path | str, name: str, entry: object) -> tuple[int, str]:
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or plain.as_posix() != name or "\0" in name:
        raise CorruptCheckpoint(manifest, f"names {name!r}, not a plain path inside the folder")
    size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (0, 0)
    if not isinstance(size, int) or not re.fullmatch("[0-9a-f]{64}", str(digest)):
        raise CorruptCheckpoint(manifest, f"size or sha256 of {name} is not valid")
    return size, str(digest)


def _check_file(path: Path, size: int, digest: str) -> None:
    found = path.lstat().st_size
    if found != size:
        raise CorruptCheckpoint(path, f"has {found} bytes, {size} were saved")
    if files.sha256_of(path) != digest:
        raise CorruptCheckpoint(path, CHANGED)


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unreadable(error: OSError) -> NoReturn:
    raise unreadable(Path(error.filename), error) from error


def unreadable(path: Path, error: OSError) -> EnvironmentFault:
    """The error for a file that exists and cannot be read."""
    return EnvironmentFault(f"{path}: cannot be read: {error.strerror}")
