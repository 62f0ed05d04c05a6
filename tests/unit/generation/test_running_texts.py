"""Running texts: a text does not depend on when it is added, or on the other texts."""

import random
from dataclasses import fields
from typing import Any

import pytest
import torch

from tests.unit.generation.small_decoders import MODELS, model_of
from trainer.generation.running_texts import RunningText, RunningTexts
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_choice import ChoiceSettings, Chosen
from trainer.generation.token_ids import generate_ids
from trainer.models.cache import KeyValueCache
from trainer.models.packing import Layout
from trainer.models.slot_cache import SlotCache

ENDS = frozenset({3, 4})


def text_of(prompt: list[int], ends: frozenset[int] = ENDS, **settings: Any) -> RunningText:
    scored = settings.pop("prompt_logprobs", None)
    of_choice = {each.name for each in fields(ChoiceSettings)}
    own = {name: settings.pop(name) for name in list(settings) if name in of_choice}
    generation = GenerationSettings(**settings)
    return RunningText(ChoiceSettings(generation, **own), prompt, ends, scored)


def finish(batch: RunningTexts) -> None:
    for text in [text for text in batch.texts if text.finish_reason]:
        batch.remove(text)


def read(batch: RunningTexts, texts: list[RunningText], part: int) -> list[Any]:
    reading = batch.read(texts, part)
    while not reading.advance():
        if batch.texts:  # the others continue meanwhile
            batch.step()
            finish(batch)
    found = batch.join(reading)
    finish(batch)
    return found


def some_texts(draw: random.Random) -> list[RunningText]:
    """Texts under all kinds of settings."""
    texts = []
    for _ in range(9):
        prompt = draw.choices(range(40), k=draw.choice([1, 2, 5, 23, 60]))
        how: dict[str, Any] = {"max_new_tokens": draw.choice([1, 3, 9, 30])}
        if draw.random() < 0.5:
            how |= {"temperature": 0.7, "seed": draw.randrange(9)}
            how |= draw.choice([{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.05}])
        if draw.random() < 0.3:
            how["repetition_penalty"] = 1.4
        texts.append(text_of(prompt, **how))
    return texts


@pytest.mark.parametrize("name", MODELS)
def test_texts_that_come_and_go_are_those_generated_alone(name: str) -> None:
    model, draw = model_of(name), random.Random(7)
    texts = some_texts(draw)
    waiting, batch = list(texts), RunningTexts(model)
    while waiting or batch.texts:
        if waiting and draw.random() < 0.4:
            count = draw.choice([1, 1, 2, 3])
            read(batch, waiting[:count], part=draw.choice([4, 16, 1000]))
            del waiting[:count]
        elif batch.texts:
            batch.step()
            finish(batch)
    for text in texts:
        settings = text.settings.generation
        assert text.generated == generate_ids(model, [text.prompt], settings, ENDS)[0]


def test_several_texts_of_a_prompt_share_its_reading() -> None:
    model, prompt = model_of("llama"), [5, 9, 3, 7]
    calls: list[int] = []
    model.register_forward_pre_hook(
        lambda _, arguments, named: calls.append(len(named["input_ids"])), with_kwargs=True
    )
    batch = RunningTexts(model)
    how = {"temperature": 1.0, "max_new_tokens": 6}
    texts = [text_of(prompt, number=n, **how) for n in range(3)]
    read(batch, [*texts, text_of([8], max_new_tokens=1)], part=100)
    assert calls == [5]
    while batch.texts:
        batch.step()
        finish(batch)
    settings = GenerationSettings(**how, num_return_sequences=3)
    assert [text.generated for text in texts] == generate_ids(model, [prompt], settings, ENDS)


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double()


def test_log_probabilities_are_those_of_the_models_own_logits() -> None:
    """Of generated tokens and of the prompt's, whatever the temperature and the penalties."""
    model, prompt = model_of("llama"), list(range(5, 35))
    text = text_of(
        prompt,
        temperature=2.0,
        logprobs=3,
        prompt_logprobs=2,
        max_new_tokens=5,
        logit_bias={7: 3.0},
    )
    batch = RunningTexts(model)
    found = [chosen for _, chosen in read(batch, [text], part=8)]
    while batch.texts:
        found += [chosen for _, chosen in batch.step()]
        finish(batch)
    logs = logits_of(model, prompt + text.generated).log_softmax(-1)
    for place, chosen in enumerate([*text.prompt_scores[1:], *found]):
        own = logs[place]
        assert chosen.logprob == pytest.approx(float(own[chosen.token]), abs=1e-5)
        best = own.topk(len(chosen.alternatives))
        assert [token for token, _ in chosen.alternatives] == best.indices.tolist()
        assert [value for _, value in chosen.alternatives] == pytest.approx(best.values.tolist())
    assert [each.token for each in text.prompt_scores] == prompt
    assert text.prompt_scores[0] == Chosen(prompt[0])
    assert [len(each.alternatives) for each in found] == [3] * len(text.generated)


