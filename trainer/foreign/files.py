"""Foreign files: checks that files are inside their folder, regular, and not too large."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from trainer.errors import InputError

MAX_TEXT = 256 << 20
"""The maximum size in bytes of a model's JSON or text file, more than twice that of any known
vocabulary."""
TEXTS = (".json", ".txt", ".model", ".jinja")


def check_files(files: Iterable[Path], folder: Path, where: str) -> None:
    """Refuse files of a folder that are links to files outside it, or not regular files.

    A snapshot in the hub's cache is a folder of links to the blobs of its own repository; those
    links are accepted, also if `folder` is inside the snapshot. Raises InputError with a message
    that begins with `where`.
    """
    allowed = [folder.resolve()]
    snapshots = (above for above in folder.absolute().parents if above.name == "snapshots")
    allowed += [(each.parent / "blobs").resolve() for each in snapshots]
    for file in files:
        real = Path(os.path.realpath(file))  # `resolve` raises RuntimeError for links in a circle
        if not any(real.is_relative_to(place) for place in allowed):
            raise InputError(
                f"{where}: {file} is a link to {real}, outside of {folder}; accepted: files in "
                "the folder, or the path of that file itself"
            )
        check_regular(file, where)


def check_regular(file: Path, where: str) -> None:
    """Refuse pipes, sockets and devices, because reading them may block. Raises InputError."""
    try:
        kind = file.stat().st_mode
    except OSError as error:
        raise InputError(f"{where}: {file}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(kind):
        raise InputError(f"{where}: {file} is not a regular file; accepted: a file")


def check_adapters(folder: Path, path: str, where: str) -> None:
    """Refuse a folder that has no model but only subfolders with adapters, as PEFT writes them.

    Raises InputError with a message that begins with `where` and lists the adapters.
    """
    if not folder.is_dir() or any((folder / f"{n}config.json").exists() for n in ("", "adapter_")):
        return
    names = sorted(file.parent.name for file in folder.glob("*/adapter_config.json"))
    if names:
        found = f"found {path}, which holds the adapters {', '.join(names)[:200]}"
        raise InputError(f"{where}: {found}; accepted: one of them, such as {path}/{names[0]}")


def check_model_folder(folder: Path, where: str) -> None:
    """Refuse a model's folder that contains links to other places, pipes, or huge text files.

    Raises InputError with a message that begins with `where`.
    """
    listed = [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]
    files = [file for file in listed if not file.is_dir() or file.is_symlink()]
    check_files((file for file in files if not file.is_dir()), folder, where)
    for file in files:
        if file.suffix in TEXTS and (size := file.stat().st_size) > MAX_TEXT:
            accepted = f"accepted: at most {MAX_TEXT:,}"
            raise InputError(f"{where}: {file}: found {size:,} bytes; {accepted}")
