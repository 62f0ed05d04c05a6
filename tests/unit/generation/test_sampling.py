"""Sampling: refused settings, and that draws have the right probabilities."""

import pytest
import torch
from omegaconf import OmegaConf

from trainer.errors import InputError, NumericsError
from trainer.generation.sampling import check_chosen, choose, uniform
from trainer.generation.settings import GenerationSettings

WRONG = [
    ({"max_new_tokens": 0}, "generation.max_new_tokens: found 0; accepted: a whole number above 0"),
    ({"temperature": -1.0}, "generation.temperature: found -1.0; accepted: a number of 0 or more"),
    ({"top_k": 0}, "generation.top_k: found 0; accepted: a whole number above 0"),
    ({"top_p": 0}, "generation.top_p: found 0; accepted: a number above 0, up to 1"),
    ({"top_p": float("nan")}, "generation.top_p: found nan; accepted: a number above 0, up to 1"),
    ({"min_p": 2}, "generation.min_p: found 2; accepted: a number from 0 to 1"),
    ({"repetition_penalty": True}, "generation.repetition_penalty: found True; accepted: a number"),
    (
        {"top_k": 5},
        "generation.top_k: found 5 with temperature=0, which draws nothing; accepted: a",
    ),
    ({"top_p": 0.9}, "generation.top_p: found 0.9 with temperature=0"),
    ({"min_p": 0.1}, "generation.min_p: found 0.1 with temperature=0"),
    ({"stop": [""]}, "generation.stop: found ['']; accepted: texts, none empty"),
    ({"stop": "END"}, "generation.stop: found 'END'; accepted: a list of texts"),
    ({"stop": None}, "generation.stop: found None; accepted: a list of texts"),
    *(
        (
            {"repetition_penalty": value},
            f"generation.repetition_penalty: found {value}; accepted: a number from 0.000001",
        )
        for value in (0, 5e-324, 1e-300, 1e39, 1e300, float("inf"), float("nan"), -1e300)
    ),
    ({"length_penalty": 1e6, "num_beams": 2}, "generation.length_penalty: found 1000000.0; acc"),
    ({"batch_size": 2.5}, "generation.batch_size: found 2.5; accepted: a whole number above 0"),
    ({"seed": "1"}, "generation.seed: found '1'; accepted: a whole number"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(InputError) as caught:
        GenerationSettings(**options)
    assert str(caught.value).startswith(message)


def test_whole_numbers_may_be_floats():
    """They are converted, since `range` and `topk` take only integers."""
    found = GenerationSettings(max_new_tokens=5.0, top_k=3.0, temperature=1, seed=7.0)
    assert [repr(each) for each in (found.max_new_tokens, found.top_k, found.seed)] == [*"537"]
    assert found == GenerationSettings(max_new_tokens=5, top_k=3, temperature=1.0, seed=7)


def test_stop_texts_may_be_any_list_or_set():
    for given in (["END"], ("END",), {"END"}, OmegaConf.create(["END"])):
        assert GenerationSettings(stop=given).stop == ["END"]


def test_draws_have_the_probabilities_of_the_softmax():
    """Chi-square of 20000 draws over 6 tokens, one of which top_k excludes."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -3.0])
    settings = GenerationSettings(temperature=0.8, top_k=5)
    count = 20000
    found = choose(logits.expand(count, 6), None, range(count), 0, settings)
    expected = (logits[:5] / 0.8).softmax(-1) * count
    counts = found.bincount(minlength=6)
    assert counts[5] == 0
    assert ((counts[:5] - expected).square() / expected).sum() < 18.5  # 0.1 % of 4 degrees


def test_a_draw_is_a_function_of_seed_row_and_place():
    settings = GenerationSettings(temperature=1.0, seed=7)
    logits = torch.zeros(3, 1000)
    whole = choose(logits, None, [4, 9, 2], 5, settings)
    assert choose(logits[:1], None, [9], 5, settings) == whole[1]
    assert len({uniform(*key) for key in [(7, 4, 5), (8, 4, 5), (7, 5, 5), (7, 4, 6)]}) == 4
    draws = torch.tensor([uniform(0, row, 0) for row in range(4000)])
    assert draws.min() >= 0 and draws.max() < 1 and abs(float(draws.mean()) - 0.5) < 0.02


def test_greedy_takes_the_first_of_equals():
    logits = torch.tensor([[1.0, 3.0, 3.0]])
    assert choose(logits, None, [0], 0, GenerationSettings()).tolist() == [1]


@pytest.mark.parametrize("temperature", [1e-3, 1e-39, 1e-44, 1e-300, 5e-324])
def test_next_to_no_temperature_takes_the_most_probable(temperature):
    logits = torch.tensor([[1.0, 3.0, 2.0], [-5e4, -torch.inf, -6e4]])
    settings = GenerationSettings(temperature=temperature, top_k=3, top_p=0.9, min_p=0.1)
    assert choose(logits, None, [0, 1], 0, settings).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_told(wrong, temperature):
    logits = torch.stack((torch.zeros(4), torch.full((4,), wrong)))
    with pytest.raises(NumericsError, match="^generation: token 3 of text 9: its logits are not"):
        chosen = choose(logits, None, [7, 9], 3, GenerationSettings(temperature=temperature))
        check_chosen(chosen.tolist(), [7, 9], 3)
