"""Files of others: inside of their folder, regular, and small enough to be read whole."""

import stat
from collections.abc import Iterable
from pathlib import Path

from trainer.errors import InputError

MAX_TEXT = 256 << 20
"""Bytes of a JSON or text file of a model: no vocabulary in use is half as large."""
TEXTS = (".json", ".txt", ".model", ".jinja")


def check_files(files: Iterable[Path], folder: Path, where: str) -> None:
    """Refuse files of a folder that are links out of it, or no regular files.

    A snapshot in the hub's cache is a folder of links into the blobs of its own repository; those
    may leave it. Raises InputError that begins with `where`.
    """
    allowed = [folder.resolve()]
    if folder.absolute().parent.name == "snapshots":
        allowed.append((folder.absolute().parent.parent / "blobs").resolve())
    for file in files:
        real = file.resolve()
        if not any(real.is_relative_to(place) for place in allowed):
            raise InputError(
                f"{where}: {file} is a link to {real}, outside of {folder}; accepted: files in "
                "the folder, or the path of that file itself"
            )
        check_regular(file, where)


def check_regular(file: Path, where: str) -> None:
    """Refuse pipes, sockets and devices, which would be waited for. Raises InputError."""
    try:
        kind = file.stat().st_mode
    except OSError as error:
        raise InputError(f"{where}: {file}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(kind):
        raise InputError(f"{where}: {file} is no regular file; accepted: a file")


def check_model_folder(folder: Path, where: str) -> None:
    """Refuse a model's folder with links out of it, pipes, or texts too large to be any.

    Raises InputError that begins with `where`.
    """
    listed = [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]
    files = [file for file in listed if not file.is_dir() or file.is_symlink()]
    check_files((file for file in files if not file.is_dir()), folder, where)
    for file in files:
        if file.suffix in TEXTS and (size := file.stat().st_size) > MAX_TEXT:
            accepted = f"accepted: at most {MAX_TEXT:,}"
            raise InputError(f"{where}: {file}: found {size:,} bytes; {accepted}")
