"""Contract 1: any split of a global batch gives the same gradient and loss."""

import numpy as np
import pytest
import torch

from recipes.sequence_classification import SequenceClassification
from trainer.data.plan import GlobalBatchPlan
from trainer.data.tokens import TokenTable
from trainer.devices.ranks import Ranks
from trainer.models.auto import AutoModelForSequenceClassification
from trainer.models.config import ModelConfig
from trainer.settings import TrainSettings
from trainer.trainer import Trainer
from trainer.training.step import Stepper

SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}


def tiny_model(problem: str = "single_label_classification", num_labels: int = 5, **overrides):
    torch.manual_seed(1)
    entries = {"model_type": "bert", **SIZES, "num_labels": num_labels, "problem_type": problem}
    config = ModelConfig({**entries, **overrides})
    return AutoModelForSequenceClassification.from_config(config).double()


def ragged_table(num_samples: int = 32, problem: str = "single_label", seed: int = 0) -> TokenTable:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, num_samples)
    labels = {
        "single_label": rng.integers(0, 5, num_samples),
        "multi_label": rng.integers(0, 2, (num_samples, 5)).astype(np.float32),
        "regression": rng.normal(size=num_samples).astype(np.float32),
    }[problem]
    return TokenTable(
        input_ids=rng.integers(5, 97, lengths.sum()).astype(np.int32),
        token_type_ids=None,
        sequence_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        sample_offsets=np.arange(num_samples + 1),
        fields={"labels": labels},
        axes=SequenceClassification.fields,
    )


RECIPES = {
    "single_label": SequenceClassification(problem="single_label", labels=list("abcde")),
    "weighted": SequenceClassification(
        problem="single_label",
        labels=list("abcde"),
        class_weights=dict(zip("abcde", (0.5, 2.0, 1.0, 3.0, 0.1), strict=True)),
    ),
    "multi_label": SequenceClassification(problem="multi_label", labels=list("abcde")),
    "regression": SequenceClassification(problem="regression"),
}


def one_step(name: str, parts: list[np.ndarray], smoothing: float) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one global batch split into these parts, with dropout."""
    problem = name.replace("weighted", "single_label")
    model = tiny_model(num_labels=1 if problem == "regression" else 5).train()
    table = ragged_table(problem=problem)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    stepper = Stepper(
        model,
        RECIPES[name],
        optimizer,
        ranks=Ranks(),
        global_batch_size=32,
        label_smoothing=smoothing,
    )
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    batches = [(table.collate(part).for_step(seed=7, step=3), True) for part in parts]
    facts = stepper.step(batches, len(batches), learning_rate=1.0)
    assert facts.finite
    after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    return facts.loss, before - after


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_any_split_gives_the_same_gradient_and_loss(name: str, smoothing: float) -> None:
    if name == "regression" and smoothing:
        return
    order = np.random.default_rng(3).permutation(32)
    loss, gradient = one_step(name, [order], smoothing)
    for num_parts in (32, 4, 2, 3):  # 32x1, 8x4, 16x2, and unequal parts
        parts = np.array_split(np.arange(32), num_parts)
        other_loss, other = one_step(name, parts, smoothing)
        assert abs(other_loss - loss) <= 1e-12 * abs(loss)
        assert (other - gradient).norm() <= 1e-12 * gradient.norm()


def test_another_step_has_another_dropout_mask() -> None:
    """Shows that dropout is active in the test above."""
    model, table = tiny_model().train(), ragged_table()
    losses = [
        model(**table.collate(range(32)).for_step(seed=7, step=step).inputs()).logits
        for step in (3, 4, 3)
    ]
    assert torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[0], losses[1])


def test_the_gradient_is_that_of_torch_on_the_mean_loss() -> None:
    model, table = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), None
    table = ragged_table()
    batch = table.collate(range(32))
    logits = model(**batch.inputs()).logits
    torch.nn.functional.cross_entropy(logits, batch["labels"]).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    stepper = Stepper(
        model,
        RECIPES["single_label"],
        torch.optim.SGD(model.parameters(), lr=1.0),
        ranks=Ranks(),
        global_batch_size=32,
    )
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    batches = [(table.collate(range(20)), True), (table.collate(range(20, 32)), True)]
    stepper.step(batches, 2, 1.0)
    found = before - torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert (found - expected).norm() <= 1e-12 * expected.norm()


def test_micro_batch_size_does_not_change_a_run() -> None:
    """The Trainer with SGD: three epochs of 45 samples, whose last global batch is short."""

    def weights(**settings: int | None) -> torch.Tensor:
        trainer = Trainer(
            tiny_model(),
            RECIPES["single_label"],
            TrainSettings(
                optimizer="sgd",
                learning_rate=0.1,
                global_batch_size=16,
                weight_decay=0.0,
                precision="fp32",
                **settings,  # type: ignore[arg-type]
            ),
            train_dataset=ragged_table(45),
        )
        trainer.fit()
        return torch.nn.utils.parameters_to_vector(trainer.model.parameters()).detach()

    whole = weights(max_tokens_per_micro_batch=100_000)
    for settings in (
        {"micro_batch_size": 1},
        {"micro_batch_size": 5},
        {"max_tokens_per_micro_batch": 60},
    ):
        assert (weights(**settings) - whole).norm() <= 1e-12 * whole.norm()


def test_an_epoch_holds_every_sample_once() -> None:
    table = ragged_table(45)
    plan = GlobalBatchPlan(table.lengths, 16, seed=5)
    seen = np.concatenate([plan.global_batch(step) for step in range(plan.steps_per_epoch)])
    assert sorted(seen) == list(range(45))
