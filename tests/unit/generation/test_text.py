"""Texts: streamed pieces, stop texts, incomplete characters; the model is unchanged."""

import copy
import inspect
import textwrap
from dataclasses import replace

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
    with pytest.raises(InputError, match="generate: found the option 'stop', which is unknown"):
        model.generate(ids, stop=3)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_dropout_is_off_in_modules_that_were_added_in_eval_mode(model, tokenizer, options):
    other = copy.deepcopy(model).eval()
    other.added = torch.nn.Dropout()  # like an adapter's modules, which start in train mode
    settings = GenerationSettings(max_new_tokens=2, **options)
    generate(other, tokenizer, PROMPTS, settings)
    assert not any(module.training for module in other.modules())
    generate(model.train(), tokenizer, PROMPTS, settings)
    assert all(module.training for module in model.modules())


RULED = {
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
    "drawn beams": {"num_beams": 2, "temperature": 1.0, "seed": 4},
    "rules": {"no_repeat_ngram_size": 1, "min_new_tokens": 3},
    "several drawn": {"temperature": 1.0, "num_return_sequences": 3},
    "several drawn by rules": {"temperature": 1.0, "num_return_sequences": 2, "typical_p": 0.8},
}


@pytest.mark.parametrize("case", RULED)
def test_searched_texts_do_not_depend_on_the_batch(model, tokenizer, case):
    options = {"max_new_tokens": 8, **RULED[case]}
    together = generate(model, tokenizer, PROMPTS, GenerationSettings(**options))
    count = options.get("num_return_sequences", 1)
    assert len(together) == 3 * count
    small = GenerationSettings(**options, batch_size=2)
    assert generate(model, tokenizer, PROMPTS, small) == together
    last = generate(model, tokenizer, PROMPTS[2:], GenerationSettings(**options), first=2)
    assert last == together[2 * count :]
    if count > 1:
        assert together[0] != together[1]


def test_beams_find_more_probable_texts_and_end_at_stop_texts(model, tokenizer):
    beams = GenerationSettings(max_new_tokens=8, num_beams=4)
    whole = generate(model, tokenizer, PROMPTS, beams)
    assert whole != generate(model, tokenizer, PROMPTS, GenerationSettings(max_new_tokens=8))
    stop = whole[0][2:4]
    found = generate(model, tokenizer, PROMPTS, replace(beams, stop=[stop]))
    assert all(stop not in text for text in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_return_sequences": 2}, "num_return_sequences: found 2 with num_beams=1"),
        ({"num_beams": 2, "num_return_sequences": 3}, "accepted: up to 2"),
        ({"length_penalty": 2.0}, "length_penalty: found 2.0 with num_beams=1"),
        ({"num_beams": 2, "early_stopping": "soon"}, "early_stopping: found 'soon'"),
        ({"typical_p": 0.5}, "typical_p: found 0.5 with temperature=0"),
        ({"min_new_tokens": 200}, "min_new_tokens: found 200 with max_new_tokens=128"),
        ({"num_beams": 1.5}, "num_beams: found 1.5"),
    ],
)
def test_settings_that_change_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GenerationSettings(**options)
