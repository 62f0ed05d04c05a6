"""Parameter groups: learning rates and decay by name pattern and by layer."""

import pytest
from torch import nn

from tests.unit.test_exactness import tiny_model
from trainer.errors import InputError
from trainer.models.body import Body, Encoded
from trainer.models.inputs import FlatInputs
from trainer.settings import TrainSettings
from trainer.training.freezing import freeze, trainable
from trainer.training.optim import build_optimizer, set_learning_rate
from trainer.training.parameter_groups import describe_rates


def values_of(model: nn.Module, key: str, **settings: object) -> dict[str, float]:
    """Parameter name -> the settings of its group."""
    chosen = TrainSettings(**settings)  # type: ignore[arg-type]
    optimizer = build_optimizer(trainable(model), chosen, model)
    set_learning_rate(optimizer, 0.5)
    found = {id(p): group[key] for group in optimizer.param_groups for p in group["params"]}
    return {name: found[id(p)] for name, p in trainable(model)}


def test_biases_and_norms_do_not_decay() -> None:
    for name, decay in values_of(tiny_model(), "weight_decay", weight_decay=0.3).items():
        vector = name.endswith("bias") or "norm" in name
        assert decay == (0.0 if vector else 0.3), name


def test_patterns_in_our_names_or_the_hubs_set_rate_and_decay() -> None:
    patterns = {
        "classifier.*": {"lr_scale": 10},
        "body.embeddings.*": {"lr_scale": 0.1, "weight_decay": 0.5},
        "bert.*": {"weight_decay": 0},
    }
    model = tiny_model()
    rates = values_of(model, "lr", parameter_groups=patterns)
    decays = values_of(model, "weight_decay", parameter_groups=patterns, weight_decay=0.3)
    assert {"head", "body"} >= {name.split(".")[0] for name in rates}
    for name in rates:
        if name.startswith("body.embeddings."):
            assert (rates[name], decays[name]) == (0.05, 0.5), name
        elif name.startswith("body."):
            assert (rates[name], decays[name]) == (0.5, 0.0), name
        else:  # a pattern without weight decay keeps the rule about vectors
            assert (rates[name], decays[name]) == (5.0, 0.0 if "bias" in name else 0.3), name


def test_layers_learn_slower_the_deeper_they_lie() -> None:
    model = tiny_model()
    rates = values_of(model, "lr", layer_decay=0.5)
    num_layers = len(model.body.layers)
    for name, rate in rates.items():
        depth = num_layers + 1
        if name.startswith("body.embeddings."):
            depth = 0
        elif name.startswith("body.layers."):
            depth = 1 + int(name.split(".")[2])
        assert rate == 0.5 * 0.5 ** (num_layers + 1 - depth), name
    assert len(set(rates.values())) == num_layers + 2
    scaled = values_of(
        model, "lr", layer_decay=0.5, parameter_groups={"body.layers.0.*": {"lr_scale": 3}}
    )
    key = next(name for name in rates if name.startswith("body.layers.0."))
    assert scaled[key] == 3 * rates[key]


class Stages(Body):
    """A body whose layers and embeddings have other names than those of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.stages = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    @property
    def embed(self) -> nn.Module:
        return self.patches

    @property
    def units(self) -> list[tuple[str, nn.Module]]:
        return [(f"stages.{name}", stage) for name, stage in self.stages.named_children()]

    def forward(
        self, inputs: FlatInputs, hidden_states_wanted: bool, attentions_wanted: bool
    ) -> Encoded:
        raise AssertionError("only its parameters are looked at")


def test_a_body_names_its_own_layers() -> None:
    model = nn.Module()
    model.body, model.head = Stages(), nn.Linear(2, 2)
    rates = values_of(model, "lr", layer_decay=0.5)
    expected = {"body.patches": 1 / 8, "body.stages.0": 1 / 4, "body.stages.1": 1 / 2, "head": 1}
    for name, rate in rates.items():
        assert rate == 0.5 * expected[name.rpartition(".")[0]], name


def test_differences_are_said_in_words() -> None:
    model = tiny_model()
    plain = build_optimizer(trainable(model), TrainSettings(), model)
    assert describe_rates(plain.param_groups) == ""
    settings = TrainSettings(parameter_groups={"classifier.*": {"lr_scale": 10}})
    optimizer = build_optimizer(trainable(model), settings, model)
    words = "parameters have 1, 10 times the learning rate"
    assert describe_rates(optimizer.param_groups) == words


def test_a_group_of_rate_zero_does_not_move() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    settings = TrainSettings(parameter_groups={"0.*": {"lr_scale": 0}})
    optimizer = build_optimizer(trainable(model), settings, model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    set_learning_rate(optimizer, 0.1)
    model(model[0].weight.new_ones(3, 2)).sum().backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not p.equal(before[name])}
    assert moved == {"1.weight", "1.bias"}


def test_what_does_not_fit_is_refused() -> None:
    model = tiny_model()
    freeze(model, ["body.embeddings.*"])
    for pattern in ("nothing.*", "body.embeddings.*"):
        with pytest.raises(InputError, match="^trainer.parameter_groups: .*matches no parameter"):
            values_of(model, "lr", parameter_groups={pattern: {"lr_scale": 2}})
    with pytest.raises(InputError, match="^trainer.layer_decay: the layers of this model"):
        values_of(nn.Linear(2, 2), "lr", layer_decay=0.9)
    with pytest.raises(InputError, match="^trainer.parameter_groups: .*whole numbers in brackets"):
        values_of(model, "lr", parameter_groups={"a[01]": {"lr_scale": 2}})
