"""File operations: makes all writes, fsyncs, renames and removals; tests can inject faults."""

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainer.errors import EnvironmentFault

if TYPE_CHECKING:
    from torch import Tensor

hook: Callable[..., None] | None = None
"""A function for tests: `hook(moment, operation, *paths)` may raise OSError or end the process.

The moment is "before", "during" (half of a piece of a file has been written) or "after".
"""

READERS = 4
"""The number of files that are hashed in parallel; hashing takes longer than writing."""
WINDOW = 1 << 22
"""The number of bytes that are hashed and written at a time."""

Seals = dict[Path, tuple[int, str]]
"""Path of a file -> (number of bytes, SHA-256)."""
_seals: ContextVar[Seals | None] = ContextVar("seals", default=None)
_deferred: ContextVar["Deferred | None"] = ContextVar("deferred", default=None)


class Deferred:
    """Files to be written later, with their contents in host memory."""

    def __init__(self) -> None:
        self._writes: list[Callable[[], None]] = []

    def write(self) -> None:
        """Write the files in order, and free the memory of each."""
        while self._writes:
            self._writes.pop(0)()

    def __bool__(self) -> bool:
        return bool(self._writes)

    def _add(self, write: Callable[[], None]) -> None:
        self._writes.append(write)


@contextmanager
def deferred() -> Iterator[Deferred]:
    """Context manager that keeps this thread's files in memory; their tensors are copied.

    Folders are still created at once, and `write_pieces` and `append_line` still write at once.
    Copying from a GPU may continue after the context ends.
    """
    kept = Deferred()
    token = _deferred.set(kept)
    try:
        yield kept
    finally:
        _deferred.reset(token)


@contextmanager
def sealing() -> Iterator[Seals]:
    """Context manager that yields the size and SHA-256 of the files that this thread writes in it.

    Files of `write_pieces` are left out. Raises NumericsError for tensors that are not finite.
    """
    seals: Seals = {}
    token = _seals.set(seals)
    try:
        yield seals
    finally:
        _seals.reset(token)


@contextmanager
def operation(name: str, *paths: Path, size: int = 0) -> Iterator[None]:
    """Call the hook around an operation; convert an OSError to a one-line EnvironmentFault."""
    try:
        _call_hook("before", name, *paths)
        yield
        _call_hook("after", name, *paths)
    except OSError as error:
        raise EnvironmentFault(_reason(name, paths[-1], error, size)) from error


def write_bytes(path: Path, data: bytes, private: bool = False) -> None:
    """Create or replace a file. Readers see the old or the new content, even after a crash.

    Only this user can read a `private` file.
    """
    if (kept := _deferred.get()) is not None:
        kept._add(partial(write_bytes, path, data, private))
        return
    _write(path, [data], len(data), 0o600 if private else 0o666)


def write_text(path: Path, text: str, private: bool = False) -> None:
    """Like `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode(), private)


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Like `write_bytes`, for content that is produced in pieces. `sealing` leaves the file out."""
    if (seals := _seals.get()) is not None:
        seals.pop(path, None)  # the seal of the file that this one replaces
    token = _seals.set(None)  # the pieces may be tensors, which nobody has checked
    try:
        _write(path, pieces, 0)
    finally:
        _seals.reset(token)


def write_through(path: Path, pieces: Iterable[bytes], descriptor: int | None = None) -> None:
    """Write to a pipe, a device or an open descriptor, without replacing it by a file.

    Each piece is written immediately. Raises BrokenPipeError if the reader is gone.
    """
    try:
        with operation("write", path):
            number = os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)
            with open(number, "wb", buffering=0) as file:
                for piece in pieces:
                    _write_all(file, memoryview(piece), None)
    except EnvironmentFault as fault:
        if isinstance(fault.__cause__, BrokenPipeError):
            raise fault.__cause__ from None
        raise


def write_json(path: Path, value: object) -> None:
    """Write strict JSON like `write_bytes`. Keys keep their order; NaN and infinity become null."""
    write_bytes(path, json_bytes(value))


def write_tensors(
    path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file like `write_bytes`, one tensor at a time, from any device."""
    from trainer.checkpoint.tensors import host_copies, pieces, require_finite

    if (kept := _deferred.get()) is not None:
        copies, made = host_copies(tensors)
        kept._add(made)
        kept._add(partial(write_tensors, path, copies, metadata))
        return
    if _seals.get() is not None:
        require_finite(path.name, tensors)
    size, stream = pieces(tensors, metadata or {})
    _write(path, stream, size)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, which is created if it does not exist."""
    data = line.encode() + b"\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with operation("append", path, size=len(data)), _opened(path, flags) as file:
        _write_piece(file, data, "append", path)


def truncate(path: Path, size: int) -> None:
    """Truncate a file to `size` bytes; it is created if it does not exist."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with operation("truncate", path), _opened(path, flags) as file:
        file.truncate(size)


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises FileNotFoundError if there is none.

    Raises EnvironmentFault for a symbolic link, a pipe or a device, without waiting for data. The
    same holds for every file that `open_regular` opens.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with operation("read", path), _opened(path, os.O_RDONLY) as file:
        return file.read()


def open_regular(path: Path | str, flags: int, mode: int = 0o666, folder: int | None = None) -> int:
    """A descriptor of a regular file. Links are not followed; pipes and devices are refused.

    `folder` is the descriptor of the folder that `path` is relative to. Raises OSError.
    """
    safe = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | safe, mode, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            reason = "it is a symbolic link, which is not followed"
            raise OSError(errno.ELOOP, reason, str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor


def make_folder(
    path: Path, private: bool = False, fresh: bool = False, synced: bool = False
) -> None:
    """Create a folder and its parents; an existing one is left as it is.

    Only this user may enter a `private` folder. A `fresh` one must not exist yet. A `synced` one,
    with its new parents, survives a power failure.
    """
    if path.is_dir() and not fresh:
        return
    missing = [each for each in (path, *path.parents) if not each.exists()]
    with operation("make_folder", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700 if private else 0o777, exist_ok=not fresh)
    for each in missing if synced else ():
        fsync_folder(each.parent)


def is_private(folder: Path) -> bool:
    """Whether this user owns a folder, and no other user may change it. Raises OSError."""
    return _is_private(folder.lstat())


def open_private_folder(folder: Path) -> int:
    """A descriptor of a private folder (`is_private`).

    Raises PermissionError for a folder that is not private.

    Files opened relative to the descriptor (`dir_fd`) are in this folder even if another folder has
    taken its name in the meantime. Raises OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not _is_private(os.fstat(descriptor)):
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "another user may have written it", str(folder))
    return descriptor


