"""Dropout masks are functions of keys, independent of the batch, uniform and uncorrelated."""

import itertools

import pytest
import torch

from trainer.models.auto import AutoConfig, AutoModelForSequenceClassification
from trainer.models.blocks.dropout import Dropout, number_sites
from trainer.models.blocks.dropout_hash import head_keys, token_keys
from trainer.models.blocks.fused_dropout import dropped

SIZES = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.2,
}


def keys_of(samples, *, seed=1, step=2, sequence=0, tokens=16):
    """Keys [len(samples) * tokens], sample after sample."""
    sample_ids = torch.tensor(samples).repeat_interleave(tokens)
    token_index = torch.arange(tokens).repeat(len(samples))
    return token_keys(seed, step, sample_ids, torch.full_like(token_index, sequence), token_index)


def dropout(p, site=0):
    module = Dropout(p)
    module.site = site
    return module


def mask(keys, p=0.5, site=0, channels=64):
    return dropout(p, site).mask(torch.empty(*keys.shape, channels), keys)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs()


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9, 1e-5])
def test_rate_and_expectation(p):
    module = dropout(p)
    keys = keys_of(range(500))
    x = torch.ones(8000, 64)
    out = module(x, keys)
    numbers = x.numel()
    rate = float((out == 0).double().mean())
    deviation = (p * (1 - p) / numbers) ** 0.5
    assert abs(rate - p) < 5 * deviation + 1 / 65536
    assert float(out.double().mean()) == pytest.approx(1, abs=5 * deviation / (1 - p) + 1e-6)
    kept = 1 - round(p * 65536) / 65536
    assert out.max() == pytest.approx(1 / kept, rel=1e-6)


def test_rows_and_columns_are_each_fair():
    """No token and no channel is dropped more often than chance allows."""
    drawn = mask(keys_of(range(250)), p=0.25, channels=256)
    for axis, number in ((0, drawn.shape[0]), (1, drawn.shape[1])):
        rates = drawn.double().mean(axis)
        deviation = (0.25 * 0.75 / number) ** 0.5
        assert (rates - 0.75).abs().max() < 5.5 * deviation
        assert rates.std() == pytest.approx(deviation, rel=0.2)


def test_neighbours_are_independent():
    """Every pair of channels, of tokens, of samples, seeds, steps, sites and sequences."""
    drawn = mask(keys_of(range(400)), channels=128)  # 6400 x 128
    columns = torch.corrcoef(drawn.T).fill_diagonal_(0)
    assert columns.abs().max() < 6 / 6400**0.5
    rows = torch.corrcoef(mask(keys_of(range(20)), channels=4096)).fill_diagonal_(0)
    assert rows.abs().max() < 6 / 4096**0.5
    limit = 5 / drawn.numel() ** 0.5
    samples = list(range(400))
    others = [
        mask(keys_of(samples), site=1, channels=128),
        mask(keys_of(samples, seed=2), channels=128),
        mask(keys_of(samples, step=3), channels=128),
        mask(keys_of(samples, sequence=1), channels=128),
        mask(keys_of([sample + 1000 for sample in samples]), channels=128),
        mask(keys_of([sample + (1 << 40) for sample in samples]), channels=128),
    ]
    for one, other in itertools.combinations([drawn, *others], 2):
        assert correlation(one, other) < limit
    assert correlation(drawn[1:], drawn[:-1]) < limit


def test_pairs_of_draws_take_every_value_alike():
    """Joint counts of four neighboring channels: the chi-square of 16 cells is plausible."""
    drawn = mask(keys_of(range(2000)), channels=64).view(-1, 4)
    cells = (drawn * torch.tensor([8.0, 4, 2, 1])).sum(1).long().bincount(minlength=16)
    expected = drawn.shape[0] / 16
    assert ((cells - expected) ** 2 / expected).sum() < 45  # the 0.99993 quantile of 15 degrees


