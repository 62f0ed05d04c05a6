"""Optimizers resume bit for bit, and resumed runs are compared with their checkpoint."""

import copy
import dataclasses
import re

import pytest
import torch
from torch import nn

from trainer.checkpoint.resume import compare
from trainer.checkpoint.state import (
    Progress,
    load_optimizer_tensors,
    optimizer_tensors,
    read_state,
    write_state,
)
from trainer.errors import InputError
from trainer.training.moving_average import ExponentialMovingAverage

PROGRESS = Progress(
    step=30,
    samples_consumed=240,
    epoch=1.5,
    seed=7,
    global_batch_size=8,
    micro_batch_size=None,
    max_tokens=4096,
    world_size=2,
    precision="bf16",
    data_fingerprint="d0",
    config_fingerprint={"model": "m0", "optimizer": "o0"},
    best_metric=0.1 + 0.2,
    best_step=20,
    evaluations_without_improvement=1,
    total_steps=60,
    finished=False,
    versions={"torch": "2.13.0"},
)

NOT_TENSORS = {"LBFGS", "SparseAdam"}
OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if kind is not torch.optim.Optimizer and name not in NOT_TENSORS
)
OPTIONS = {"SGD": {"lr": 0.1, "momentum": 0.9}, "AdamW": {"amsgrad": True}}


def build(name: str, **options) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    bias = name != "Muon"  # takes only matrices
    model = nn.Sequential(nn.Linear(4, 3, bias=bias), nn.Tanh(), nn.Linear(3, 2, bias=bias))
    model[2].weight.requires_grad_(name == "Muon")  # frozen: without state
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": trained[:1]}, {"params": trained[1:], "weight_decay": 0.0}]
    return model, getattr(torch.optim, name)(groups, **(OPTIONS.get(name, {}) | options))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("stop", [0, 1, 3])
@pytest.mark.parametrize("name", [*OPTIMIZERS, "AdamW fused", "Adam foreach"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(tmp_path, name, stop):
    name, *options = name.split()
    model, optimizer = build(name, **dict.fromkeys(options, True))
    train(model, optimizer, range(stop))
    taken = optimizer_tensors(optimizer, dict(model.named_parameters()))
    write_state(tmp_path / "state", PROGRESS, taken)
    weights = copy.deepcopy(model.state_dict())

    again, other = build(name, **dict.fromkeys(options, True))
    again.load_state_dict(weights)
    saved = read_state(tmp_path / "state").optimizer
    load_optimizer_tensors(other, dict(again.named_parameters()), saved)
    for model_, optimizer_ in ((model, optimizer), (again, other)):
        train(model_, optimizer_, range(stop, 6))
    assert_same(dict(model.named_parameters()), dict(again.named_parameters()))
    for mine, yours in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert_same({k: v for k, v in mine.items() if v is not None}, yours)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}])
def test_moments_go_where_the_optimizer_keeps_them(tmp_path, options):
    weights = [nn.Parameter(torch.ones(4, device="cuda")) for _ in range(2)]
    mine, yours = (torch.optim.AdamW([weight], **options) for weight in weights)
    weights[0].grad = torch.ones(4, device="cuda")
    mine.step()
    write_state(tmp_path, PROGRESS, optimizer_tensors(mine, {"w": weights[0]}))
    load_optimizer_tensors(yours, {"w": weights[1]}, read_state(tmp_path).optimizer)
    assert_same(mine.state[weights[0]], yours.state[weights[1]])


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].device == b[name].device, name
        assert torch.equal(a[name], b[name]), name


def test_frozen_parameters_have_no_state():
    model, optimizer = build("AdamW")
    train(model, optimizer, range(1))
    names = {"0.weight", "0.bias", "2.bias"}
    assert optimizer_tensors(optimizer, dict(model.named_parameters())).keys() == names


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_moments_keep_their_dtype_and_are_copies(dtype):
    model, optimizer = build("AdamW")
    model.to(dtype)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in weights.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    taken = {n: {m: t.clone() for m, t in s.items()} for n, s in moments_of(optimizer, model)}
    load_optimizer_tensors(optimizer, dict(model.named_parameters()), taken)
    state = optimizer.state[model[0].weight]
    assert state["exp_avg"].dtype == dtype
    state["exp_avg"].zero_()
    assert taken["0.weight"]["exp_avg"].any()


def moments_of(optimizer: torch.optim.Optimizer, model: nn.Module):
    return optimizer_tensors(optimizer, dict(model.named_parameters())).items()


@pytest.mark.parametrize("name", ["AdamW fused", "Adam", "SGD", "Adafactor", "RMSprop"])
def test_moments_that_the_optimizer_does_not_keep_are_refused(name):
    """A fused kernel would read and write past a smaller moment, or one of a narrower type."""
    name, *options = name.split()
    model, optimizer = build(name, **dict.fromkeys(options, True))
    train(model, optimizer, range(2))
    names = dict(model.named_parameters())
    good = optimizer_tensors(optimizer, names)
    load_optimizer_tensors(optimizer, names, good)
    moments = good["0.weight"]
    victim = next(m for m, t in moments.items() if t.dim())
    whole = moments[victim]
    bad = [
        moments | {victim: torch.ones([1] * whole.dim())},
        moments | {victim: whole.to(torch.float16)},
        moments | {victim: torch.full_like(whole, float("nan"))},
        moments | {victim: torch.tensor(1.0)},
        moments | {"other": whole},
        {m: t for m, t in moments.items() if m != victim} | {"other": whole},
    ]
    if "step" in moments:
        bad.append(moments | {"step": torch.tensor(-5.0)})
    for each in bad:
        with pytest.raises(InputError, match=r"^optimizer.safetensors: .*0.weight"):
            load_optimizer_tensors(optimizer, names, good | {"0.weight": each})
    load_optimizer_tensors(optimizer, names, {n: {} for n in good})  # before the first step


