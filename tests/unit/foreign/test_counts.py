"""Counts: integers of numpy and torch are numbers wherever Python code passes a count."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.text_runs import BERT, wordpiece
from trainer.errors import InputError
from trainer.foreign.counts import checked_count
from trainer.generation.settings import GenerationSettings
from trainer.models.auto import AutoConfig, AutoModelForMaskedLM

ALIKE: list[Any] = [4, np.int64(4), np.array(4), torch.tensor(4)]


@pytest.mark.parametrize("four", ALIKE, ids=repr)
def test_counts_may_be_those_of_numpy_and_torch(four: Any) -> None:
    assert type(checked_count("top_k", four)) is int
    settings = GenerationSettings(max_new_tokens=four, top_k=four, temperature=1.0)
    assert type(settings.max_new_tokens) is type(settings.top_k) is int
    lengths: dict[str, Any] = {"max_length": four, "stride": four - 3, "pad_to_multiple_of": four}
    for padding in (False, "max_length"):
        found = wordpiece()(["two and two"], truncation=True, padding=padding, **lengths)
        assert len(found["input_ids"][0]) == 4


def test_a_vocabulary_may_be_resized_to_a_number_of_numpy() -> None:
    size = len(wordpiece())
    model = AutoModelForMaskedLM.from_config(AutoConfig({**BERT, "vocab_size": size}))
    model.resize_token_embeddings(np.int64(size + 3))  # type: ignore[arg-type]
    assert json.dumps(model.config.vocab_size) == str(size + 3)


@pytest.mark.parametrize("wrong", [True, np.True_, 4.0, "4", None, 0, -1, np.int64(0), [4]])
def test_other_values_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="^top_k: found .*; accepted: 1 or more$"):
        checked_count("top_k", wrong)
