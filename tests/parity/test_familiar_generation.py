"""`generate` with transformers' settings returns the same tokens as transformers."""

import copy
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import trainer as ours
from trainer.errors import InputError
from trainer.generation.hub_settings import HubSettings
from trainer.generation.logit_rules import (
    epsilon_cutoff,
    eta_cutoff,
    min_p,
    top_h,
    top_k,
    top_p,
    typical_p,
)
from trainer.generation.setting_checks import plain_value

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "vocab_size": 99,
    "max_position_embeddings": 64,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    "gpt2": transformers.GPT2Config(
        n_embd=32,
        n_layer=2,
        n_head=4,
        vocab_size=99,
        n_positions=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers' model and ours with equal weights, large enough to reveal differences."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[request.param]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.save_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return theirs.eval(), ours.AutoModelForCausalLM.from_pretrained(folder)


def prompts() -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    ids, mask = torch.randint(3, 99, (3, 8)), torch.ones(3, 8, dtype=torch.int64)
    mask[0, :3] = 0
    mask[2, :5] = 0
    return ids * mask, mask


def both(pair: Any, **settings: Any) -> tuple[Any, Any]:
    ids, mask = prompts()
    settings = {"max_new_tokens": 12, "do_sample": False, **settings}
    expected = pair[0].generate(input_ids=ids, attention_mask=mask, **copy.deepcopy(settings))
    return pair[1].generate(input_ids=ids, attention_mask=mask, **settings), expected


def ends(pair: Any) -> list[int]:
    """Tokens that the greedy texts contain, so that texts end at different places."""
    ids, mask = prompts()
    found = pair[0].generate(input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    return [int(found[0, 11]), int(found[1, 13])]


class Prefer:
    """A logits processor of the user's."""

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return scores + (torch.arange(scores.shape[1]) % 7 == ids.shape[1] % 7) * 3.0


class AfterFive(transformers.StoppingCriteria):
    """A stopping criterion of the user's."""

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return ids[:, -1] % 5 == 0


GREEDY: dict[str, dict[str, Any]] = {
    "max_length": {"max_new_tokens": None, "max_length": 15},
    "repetition_penalty": {"repetition_penalty": 1.8, "no_repeat_ngram_size": 5},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "no_repeat_ngram_size of one": {"no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[5], [7, 9], [50], [3, 4, 5]]},
    "suppress_tokens": {"suppress_tokens": [3, 50, 60], "begin_suppress_tokens": [70, 10]},
    "sequence_bias": {"sequence_bias": [[[5], -10.0], [[60], 4.0], [[60, 60], -9.0]]},
    "forced_eos_token_id": {"forced_eos_token_id": 2},
    "renormalize_logits": {"renormalize_logits": True, "remove_invalid_values": True},
    "prefix_allowed_tokens_fn": {
        "prefix_allowed_tokens_fn": lambda row, ids: [10 + row, 20 + len(ids) % 5, 30, 40]
    },
    "logits_processor": {"logits_processor": transformers.LogitsProcessorList([Prefer()])},
    "stopping_criteria": {"stopping_criteria": transformers.StoppingCriteriaList([AfterFive()])},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.6},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "guidance_scale": {"guidance_scale": 1.7},
    "negative_prompt_ids": {
        "guidance_scale": 2.5,
        "negative_prompt_ids": torch.tensor([[5, 6, 7], [4, 8, 9], [3, 2, 10]]),
        "negative_prompt_attention_mask": torch.ones(3, 3),
    },
    "watermarking_config": {
        "watermarking_config": transformers.WatermarkingConfig(bias=3.0, context_width=2)
    },
    "an idle list": {"logits_processor": [], "stopping_criteria": [], "streamer": None},
    "generation_config": {
        "generation_config": transformers.GenerationConfig(max_new_tokens=5, no_repeat_ngram_size=1)
    },
}
ENDING: dict[str, dict[str, Any]] = {
    "eos_token_id": {},
    "eos_token_id and pad_token_id": {"pad_token_id": 7},
    "min_new_tokens": {"min_new_tokens": 6},
    "min_length": {"min_length": 13},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (2, 1.5)},
}
BEAMS: dict[str, dict[str, Any]] = {
    "two": {"num_beams": 2},
    "five, all returned": {"num_beams": 5, "num_return_sequences": 5},
    "early stopping": {"num_beams": 3, "early_stopping": True},
    "never stopped early": {"num_beams": 3, "early_stopping": "never", "num_return_sequences": 2},
    "long texts": {"num_beams": 4, "length_penalty": 2.0},
    "short texts": {"num_beams": 4, "length_penalty": -1.0, "early_stopping": True},
    "with rules": {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.5},
    "with least lengths": {"num_beams": 3, "min_new_tokens": 7},
    "with criteria": {"num_beams": 3, "stopping_criteria": [AfterFive()]},
}


@pytest.mark.parametrize("case", GREEDY)
def test_greedy_texts_are_the_same(pair: Any, case: str) -> None:
    found, expected = both(pair, **GREEDY[case])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("case", ENDING)
def test_texts_end_at_the_same_tokens(pair: Any, case: str) -> None:
    found, expected = both(pair, eos_token_id=ends(pair), **ENDING[case])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("with_ends", [False, True])
@pytest.mark.parametrize("case", BEAMS)
def test_beams_are_the_same(pair: Any, case: str, with_ends: bool) -> None:
    settings = {**BEAMS[case], **({"eos_token_id": ends(pair)} if with_ends else {})}
    options = {"return_dict_in_generate": True, "output_scores": True}
    ids, mask = prompts()
    # their search pads with the end token if the pad token is 0
    settings |= {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 98}
    expected = pair[0].generate(input_ids=ids, attention_mask=mask, **settings, **options)
    found = pair[1].generate(ids, mask, **settings, **options)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(found.beam_indices, expected.beam_indices)
    torch.testing.assert_close(
        found.sequences_scores, expected.sequences_scores, rtol=1e-4, atol=1e-4
    )
    assert len(found.scores) == len(expected.scores)
    mine, other = torch.stack(found.scores), torch.stack(expected.scores)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    for normalize in (False, True):
        mine, other = (
            model.compute_transition_scores(
                each.sequences, each.scores, each.beam_indices, normalize
            )
            for model, each in zip(pair, (expected, found), strict=True)
        )
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_scores_and_logits_are_returned(pair: Any) -> None:
    options = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    found, expected = both(pair, **options, no_repeat_ngram_size=2)
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("scores", "logits"):
        mine, other = torch.stack(found[name]), torch.stack(expected[name])
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    mine, other = (
        model.compute_transition_scores(each.sequences, each.logits, normalize_logits=True)
        for model, each in zip(pair, (expected, found), strict=True)
    )
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"num_return_sequences": 2, "do_sample": True}])
def test_attentions_and_hidden_states_are_returned(pair: Any, settings: dict[str, Any]) -> None:
    ids = prompts()[0][1:2]  # their outputs at pads depend on the padding
    wanted = {"output_attentions": True, "output_hidden_states": True, "max_new_tokens": 4}
    found = pair[1].generate(ids, **wanted, **settings, return_dict_in_generate=True)
    theirs = copy.deepcopy(pair[0])
    theirs.set_attn_implementation("eager")
    expected = [
        theirs.generate(
            text[:8].unsqueeze(0),
            **wanted,
            forced_eos_token_id=None,
            return_dict_in_generate=True,
            prefix_allowed_tokens_fn=lambda _, seen, text=text: [int(text[len(seen)])],
        )
        for text in found.sequences
    ]
    for name in ("attentions", "hidden_states"):
        for step, layers in enumerate(found[name]):
            for layer, mine in enumerate(layers):
                other = torch.cat([each[name][step][layer] for each in expected])
                torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    assert len(found.attentions) == len(expected[0].attentions) == 4


