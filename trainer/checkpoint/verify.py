"""Is this checkpoint exactly what was published? Its manifest, checked against what lies there."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
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
    """A checkpoint is not what was saved; the message names the file and the reason."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")


@dataclass(frozen=True)
class Manifest:
    """What a published folder holds: size and SHA-256 of every file, and facts such as the step."""

    files: Mapping[str, tuple[int, str]]
    """Relative path -> (bytes, hexadecimal SHA-256)."""
    facts: Mapping[str, Any]
    format_version: int = MANIFEST_FORMAT

    def to_json(self) -> dict[str, Any]:
        """As manifest.json has it, a digest of itself included."""
        entries = {name: {"bytes": n, "sha256": digest} for name, (n, digest) in self.files.items()}
        body = {"format_version": self.format_version, "facts": dict(self.facts), "files": entries}
        return body | {"sha256": _digest(body)}


class NewerFormat(EnvironmentFault):
    """A checkpoint is of a later version of this program: whole, but not ours to judge."""


def verify(checkpoint: Path) -> Manifest:
    """The manifest of a folder of which every file is there, whole, unchanged, and no other is.

    Raises CorruptCheckpoint naming the first file that is not, NewerFormat for one of a later
    version, EnvironmentFault where the disk does not answer.
    """
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        raise CorruptCheckpoint(checkpoint, "not a folder")
    found = regular_files(checkpoint)
    if MANIFEST not in found:
        raise CorruptCheckpoint(checkpoint / MANIFEST, "missing")
    manifest = _read_manifest(checkpoint / MANIFEST)
    names = sorted(manifest.files.keys() | found - {MANIFEST})
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
    """Relative paths of every file below a folder; links and devices are refused."""
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
    """The value of a strict JSON file. Raises CorruptCheckpoint, EnvironmentFault where the disk
    does not give it: that is not to be taken for damage."""
    try:
        return json.loads(files.read_bytes(path), parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(path, f"not valid JSON ({error})") from None
    except FileNotFoundError:
        raise CorruptCheckpoint(path, "missing") from None
    except OSError as error:
        raise unreadable(path, error) from error


def check_format(path: Path, found: Any, known: int) -> None:
    """Raise CorruptCheckpoint unless `found` is a format version, NewerFormat if we know less."""
    if type(found) is not int or found < 1:
        raise CorruptCheckpoint(path, f"format_version is {found!r}, not a whole number from 1")
    if found > known:
        raise NewerFormat(f"{path}: format {found} is newer than this program's ({known}); update")


def check_step(path: Path, found: Any) -> None:
    """Raise CorruptCheckpoint unless `found` can be the number of a step."""
    if type(found) is not int or not 0 <= found <= MAX_STEP:
        raise CorruptCheckpoint(path, f"step is {found!r}, not a whole number from 0 to {MAX_STEP}")


def _read_manifest(path: Path) -> Manifest:
    value = read_json(path)
    if not isinstance(value, dict):
        raise CorruptCheckpoint(path, "not a JSON object")
    if value.get("sha256") == _digest(value):  # else what it says may be damage
        check_format(path, value.get("format_version"), MANIFEST_FORMAT)
    elif value.get("format_version") != MANIFEST_FORMAT:
        raise CorruptCheckpoint(path, f"format_version is {value.get('format_version')!r}")
    facts, entries = value.get("facts"), value.get("files")
    if not isinstance(facts, dict) or not isinstance(entries, dict):
        raise CorruptCheckpoint(path, "has no facts or no files")
    if "step" in facts:
        check_step(path, facts["step"])
    manifest = Manifest({name: _read_entry(path, name, entries[name]) for name in entries}, facts)
    if files.json_bytes(manifest.to_json()) != path.read_bytes():
        raise CorruptCheckpoint(path, CHANGED)
    return manifest


def _digest(manifest: Mapping[str, Any]) -> str:
    body = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(files.json_bytes(body)).hexdigest()


def _read_entry(manifest: Path, name: str, entry: Any) -> tuple[int, str]:
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or plain.as_posix() != name or "\0" in name:
        raise CorruptCheckpoint(manifest, f"names {name!r}, not a plain path inside the folder")
    size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (0, 0)
    if not isinstance(size, int) or not re.fullmatch("[0-9a-f]{64}", str(digest)):
        raise CorruptCheckpoint(manifest, f"size or sha256 of {name} cannot be understood")
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
    """The disk does not give a file that is there."""
    return EnvironmentFault(f"{path}: cannot be read: {error.strerror}")
