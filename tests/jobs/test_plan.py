"""job=plan: the planned numbers of a model, compared with those of the real one."""

import gc
import json
import sys
from types import ModuleType

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

import launch
from recipes.causal_lm import CausalLM
from tests.unit.models.test_offloading import SIZES
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
from trainer.models.blocks import dropout_hash
from trainer.models.inputs import FlatInputs
from trainer.models.of_task import model_class
from trainer.models.packing import Layout
from trainer.models.quantization.quantize import quantize_without_values
from trainer.settings import TrainSettings
from trainer.training.planned_memory import activations, replicated, sharded
from trainer.training.strategy import bytes_of_ddp

LENGTHS = torch.tensor([9, 17])


def on_meta(model_type, task="causal_lm", **entries):
    config = AutoConfig({"model_type": model_type, **SIZES, **entries})
    with torch.device("meta"):
        return model_class(task).from_config(config, lazily=True)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2", "bert", "gpt2"])
def test_planned_activations_are_those_of_a_real_pass(family, recompute):
    names = {"gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40}}
    config = AutoConfig({"model_type": family, **names.get(family, SIZES), "vocab_size": 60})
    model = model_class("base").from_config(config).train()
    model.body.gradient_checkpointing = recompute
    kept = {}
    own = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    layout, tokens = Layout(LENGTHS, torch.device("cpu")), torch.zeros(26, dtype=torch.long)
    step = torch.zeros(1, dtype=torch.int32)
    inputs = FlatInputs(tokens, tokens, layout, tokens, tokens, step_key=step)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.body(inputs, False, False)
    real = sum(size for size, _ in kept.values())

    def build():
        with torch.device("meta"):
            return model_class("base").from_config(config, lazily=True)

    planned = activations(build, LENGTHS, "fp32", recompute)
    if recompute:  # in addition to the saved tensors, one layer at a time
        planned -= (activations(build, LENGTHS, "fp32", False) - real) // 3
    assert abs(planned - real) <= 0.05 * real


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bert", "electra"])
def test_a_plan_leaves_no_tensors_without_values_behind(family):
    """Nothing that is kept for later calls may come from a plan's pass, which has no values."""
    names = {"gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40}}
    config = AutoConfig({"model_type": family, **names.get(family, SIZES), "vocab_size": 60})

    def build():
        with torch.device("meta"):
            return model_class("base").from_config(config, lazily=True)

    assert activations(build, torch.tensor([13, 19]), "fp32", False)  # lengths of no other test
    modules = [m for name, m in sys.modules.items() if name.startswith("trainer.")]
    modules.remove(dropout_hash)  # it replaces stale ones
    found = [value for module in modules for value in vars(module).values()]
    for _ in range(4):  # through closures, caches, tuples and dictionaries
        assert not [each for each in found if type(each) is FakeTensor]
        followed = [each for each in found if not isinstance(each, (ModuleType, type))]
        found = gc.get_referents(*followed)


def test_attention_after_a_plan_is_causal():
    config = AutoConfig({"model_type": "llama", **SIZES})
    model = model_class("base").from_config(config).eval()

    def build():
        with torch.device("meta"):
            return model_class("base").from_config(config, lazily=True)

    assert activations(build, torch.tensor([21]), "fp32", False)
    ids = torch.arange(21).unsqueeze(0)
    changed = ids.clone()
    changed[0, -1] = 50
    with torch.no_grad():
        first, second = (model(input_ids=each).last_hidden_state for each in (ids, changed))
    assert torch.equal(first[0, :-1], second[0, :-1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}, {"optimizer": "sgd"}])
def test_memory_by_strategy(settings, precision):
    model, settings = on_meta("llama"), TrainSettings(**settings)
    model.body.embed.token.weight.requires_grad_(False)
    ddp = replicated(model, settings, precision, 2).total
    assert ddp == bytes_of_ddp(model, settings, precision)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    alone = replicated(model, settings, precision, 1)
    assert alone.total == ddp - 4 * trained
    shares = [sharded(model, settings, precision, n) for n in (1, 2, 8)]
    assert shares[0].weights == alone.weights and shares[0].optimizer == alone.optimizer
    assert shares[0].total > shares[1].total > shares[2].total
    assert shares[1].weights == -(-shares[0].weights // 2)
    whole = sharded(model, settings, precision, 8, whole_gradients=True)
    assert whole.gradients > shares[2].gradients
    host = sharded(model, settings, precision, 1, on_host=True)
    assert host.weights == host.optimizer == 0 and host.compute == shares[0].compute


def quantized(config, kind, folder):
    """The real and the planned memory of adapters with packed weights."""
    lora = LoRASettings(rank=2, alpha=4)
    model_class("causal_lm").from_config(config).save_pretrained(folder)
    real = model_class("causal_lm").from_pretrained(folder, quantization=kind)
    real.add_lora(lora)
    with torch.device("meta"):
        plan = model_class("causal_lm").from_config(config, lazily=True)
        quantize_without_values(plan, kind)
        plan.add_lora(lora, "base")
    return real.train(), plan


OTHERS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("int8", "nf4")]


@pytest.mark.parametrize("kind", ["int4", *OTHERS])
def test_a_step_beside_packed_weights_takes_what_is_planned(kind, tmp_path):
    """Weights, gradients and moments are exact; saved activations within 5 %."""
    pytest.importorskip("bitsandbytes" if kind == "nf4" else "torchao")
    config, settings = AutoConfig({"model_type": "llama", **SIZES}), TrainSettings()
    model, meta = quantized(config, kind, tmp_path)
    kept, own = {}, {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor):
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    layout, tokens = Layout(LENGTHS, torch.device("cpu")), torch.zeros(26, dtype=torch.long)
    step = torch.zeros(1, dtype=torch.int32)
    inputs = FlatInputs(tokens, tokens, layout, tokens, tokens, step_key=step)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.body(inputs, False, False).tokens.sum().backward()
    optimizer.step()
    plan = replicated(meta, settings, "fp32", 1)
    assert plan.weights == sum(p.nbytes for p in model.parameters())
    assert plan.gradients == sum(p.grad.nbytes for p in trained)
    moments = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    assert plan.optimizer == sum(t.nbytes for t in moments)
    assert plan.total == bytes_of_ddp(meta, settings, "fp32") - plan.gradients
    assert plan.compute == 8 * 32 * 48
    host = sharded(meta, settings, "fp32", 2)
    assert host.weights == pytest.approx(plan.weights / 2, abs=4)
    real = sum(t.untyped_storage().nbytes() for t in kept.values())
    planned = activations(lambda: quantized(config, kind, tmp_path)[1], LENGTHS, "fp32", False)
    assert abs(planned - real) <= 0.05 * real


def planned(capsys, *overrides, code=0):
    found = launch.main(["job=plan", *overrides])
    shown = capsys.readouterr()
    assert found == code, shown.err
    return shown.out if code == 0 else shown.err.strip()


def test_a_plan_of_a_folder(tmp_path, capsys):
    """The head is that of the published model or the recipe's; adapters are counted."""
    model = AutoModelForCausalLM.from_config(AutoConfig({"model_type": "llama", **SIZES}))
    model.save_pretrained(tmp_path)
    total = sum(p.numel() for p in model.parameters())
    small = ["plan.length=8", "plan.tokens=16"]
    shown = planned(capsys, f"model.path={tmp_path}", *small)
    assert f"parameters  {total:,}\n" in shown and f": {total:,} F32" in shown
    assert "2 sequences of 8 tokens" in shown and "?" not in shown
    shown = planned(capsys, f"model.path={tmp_path}", "recipe=sequence_classification", *small)
    assert f"parameters  {total - 60 * 32:,}\n" in shown
    model.add_lora(LoRASettings(rank=2), "x")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    both = total + trained
    shown = planned(capsys, f"model.path={tmp_path}", "model.lora.rank=2", *small)
    assert f"parameters  {both:,} ({trained:,} trained)" in shown
    packed = planned(
        capsys, f"model.path={tmp_path}", "model.lora.rank=2", "model.quantization=int4", *small
    )
    assert f"parameters  {both:,} ({trained:,} trained)" in packed and packed != shown
    shown = planned(capsys, f"model.path={tmp_path}", "launch.num_processes=3", *small)
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("fsdp ")][:1] == ["3"]


def test_what_cannot_be_planned_is_refused_in_one_line(tmp_path, capsys):
    AutoModelForMaskedLM.from_config(
        AutoConfig({"model_type": "bert", **SIZES, "num_hidden_layers": 1})
    ).save_pretrained(tmp_path / "bert")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text(json.dumps({"model_type": "opt"}))
    (tmp_path / "empty").mkdir()
    config = (tmp_path / "bert" / "config.json").read_text()
    (tmp_path / "empty" / "config.json").write_text(config)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    cases = {
        "foreign": "runs through transformers; accepted: a family that this package implements",
        "empty": "has no model.safetensors, and not all shards of an model.safetensors.index.json",
        "adapter": "is an adapter; accepted: its base, with model.lora.rank",
        "none": "there is no directory",
    }
    for name, message in cases.items():
        shown = planned(capsys, f"model.path={tmp_path / name}", code=2)
        assert message in shown and "\n" not in shown
    shown = planned(capsys, f"model.path={tmp_path / 'bert'}", "plan.length=0", code=2)
    assert "plan.length: found 0; accepted: 1 or more" in shown
    assert CausalLM().head.task == "causal_lm"
