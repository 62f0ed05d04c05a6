"""Models of transformers generate the same texts here as with their own `generate`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interop.foreign import DECODERS, params, save_foreign
from trainer.generation.decoding import Decoding, Past
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_ids import generate_ids
from trainer.interop.foreign_cache import ForeignCache, WholeTexts
from trainer.interop.padded_loading import load_padded
from trainer.interop.padded_model import PaddedModel

SMALL = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2}
PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
ROOM = {"max_new_tokens": 12}


@pytest.fixture(scope="module", params=params(DECODERS, ("opt", "bloom", "mamba")))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PaddedModel:
    folder = tmp_path_factory.mktemp("decoder") / request.param
    return spread(load_padded(save_foreign(request.param, folder, **SMALL), "causal_lm", {}))


def spread(model: PaddedModel) -> PaddedModel:
    """Larger random weights, so that texts do not repeat one token."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model


def theirs(model: PaddedModel, prompt: list[int], **options: Any) -> list[int]:
    ids = torch.tensor([prompt])
    options = {**ROOM, "do_sample": False, "pad_token_id": 0, "eos_token_id": [2, 7], **options}
    found = model.inner.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return found[0, len(prompt) :].tolist()


def test_greedy_texts_are_those_of_transformers(model: PaddedModel) -> None:
    """In one batch, from which texts are removed when they end."""
    found = generate_ids(model, PROMPTS, GenerationSettings(**ROOM), [2, 7])
    assert found == [theirs(model, prompt) for prompt in PROMPTS]
    has_states = model.config.model_type == "mamba"
    assert isinstance(model.new_cache(2), WholeTexts if has_states else ForeignCache)
    assert has_states or len({token for text in found for token in text}) > 3


def test_beams_are_those_of_transformers(model: PaddedModel) -> None:
    settings = GenerationSettings(num_beams=3, **ROOM)
    found = generate_ids(model, PROMPTS, settings, [2, 7])
    assert found == [theirs(model, prompt, num_beams=3) for prompt in PROMPTS]


def test_a_text_goes_on_from_the_cache_of_the_last(model: PaddedModel) -> None:
    """As in a chat, whose common start is not computed again."""
    past, settings = Past(), GenerationSettings(**ROOM)
    for prompt in ([5, 6, 7, 8, 9], [5, 6, 7, 30, 31, 32], [5, 6, 7, 30, 31, 32, 33], [40]):
        decoding, text = Decoding(model, {0: prompt}, settings, [2, 7], past), []
        while decoding.rows:
            text.append(decoding.step()[0])
        assert text == theirs(model, prompt)
        assert past.ids[: len(prompt)] == prompt


def test_a_model_without_a_usable_cache_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_foreign("opt", tmp_path, **SMALL)
    model = load_padded(tmp_path, "causal_lm", {})
    model._argument_names = model._argument_names - {"position_ids"} | {"past_key_values"}
    broken = model.inner.base_model.forward

    def forward(*_: Any, past_key_values: Any = None, **inputs: Any) -> Any:
        return broken(**inputs)  # empties the cache

    model.inner.base_model.forward = forward
    assert isinstance(model.new_cache(1), WholeTexts)
    assert "each new token recomputes the whole text" in caplog.text
    caplog.clear()
    save_foreign("mamba", tmp_path / "mamba", **SMALL)
    load_padded(tmp_path / "mamba", "causal_lm", {}).new_cache(1)
    assert "each new token recomputes the whole text" in caplog.text