def test_biases_and_penalties_of_generated_tokens() -> None:
    model, prompt = model_of("llama"), [5, 9, 3]
    plain = text_of(prompt, frozenset(), max_new_tokens=12)
    forced = text_of(prompt, frozenset(), max_new_tokens=12, logit_bias={11: 1e4})
    varied = text_of(prompt, frozenset(), max_new_tokens=12, presence_penalty=1e4)
    fading = text_of(
        prompt, frozenset(), max_new_tokens=12, logit_bias={11: 250.0}, frequency_penalty=100.0
    )
    ending = text_of(prompt, frozenset({11}), logit_bias={11: 1e4}, min_new_tokens=4)
    batch = RunningTexts(model)
    read(batch, [plain, forced, varied, fading, ending], part=1000)
    while batch.texts:
        batch.step()
        finish(batch)
    assert forced.generated == [11] * 12
    assert len(set(varied.generated)) == 12
    assert fading.generated[:3] == [11] * 3 and fading.generated[3] != 11
    assert len(ending.generated) == 5 and ending.generated.index(11) == 4
    assert plain.generated == generate_ids(model, [prompt], GenerationSettings(12), ())[0]


def test_a_text_does_not_read_what_a_moved_sequence_left() -> None:
    cache = SlotCache()
    for length, value in ((50, 1.0), (40, 1.0), (30, torch.nan)):
        own = KeyValueCache(1)
        own.lengths = torch.tensor([length])
        own.grids[0] = (torch.full((1, 2, length, 4), value),) * 2
        cache.join(own, [length])
    cache.leave(0)  # copies the row with NaNs, which stays behind
    cache.leave(0, wipe=True)
    for _ in range(2):
        own = KeyValueCache(1)
        own.lengths, own.grids[0] = torch.tensor([20]), (torch.ones(1, 2, 20, 4),) * 2
        cache.join(own, [20])
    assert all(grid[:3].isfinite().all() for grid in cache.grids[0])


def test_grids_that_grow_leave_the_reserved_room() -> None:
    cache = SlotCache(max_cells=500)
    own = KeyValueCache(4)
    own.lengths = torch.full((4,), 10)
    own.grids[0] = (torch.ones(4, 2, 10, 4),) * 2
    cache.join(own, [100] * 4)
    assert not own.grids and cache.cells == 5 * 74
    cache.reserve(100)
    new = torch.ones(4 * 65, 2, 4)
    cache.append(0, new, new, Layout(torch.full((4,), 65), new.device))
    assert cache.cells == 4 * 100


def test_a_text_whose_logits_are_not_finite_leaves_the_others_alone() -> None:
    """Its keys must not reappear in the row of another text."""
    model = model_of("llama")
    model.get_input_embeddings().weight.data[39] = torch.nan
    expected = generate_ids(model, [[5, 9, 3]], GenerationSettings(12), ())[0]
    batch = RunningTexts(model)
    bad = text_of([*range(5, 38)] * 3 + [39], frozenset(), max_new_tokens=4)
    read(batch, [text_of([*range(4, 38)] * 4, frozenset(), max_new_tokens=30), bad], part=1000)
    assert bad.generated == [-1]
    batch.remove(bad, broken=True)
    good = text_of([5, 9, 3], frozenset(), max_new_tokens=12)
    read(batch, [good], part=1000)
    while batch.texts:
        batch.step()
        finish(batch)
    assert good.generated == expected


def test_end_tokens_beyond_the_vocabulary_have_no_score_to_suppress() -> None:
    batch = RunningTexts(model_of("llama"))
    (found,) = read(batch, [text_of([1, 2], frozenset({3, 40, 999}), min_new_tokens=2)], 8)
    (expected,) = read(batch, [text_of([1, 2], frozenset({3}), min_new_tokens=2)], 8)
    assert found[1] == expected[1]
