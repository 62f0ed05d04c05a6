"""Weights in 4 and 8 bits: their values, with adapters, merging, resuming, and errors."""

import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.unit.models.test_lora import randomize
from tests.unit.models.test_training import batch_of, small
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.test_trainer import KillAt, Killed
from trainer.errors import InputError
from trainer.models.adapters.adapted_layer import adapted_layers
from trainer.models.adapters.adapters_off import adapters_off
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS, AutoConfig
from trainer.models.quantization.quantize import CODES, find_code
from trainer.models.quantization.quantized_linear import (
    QuantizedLinear,
    num_weights,
    quantized_layers,
)
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

for package in ("torchao", "bitsandbytes"):
    if find_spec(package) is None:
        pytest.skip(f"needs {package}", allow_module_level=True)

SHAPES = [(64, 96), (96, 64), (30, 48), (576, 192)]
"""The rows of some are not whole blocks of 64."""
SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
BASES = [("llama", "causal_lm"), ("gpt2", "causal_lm"), ("bert", "sequence_classification")]


def matrix(shape: tuple[int, int]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) * 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_integers_are_those_of_torchao(shape: tuple[int, int]) -> None:
    from torchao.quantization import (
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        MappingType,
        PerGroup,
        quantize_,
    )

    group = PerGroup(32 if shape[1] == 96 else 16 if shape[1] == 48 else 64)
    theirs = {
        "int8": Int8WeightOnlyConfig(),
        "int4": IntxWeightOnlyConfig(torch.int4, group, mapping_type=MappingType.ASYMMETRIC),
    }
    for name, config in theirs.items():
        layer = torch.nn.Linear(*reversed(shape), bias=False)
        layer.weight.data = matrix(shape)
        quantize_(layer, config)
        code = find_code(name)
        packed = code.pack(matrix(shape))
        assert packed.dtype == torch.uint8 and packed.dim() == 1
        torch.testing.assert_close(
            code.unpack(packed, shape), layer.weight.dequantize(), rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_normal_floats_are_the_nearest_of_the_sixteen(shape: tuple[int, int]) -> None:
    """Up to the error of quantising the blocks' scales (double quantisation)."""
    code, weight = find_code("nf4"), matrix(shape)
    from bitsandbytes.functional import get_4bit_type

    found = code.unpack(code.pack(weight), shape)
    blocks = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    levels = get_4bit_type("nf4", device="cpu")
    nearest = levels[(blocks / largest)[..., None].sub(levels).abs().argmin(-1)] * largest
    wanted = nearest.flatten()[: weight.numel()].view(shape)
    assert (found - wanted).norm() <= 0.02 * wanted.norm()


def test_a_weight_takes_the_bits_that_the_documents_say() -> None:
    shape = 1536, 576
    for kind, bits in {"int8": 8.06, "int4": 4.63, "nf4": 4.128}.items():
        found = find_code(kind).pack(matrix(shape))
        assert bits - 0.01 <= 8 * found.numel() / (shape[0] * shape[1]) <= bits


def saved(folder: Path, family: str, task: str) -> Path:
    small(family, task).save_pretrained(folder)
    return folder


def loaded(folder: Path, task: str, kind: str | None, **lora: Any) -> Any:
    model = TASKS[task].from_pretrained(folder, quantization=kind, dtype="float64")
    if lora:
        torch.manual_seed(0)
        model.add_lora(LoRASettings(**lora))
        torch.manual_seed(1)
        randomize(model)
    return model


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize(("family", "task"), BASES)
def test_it_computes_as_a_plain_model_with_these_weights(
    family: str, task: str, kind: str, tmp_path: Path
) -> None:
    """Outputs and gradients with LoRA and DoRA; merging adds to the original weights."""
    saved(tmp_path, family, task)
    for dora in (False, True):
        model = loaded(tmp_path, task, kind, rank=3, dora=dora)
        plain = loaded(tmp_path, task, None, rank=3, dora=dora)
        merged = loaded(tmp_path, task, None, rank=3, dora=dora)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                plain.get_parameter(name).data.copy_(parameter)
                merged.get_parameter(name).data.copy_(parameter)
        merged.merge_lora()
        layers = quantized_layers(model)
        assert layers.keys() == adapted_layers(plain).keys()
        assert not any(p.requires_grad for p in model.parameters() if not p.is_floating_point())
        for name, layer in layers.items():
            weight = plain.get_submodule(name).weight
            assert 0 < (weight - layer.weight).norm() < 0.2 * weight.norm()
            weight.data = layer.weight.contiguous()
        wanted, found = plain(**batch_of(task)), model(**batch_of(task))
        assert (found.logits - wanted.logits).norm() <= 1e-12 * wanted.logits.norm()
        for each in (wanted, found):
            each.loss.backward()
        for name, parameter in plain.named_parameters():
            if parameter.requires_grad:
                gradient = model.get_parameter(name).grad
                assert (gradient - parameter.grad).norm() <= 1e-10 * (1e-3 + parameter.grad.norm())
        assert num_weights(model) == num_weights(plain) == model.num_parameters()
        model.save_pretrained(tmp_path / "merged", merge=True)
        model.merge_lora()
        again = loaded(tmp_path / "merged", task, None)
        for name, parameter in merged.named_parameters():
            assert torch.equal(model.get_parameter(name), parameter), name
            assert torch.equal(again.get_parameter(name), parameter), name


def test_other_layers_and_biases_stay_trainable(tmp_path: Path) -> None:
    model = loaded(saved(tmp_path, "bert", "sequence_classification"), BASES[2][1], "int4", rank=2)
    layer = next(iter(quantized_layers(model).values()))
    layer.bias.requires_grad_(True)  # as in an adapter of PEFT with bias=all
    with adapters_off(model):
        assert type(layer) is QuantizedLinear
        model(**batch_of("sequence_classification")).loss.backward()
    assert layer.bias.grad.norm() > 0 and layer.packed.grad is None
    assert model.to(torch.bfloat16).get_submodule("body.embeddings.token").weight.dtype == (
        torch.bfloat16
    )
    assert layer.packed.dtype == torch.uint8
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert layer(torch.ones(2, layer.shape[1])).dtype == torch.bfloat16


def run(folder: Path, base: Path, kind: str | None = "int4", **settings: Any) -> Trainer:
    torch.manual_seed(0)
    model = TASKS["sequence_classification"].from_pretrained(base, quantization=kind)
    model.add_lora(LoRASettings(rank=3, dropout=0.1, **settings))
    return Trainer(
        model,
        RECIPES["single_label"],
        TrainSettings(
            num_epochs=2,
            global_batch_size=16,
            learning_rate=1e-2,
            precision="fp32",
            save_steps=2,
            gradient_checkpointing=True,
        ),
        train_dataset=ragged_table(45),
        output_dir=folder,
    )


def test_a_resumed_run_is_one_that_never_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "base"
    tiny_model(**SIZES).float().save_pretrained(base)
    run(tmp_path / "whole", base).fit()
    stopped = run(tmp_path / "stopped", base)
    stopped.callbacks.append(KillAt(3))
    with pytest.raises(Killed):
        stopped.fit()
    with pytest.raises(InputError, match=r"model\.quantization: found int8.* has int4"):
        run(tmp_path / "stopped", base, "int8").fit()
    run(tmp_path / "stopped", base).fit()
    files = [
        tmp_path / name / "model" / "adapter_model.safetensors" for name in ("whole", "stopped")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    folder = tmp_path / "whole" / "model"
    caplog.clear()
    for kind in ("int4", None):
        model = TASKS["sequence_classification"].from_pretrained(folder, quantization=kind)
        assert len(quantized_layers(model)) == (0 if kind is None else len(adapted_layers(model)))
        warned = "model.quantization=int4 computes as in training" in caplog.text
        assert warned == (kind is None)


def test_a_run_ships_a_model_of_the_original_weights(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_model(**SIZES).float().save_pretrained(base)
    trainer = run(tmp_path / "run", base, merge=True)
    trainer.fit()
    shipped = load_file(tmp_path / "run" / "model" / "model.safetensors")
    before = load_file(base / "model.safetensors")
    assert shipped.keys() == before.keys()
    with_adapters = run(tmp_path / "other", base, None).model
    with_adapters.load_weights(tmp_path / "run" / "checkpoint-6")  # the last one
    with_adapters.merge_lora()
    for name, parameter in with_adapters.named_parameters():
        assert torch.equal(parameter, shipped[with_adapters.hub_name(name)]), name
    shutil.rmtree(base)
    with pytest.raises(InputError, match=str(base)):
        trainer.model.merge_lora()


def test_packed_weights_are_not_written_for_tensorflow(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    tiny_model(**SIZES).float().save_pretrained(tmp_path / "base")
    model = TASKS["sequence_classification"].from_pretrained(tmp_path / "base", quantization="int4")
    with pytest.raises(InputError, match="^format: found tf for weights in int4; accepted: safe"):
        model.save_pretrained(tmp_path / "tf", format="tf")
    assert not (tmp_path / "tf").exists()


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize(("family", "task"), BASES)
def test_loftq_begins_with_what_was_rounded_off(
    family: str, task: str, kind: str, tmp_path: Path
) -> None:
    """As PEFT decomposes it; outputs come closer to the plain model's."""
    from peft.utils.loftq_utils import _low_rank_decomposition

    saved(tmp_path / "base", family, task)
    wanted = loaded(tmp_path / "base", task, None)(**batch_of(task)).logits
    distances = []
    for init in ("default", "loftq"):
        model = loaded(tmp_path / "base", task, kind)
        torch.manual_seed(0)
        model.add_lora(LoRASettings(rank=6, init=init))
        distances.append((model(**batch_of(task)).logits - wanted).norm())
    assert distances[1] < 0.9 * distances[0]
    originals = dict(loaded(tmp_path / "base", task, None).named_parameters())
    for name, layer in adapted_layers(model).items():
        error = originals[f"{name}.weight"].float() - layer.weight.float()
        parts = _low_rank_decomposition(error.T if layer.transposed else error, 6)
        product = layer.scaling * layer.lora_B @ layer.lora_A
        torch.testing.assert_close(product.float(), parts["L"] @ parts["R"], rtol=1e-3, atol=1e-5)

    randomize(model)
    found = model(**batch_of(task)).logits
    model.save_pretrained(tmp_path / "adapter")
    for other in {None, *CODES} - {kind}:
        with pytest.raises(InputError, match=f"accepted: model.quantization={kind}"):
            loaded(tmp_path / "adapter", task, other)
    again = loaded(tmp_path / "adapter", task, kind)
    assert torch.equal(again(**batch_of(task)).logits, found)
    again.save_pretrained(tmp_path / "again")
    names = [tmp_path / each / "adapter_model.safetensors" for each in ("adapter", "again")]
    assert names[0].read_bytes() == names[1].read_bytes()
    again.merge_lora()
    assert (again(**batch_of(task)).logits - found).norm() <= 1e-10 * found.norm()


def test_loftq_is_resumed_bitwise_and_ships_the_model_that_was_trained(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_model(**SIZES).float().save_pretrained(base)
    run(tmp_path / "whole", base, init="loftq", merge=True).fit()
    stopped = run(tmp_path / "stopped", base, init="loftq", merge=True)
    stopped.callbacks.append(KillAt(3))
    with pytest.raises(Killed):
        stopped.fit()
    again = run(tmp_path / "stopped", base, init="loftq", merge=True)
    again.fit()
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    shipped = TASKS["sequence_classification"].from_pretrained(tmp_path / "stopped" / "model")
    inputs = ragged_table(5).collate(range(5)).inputs()
    found, wanted = (m.eval()(**inputs).logits for m in (shipped, again.model))
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
    with pytest.raises(InputError, match="found loftq without quantized weights"):
        run(tmp_path / "plain", base, None, init="loftq")


def experts(folder: Path) -> None:
    small("qwen3_moe", "causal_lm").save_pretrained(folder)


def odd_inputs(folder: Path) -> None:
    config = AutoConfig({"model_type": "llama", "hidden_size": 32, "intermediate_size": 40})
    config.vocab_size, config.num_hidden_layers, config.num_attention_heads = 20, 1, 2
    config.num_key_value_heads = 1
    TASKS["causal_lm"].from_config(config).save_pretrained(folder)


def llama(folder: Path) -> None:
    small("llama", "causal_lm").save_pretrained(folder)


def gptq(folder: Path) -> None:
    """Integers, although the config does not mention them."""
    llama(folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name.replace("weight", "qweight")] = tensors.pop(name).to(torch.int32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def stored_as(dtype: torch.dtype) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        llama(folder)
        tensors = load_file(folder / "model.safetensors")
        name = next(name for name in tensors if name.endswith("q_proj.weight"))
        tensors[name] = tensors[name].to(dtype)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return write


def announced(method: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        llama(folder)
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": method}
        (folder / "config.json").write_text(json.dumps(config))

    return write


METHODS = ("gptq", "awq", "fp8", "compressed-tensors", "bitsandbytes", "torchao", "mxfp4", "hqq")
REFUSED: list[tuple[Callable[[Path], None], dict[str, Any], str]] = [
    (llama, {"quantization": "int3"}, "model.quantization: found 'int3'; accepted: int8, int4"),
    (llama, {"quantization": "int4", "new_head": True}, "found int4 with new_head=true"),
    (llama, {"quantization": "int4", "state_dict": {}}, "found int4 with state_dict"),
    (experts, {"quantization": "int8"}, "found int8 for a mixture of experts"),
    (odd_inputs, {"quantization": "int4"}, "output has 40 inputs; accepted: a multiple of 16"),
    (gptq, {}, "q_proj.weight is missing in the weights"),
    (stored_as(torch.float8_e4m3fn), {}, "q_proj.weight: found torch.float8_e4m3fn; accepted: "),
    (stored_as(torch.int8), {}, "q_proj.weight: found torch.int8; accepted: float32"),
    *((announced(m), {}, f"quantization_config: found '{m}'; accepted: ") for m in METHODS),
]


@pytest.mark.parametrize(("write", "options", "said"), REFUSED)
def test_what_cannot_be_quantised_or_read_is_refused(
    write: Callable[[Path], None], options: Any, said: str, tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(InputError) as raised:
        TASKS["causal_lm"].from_pretrained(tmp_path, **options)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_packed_weights_are_not_trained_whole(tmp_path: Path) -> None:
    llama(tmp_path)
    model = TASKS["causal_lm"].from_pretrained(tmp_path, quantization="int4")
    with pytest.raises(InputError, match="'q_proj' has quantized weights"):
        model.add_lora(LoRASettings(rank=2, modules_to_save=["q_proj"]))
    model = TASKS["causal_lm"].from_pretrained(tmp_path)
    model.add_lora(LoRASettings(rank=2, modules_to_save=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="query.weight was trained whole, and .* in int4"):
        TASKS["causal_lm"].from_pretrained(tmp_path / "adapter", quantization="int4")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, package in {"int4": "torchao", "nf4": "bitsandbytes"}.items():
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(InputError, match=rf"{kind} needs {package}.*tempering\[quantization\]"):
            find_code(kind)


def test_the_rest_of_a_model_is_not_trained_without_adapters(tmp_path: Path) -> None:
    tiny_model(**SIZES).float().save_pretrained(tmp_path)
    model = TASKS["sequence_classification"].from_pretrained(tmp_path, quantization="int8")
    trainer = Trainer(model, RECIPES["single_label"], train_dataset=ragged_table(9))
    with pytest.raises(InputError, match=r"model\.quantization: found int8 without adapters"):
        trainer.fit()
