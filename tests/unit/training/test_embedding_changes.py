"""Embedding changes: NEFTune's noise and FGM's step, by their formulas and in any batch."""

import math

import numpy as np
import pytest
import torch
from transformers import integrations

from recipes.sequence_classification import SequenceClassification
from tests.unit.test_exactness import ragged_table, tiny_model
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.training.embedding_changes import EmbeddingChanges
from trainer.training.step import Stepper

TABLE = ragged_table(12)


def embedded(model, ids, alpha, step=3):
    """The token embeddings of a training pass, without and with noise."""
    seen = []
    hook = model.body.embed.norm.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    changes = EmbeddingChanges(model, alpha, 0.0)
    batch = TABLE.collate(ids).for_step(7, step)
    for run in (lambda: model(**batch.inputs()), lambda: within(changes, batch, model)):
        run()
    hook.remove()
    return batch, (seen[1] - seen[0]).detach()


def within(changes, batch, model):
    with changes.applied(batch, False):
        return model(**batch.inputs())


def test_the_noise_of_a_token_is_the_same_in_any_batch_and_new_in_each_step() -> None:
    model = tiny_model().train()
    batch, together = embedded(model, range(12), 5.0)
    pieces = together.split(batch.sequence_lengths.tolist())
    for number in (0, 4, 11):
        _, alone = embedded(tiny_model().train(), [number], 5.0)
        torch.testing.assert_close(alone, pieces[number], rtol=0, atol=1e-14)
        _, later = embedded(tiny_model().train(), [number], 5.0, step=4)
        assert not torch.allclose(later, alone)


def test_nothing_stays_at_the_model_after_a_pass() -> None:
    model = tiny_model().train()
    changes = EmbeddingChanges(model, 5.0, 1.0)
    with pytest.raises(KeyError), changes.applied(TABLE.collate([0]), False):
        assert len(model.body.embed.token._forward_hooks) == 1
        raise KeyError
    assert not model.body.embed.token._forward_hooks and not model.body._forward_pre_hooks


def test_the_noise_is_distributed_as_that_of_trl() -> None:
    """The range of transformers' hook, which trl installs: uniform up to alpha / sqrt(L * D)."""
    alpha, ids = 5.0, [max(range(12), key=lambda n: TABLE.lengths[n])]
    model = tiny_model().train()
    found = torch.cat([embedded(model, ids, alpha, step=step)[1].flatten() for step in range(60)])
    length = int(TABLE.lengths[ids[0]])
    bound = alpha / math.sqrt(length * model.config.hidden_size)
    table = torch.nn.Embedding(97, model.config.hidden_size).train()
    table.neftune_noise_alpha = alpha
    hook = integrations.neftune.neftune_post_forward_hook
    zeros = torch.zeros(1, length, model.config.hidden_size)
    theirs = torch.cat([hook(table, None, zeros).flatten() for _ in range(60)])
    assert found.abs().max() <= bound and theirs.abs().max() <= bound
    assert found.abs().max() > 0.999 * bound
    for moment in (lambda x: x.mean(), lambda x: x.std(), lambda x: (x**4).mean() ** 0.25):
        assert abs(moment(found) - moment(theirs.double())) < 0.01 * bound
    shares = np.histogram(found.numpy(), 8, (-bound, bound))[0] / len(found)
    assert np.abs(shares - 1 / 8).max() < 0.005


def test_the_step_against_each_sample_is_the_papers() -> None:
    """Loss and gradients of both passes, against autograd on the embeddings of single samples."""
    recipe = SequenceClassification(problem="single_label", labels=list("abcde"), adversarial=0.7)
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    table = model.get_input_embeddings()
    total, count = torch.zeros((), dtype=torch.float64), 12

    def loss_of(batch, moved):
        handle = table.register_forward_hook(lambda module, given, out: out + moved)
        sums, _ = recipe.loss(model(**batch.inputs()), batch)
        handle.remove()
        return sums.sum()

    for number in range(count):
        batch = TABLE.collate([number])
        zero = torch.zeros(batch.num_tokens, table.embedding_dim).double().requires_grad_()
        clean = loss_of(batch, zero)
        (gradient,) = torch.autograd.grad(clean, zero, retain_graph=True)
        total = total + clean + loss_of(batch, 0.7 * gradient / gradient.norm())
    wanted = torch.autograd.grad(total / count, list(model.parameters()))
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    changes = EmbeddingChanges(model, 0.0, recipe.adversarial)
    stepper = Stepper(
        model,
        recipe,
        torch.optim.SGD(model.parameters(), lr=1.0),
        ranks=Ranks(),
        global_batch_size=count,
        embeddings=changes,
    )
    batches = [(TABLE.collate(part).for_step(1, 1), True) for part in ([0, 1, 2], range(3, 12))]
    facts = stepper.step(batches, 2, 1.0)
    found = before - torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    flat = torch.cat([gradient.flatten() for gradient in wanted])
    assert facts.loss == pytest.approx(total.item() / count, rel=1e-12)
    assert (found - flat).norm() <= 1e-12 * flat.norm()


def test_models_without_token_embeddings_of_their_own_are_refused() -> None:
    from trainer.trainer import Trainer

    recipe = SequenceClassification(problem="single_label", labels=list("abcde"), adversarial=1.0)
    settings = TrainSettings(compile=True, max_steps=1, precision="fp32")
    trainer = Trainer(tiny_model().float(), recipe, settings, train_dataset=TABLE)
    message = "trainer.compile: found true with recipe.adversarial; accepted: false"
    with pytest.raises(InputError, match=message):
        trainer.fit()