def _is_private(status: os.stat_result) -> bool:
    others = stat.S_IWGRP | stat.S_IWOTH
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & others
    )


def fsync_file(path: Path) -> None:
    """Wait until the content of a file would survive a power failure."""
    _fsync(path, os.O_RDONLY)


def fsync_folder(path: Path) -> None:
    """Wait until the names in a folder would survive a power failure."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder to a name that does not exist."""
    with operation("rename", source, target):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        os.rename(source, target)


def replace(source: Path, target: Path) -> None:
    """Rename a file, replacing another one of that name."""
    with operation("replace", source, target):
        os.replace(source, target)


def remove_file(path: Path) -> None:
    """Remove a file or a symbolic link."""
    with operation("remove_file", path):
        path.unlink()


def remove_folder(path: Path) -> None:
    """Remove a folder: it is renamed first, so that no half-removed folder is ever seen.

    A file or a link is removed too; the target of a link is not.
    """
    if path.is_symlink() or not path.is_dir():
        remove_file(path)
        return
    renamed = path
    if not path.name.startswith(".del-"):
        renamed = unused(path.with_name(f".del-{path.name}"))
        rename(path, renamed)
        fsync_folder(path.parent)  # otherwise it may reappear half empty after a power failure
    for folder, folders, names in os.walk(renamed, topdown=False):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in names + links:
            remove_file(Path(folder, name))
        with operation("remove_folder", Path(folder)):
            os.rmdir(folder)


def mark_used(path: Path) -> None:
    """Set a file's modification time to now, at most once an hour; ignore errors."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > 3600:
            os.utime(path)


def unused(path: Path) -> Path:
    """`path`, or if it exists, the first of `path-2`, `path-3`, ... that does not."""
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def free_bytes(path: Path) -> int:
    """The free bytes for this user on the filesystem of an existing path."""
    with operation("measure", path):
        return shutil.disk_usage(path).free


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with operation("read", path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_all(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file, READERS at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(sha256_of, paths))


def json_bytes(value: object) -> bytes:
    """The bytes that `write_json` writes."""
    text = json.dumps(finite_or_null(value), indent=2, allow_nan=False)
    return text.encode() + b"\n"


def finite_or_null(value: object) -> Any:
    """A JSON value with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def readable(size: float) -> str:
    """A number of bytes with a unit, such as 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def staged_name(path: Path) -> Path:
    """An unpredictable name, in the same folder as `path`, for the file that will replace it."""
    return path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")


def _opened(path: Path, flags: int, mode: int = 0o666) -> FileIO:
    """Open a regular file without buffering."""
    kind: Literal["rb", "wb"] = "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "wb"
    return os.fdopen(open_regular(path, flags, mode), kind, buffering=0)


def _write(path: Path, pieces: Iterable[bytes | memoryview], size: int, mode: int = 0o666) -> None:
    staged = staged_name(path)
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    seals = _seals.get()
    digest = None if seals is None else hashlib.sha256()
    try:
        with operation("write", staged, path, size=size), _opened(staged, new, mode) as file:
            for piece in pieces:
                _write_piece(file, piece, "write", staged, digest)
        fsync_file(staged)
        replace(staged, path)
        if seals is not None and digest is not None:
            seals[path] = (size, digest.hexdigest())
    except BaseException:
        with suppress(OSError):
            staged.unlink()
        raise


def _write_piece(
    file: FileIO,
    piece: bytes | memoryview,
    name: str,
    path: Path,
    digest: "hashlib._Hash | None" = None,
) -> None:
    whole = memoryview(piece)
    half = len(whole) // 2
    _write_all(file, whole[:half], digest)
    _call_hook("during", name, path)
    _write_all(file, whole[half:], digest)


def _write_all(file: FileIO, rest: memoryview, digest: "hashlib._Hash | None") -> None:
    while rest:
        window = rest[:WINDOW]
        written = file.write(window)  # a call may write fewer bytes than it is given
        if digest is not None:
            digest.update(window[:written])
        rest = rest[written:]


def _fsync(path: Path, flags: int) -> None:
    with operation("fsync", path):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _call_hook(moment: str, name: str, *paths: Path) -> None:
    if hook is not None:
        hook(moment, name, *paths)


def _reason(name: str, path: Path, error: OSError, size: int) -> str:
    reason = f"{path}: cannot {name.replace('_', ' ')}: {error.strerror or error}"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return reason
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        needed = f"need {readable(size)}, " if size else ""
        return f"{reason} ({needed}free {readable(free)})"
    return reason
