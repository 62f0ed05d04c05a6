"""Stop conditions: stop strings of any characters end a text at the token that completes them."""

import pytest
import torch

from trainer.generation.stopping import at_strings
from trainer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A byte-level tokenizer: characters that it has not seen are several tokens."""
    return Tokenizer.train(["a small text of ASCII only"] * 3, vocab_size=280, kind="gpt2")


@pytest.mark.parametrize("string", ["x", "。", "🙂", "x。", "。x", "日本" * 9])
@pytest.mark.parametrize("before", ["", "a", "日", "\ufffda"])
def test_a_stop_string_ends_a_text_at_its_last_token(
    tokenizer: Tokenizer, string: str, before: str
) -> None:
    stop = at_strings([string], tokenizer)
    ids = tokenizer(f"{before}{string} and {string}", add_special_tokens=False)["input_ids"]
    ended = [bool(stop(torch.tensor([ids[:n]]), None)) for n in range(1, len(ids) + 1)]
    first = len(tokenizer(f"{before}{string}", add_special_tokens=False)["input_ids"])
    assert [n for n, end in enumerate(ended, 1) if end] == [first, len(ids)]
