"""Adapters on the experts of a mixture: PEFT's, ours, and sums over any split."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.parity.closeness import assert_equal_in_fp32
from tests.parity.test_decoders import inputs_of, random_reference
from tests.parity.test_experts import assert_any_split_gives_one_gradient
from trainer.errors import InputError
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import AutoModelForCausalLM

peft = pytest.importorskip("peft")

BOTH = ("experts.gate_up_proj", "experts.down_proj")


@pytest.fixture(scope="module", params=["mixtral", "qwen3_moe"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    random_reference(request.param).save_pretrained(folder)
    return folder


def randomize(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)


def reference(base):
    options = {"attn_implementation": "eager", "dtype": torch.float32}
    return transformers.AutoModelForCausalLM.from_pretrained(base, **options)


def logits_of(model):
    with torch.no_grad():
        return model(**inputs_of()).logits


@pytest.mark.parametrize("weights", [BOTH, BOTH[:1], ("down_proj",)], ids=["both", "first", "last"])
def test_an_adapter_of_peft_computes_and_saves_the_same(base, weights, tmp_path):
    layers = ["q_proj"] if weights == BOTH else []
    settings = peft.LoraConfig(
        r=3, lora_alpha=5, target_parameters=[*weights], target_modules=layers
    )
    theirs = peft.get_peft_model(reference(base), settings)
    randomize(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    losses = [m(**inputs_of(), labels=inputs_of()["input_ids"]).loss for m in (theirs, ours)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    assert_equal_in_fp32(logits_of(ours), logits_of(theirs))

    ours.save_pretrained(tmp_path / "ours")
    saved = [
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours")
    ]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    again = peft.PeftModel.from_pretrained(reference(base), tmp_path / "ours")
    assert_equal_in_fp32(logits_of(again), logits_of(ours))

    for parameter in ours.parameters():  # as the saved matrices, but for the layout
        parameter.data = parameter.grad if parameter.requires_grad else parameter
    ours.save_pretrained(tmp_path / "gradients")
    gradients = load_file(tmp_path / "gradients/adapter_model.safetensors")
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            saved_name = name.replace(".default", "")
            torch.testing.assert_close(
                gradients[saved_name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name
            )


def adapted(base, **settings):
    model = AutoModelForCausalLM.from_pretrained(base)
    model.add_lora(LoRASettings(rank=2, **settings))
    randomize(model)
    return model


def test_merging_changes_no_output_and_restores_plain_experts(base, tmp_path):
    model = adapted(base, targets=[*BOTH, "q_proj"])
    before = logits_of(model)
    model.merge_lora()
    assert_equal_in_fp32(logits_of(model), before)
    model.save_pretrained(tmp_path)
    assert_equal_in_fp32(logits_of(reference(tmp_path)), before)


def test_any_split_gives_the_adapters_one_gradient(base):
    assert_any_split_gives_one_gradient(adapted(base, targets=[*BOTH]).double().train())


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"dropout": 0.1}, "dropout: found 0.1 with adapters on experts"),
        ({"dora": True}, "dora: found True with adapters on experts"),
        ({"init": "pissa"}, "init: found pissa with adapters on experts"),
    ],
)
def test_what_experts_do_not_support_is_refused(base, settings, part):
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(InputError, match=part):
        model.add_lora(LoRASettings(rank=2, targets=["experts.down_proj"], **settings))


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        (
            {"target_parameters": "experts.down_proj"},
            "target_parameters: found 'experts.down_proj'",
        ),
        ({"target_parameters": ["experts.down_proj"]}, "accepted: those that target_parameters"),
        ({"target_parameters": None}, "accepted: those that target_parameters"),
        ({"r": 4}, "r: found 4; accepted: the rank of tensor"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(base, entries, part, tmp_path):
    adapted(base, targets=[*BOTH]).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    with pytest.raises(InputError) as caught:
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_adapters_of_single_experts_are_refused_in_one_line(base, tmp_path):
    adapted(base, targets=["q_proj"]).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.0.mlp.experts.1.w9.lora_A.weight"] = torch.ones(2, 32)
    save_file(tensors, file)
    with pytest.raises(InputError, match="an adapter of one expert, as in transformers 4"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_an_adapter_of_another_number_of_experts_is_refused(base, tmp_path):
    adapted(base, targets=["experts.down_proj"]).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("experts.lora_B.weight"))
    tensors[name] = torch.cat((tensors[name], tensors[name]), 1)
    save_file(tensors, file)
    with pytest.raises(InputError, match="the rank of tensor"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


OLD = {
    "mixtral": ("block_sparse_moe", ("w1", "w3", "w2")),
    "qwen3_moe": ("mlp", ("gate_proj", "up_proj", "down_proj")),
}


def old_adapter(base, folder, skipped=()):
    """An adapter as PEFT wrote it with transformers 4; returns its tensors by the layers' names."""
    kind = json.loads((base / "config.json").read_text())["model_type"]
    block, projections = OLD[kind]
    weights = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, weight in weights.items():
        layer = name.removesuffix(".weight")
        if f".{block}.experts." in name and layer.endswith(projections) and layer not in skipped:
            rank = 3 if layer.endswith(projections[1]) else 2
            shapes = {"lora_A": (rank, weight.shape[1]), "lora_B": (weight.shape[0], rank)}
            found[layer] = {n: torch.randn(s, generator=generator) * 0.3 for n, s in shapes.items()}
    folder.mkdir()
    tensors = {
        f"base_model.model.{layer}.{n}.weight": matrix
        for layer, both in found.items()
        for n, matrix in both.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "lora_alpha": 3,
        "rank_pattern": {projections[1]: 3}, "alpha_pattern": {projections[1]: 4.5},
        "target_modules": [*projections],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return found


def test_adapters_of_each_expert_are_joined(base, tmp_path):
    """The reference is transformers with each adapter added to its weight."""
    found = old_adapter(base, tmp_path / "old")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "old")
    merged = load_file(base / "model.safetensors")
    for layer, both in found.items():
        merged[f"{layer}.weight"] += 1.5 * both["lora_B"] @ both["lora_A"]
    shutil.copytree(base, tmp_path / "merged")
    save_file(merged, tmp_path / "merged" / "model.safetensors", {"format": "pt"})
    wanted = logits_of(reference(tmp_path / "merged"))
    assert (wanted - logits_of(reference(base))).norm() > 0.01 * wanted.norm()
    assert_equal_in_fp32(logits_of(ours), wanted)
    ours.save_pretrained(tmp_path / "new")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    assert torch.equal(logits_of(again), logits_of(ours))
    theirs = peft.PeftModel.from_pretrained(reference(base), tmp_path / "new")
    assert_equal_in_fp32(logits_of(theirs), wanted)
    ours.merge_lora()
    assert_equal_in_fp32(logits_of(ours), wanted)


def test_adapters_of_some_experts_are_refused(base, tmp_path):
    kind = json.loads((base / "config.json").read_text())["model_type"]
    block, projections = OLD[kind]
    old_adapter(base, tmp_path / "old", {f"model.layers.0.{block}.experts.1.{projections[2]}"})
    with pytest.raises(InputError, match="of expert 1; accepted: adapters on all experts, or none"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "old")
