"""Texts: pieces as they come, stop texts, half characters; the model is left as it was."""

import inspect
import textwrap

import pytest
import torch

from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.generation.text import generate, stream
from trainer.models.auto import AutoConfig, AutoModelForCausalLM
from trainer.tokenizer import Tokenizer

PROMPTS = ["def wrap(self, text):", "import", "for chunk in chunks"]


@pytest.fixture(scope="module")
def tokenizer():
    texts = inspect.getsource(textwrap).split("\n")
    return Tokenizer.train([*texts, "€ größer 日本"], vocab_size=400, kind="bpe")


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = AutoConfig(
        {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 96,
            "initializer_range": 0.5,
            "eos_token_id": None,
        }
    )
    return AutoModelForCausalLM.from_config(config).train()


SETTINGS = GenerationSettings(max_new_tokens=25, temperature=1.0, seed=1)


def test_pieces_add_up_to_the_whole(model, tokenizer):
    whole = generate(model, tokenizer, PROMPTS, SETTINGS)
    pieces = list(stream(model, tokenizer, PROMPTS, SETTINGS))
    for row, text in enumerate(whole):
        assert "".join(piece for number, piece in pieces if number == row) == text
    assert len(pieces) > 30 and len(set(whole)) == 3
    assert model.training
    ids = [tokenizer(prompt)["input_ids"][:-1] for prompt in PROMPTS]  # [SEP] would end the text
    assert generate(model, tokenizer, ids, SETTINGS) == whole


def test_a_stop_text_ends_its_row_alone(model, tokenizer):
    whole = generate(model, tokenizer, PROMPTS, SETTINGS)
    stop = whole[1][4:7]
    settings = GenerationSettings(max_new_tokens=25, temperature=1.0, seed=1, stop=[stop, "@@@@"])
    found = generate(model, tokenizer, PROMPTS, settings)
    assert found == [text.split(stop)[0] for text in whole]
    assert len(found[1]) < len(whole[1]) and max(map(len, found)) > 10


def test_prompts_that_do_not_fit_are_refused(model, tokenizer):
    for prompt, found in (([], 0), ([5] * 97, 97)):
        with pytest.raises(InputError) as caught:
            generate(model, tokenizer, [[5], prompt], SETTINGS)
        assert str(caught.value) == f"prompt 1: found {found} tokens; accepted: 1 to 96"


def test_the_hub_spelling_refuses_what_it_does_not_know(model):
    ids = torch.tensor([[5, 6]])
    assert model.generate(ids, max_new_tokens=3).shape == (1, 5)
    for option in ("max_length", "stop"):
        with pytest.raises(InputError, match=f"generate: found the option '{option}'; accepted"):
            model.generate(ids, **{option: 3})
