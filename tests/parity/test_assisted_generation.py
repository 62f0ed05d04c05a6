"""Drafting changes only the speed: greedy texts are equal, draws have the same distribution."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import trainer as ours
from tests.parity.test_familiar_generation import CONFIGS, prompts
from trainer.errors import InputError
from trainer.generation.assisted import _Text
from trainer.generation.drafts import Draft, PromptLookup


def saved(config: Any, folder: Path, seed: int, spread: float) -> Path:
    """The folder of a model whose weights are those of seed 1 plus noise of size `spread`."""
    torch.manual_seed(1)
    kind = transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        kind = transformers.AutoModelForSeq2SeqLM
    model = kind.from_config(copy.deepcopy(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    model.save_pretrained(folder)
    return folder


T5 = transformers.T5Config(
    vocab_size=99, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0
)
KINDS = {**CONFIGS, "t5": T5}


@pytest.fixture(scope="module", params=KINDS)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our model, a similar one of ours, and transformers' model with the weights of the latter."""
    folder, config = tmp_path_factory.mktemp(request.param), KINDS[request.param]
    own = saved(config, folder / "own", 2, 0.0)
    near = saved(config, folder / "near", 3, 0.04)
    many = request.param == "t5"
    mine = ours.AutoModelForSeq2SeqLM if many else ours.AutoModelForCausalLM
    theirs = transformers.AutoModelForSeq2SeqLM if many else transformers.AutoModelForCausalLM
    return (
        mine.from_pretrained(own),
        mine.from_pretrained(near),
        theirs.from_pretrained(near, dtype=torch.float32).eval(),
    )


@pytest.mark.parametrize("helper", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_assistant_tokens": 3, "num_assistant_tokens_schedule": "heuristic"},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
        {"assistant_confidence_threshold": 0.0, "num_assistant_tokens": 5},
    ],
)
def test_greedy_texts_are_those_without_drafts(
    models: Any, helper: int, settings: dict[str, Any]
) -> None:
    ids, mask = prompts()
    rules = {name: value for name, value in settings.items() if "assistant" not in name}
    expected = models[0].generate(ids, mask, max_new_tokens=14, **rules)
    found = models[0].generate(
        ids, mask, max_new_tokens=14, assistant_model=models[helper], **settings
    )
    assert torch.equal(found, expected)


ROWWISE: dict[str, dict[str, Any]] = {
    "guidance_scale": {"guidance_scale": 1.7},
    "negative_prompt_ids": {
        "guidance_scale": 1.7,
        "negative_prompt_ids": torch.tensor([[5, 6, 7], [9, 8, 4], [3, 3, 9]]),
        "negative_prompt_attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1], [1, 1, 1]]),
    },
    "prefix_allowed_tokens_fn": {
        "prefix_allowed_tokens_fn": lambda row, ids: [10 + row, 20 + row, 30 + len(ids) % 5]
    },
}
"""Settings whose effect depends on the row, or on the tokens that were generated before."""


@pytest.mark.parametrize("drafts", ["assistant_model", "prompt_lookup_num_tokens"])
@pytest.mark.parametrize("name", ROWWISE)
def test_rules_of_single_rows_hold_with_drafts(models: Any, name: str, drafts: str) -> None:
    if models[0].task == "seq2seq_lm" and "guidance_scale" in ROWWISE[name]:
        with pytest.raises(InputError, match=r"^guidance_scale: found 1.7; accepted: 1 for an enc"):
            models[0].generate(*prompts(), **ROWWISE[name])
        return
    drafting = {drafts: models[1] if drafts == "assistant_model" else 3}
    expected = models[0].generate(*prompts(), max_new_tokens=12, **ROWWISE[name])
    found = models[0].generate(*prompts(), max_new_tokens=12, **ROWWISE[name], **drafting)
    assert torch.equal(found, expected)


def test_drafts_from_the_prompt_change_no_text(models: Any) -> None:
    ids, mask = prompts()
    ids = torch.cat((ids, ids[:, -4:]), 1)
    mask = torch.cat((mask, mask[:, -4:]), 1)
    expected = models[0].generate(ids, mask, max_new_tokens=20)
    found = models[0].generate(
        ids, mask, max_new_tokens=20, prompt_lookup_num_tokens=4, max_matching_ngram_size=3
    )
    assert torch.equal(found, expected)
    drawn = {"do_sample": True, "max_new_tokens": 6, "seed": 3, "num_return_sequences": 2}
    texts = models[0].generate(ids, mask, prompt_lookup_num_tokens=2, **drawn)
    assert len(texts) == 6 and not torch.equal(texts[0], texts[1])


