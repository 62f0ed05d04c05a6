"""Compressed files: the bytes of a data file, whatever it is compressed with."""

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any

from trainer.errors import InputError

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Endings that may follow the ending of any format."""

EXPANSION, FLOOR = 1000, 1 << 30
"""What a file may unpack to: so many times its size, and bytes that any may."""


def ending_of(path: Path) -> str:
    """The ending that tells a file's format, in small letters: .csv of rows.csv.gz."""
    inner = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    return inner.suffix.lower()


def stem_of(path: Path) -> str:
    """A file's name without the endings of format and compression."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem


def bytes_of(path: Path, place: str) -> bytes:
    """What the file holds, decompressed. Raises InputError for one damaged or far too large."""
    kind = path.suffix.lower()
    if kind not in COMPRESSIONS:
        return path.read_bytes()
    if not path.stat().st_size:  # which some of the readers take for nothing, compressed
        raise InputError(f"{place}: not a whole {kind} file (no bytes)")
    limit = max(FLOOR, EXPANSION * path.stat().st_size)
    try:
        with _opened(path, kind) as file:
            data = file.read(limit + 1)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{place}: not a whole {kind} file ({found})") from None
    if len(data) > limit:
        raise InputError(
            f"{place}: holds more than {limit:,} bytes; accepted: files that unpack to less"
        )
    return data


def _opened(path: Path, kind: str) -> Any:
    import pyarrow as pa

    if kind == ".zst":
        return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    if kind == ".gz":
        return gzip.open(path)
    return bz2.open(path) if kind == ".bz2" else lzma.open(path)
