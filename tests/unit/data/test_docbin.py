"""spaCy's DocBin files, read with the real package if it is installed."""

import gzip
import sys
from pathlib import Path

import pytest

from trainer.data.rows import Files
from trainer.errors import InputError


def test_documents_are_texts_with_spans(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spacy = pytest.importorskip("spacy")
    tokens = pytest.importorskip("spacy.tokens")
    words = spacy.blank("en")
    stored = tokens.DocBin(store_user_data=True)
    for text, found in (("Ann Lee left  Paris.", [(0, 7, "per"), (14, 19, "loc")]), ("So?", [])):
        document = words(text)
        document.ents = [document.char_span(*span) for span in found]
        stored.add(document)
    stored.to_disk(tmp_path / "a.spacy")
    rows = Files(train=str(tmp_path / "a.spacy"), validation_fraction=0).load().train
    assert rows["text"][:] == ["Ann Lee left  Paris.", "So?"]
    assert rows["spans"][0] == [
        {"start": 0, "end": 7, "label": "per"},
        {"start": 14, "end": 19, "label": "loc"},
    ]
    assert rows["spans"][1] == [] and not caplog.records
    document.cats, document.spans["sc"] = {"good": 1.0}, [document[:1]]
    tokens.DocBin(docs=[document], store_user_data=True).to_disk(tmp_path / "b.spacy")
    Files(train=str(tmp_path / "b.spacy"), validation_fraction=0).load()
    assert "not read: spans['sc'], cats" in caplog.text
    (tmp_path / "c.spacy").write_bytes(b"no such thing")
    with pytest.raises(
        InputError, match="c.spacy: is not a DocBin of this version of spaCy"
    ) as error:
        Files(train=str(tmp_path / "c.spacy")).load()
    assert "\n" not in str(error.value)


def test_compressed_documents_are_read(tmp_path: Path) -> None:
    tokens, vocab = pytest.importorskip("spacy.tokens"), pytest.importorskip("spacy.vocab")
    documents = tokens.DocBin(docs=[tokens.Doc(vocab.Vocab(), ["a", "b"])])
    (tmp_path / "a.spacy.gz").write_bytes(gzip.compress(documents.to_bytes()))
    rows = Files(train=str(tmp_path / "a.spacy.gz"), validation_fraction=0).load().train
    assert rows is not None and rows["text"][:] == ["a b "]


def test_without_the_package_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spacy.tokens", None)
    (tmp_path / "a.spacy").write_bytes(b"x")
    with pytest.raises(InputError, match=r"DocBin files need spaCy.*tempering\[spacy\]"):
        Files(train=str(tmp_path / "a.spacy")).load()