def test_masks_do_not_depend_on_the_batch():
    whole = mask(keys_of([5, 9, 2, 7]), channels=33)
    parts = [mask(keys_of([sample]), channels=33) for sample in (5, 9, 2, 7)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(mask(keys_of([5]), channels=7), mask(keys_of([5]), channels=20)[:, :7])
    assert torch.equal(
        mask(keys_of([5]), channels=8).bool(),
        dropout(0.5).mask(torch.empty(16, 8, dtype=torch.bfloat16), keys_of([5])).bool(),
    )


def test_keys_take_any_integer_type_and_are_left_alone():
    index = torch.arange(10)
    wide = token_keys(0, 0, index, index * 0, index)
    narrow = token_keys(0, 0, index.to(torch.int16), (index * 0).int(), index.to(torch.uint8))
    assert wide.dtype == torch.int32
    assert torch.equal(wide, narrow)
    before = wide.clone()
    mask(wide)
    head_keys(wide.view(1, 10), 3)
    assert torch.equal(wide, before)


def test_every_head_drops_keys_of_its_own():
    keys = head_keys(keys_of([3], tokens=100).view(1, 100), 8)
    drawn = mask(keys, channels=100)[0]
    for one, other in itertools.combinations(drawn, 2):
        assert correlation(one, other) < 5 / 100


def test_no_generator_is_touched_with_keys_and_one_is_without():
    module = dropout(0.5)
    x = torch.ones(16, 8)
    before = torch.get_rng_state()
    first = module(x, keys_of([1]))
    assert torch.equal(module(x, keys_of([1])), first)
    assert torch.equal(torch.get_rng_state(), before)
    module(x)
    assert not torch.equal(torch.get_rng_state(), before)


def test_identity_in_evaluation_and_for_zero():
    x = torch.randn(16, 8)
    assert dropout(0.5).eval()(x, keys_of([1])) is x
    assert dropout(0.0)(x, keys_of([1])) is x


def test_add_is_residual_plus_dropout_with_the_gradient_of_both():
    torch.manual_seed(0)
    module, keys = dropout(0.3), keys_of([4])
    x, residual = torch.randn(2, 16, 8, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(module.add(residual, x, keys), residual + module(x, keys))
    torch.testing.assert_close(module.eval().add(residual, x, keys), residual + x)
    module.train()
    (gradient,) = torch.autograd.grad(module.add(residual, x, keys).sum(), x)
    torch.testing.assert_close(gradient, module(torch.ones_like(x), keys))


def model_and_batch():
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig(SIZES)).double().train()
    lengths = torch.tensor([7, 3, 12, 1, 5])
    samples = [40, 12, 7, 99, 3]
    flats = []
    for sample, length in zip(samples, lengths.tolist(), strict=True):
        ids = torch.randint(50, (length,))
        position = torch.arange(length)
        keys = token_keys(0, 5, torch.full((length,), sample), position * 0, position)
        flats.append({"input_ids": ids, "position_ids": position, "dropout_keys": keys})
    return model, flats


def joined(flats):
    batch = {name: torch.cat([flat[name] for flat in flats]) for name in flats[0]}
    return {**batch, "sequence_lengths": torch.tensor([len(flat["input_ids"]) for flat in flats])}


def test_a_model_drops_the_same_however_the_batch_is_split():
    """Every split gives the same logits, whether sequences share a padded grid or not."""
    model, flats = model_and_batch()
    whole = model(**joined(flats)).logits
    for split in ([[0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4]], [[4, 2], [0, 3, 1]]):
        for part in split:
            logits = model(**joined([flats[index] for index in part])).logits
            torch.testing.assert_close(logits, whole[part], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(model.eval()(**joined(flats)).logits, whole)


def test_a_padded_call_drops_the_same_as_the_flat_one():
    model, flats = model_and_batch()
    pad = torch.nn.utils.rnn.pad_sequence
    padded = {
        name: pad([flat[name] for flat in flats], batch_first=True)
        for name in ("input_ids", "dropout_keys")
    }
    mask_ = pad([torch.ones_like(flat["input_ids"]) for flat in flats], batch_first=True)
    logits = model(**padded, attention_mask=mask_).logits
    torch.testing.assert_close(logits, model(**joined(flats)).logits, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("with_keys", [True, False])
def test_gradient_checkpointing_drops_the_same_again(with_keys):
    model, flats = model_and_batch()
    batch = joined(flats)
    if not with_keys:
        del batch["dropout_keys"]
    gradients = []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(1)
        model(**batch, labels=torch.tensor([0, 1, 1, 0, 1])).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)
    model.gradient_checkpointing_disable()
    assert not model.body.gradient_checkpointing


def test_attention_dropout_scales_alike_when_the_probabilities_are_asked_for():
    model, flats = model_and_batch()
    batch = joined(flats)
    outputs = model(**batch, output_attentions=True)
    torch.testing.assert_close(outputs.logits, model(**batch).logits, rtol=1e-10, atol=1e-12)
    assert (outputs.attentions[0][0, :, :7, :7] == 0).any()


def test_kept_hashes_of_inference_serve_training_too():
    """The fused kernels save their hashes for the backward pass, which inference tensors forbid."""
    dropout, keys = Dropout(0.5).train(), torch.arange(3, dtype=torch.int32)
    with torch.inference_mode():
        before = dropped(torch.ones(3, 77), dropout.draws_for(keys, 77))
        heads = dropout.head_hashes(2, keys.device)
    x = torch.ones(3, 77, requires_grad=True)
    after = dropped(x, dropout.draws_for(keys, 77))
    after.sum().backward()
    assert torch.equal(before, after) and torch.equal(x.grad, after)
    again = dropout.head_hashes(2, keys.device)
    assert torch.equal(heads, again) and not again.is_inference()


def test_sites_are_numbered_in_the_order_of_the_modules():
    model, _ = model_and_batch()
    sites = [module.site for module in model.modules() if isinstance(module, Dropout)]
    assert sites == list(range(1 + 2 * 3 + 1))
    other = torch.nn.Sequential(Dropout(0.1), torch.nn.Linear(2, 2), Dropout(0.1))
    number_sites(other)
    assert [other[0].site, other[2].site] == [0, 1]


@pytest.mark.slow
def test_compiled_masks_are_the_same():
    """Overflow is undefined in compiled C++, so results must not depend on it."""
    keys = keys_of([1, 2], tokens=10)
    module = dropout(0.3, site=3)
    compiled = torch.compile(lambda x, keys: module(x, keys), dynamic=True)
    x = torch.ones(20, 51)
    assert torch.equal(compiled(x, keys), module(x, keys))
    compiled = torch.compile(lambda x, keys: module(x, head_keys(keys, 4)), dynamic=True)
    x, keys = torch.ones(2, 4, 10, 10), keys.view(2, 10)
    assert torch.equal(compiled(x, keys), module(x, head_keys(keys, 4)))
