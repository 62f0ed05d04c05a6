"""Rows of token ids and collators with our recipes: the same samples as those of text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.causal_lm import CausalLM
from recipes.instruction import Instruction
from recipes.masked_lm import MaskedLM
from recipes.sequence_classification import SequenceClassification
from tests.unit.test_exactness import tiny_model
from trainer.data.in_memory_rows import as_table
from trainer.data.tokenized_rows import features_of_tokenized
from trainer.data.tokens import TokenTable
from trainer.errors import InputError, RowError
from trainer.models.auto import AutoModelForMaskedLM
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

TEXTS = [("fine " * (1 + n % 5) + str(n), n % 2) for n in range(20)]
SGD: dict[str, Any] = {
    "optimizer": "sgd", "learning_rate": 0.1, "precision": "fp32", "global_batch_size": 8,
    "max_steps": 4, "weight_decay": 0.0,
}  # fmt: skip


def model(tokenizer: Tokenizer, **changed: Any) -> Any:
    return tiny_model(num_labels=2, vocab_size=len(tokenizer), **changed)


def parameters(run: Trainer) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()


@pytest.mark.parametrize("kind", ["lists", "arrays", "padded", "table"])
def test_ids_train_to_the_weights_of_their_texts(minilm: Path, kind: str) -> None:
    """With dropout, since the samples are the same. Padded rows lose their pads."""
    tokenizer = Tokenizer.from_pretrained(minilm)
    recipe = SequenceClassification(max_length=16)
    rows: Any = [{"text": text, "label": label} for text, label in TEXTS]
    expected = Trainer(model(tokenizer), recipe, SGD, tokenizer=tokenizer, train_dataset=rows)
    expected.fit()
    ids = [tokenizer(text)["input_ids"] for text, _ in TEXTS]
    encoded: Any = [
        {"input_ids": each, "labels": n} for each, (_, n) in zip(ids, TEXTS, strict=True)
    ]
    if kind == "arrays":
        encoded = [{**row, "input_ids": np.array(row["input_ids"])} for row in encoded]
    elif kind == "padded":
        batch = tokenizer([text for text, _ in TEXTS], padding=True)
        encoded = {**batch, "label": [label for _, label in TEXTS]}
    elif kind == "table":
        encoded = as_table(encoded)
    run = Trainer(model(tokenizer), recipe, SGD, train_dataset=encoded, eval_dataset=encoded,
                  metrics="accuracy")  # fmt: skip
    run.fit()
    difference = parameters(run) - parameters(expected)
    assert difference.norm() <= 1e-12 * parameters(expected).norm()
    assert run.recipe.labels == ["LABEL_0", "LABEL_1"]  # type: ignore[attr-defined]
    assert run.evaluate().keys() == {"eval_loss", "eval_accuracy"}


def test_fields_along_tokens_lose_the_pads_too() -> None:
    recipe = Instruction()
    rows = {
        "input_ids": [[0, 5, 6], [7, 8, 9]],
        "attention_mask": [[0, 1, 1], [1, 1, 1]],
        "labels": [[-100, -100, 6], [-100, 8, 9]],
        "other": ["a", "b"],
    }
    assert features_of_tokenized(rows, recipe) == {
        "input_ids": [[5, 6], [7, 8, 9]], "labels": [[-100, 6], [-100, 8, 9]],
    }  # fmt: skip
    assert features_of_tokenized({"input_ids": [[5]]}, CausalLM()) == {"input_ids": [[5]]}
    for wrong, message in (
        ({"input_ids": [[1.5]]}, "'input_ids' is .1.5.; accepted: whole numbers from 0"),
        ({"input_ids": [[-1]]}, "accepted: whole numbers from 0"),
        ({"input_ids": [[1], None]}, "'input_ids' is None; accepted: a list of numbers"),
        ({"input_ids": [[1, 2]], "labels": [[3]]}, "'labels' is .3.; accepted: 2 entries, as 'inp"),
        ({"input_ids": [[1]], "attention_mask": [[1, 0]]}, "'attention_mask' has 2 entries"),
    ):
        with pytest.raises(RowError, match=message):
            features_of_tokenized(wrong, recipe)  # type: ignore[arg-type]


def test_other_recipes_make_their_own_ids(minilm: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(minilm)
    with pytest.raises(InputError, match="no column 'text'; there are: input_ids"):
        Trainer(
            AutoModelForMaskedLM.from_config(model(tokenizer).config),
            MaskedLM(max_length=16),
            tokenizer=tokenizer,
            train_dataset=[{"input_ids": [5]}],
        )


def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pads like transformers' DataCollatorWithPadding."""
    longest = max(len(row["input_ids"]) for row in rows)
    found: dict[str, Any] = {"labels": torch.tensor([row["labels"] for row in rows])}
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in rows[0]:
            found[name] = torch.tensor([r[name] + [0] * (longest - len(r[name])) for r in rows])
    return found


@pytest.mark.parametrize("micro", [None, 3])
def test_a_collator_that_pads_changes_nothing(minilm: Path, micro: int | None) -> None:
    tokenizer = Tokenizer.from_pretrained(minilm)
    recipe = SequenceClassification(max_length=16)
    rows = [{"text": text, "label": label} for text, label in TEXTS]
    runs = [
        Trainer(model(tokenizer), recipe, {**SGD, "micro_batch_size": size}, tokenizer=tokenizer,
                train_dataset=rows, data_collator=collator)
        for size, collator in ((None, None), (micro, pad))
    ]  # fmt: skip
    for run in runs:
        run.fit()
    expected, found = map(parameters, runs)
    assert (found - expected).norm() <= 1e-12 * expected.norm()


def test_a_collator_that_changes_tokens_is_seeded(minilm: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(minilm)

    def noisy(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        found = pad(rows)
        found["input_ids"] = torch.where(
            torch.rand(found["input_ids"].shape) < 0.5, 103, found["input_ids"]
        )
        return found

    rows = [{"text": text, "label": label} for text, label in TEXTS]
    recipe = SequenceClassification(max_length=16)
    run = Trainer(
        model(tokenizer), recipe, tokenizer=tokenizer, train_dataset=rows, data_collator=noisy
    )
    table: Any = run.train_samples
    assert isinstance(table, TokenTable) and not table.pure
    state = torch.get_rng_state()
    first, again, other = (table.collate([1, 4], seed=0, epoch=e).input_ids for e in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({}, "no 'input_ids'; accepted: at least input_ids"),
        (
            {"input_ids": torch.ones(2, 3).long()},
            r"input_ids of shape \[2, 3\]; accepted: \[8, L\]",
        ),
    ],
)
def test_what_a_collator_may_not_return(minilm: Path, made: dict[str, Any], message: str) -> None:
    tokenizer = Tokenizer.from_pretrained(minilm)
    rows = [{"text": text, "label": label} for text, label in TEXTS]
    run = Trainer(model(tokenizer), SequenceClassification(max_length=16), SGD, tokenizer=tokenizer,
                  train_dataset=rows, data_collator=lambda rows: made)  # fmt: skip
    with pytest.raises(InputError, match=f"^data_collator: returned {message}"):
        run.fit()
