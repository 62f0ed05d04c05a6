"""SentencePiece models (Kudo and Richardson, 2018): reads model files without the library.

The file is one protocol buffer message, with the fields of sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import InputError

LARGEST = 1 << 27
"""The maximum size of a file in bytes."""
UNIGRAM, KINDS = 1, {1: "Unigram", 2: "BPE", 3: "word", 4: "char"}
"""The values of the field trainer_spec.model_type."""
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
"""Values of the field pieces.type."""


@dataclass(frozen=True)
class Piece:
    """A piece of the vocabulary."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


@dataclass(frozen=True)
class SentencePieceModel:
    """The contents of the file that are needed to tokenize texts."""

    pieces: list[Piece]
    kind: str
    """One of the values in KINDS."""
    unk_id: int
    charsmap: bytes
    """The compiled rules that normalize texts; empty if texts are not normalized."""


def read_sentencepiece(file: Path) -> SentencePieceModel:
    """The model in a file. Raises InputError for a file that is not a SentencePiece model."""
    size = file.stat().st_size
    if not 0 < size <= LARGEST:
        raise InputError(f"{file}: found {size:,} bytes; accepted: 1 to {LARGEST:,}")
    try:
        return _model(file.read_bytes())
    except (ValueError, IndexError, struct.error) as error:
        raise InputError(f"{file}: is not a SentencePiece model ({error})") from None


def _model(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    kind, unk_id, charsmap = UNIGRAM, 0, b""
    for number, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        match number:
            case 1:
                pieces.append(_piece(value))
            case 2:  # trainer_spec
                settings = {n: v for n, v in _fields(value) if isinstance(v, int)}
                kind, unk_id = settings.get(3, kind), settings.get(40, unk_id)
            case 3:  # normalizer_spec
                found = {n: v for n, v in _fields(value) if isinstance(v, bytes)}
                charsmap = found.get(2, charsmap)
    if not pieces or kind not in KINDS or not 0 <= unk_id < len(pieces):
        raise ValueError(f"{len(pieces)} pieces, kind {kind}, unknown piece {unk_id}")
    return SentencePieceModel(pieces, KINDS[kind], unk_id, charsmap)


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    text, score, kind = fields.get(1, b""), fields.get(2, 0.0), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, float) or not isinstance(kind, int):
        raise ValueError("a piece without text, score and type")
    return Piece(text.decode("utf-8"), score, kind)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int | float]]:
    """Yield (number, value) of each field of a message; values are integers, floats or bytes."""
    offset = 0
    while offset < len(data):
        tag, offset = _varint(data, offset)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, offset = _varint(data, offset)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            length, offset = _varint(data, offset)
        if length is None or length > len(data) - offset:
            raise ValueError(f"field {number} at byte {offset}")
        part = data[offset : offset + length]
        offset += length
        yield number, struct.unpack("<f", part)[0] if wire == 5 else part


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """The integer at `offset`, and the offset after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise ValueError(f"an integer of more than 10 bytes at byte {offset}")
