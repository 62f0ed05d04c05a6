"""(IA)^3: trained parameters, resuming, quantized bases, merging, and settings that do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.models.test_training import PRETRAINED, WITH_LOSS, batch_of, small
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.test_trainer import KillAt, Killed
from trainer.errors import InputError
from trainer.models.adapters.adapted_layer import adapted_layers
from trainer.models.adapters.adapters_off import adapters_off
from trainer.models.adapters.ia3 import SCALES, USUAL
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.adapters.targets import chosen_layers
from trainer.models.auto import TASKS
from trainer.models.blocks.experts import GroupedLinear
from trainer.models.quantization.quantized_linear import quantized_layers
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

INPUTS = ("input_ids", "attention_mask", "decoder_input_ids")
ONE_EACH = list(
    {family: (family, task) for family, task in WITH_LOSS if task in PRETRAINED}.values()
)
"""Each family with one head."""


def disturb(model: nn.Module) -> None:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith(SCALES):
            nn.init.normal_(parameter, 1.0, 0.3)


@pytest.mark.parametrize(("family", "task"), ONE_EACH)
def test_scales_alone_are_trained_and_merge(family: str, task: str) -> None:
    model = small(family, task).double().eval()
    inputs = {k: v for k, v in batch_of(task).items() if k in INPUTS}
    plain = model(**inputs)[0]
    settings: dict[str, Any] = {}
    if family not in USUAL:  # every linear layer, and the inputs of some
        names = sorted({name.rpartition(".")[2] for name in chosen_layers(model, [])})
        settings = {"targets": names, "feedforward": names[:1]}
    model.add_lora(LoRASettings(ia3=True, **settings))
    assert torch.equal(model(**inputs)[0], plain)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.endswith(SCALES), name
    disturb(model)
    model(**batch_of(task)).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    wanted = model(**inputs)[0]
    assert not torch.allclose(wanted, plain)
    with adapters_off(model):
        assert torch.equal(model(**inputs)[0], plain)
    model.merge_lora()
    assert (model(**inputs)[0] - wanted).norm() <= 1e-12 * wanted.norm()
    assert not adapted_layers(model)


def run(folder: Path, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    model = tiny_model().float()
    model.add_lora(LoRASettings(**({"ia3": True} | settings)), "nowhere")
    return Trainer(
        model,
        RECIPES["single_label"],
        TrainSettings(
            num_epochs=2, global_batch_size=16, learning_rate=1e-2, precision="fp32", save_steps=2,
            gradient_checkpointing=True,
        ),
        train_dataset=ragged_table(45),
        output_dir=folder,
    )  # fmt: skip


def test_a_resumed_run_is_one_that_never_stopped(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    whole.fit()
    stopped = run(tmp_path / "stopped")
    stopped.callbacks.append(KillAt(3))
    with pytest.raises(Killed):
        stopped.fit()
    other = run(tmp_path / "stopped", ia3=False, rank=2)
    with pytest.raises(InputError, match=r"model\.lora\.kind|model\.parameters"):
        other.fit()
    run(tmp_path / "stopped").fit()
    files = [tmp_path / n / "model" / "adapter_model.safetensors" for n in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    other = run(tmp_path / "stopped", feedforward=[])  # the same number of scales, of other values
    with pytest.raises(InputError, match=r"ia3_l: found shape \(1, 24\)|model\.parameters"):
        other.fit()
    config = json.loads((tmp_path / "whole" / "model" / "adapter_config.json").read_text())
    assert config["peft_type"] == "IA3" and "r" not in config


@pytest.mark.parametrize(
    ("family", "task"), [("gpt2", "causal_lm"), ("bert", "sequence_classification")]
)
def test_layers_of_quantised_weights_are_scaled(family: str, task: str, tmp_path: Path) -> None:
    """They compute as with the unpacked weights; merging scales the original ones."""
    small(family, task).save_pretrained(tmp_path)
    models = [
        TASKS[task].from_pretrained(tmp_path, quantization=kind, dtype="float64")
        for kind in ("int8", None, None)
    ]
    for model in models:
        model.add_lora(LoRASettings(ia3=True))
        disturb(model)
    quantised, plain, merged = models
    for name, layer in quantized_layers(quantised).items():
        plain.get_submodule(name).weight.data = layer.weight.contiguous()
    wanted, found = (model(**batch_of(task)) for model in (plain, quantised))
    assert (found.logits - wanted.logits).norm() <= 1e-12 * wanted.logits.norm()
    for each in (wanted, found):
        each.loss.backward()
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            gradient = quantised.get_parameter(name).grad
            assert (gradient - parameter.grad).norm() <= 1e-10 * (1e-3 + parameter.grad.norm())
    quantised.merge_lora()
    merged.merge_lora()
    for name, parameter in merged.named_parameters():
        assert torch.equal(quantised.get_parameter(name), parameter), name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 4}, "model.lora.rank: found 4 with ia3; accepted: null"),
        ({"alpha": 4}, "model.lora.alpha: found 4 with ia3; accepted: null"),
        ({"dora": True}, "model.lora.dora: found True with ia3; accepted: false"),
        ({"init": "pissa"}, "model.lora.init: found pissa with ia3; accepted: default"),
        ({"dropout": 0.1}, "model.lora.dropout: found 0.1 with ia3; accepted: 0"),
        ({"trainable_tokens": [3]}, r"trainable_tokens: found \[3\] with ia3; accepted: \[\]"),
        ({"ia3": False, "feedforward": ["fc2"]}, "model.lora.feedforward: found it without ia3"),
        ({"targets": ["qurey"]}, "model.lora.targets: 'qurey' is not a linear layer of the body"),
        (
            {"targets": ["key"], "feedforward": ["value"]},
            "model.lora.feedforward: 'value' is not among the targets; accepted: some of key",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        tiny_model().add_lora(LoRASettings(**({"ia3": True} | settings)))


def test_families_and_layers_without_defaults_are_refused() -> None:
    model = small("distilbert", "masked_lm")
    with pytest.raises(InputError, match=r"targets: found \[\] with ia3, which has no default"):
        model.add_lora(LoRASettings(ia3=True))
    with pytest.raises(InputError, match="feedforward: found null with ia3, which has no default"):
        model.add_lora(LoRASettings(ia3=True, targets=["q_lin"]))
    mixture = small("mixtral", "causal_lm")
    assert any(isinstance(module, GroupedLinear) for module in mixture.modules())
    with pytest.raises(InputError, match="model.lora.ia3: found True with adapters on experts"):
        mixture.add_lora(LoRASettings(ia3=True, targets=["experts.down_proj"]))