def test_what_is_returned_is_that_without_drafts(models: Any) -> None:
    ids = prompts()[0][1:2]
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    wanted |= {"output_hidden_states": True, "max_new_tokens": 9}
    expected = models[0].generate(ids, **wanted)
    found = models[0].generate(ids, assistant_model=models[1], **wanted)
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("scores", "logits"):
        mine, other = torch.stack(found[name]), torch.stack(expected[name])
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    assert found.keys() == expected.keys()


def test_fewer_calls_are_made(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accepted draft is checked in one call, so there are fewer calls than new tokens."""
    calls = 0
    forward = type(models[0]).respond

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += self is models[0]
        return forward(self, *arguments, **named)

    monkeypatch.setattr(type(models[0]), "respond", counted)
    ids = prompts()[0][1:2]
    options = {"max_new_tokens": 16, "assistant_confidence_threshold": 0.0}
    found = models[0].generate(ids, assistant_model=copy.deepcopy(models[0]), **options)
    written = found.shape[1] - (1 if models[0].task == "seq2seq_lm" else 8)
    assert calls < written or written == 1


def test_drawn_tokens_have_the_models_shares() -> None:
    """The first and the second token have them, whatever distribution the draft came from."""
    torch.manual_seed(0)
    model, helper = torch.randn(3, 6).mul(1.5), torch.randn(2, 6).double().mul(1.5).softmax(-1)
    count, first, second = 6000, torch.zeros(6), torch.zeros(6)
    text = _Text.__new__(_Text)
    text.generator = torch.Generator().manual_seed(1)
    text.plan = type("Plan", (), {"settings": type("Settings", (), {"do_sample": True})})()
    for _ in range(count):
        tokens = text._accepted(Draft(torch.multinomial(helper, 1).flatten(), helper), model)
        first[tokens[0]] += 1
        if len(tokens) > 1:
            second[tokens[1]] += 1
    shares = model.softmax(-1)
    assert float((first / count - shares[0]).abs().sum()) / 2 < 0.03
    assert float((second / second.sum() - shares[1]).abs().sum()) / 2 < 0.04


def test_the_longest_match_is_continued() -> None:
    def drafted(text: list[int], room: int = 9) -> list[int]:
        ids = torch.tensor([text])
        return PromptLookup(3, 2, [99]).draft(ids, torch.ones_like(ids) != 0, room).tokens.tolist()

    assert drafted([1, 2, 7, 2, 5, 6, 1, 2]) == [7, 2, 5]
    assert drafted([3, 2, 7, 2, 5, 6, 1, 2], 1) == [7]
    assert drafted([1, 2, 3]) == []
    assert drafted([1, 2, 99, 4, 1, 2]) == []
    assert drafted([5, 5, 5]) == [5]


def test_another_vocabulary_is_refused(models: Any) -> None:
    other = copy.deepcopy(models[1])
    other.config.vocab_size = 98
    with pytest.raises(InputError, match=r"^assistant_model: found a vocabulary of 98"):
        models[0].generate(prompts()[0], assistant_model=other)


def test_scores_are_kept_only_if_they_are_requested(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large vocabulary's scores of all tokens of all texts would fill the memory."""
    grown: list[_Text] = []
    grow = _Text.grow
    monkeypatch.setattr(_Text, "grow", lambda text: grown.append(grow(text)) or grown[-1])
    models[0].generate(*prompts(), max_new_tokens=3, prompt_lookup_num_tokens=2)
    assert len(grown) == 3 and not any(text.steps or text.raw for text in grown)


def test_a_streamer_gets_accepted_tokens(models: Any) -> None:
    class Kept:
        ids: list[int] = []  # noqa: RUF012

        def put(self, ids: Tensor) -> None:
            self.ids += ids.flatten().tolist()

        def end(self) -> None: ...

    found = models[0].generate(
        prompts()[0][1:2], max_new_tokens=5, assistant_model=models[1], streamer=Kept()
    )
    assert Kept.ids == found[0].tolist()
    Kept.ids.clear()
    with pytest.raises(InputError, match="^streamer: found 3 texts; accepted: one"):
        models[0].generate(*prompts(), assistant_model=models[1], streamer=Kept())
    assert not Kept.ids
