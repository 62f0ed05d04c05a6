"""Causal language modeling: blocks give the losses of separate documents."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from recipes.causal_lm import CausalLM
from trainer import Trainer, TrainSettings
from trainer.data.tokens import tokenize
from trainer.errors import InputError

ROWS = [{"text": "hello world, " * n + "why so?"} for n in (1, 9, 3, 0, 5, 2)]


def table(recipe: CausalLM, tokenizer: Any, cache_dir: Path | None = None) -> Any:
    rows = Dataset.from_list(ROWS)
    return tokenize(rows, recipe, tokenizer, cache_dir=cache_dir, where="rows", progress=False)


def test_every_document_ends_with_the_end_of_text(turns_tokenizer: Any) -> None:
    samples = table(CausalLM(max_length=10_000), turns_tokenizer)
    batch = samples.collate([0])
    ends = batch.sequence_lengths.cumsum(0) - 1
    assert len(samples) == 1 and len(ends) == len(ROWS)
    assert set(batch.input_ids[ends].tolist()) == {turns_tokenizer.eos_token_id}
    assert (batch.input_ids == turns_tokenizer.eos_token_id).sum() == len(ROWS)
    texts = batch.input_ids.split(batch.sequence_lengths.tolist())
    assert [turns_tokenizer.decode(t[:-1]) for t in texts] == [row["text"] for row in ROWS]


def test_blocks_are_cut_once_and_kept(turns_tokenizer: Any, tmp_path: Path) -> None:
    recipe = CausalLM(max_length=16, stride=4)
    first = table(recipe, turns_tokenizer, tmp_path)
    (entry,) = tmp_path.glob("[!.]*")
    changed = (entry / "index.json").stat().st_mtime_ns
    again = table(recipe, turns_tokenizer, tmp_path)
    assert (entry / "index.json").stat().st_mtime_ns == changed
    assert again.fingerprint == first.fingerprint
    assert again.fingerprint == table(recipe, turns_tokenizer).fingerprint
    table(CausalLM(max_length=17, stride=4), turns_tokenizer, tmp_path)
    assert len(list(tmp_path.glob("[!.]*"))) == 2


@pytest.mark.parametrize("stride", [0, 3])
def test_the_loss_of_blocks_is_that_of_their_parts_alone(
    turns_tokenizer: Any, tiny_llama: Any, stride: int
) -> None:
    recipe, model = CausalLM(max_length=24, stride=stride), tiny_llama.double().eval()
    samples = table(recipe, turns_tokenizer)
    total, count, correct = 0.0, 0, 0
    for number in range(len(samples)):
        batch = samples.collate([number])
        starts = zip(
            batch.input_ids.split(batch.sequence_lengths.tolist()), batch["context"], strict=True
        )
        for ids, context in starts:
            logits = model(ids[None]).logits[0]
            learnt = slice(max(1, int(context)), None)
            scores, targets = logits[:-1], ids[1:]
            losses = torch.nn.functional.cross_entropy(scores, targets, reduction="none")
            losses = losses[learnt.start - 1 :]
            total, count = total + losses.sum().item(), count + len(losses)
            hits = scores.argmax(-1) == targets
            correct += int(hits[learnt.start - 1 :].sum())
    settings = TrainSettings(precision="fp32")
    trainer = Trainer(model, recipe, settings, tokenizer=turns_tokenizer, eval_dataset=ROWS)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["eval_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert found["eval_token_accuracy"] == correct / count
    if stride:  # every token except the first of each document is predicted once
        assert count == sum(len(turns_tokenizer(row["text"])["input_ids"]) for row in ROWS)


def test_it_trains_to_a_lower_loss_and_saves_what_it_saw(
    turns_tokenizer: Any, tiny_llama: Any, tmp_path: Path
) -> None:
    settings = TrainSettings(num_epochs=20, global_batch_size=4, learning_rate=1e-2)
    trainer = Trainer(
        tiny_llama,
        CausalLM(max_length=16, stride=2),
        settings,
        tokenizer=turns_tokenizer,
        train_dataset=ROWS,
        eval_dataset=ROWS,
        output_dir=tmp_path,
    )
    before = trainer.evaluate()
    results = trainer.fit()
    assert results["metrics"]["eval_loss"] < 0.5 * before["eval_loss"]
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == len(trainer.eval_samples[""])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_length": 1}, "recipe.max_length: found 1; accepted: 2 or more"),
        ({"stride": 1024}, "recipe.stride: found 1024; accepted: 0 to 1023"),
        ({"stride": -1}, "recipe.stride: found -1"),
    ],
)
def test_wrong_fields_are_refused(fields: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        CausalLM(**fields)


def test_more_than_the_model_has_is_refused(turns_tokenizer: Any, tiny_llama: Any) -> None:
    options = {"tokenizer": turns_tokenizer, "train_dataset": ROWS}
    with pytest.raises(InputError, match="max_length: found 257; accepted: at most 256"):
        Trainer(tiny_llama, CausalLM(max_length=257), **options)
    tiny_llama.resize_token_embeddings(100)
    with pytest.raises(InputError, match="tokenizer: has 292 tokens, the model 100 embeddings"):
        Trainer(tiny_llama, CausalLM(max_length=64), **options)


def test_texts_without_anything_to_tell_are_refused(turns_tokenizer: Any, tiny_llama: Any) -> None:
    options = {"tokenizer": turns_tokenizer, "train_dataset": [{"text": ""}] * 3}
    with pytest.raises(InputError, match=r"dataset\.train: no text has more than one token"):
        Trainer(tiny_llama, CausalLM(max_length=64), **options)
