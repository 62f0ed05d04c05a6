"""The disk: the only place that writes, fsyncs, renames and removes, where tests inject faults."""

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import EnvironmentFault

if TYPE_CHECKING:
    from torch import Tensor

hook: Callable[..., None] | None = None
"""Tests set it to `hook(moment, operation, *paths)`; it may raise an OSError or end the process.

The moment is "before", "during" (half of a piece of a file is written) or "after".
"""

READERS = 4
"""Files that are hashed at a time: it takes longer than writing them."""
WINDOW = 1 << 22
"""Bytes that are hashed and written at a time."""

Seals = dict[Path, tuple[int, str]]
"""Path -> (bytes, sha256) of a file."""
_seals: ContextVar[Seals | None] = ContextVar("seals", default=None)
_deferred: ContextVar["Deferred | None"] = ContextVar("deferred", default=None)


class Deferred:
    """Files that are still to be written, their contents held in host memory."""

    def __init__(self) -> None:
        self._writes: list[Callable[[], None]] = []

    def write(self) -> None:
        """Write them, in order; each lets go of its memory."""
        while self._writes:
            self._writes.pop(0)()

    def __bool__(self) -> bool:
        return bool(self._writes)

    def _add(self, write: Callable[[], None]) -> None:
        self._writes.append(write)


@contextmanager
def deferred() -> Iterator[Deferred]:
    """Within it this thread's files are not written but kept; tensors are copied.

    Folders are made at once. The copies of a GPU's tensors may still be under way when it ends.
    """
    kept = Deferred()
    token = _deferred.set(kept)
    try:
        yield kept
    finally:
        _deferred.reset(token)


@contextmanager
def sealing() -> Iterator[Seals]:
    """Within it this thread's files are hashed as they are written: gives their seals.

    Tensors that are not finite are refused with NumericsError.
    """
    seals: Seals = {}
    token = _seals.set(seals)
    try:
        yield seals
    finally:
        _seals.reset(token)


@contextmanager
def operation(name: str, *paths: Path, size: int = 0) -> Iterator[None]:
    """Tell the hook of an operation; its OSErrors become one line with the path and the reason."""
    try:
        _tell("before", name, *paths)
        yield
        _tell("after", name, *paths)
    except OSError as error:
        raise EnvironmentFault(_reason(name, paths[-1], error, size)) from error


def write_bytes(path: Path, data: bytes, private: bool = False) -> None:
    """Make or replace a file; a reader or a crash finds the old content or the new, never half.

    A `private` one is readable for the user alone.
    """
    if (kept := _deferred.get()) is not None:
        kept._add(partial(write_bytes, path, data, private))
        return
    _write(path, [data], len(data), 0o600 if private else 0o666)


def write_text(path: Path, text: str, private: bool = False) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode(), private)


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """As `write_bytes`, of pieces that are made while they are written."""
    _write(path, pieces, 0)


def write_through(path: Path, pieces: Iterable[bytes], descriptor: int | None = None) -> None:
    """Write to a pipe or a device, or to an open descriptor, which stays what it is.

    Each piece is written as it comes. Raises BrokenPipeError where nobody reads any more.
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


def write_json(path: Path, value: Any) -> None:
    """As `write_bytes`: strict JSON (what is not finite becomes null), keys in the order given."""
    write_bytes(path, json_bytes(value))


def write_tensors(
    path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None
) -> None:
    """As `write_bytes`: a safetensors file, streamed one tensor at a time from any device."""
    from trainer.checkpoint.tensors import all_finite, host_copies, pieces

    if (kept := _deferred.get()) is not None:
        copies, made = host_copies(tensors)
        kept._add(made)
        kept._add(partial(write_tensors, path, copies, metadata))
        return
    if _seals.get() is not None:
        all_finite(path.name, tensors)
    size, stream = pieces(tensors, metadata or {})
    _write(path, stream, size)


def append_line(path: Path, line: str) -> None:
    """Add one line at the end of a file, which is made where absent."""
    data = line.encode() + b"\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with operation("append", path, size=len(data)), _opened(path, flags) as file:
        _write_piece(file, data, "append", path)


def truncate(path: Path, size: int) -> None:
    """Cut a file to its first `size` bytes; it is made where absent."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with operation("truncate", path), _opened(path, flags) as file:
        file.truncate(size)


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises FileNotFoundError where there is none.

    As everything that is opened in a run's folder, it is not followed where it is a link, and not
    waited for where it is a pipe: those are an EnvironmentFault.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with operation("read", path), _opened(path, os.O_RDONLY) as file:
        return file.read()


