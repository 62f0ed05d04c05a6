"""Compressed files: reads and decompresses a data file."""

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any

from trainer.errors import InputError

SYNONYMS = {".ndjson": ".jsonl"}
"""Endings that mean the same format as another one."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""File endings that may follow the ending of any format, as in rows.csv.gz."""

EXPANSION, FLOOR = 1000, 1 << 30
"""A file may decompress to EXPANSION times its size, or to FLOOR bytes if that is more."""


def ending_of(path: Path) -> str:
    """The file ending of the format, in lower case: .csv for rows.csv.gz, .jsonl for a.ndjson."""
    inner = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    ending = inner.suffix.lower()
    return SYNONYMS.get(ending, ending)


def stem_of(path: Path) -> str:
    """The name of a file without the endings of its format and compression."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem


def bytes_of(path: Path, place: str) -> bytes:
    """The decompressed content. Raises InputError for a damaged file and for too much content."""
    kind = path.suffix.lower()
    if kind not in COMPRESSIONS:
        return path.read_bytes()
    if not path.stat().st_size:  # some decompressors accept an empty file
        raise InputError(f"{place}: not a whole {kind} file (no bytes)")
    limit = max(FLOOR, EXPANSION * path.stat().st_size)
    try:
        with _opened(path, kind) as file:
            data: bytes = file.read(limit + 1)
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
