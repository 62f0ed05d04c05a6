"""DocBin files: spaCy's annotated documents as rows of a text and its entities."""

import logging
from pathlib import Path
from typing import Any

from trainer.data.column_types import Content
from trainer.data.compressed import bytes_of
from trainer.data.read_options import ReadOptions
from trainer.errors import InputError

log = logging.getLogger("trainer")


def read_docbin(path: Path, place: str, reading: ReadOptions) -> Content:
    """One row for each document: `text`, and `spans` as {start, end, label} in characters.

    The spans are the document's entities. Needs the package spacy; no language pipeline is loaded
    and nothing is unpickled. Raises InputError for other files, and if the package is missing.
    """
    import pyarrow as pa

    documents = _documents(path, place)
    _warn_of_unread(documents, place)
    texts = [document.text for document in documents]
    spans = [
        [{"start": e.start_char, "end": e.end_char, "label": e.label_} for e in document.ents]
        for document in documents
    ]
    kind = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())]))
    columns = {
        "text": pa.chunked_array([texts], pa.string()),
        "spans": pa.chunked_array([spans], kind),
    }
    return Content("stored", columns, len(documents))


def _documents(path: Path, place: str) -> list[Any]:
    try:
        from spacy.tokens import DocBin
        from spacy.vocab import Vocab
    except ImportError as error:
        raise InputError(
            f"{place}: DocBin files need spaCy ({error}); accepted: pip install 'tempering[spacy]'"
        ) from None
    content = bytes_of(path, place)
    try:
        return list(DocBin().from_bytes(content).get_docs(Vocab()))
    except Exception as error:  # exceptions of zlib, msgpack and spaCy share no base class
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"{place}: is not a DocBin of this version of spaCy ({found:.100})"
        ) from None


def _warn_of_unread(documents: list[Any], place: str) -> None:
    groups = sorted({name for document in documents for name in document.spans})
    classes = ["cats"] * any(document.cats for document in documents)
    if unread := [*(f"spans['{name}']" for name in groups), *classes]:
        log.warning("%s: rows have the entities of each document; not read: %s", place,
                    ", ".join(unread))  # fmt: skip