def test_an_average_of_other_weights_is_refused():
    weight = nn.Parameter(torch.ones(3, 2))
    average = ExponentialMovingAverage([("w", weight)], 0.9)
    nan = torch.full((3, 2), float("nan"))
    for bad in ({}, {"v": torch.ones(3, 2)}, {"w": torch.ones(1, 1)}, {"w": nan}):
        with pytest.raises(InputError, match=r"^ema.safetensors: "):
            average.load(bad)
    with pytest.raises(InputError, match=r"^ema.safetensors: w: found .*float64"):
        average.load({"w": torch.ones(3, 2, dtype=torch.float64)})


@pytest.mark.parametrize("name", sorted(NOT_TENSORS))
def test_state_that_is_not_tensors_is_refused(name):
    weight = nn.Parameter(torch.ones(3))
    optimizer = getattr(torch.optim, name)([weight])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        if name == "SparseAdam":
            weight.grad = weight.grad.to_sparse()
        return loss

    optimizer.step(closure)
    with pytest.raises(InputError, match=rf"^trainer.optimizer: {name} keeps \w+ as \w+; accepted"):
        optimizer_tensors(optimizer, {"w": weight})


def test_the_state_of_another_model():
    model, optimizer = build("AdamW")
    train(model, optimizer, range(1))
    names = dict(model.named_parameters())
    good = optimizer_tensors(optimizer, names)
    before = copy.deepcopy(optimizer.state_dict())
    without = {name: moments for name, moments in good.items() if name != "2.bias"}
    cases = {
        "has the state of 2 parameters, the model trains 3 (missing: 2.bias)": without,
        "has the state of 4 parameters, the model trains 3 (unknown: x)": good | {"x": {}},
        "trains 3 (missing: 2.bias; unknown: x)": without | {"x": {}},
        "exp_avg of 2.bias is [3], the parameter is [2]": good
        | {"2.bias": {"exp_avg": torch.ones(3)}},
        "exp_avg of 2.bias is [2, 1], the parameter is [2]": good
        | {"2.bias": {"exp_avg": torch.ones(2, 1)}},
    }
    for words, tensors in cases.items():
        with pytest.raises(InputError, match=re.escape(words)):
            load_optimizer_tensors(optimizer, names, tensors)
        after = optimizer.state_dict()["state"]
        for index, state in before["state"].items():
            assert_same(state, after[index])


def test_everything_comes_back(tmp_path):
    optimizer = {"w/x": {"exp_avg": torch.randn(2), "step": torch.tensor(3.0)}, "never": {}}
    ema = {"w/x": torch.randn(2)}
    facts, callbacks = {"scale": 65536.0, "list": [1, None]}, {"early": {"count": 2}}
    write_state(tmp_path, PROGRESS, optimizer, facts, ema, callbacks)
    found = read_state(tmp_path)
    assert found.progress == PROGRESS
    assert found.optimizer_facts == facts
    assert found.callbacks == callbacks
    assert found.optimizer.keys() == optimizer.keys()
    for name, moments in optimizer.items():
        assert_same(found.optimizer[name], moments)
    assert_same(found.ema, ema)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    write_state(tmp_path / "plain", PROGRESS, {})
    plain = read_state(tmp_path / "plain")
    assert (plain.ema, plain.optimizer, plain.optimizer_facts) == (None, {}, None)


MUST_MATCH = {
    "seed": (8, "seed: found 8; the checkpoint of step 30 has 7"),
    "global_batch_size": (16, "trainer.global_batch_size: found 16; the checkpoint of step 30"),
    "data_fingerprint": ("d1", "dataset: found d1; the checkpoint of step 30 has d0"),
    "config_fingerprint": ({"model": "m1", "optimizer": "o0"}, "model: found m1"),
}


@pytest.mark.parametrize("field", MUST_MATCH)
def test_what_must_match_is_named(field):
    value, words = MUST_MATCH[field]
    now = dataclasses.replace(PROGRESS, **{field: value})
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        compare(PROGRESS, now)
    name = str(caught.value).split(":")[0]
    assert compare(PROGRESS, now, allowed=[name]) == [str(caught.value).split("; accepted")[0]]
    with pytest.raises(InputError):
        compare(PROGRESS, now, allowed=["something else"])


def test_what_may_differ_is_said():
    assert compare(PROGRESS, PROGRESS) == []
    now = dataclasses.replace(PROGRESS, world_size=4, total_steps=90, step=0, finished=True)
    assert compare(PROGRESS, now) == [
        "total_steps: 60 before the checkpoint, 90 from here; "
        "the learning rate follows the new number of steps",
        "world_size: 2 before the checkpoint, 4 from here; weights will differ in rounding",
    ]


def test_a_new_setting_that_is_not_set_is_no_difference() -> None:
    old = dataclasses.replace(PROGRESS, config_fingerprint={"recipe": "a"})
    unset = {"recipe": "a", "recipe.format": "null", "trainer.floor": "None"}
    assert compare(old, dataclasses.replace(PROGRESS, config_fingerprint=unset)) == []
    for changed in ({"recipe": "a", "recipe.format": '"b"'}, {"recipe": "null"}, {}):
        with pytest.raises(InputError, match="recipe"):
            compare(old, dataclasses.replace(PROGRESS, config_fingerprint=changed))