def test_stop_strings(pair: Any) -> None:
    class Letters:
        """A tokenizer whose tokens are two letters each."""

        def decode(self, ids: Any, **_: Any) -> str:
            return "".join(chr(97 + int(i) % 26) + chr(97 + int(i) // 26) for i in ids)

    plain, _ = both(pair)
    text = Letters().decode(plain[1, 8:].tolist())
    found = pair[1].generate(
        *prompts(), max_new_tokens=12, stop_strings=[text[5:8]], tokenizer=Letters()
    )
    new = next(count for count in range(13) if text[5:8] in text[: 2 * count])
    length = 8 + new
    assert torch.equal(found[1, :length], plain[1, :length])
    assert bool((found[1, length:] == 0).all())


def test_a_streamer_gets_the_tokens(pair: Any) -> None:
    class Kept:
        def __init__(self) -> None:
            self.ids: list[int] = []

        def put(self, ids: Tensor) -> None:
            self.ids += ids.flatten().tolist()

        def end(self) -> None:
            self.ids.append(-1)

    streamers = Kept(), Kept()
    ids = prompts()[0][1:2]
    for model, streamer in zip(pair, streamers, strict=True):
        model.generate(input_ids=ids, max_new_tokens=5, do_sample=False, streamer=streamer)
    assert streamers[0].ids == streamers[1].ids
    assert len(streamers[0].ids) == 8 + 5 + 1


@pytest.mark.parametrize("settings", [{}, {"num_return_sequences": 2}, {"num_beams": 2}])
def test_torchs_seed_decides_draws(pair: Any, settings: dict[str, Any]) -> None:
    ids, mask = prompts()

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        options = {"do_sample": True, "max_new_tokens": 8, "temperature": 2.0, **settings}
        return pair[1].generate(ids, mask, **options)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert len(drawn(1)) == 3 * settings.get("num_return_sequences", 1)


WARPERS: dict[str, tuple[Any, Any]] = {
    "top_k": (top_k(5, 1), transformers.TopKLogitsWarper(5)),
    "top_p": (top_p(0.7, 1), transformers.TopPLogitsWarper(0.7)),
    "min_p": (min_p(0.3, 2), transformers.MinPLogitsWarper(0.3, min_tokens_to_keep=2)),
    "typical_p": (typical_p(0.6, 1), transformers.TypicalLogitsWarper(0.6)),
    "epsilon_cutoff": (
        epsilon_cutoff(0.02, 3),
        transformers.EpsilonLogitsWarper(0.02, min_tokens_to_keep=3),
    ),
    "top_h": (top_h(0.4), transformers.TopHLogitsWarper(0.4)),
    "eta_cutoff": (eta_cutoff(0.05, 1), transformers.EtaLogitsWarper(0.05)),
}


@pytest.mark.parametrize("name", WARPERS)
def test_draws_are_from_the_same_scores(name: str) -> None:
    mine, theirs = WARPERS[name]
    scores = torch.randn(64, 99) * torch.linspace(0.1, 4, 64).unsqueeze(1)
    ids = torch.zeros(64, 1, dtype=torch.int64)
    assert torch.equal(mine(ids, scores), theirs(ids, scores.clone()))


def test_draws_have_the_same_distribution(pair: Any) -> None:
    count, shares = 4000, []
    ids = prompts()[0][1:2]
    options = {"do_sample": True, "max_new_tokens": 1, "typical_p": 0.9}  # and the default top_k=50
    torch.manual_seed(0)
    for model in pair:
        found = model.generate(input_ids=ids, num_return_sequences=count, **options)
        shares.append(torch.bincount(found[:, -1], minlength=99) / count)
    assert float((shares[0] - shares[1]).abs().sum()) / 2 < 0.1
    assert int((shares[1] > 0).sum()) <= 50


def test_pads_are_found_without_a_mask(pair: Any) -> None:
    ids, _ = prompts()
    expected = pair[0].generate(input_ids=ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(pair[1].generate(inputs=ids, max_new_tokens=5), expected)
    alone = pair[0].generate(max_new_tokens=5, do_sample=False)
    assert torch.equal(pair[1].generate(max_new_tokens=5), alone)


def test_the_folders_generation_config_is_obeyed(pair: Any, tmp_path: Path) -> None:
    theirs = copy.deepcopy(pair[0])
    theirs.generation_config.num_beams = 3
    theirs.generation_config.no_repeat_ngram_size = 2
    theirs.generation_config.max_new_tokens = 6
    theirs.save_pretrained(tmp_path)
    model = ours.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.generation_config.num_beams == 3
    ids, mask = prompts()
    expected = theirs.generate(input_ids=ids, attention_mask=mask)
    assert torch.equal(model.generate(ids, mask), expected)
    model.generation_config.num_beams = 1
    assert not torch.equal(model.generate(ids, mask), expected)


REFUSED: dict[str, Any] = {
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "assistant_tokenizer": object(),
    "token_healing": True,
    "use_mtp": True,
    "watermarking_config": {"bias": 2.0},
    "num_return_sequences": 2,
    "stop_strings": ["a"],
    "top_p": 1.5,
    "num_beams": 0,
    "max_length": 3,
    "early_stopping": "soon",
    "bad_words_ids": [5],
    "bad_words_ids ": [[]],
    "bad_words_ids  ": [[5, 99]],
    "sequence_bias": {5: -1.0},
    "sequence_bias ": [[[99], 1.0]],
    "suppress_tokens": 5,
    "forced_eos_token_id": 99,
    "exponential_decay_length_penalty": 1.5,
    "logits_processor": Prefer(),
    "stopping_criteria": AfterFive(),
    "prefix_allowed_tokens_fn": lambda row, ids: [],
    "prefix_allowed_tokens_fn ": lambda row, ids: None,
    "prefix_allowed_tokens_fn  ": lambda row, ids: [99],
    "prefix_allowed_tokens_fn   ": lambda row, ids: 5,
    "prefix_allowed_tokens_fn    ": lambda row, ids: ["a"],
    "prefix_allowed_tokens_fn     ": lambda row, ids: [5.7],
    "logits_processor ": [lambda ids, scores: None],
    "logits_processor  ": [lambda ids, scores: scores[0]],
    "stopping_criteria ": [lambda ids, scores: None],
    "stopping_criteria  ": [lambda ids, scores: [True] * 7],
    "stopping_criteria   ": [lambda ids, scores: ids[:, -1:] == 5],
    "attention_mask": torch.ones(1, 9),
    "attention_mask ": prompts()[1].T,
    "input_ids": {"input_ids": [1]},
    "input_ids ": [[1, 2]],
    "input_ids  ": torch.ones(1, 2, 3, dtype=torch.int64),
    "input_ids   ": torch.tensor(5),
    "input_ids    ": torch.ones(0, 4, dtype=torch.int64),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_built_is_refused_by_name(pair: Any, name: str) -> None:
    ids, mask = prompts()
    given = {"input_ids": ids, "attention_mask": mask, name.strip(): REFUSED[name]}
    with pytest.raises(InputError, match=f"^{name.strip()}: "):
        pair[1].generate(**given)


def test_a_length_penalty_needs_an_end_token_to_favor(pair: Any) -> None:
    ids, mask = prompts()
    plain = {"max_new_tokens": 5, "eos_token_id": []}
    found = pair[1].generate(ids, mask, **plain, exponential_decay_length_penalty=(1, 1.5))
    assert torch.equal(found, pair[1].generate(ids, mask, **plain))


def test_numbers_may_be_those_of_numpy_and_torch(pair: Any) -> None:
    given: dict[str, Any] = {
        "eos_token_id": torch.tensor(ends(pair)),
        "pad_token_id": torch.tensor(7),
    }
    given |= {"max_new_tokens": np.int64(9), "suppress_tokens": [np.int64(50), np.int64(60)]}
    given["exponential_decay_length_penalty"] = (np.int64(1), 1.1)
    found, expected = both(pair, **given)
    assert torch.equal(found, expected)


IDS: list[Any] = [
    *([50, 60], (50, 60), {50, 60}, frozenset([50, 60]), range(50, 61, 10)),
    *([np.int64(50), np.int32(60)], [torch.tensor(50), 60], np.array([50, 60])),
    torch.tensor([50, 60]),
]
"""Two tokens, as transformers takes them."""
ONE: list[Any] = [50, np.int64(50), torch.tensor(50), np.array(50)]
ALIKE: dict[str, list[Any]] = {
    "suppress_tokens": IDS,
    "begin_suppress_tokens": IDS,
    "eos_token_id": IDS,
    "forced_eos_token_id": [*IDS, *ONE],
    "bad_words_ids": [[ids] for ids in IDS] + [(ids,) for ids in IDS],
    "sequence_bias": [
        *({(np.int64(60),): np.float32(-9)}, {(torch.tensor(60),): torch.tensor(-9.0)}),
        *([[[60], -9]], [[np.array([60]), np.float64(-9)]], [(torch.tensor([60]), Fraction(-9))]),
    ],
    "exponential_decay_length_penalty": [
        *((1, 1.5), [1, 1.5], (np.int64(1), np.float32(1.5)), np.array([1, 1.5])),
        (torch.tensor(1), torch.tensor(1.5)),
    ],
    "guidance_scale": [1.5, np.float32(1.5), torch.tensor(1.5), Fraction(3, 2)],
    "repetition_penalty": [1.5, np.float32(1.5), torch.tensor(1.5), Fraction(3, 2)],
    **dict.fromkeys(("pad_token_id", "bos_token_id", "forced_bos_token_id"), ONE),
}
"""Settings -> values that mean the same."""


@pytest.mark.parametrize("name", ALIKE)
def test_the_numbers_in_a_setting_may_be_those_of_numpy_and_torch(name: str) -> None:
    """Also inside of lists, tuples, ranges, sets and dictionaries."""
    read = [HubSettings(**{name: plain_value(name, value)}) for value in ALIKE[name]]
    kinds = {"suppress_tokens": set, "begin_suppress_tokens": set, "eos_token_id": set}
    kind = kinds.get(name, lambda value: value)
    flat = {repr(sorted(_flat(kind(getattr(each, name))))) for each in read}
    assert len(flat) == 1 + (name == "forced_eos_token_id")  # which takes one token or two


def _flat(value: Any) -> list[float]:
    """The numbers in a setting."""
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, (list, tuple, set)):
        return [number for each in value for number in _flat(each)]
    assert type(value) in (int, float)
    return [float(value)]


WRONG: dict[str, Any] = {
    **dict.fromkeys(("pad_token_id", "bos_token_id", "forced_bos_token_id"), ("a", 0.5, [1])),
    **dict.fromkeys(("eos_token_id", "forced_eos_token_id"), ("a", 0.5, True, [0.5])),
    "decoder_start_token_id": ("a", 0.5, [0.5]),
    **dict.fromkeys(
        ("guidance_scale", "length_penalty"), ("a", [2.0], float("nan"), True, 1e39, -1e300)
    ),
    **dict.fromkeys(
        ("repetition_penalty", "encoder_repetition_penalty"),
        (0, 5e-324, 1e-38, 1e39, 1e300, float("inf"), float("nan"), 10**400),
    ),
    "sequence_bias": [{(5,): value} for value in (1e39, float("inf"), float("nan"), 10**400)],
    "exponential_decay_length_penalty": [(1, value) for value in (1e39, -1, float("nan"), 10**400)],
    "max_time": ("a", [1], float("nan"), 10**400),
    "assistant_confidence_threshold": ("a", 2),
    "seed": ("a", 0.5),
    **dict.fromkeys(("prefix_allowed_tokens_fn", "streamer", "assistant_model"), ("a", 2, [1])),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_of_another_type_is_refused_by_name(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(InputError, match=f"^{name}: found "):
            HubSettings(**{name: value})


EXTREME: list[dict[str, Any]] = [
    *({"do_sample": True, "temperature": t, "typical_p": 0.9} for t in (5e-324, 1e-46, 1e-38)),
    *({"do_sample": True, "temperature": t, "suppress_tokens": [5]} for t in (1e39, 1e300)),
    *({"sequence_bias": {(5,): bias}} for bias in (-1e39, -1e300, -float("inf"))),
    *({name: value} for name in ("repetition_penalty", "guidance_scale") for value in (1e-6, 1e6)),
    {"exponential_decay_length_penalty": (0, 1e6), "max_new_tokens": 60},
    *({"num_beams": 2, "length_penalty": value} for value in (-50, 50)),
]
"""Accepted values near the bounds."""


@pytest.mark.parametrize("options", EXTREME, ids=str)
def test_no_accepted_value_makes_scores_overflow(pair: Any, options: dict[str, Any]) -> None:
    ids, mask = prompts()
    given = {"max_new_tokens": 6, "seed": 1, "eos_token_id": ends(pair), **options}
    assert pair[1].generate(ids, mask, **given).shape[1] > ids.shape[1]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("ids", [[5], [6], [7]], "found list; accepted: a tensor"),
        (
            "ids",
            torch.ones(3, 0, dtype=torch.int64),
            r"found shape \(3, 0\); accepted: \(3",
        ),
        (
            "attention_mask",
            torch.ones(3, 2),
            r"found shape \(3, 2\); accepted: \(3, 1\)",
        ),
        ("attention_mask", torch.zeros(3, 1), "found a row without tokens; accepted: 1 or more"),
    ],
)
def test_negative_prompts_that_do_not_fit_are_refused(
    pair: Any, name: str, value: Any, line: str
) -> None:
    ids, mask = prompts()
    with pytest.raises(InputError, match=f"^negative_prompt_{name}: {line}"):
        pair[1].generate(ids, mask, guidance_scale=2.0, **{f"negative_prompt_{name}": value})
    both_of_them = {"negative_prompt_ids": ids, "negative_prompt_attention_mask": torch.ones(3, 1)}
    with pytest.raises(InputError, match=r"^negative_prompt_attention_mask: .*\(3, 8\), as negat"):
        pair[1].generate(ids, mask, guidance_scale=2.0, **both_of_them)


def test_tokens_beyond_the_vocabulary_are_suppressed_without_effect(pair: Any) -> None:
    found, expected = both(pair, suppress_tokens=[50, 99], begin_suppress_tokens=[70, 1000])
    assert torch.equal(found, expected)


def test_a_temperature_of_0_is_greedy(pair: Any) -> None:
    found, expected = both(pair, temperature=0.0)
    assert torch.equal(found, expected)
    for model in pair:
        with pytest.raises(ValueError, match="temperature"):
            model.generate(input_ids=prompts()[0], do_sample=True, temperature=0.0)


def test_our_settings_may_be_a_generation_config(pair: Any) -> None:
    settings = ours.GenerationSettings(
        max_new_tokens=6, temperature=0.9, seed=3, num_return_sequences=2
    )
    found = pair[1].generate(*prompts(), generation_config=settings)
    given = {"max_new_tokens": 6, "temperature": 0.9, "seed": 3, "num_return_sequences": 2}
    expected = pair[1].generate(*prompts(), do_sample=True, top_k=None, **given)
    assert torch.equal(found, expected)


def test_a_refused_tensor_is_not_printed(pair: Any) -> None:
    ids, mask = prompts()
    embeds = pair[1].get_input_embeddings()(ids)
    with pytest.raises(InputError, match=r"^inputs_embeds: found Tensor; accepted: None; input_i"):
        pair[1].generate(ids, mask, inputs_embeds=embeds)
    wrong = {"guidance_scale": 2.0, "negative_prompt_ids": ids[:1]}
    with pytest.raises(
        InputError, match=r"^negative_prompt_ids: found shape \(1, 8\); accepted: \(3"
    ):
        pair[1].generate(ids, mask, **wrong)


def test_entries_of_the_file_are_obeyed_or_named_once(
    pair: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kept, model = pair[1].generation_config, pair[1]
    plain = model.generate(*prompts(), max_new_tokens=4)
    odd = f"odd_{model.config.model_type}"  # a warning is given once
    model.generation_config = {**kept, odd: 3, "num_beam_groups": 2, "token_healing": False}
    try:
        with caplog.at_level(logging.WARNING, "trainer"):
            for _ in range(2):
                assert torch.equal(model.generate(*prompts(), max_new_tokens=4), plain)
        assert caplog.text.count("not supported here: num_beam_groups, " + odd) == 1
        assert "token_healing" not in caplog.text
        model.generation_config = {**kept, "repetition_penalty": 1.8, "eos_token_id": ends(pair)}
        changed = model.generate(*prompts(), max_new_tokens=4)
        assert not torch.equal(changed, plain)
        unset = {"repetition_penalty": None, "eos_token_id": None}
        assert torch.equal(model.generate(*prompts(), max_new_tokens=4, **unset), plain)
    finally:
        model.generation_config = kept


def test_unknown_settings_are_refused(pair: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="did you mean 'num_beams'"):
        pair[1].generate(*prompts(), num_beam=2)
    with caplog.at_level(logging.WARNING, "trainer"):
        pair[1].generate(*prompts(), max_new_tokens=2, top_k=3)
    assert "top_k has no effect without do_sample=True" in caplog.text