def open_regular(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of a regular file; a link is not followed, a pipe or device not waited for.

    Raises OSError.
    """
    safe = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | safe, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            reason = "it is a symbolic link, which is not followed"
            raise OSError(errno.ELOOP, reason, str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return descriptor


def make_folder(
    path: Path, private: bool = False, fresh: bool = False, synced: bool = False
) -> None:
    """Make a folder and the ones above it; an existing one is left as it is.

    A `private` one is the user's alone. A `fresh` one must not exist. The name of a `synced` one,
    and those of the new ones above it, would survive a power failure.
    """
    if path.is_dir() and not fresh:
        return
    missing = [each for each in (path, *path.parents) if not each.exists()]
    with operation("make_folder", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700 if private else 0o777, exist_ok=not fresh)
    for each in missing if synced else ():
        fsync_folder(each.parent)


def fsync_file(path: Path) -> None:
    """Return when the content of a file would survive a power failure."""
    _fsync(path, os.O_RDONLY)


def fsync_folder(path: Path) -> None:
    """Return when the names in a folder would survive a power failure."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder a name that nothing has."""
    with operation("rename", source, target):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        os.rename(source, target)


def replace(source: Path, target: Path) -> None:
    """Give a file a name that another may have; that one is gone."""
    with operation("replace", source, target):
        os.replace(source, target)


def remove_file(path: Path) -> None:
    """Remove a file or a symbolic link."""
    with operation("remove_file", path):
        path.unlink()


def remove_folder(path: Path) -> None:
    """Remove a folder: first its name, so that no half of it is ever seen, then what it holds.

    A file or a link (never what it points to) is removed as such.
    """
    if path.is_symlink() or not path.is_dir():
        remove_file(path)
        return
    doomed = path
    if not path.name.startswith(".del-"):
        doomed = unused(path.with_name(f".del-{path.name}"))
        rename(path, doomed)
        fsync_folder(path.parent)  # else a power failure may bring the name back, half empty
    for folder, folders, names in os.walk(doomed, topdown=False):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in names + links:
            remove_file(Path(folder, name))
        with operation("remove_folder", Path(folder)):
            os.rmdir(folder)


def unused(path: Path) -> Path:
    """`path`, or where something has that name `path-2`, `path-3`, ..."""
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the filesystem of an existing path."""
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


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    text = json.dumps(finite_or_null(value), indent=2, allow_nan=False)
    return text.encode() + b"\n"


def finite_or_null(value: Any) -> Any:
    """A JSON value with None in place of the numbers that JSON does not have (NaN, infinities)."""
    if isinstance(value, Mapping):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def readable(size: float) -> str:
    """A number of bytes for people: 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def staged_name(path: Path) -> Path:
    """Beside a file, the name of what is to replace it, which nobody can have taken before us."""
    return path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")


def _opened(path: Path, flags: int, mode: int = 0o666) -> Any:
    """A regular file, unbuffered."""
    kind = "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "wb"
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
    file: Any, piece: bytes | memoryview, name: str, path: Path, digest: Any = None
) -> None:
    whole = memoryview(piece)
    half = len(whole) // 2
    _write_all(file, whole[:half], digest)
    _tell("during", name, path)
    _write_all(file, whole[half:], digest)


def _write_all(file: Any, rest: memoryview, digest: Any) -> None:
    while rest:
        window = rest[:WINDOW]
        written = file.write(window)  # one call may write less than it is given
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


def _tell(moment: str, name: str, *paths: Path) -> None:
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
