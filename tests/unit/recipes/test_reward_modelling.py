"""Reward models: pairs, rows to score, margins, and folders that transformers loads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.reward_modelling import RewardModelling
from tests.unit.text_runs import LLAMA, PAIRS, Case, tokenizer
from trainer import Trainer
from trainer.data.in_memory_rows import as_table
from trainer.data.preprocessing import samples_of
from trainer.errors import InputError

CASE = Case(RewardModelling(max_length=96), PAIRS, {**LLAMA, "pad_token_id": 0})


def collated(rows: Any, recipe: RewardModelling) -> Any:
    samples = samples_of(as_table(rows, "rows"), recipe, tokenizer(), where="rows")
    return samples.collate(range(len(samples)))


def test_the_loss_is_that_of_bradley_and_terry_with_margins() -> None:
    rows = [{**pair, "margin": n / 2} for n, pair in enumerate(PAIRS[:3])]
    recipe = RewardModelling(center_weight=0.1)
    batch = collated(rows, recipe)
    assert batch["margins"].tolist() == [0.0, 0.5, 1.0]
    scores = torch.arange(6.0).square()

    class Outputs:
        logits = scores[:, None]

    losses, counts = recipe.loss(Outputs(), batch)  # type: ignore[arg-type]
    chosen, rejected = scores[::2], scores[1::2]
    wanted = -torch.sigmoid(chosen - rejected - batch["margins"]).log()
    torch.testing.assert_close(losses, wanted + 0.1 * (chosen + rejected) ** 2)
    assert counts.tolist() == [1, 1, 1]


def test_a_margin_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="row 0: 'margin' is 'much'"):
        collated([{**PAIRS[0], "margin": "much"}, {**PAIRS[1], "margin": "more"}], CASE.recipe)
    assert collated([{**PAIRS[0], "margin": None}, {**PAIRS[1], "margin": 1}], CASE.recipe)


def test_a_head_with_two_outputs_is_refused() -> None:
    class Outputs:
        logits = torch.zeros(2, 2)

    with pytest.raises(InputError, match="its head has 2 outputs"):
        CASE.recipe.loss(Outputs(), collated(PAIRS[:1] * 2, CASE.recipe))


@pytest.fixture(scope="module")
def trained() -> Trainer:
    trainer = CASE.trainer(learning_rate=1e-2, num_epochs=4)
    assert trainer.fit()["metrics"]["eval_preference_accuracy"] == 1.0
    return trainer


def test_rows_are_scored_in_their_order(trained: Trainer) -> None:
    names = ("completion", "chosen", "rejected")
    rows = [
        {"prompt": pair["prompt"], "completion": pair[name]}
        for pair in PAIRS[:4]
        for name in names[1:]
    ]
    scores = [answer["score"] for answer in trained.answers(rows)]
    pairs = trained.answers(PAIRS[:4])
    wanted = [pair[f"{name}_score"] for pair in pairs for name in names[1:]]
    assert scores == pytest.approx(wanted, rel=1e-9)
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in pairs)


def test_transformers_loads_the_folder_as_trls_trainer_does(
    trained: Trainer, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    trained.save(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert loaded.config.num_labels == 1
    batch = trained.train_samples.collate(range(5))  # type: ignore[union-attr]
    pieces = batch.input_ids.split(batch.sequence_lengths.tolist())
    with torch.no_grad():
        scores = [loaded.double()(ids[None]).logits.item() for ids in pieces]
        ours = trained.model.double()(**batch.inputs()).logits.squeeze(1).tolist()
    assert scores == pytest.approx(ours, rel=1e-5, abs=1e-6)
