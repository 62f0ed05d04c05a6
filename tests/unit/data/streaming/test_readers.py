"""Headers of tars: the fast way to read them finds what `tarfile` finds."""

import random
import tarfile

import pytest

from trainer.data.streaming import readers
from trainer.data.streaming.readers import WholeHeader


def headers() -> list[tuple[bytes, str]]:
    """Headers in all formats, of files, folders and links, with short, long and foreign names."""
    draw, found = random.Random(0), []
    for number in range(300):
        letters = draw.choices("aé/._-日", k=draw.choice([1, 8, 99, 100, 101, 160, 255]))
        info = tarfile.TarInfo(f"x{number}{''.join(letters)}"[: draw.choice([100, 300])])
        info.size = draw.choice([0, 1, 511, 8**11 - 1, 8**11, draw.randrange(10**6)])
        info.type = draw.choice([tarfile.REGTYPE] * 3 + [tarfile.AREGTYPE, tarfile.DIRTYPE])
        info.mtime, info.uname = draw.randrange(2**31), draw.choice(["", "root", "é"])
        kind = draw.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
        encoding = draw.choice(["utf-8", "latin-1"])
        try:
            content = info.tobuf(kind, encoding, "replace")
        except ValueError:  # this format cannot hold the name or the size
            continue
        found += [(content[at : at + 512], encoding) for at in range(0, len(content), 512)]
    return found


def test_headers_are_read_as_tarfile_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = 0
    for buf, encoding in headers():
        for changed in (buf, buf[:50] + b"\x80" + buf[51:], buf[:200]):
            plain += readers._plain_header(changed) is not None
            try:
                theirs = tarfile.TarInfo.frombuf(changed, encoding, "surrogateescape")
            except tarfile.HeaderError:
                with pytest.raises((tarfile.ReadError, tarfile.HeaderError)):
                    WholeHeader.frombuf(changed, encoding, "surrogateescape")
                continue
            ours = WholeHeader.frombuf(changed, encoding, "surrogateescape")
            assert (ours.name, ours.size, ours.type) == (theirs.name, theirs.size, theirs.type)
    assert plain > 50
