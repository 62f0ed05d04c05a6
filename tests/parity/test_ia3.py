"""(IA)^3 against PEFT: layers, files, outputs, gradients and merging."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

peft = pytest.importorskip("peft")
from peft.utils import constants  # noqa: E402

from tests.parity.closeness import assert_equal_in_fp32  # noqa: E402
from tests.parity.test_peft import SIZES, THEIRS, outputs_of  # noqa: E402
from trainer.errors import InputError  # noqa: E402
from trainer.models.adapters import adapter_config  # noqa: E402
from trainer.models.adapters.adapter_files import saved_names  # noqa: E402
from trainer.models.adapters.ia3 import USUAL  # noqa: E402
from trainer.models.adapters.lora_settings import LoRASettings  # noqa: E402
from trainer.models.auto import TASKS, AutoConfig  # noqa: E402
from trainer.models.family import find_family, native_families  # noqa: E402

TARGETS = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
FEEDFORWARD = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
PEFTS = {name: (tuple(each), tuple(FEEDFORWARD[name])) for name, each in TARGETS.items()}
T5 = {"decoder_start_token_id": 0, "d_kv": 8, "feed_forward_proj": "gated-gelu"}
BART = {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
OTHERS = {
    "t5": T5,
    "mt5": T5,
    "bart": BART,
    "mbart": BART,
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p"], "position_buckets": 4},
}
TASK = {"bert": "sequence_classification", "roberta": "token_classification", "deberta-v2": "base"}
CASES = [  # (family, targets, feedforward); None: PEFT's default for the family
    *((name, None, None) for name in ("llama", "gpt2", "bert")),
    ("llama", ["q_proj", "1.mlp.up_proj"], ["1.mlp.up_proj"]),
    ("gpt2", ["c_attn", "attn.c_proj"], []),
    *(
        pytest.param(name, None, None, marks=pytest.mark.slow)
        for name in (
            "t5",
            "mt5",
            "mistral",
            "mixtral",
            "gemma",
            "gemma2",
            "gemma3_text",
            "qwen2",
            "qwen3",
        )
    ),
    *(pytest.param(name, None, None, marks=pytest.mark.slow) for name in ("roberta", "bart")),
    pytest.param("deberta-v2", None, None, marks=pytest.mark.slow),
    pytest.param("mbart", ["k_proj", "v_proj", "fc2"], ["fc2"], marks=pytest.mark.slow),
]


def test_the_default_layers_are_pefts() -> None:
    assert USUAL == PEFTS
    assert {"llama", "t5", "deberta-v2"} <= {*native_families()} & USUAL.keys()


def test_every_entry_of_pefts_config_is_read_or_has_no_effect(tmp_path: Path) -> None:
    peft.IA3Config(base_model_name_or_path="x").save_pretrained(tmp_path)
    config = adapter_config.read_adapter_config(tmp_path / "adapter_config.json")
    assert (config.kind, config.base) == ("IA3", "x")
    for name in (each.name for each in fields(peft.IA3Config)):
        assert name in adapter_config.READ_OF_IA3 | adapter_config.NO_EFFECT, name


def new_base(family: str, folder: Path) -> str:
    """Save a small random model, whose biases are not zero; returns its task."""
    torch.manual_seed(0)
    known = find_family(family)
    task = TASK.get(family, "seq2seq_lm" if "seq2seq_lm" in known.heads else "causal_lm")
    sizes = {**SIZES, **OTHERS.get(family, {})}
    grouped = {"num_key_value_heads": 2, "head_dim": 8}
    sizes |= {name: n for name, n in grouped.items() if name in known.defaults}
    entries = {known.synonyms.get(name, name): value for name, value in sizes.items()}
    config = AutoConfig({"model_type": family, **entries})
    model = TASKS["base" if task.endswith("classification") else task].from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, 0.0, 0.2)
    model.save_pretrained(folder)
    return task


def disturb(model: nn.Module) -> None:
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, 1.0, 0.3)


def gradients(model: Any, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    (outputs * torch.randn(outputs.shape)).sum().backward()
    return {
        n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize(("family", "targets", "feedforward"), CASES)
def test_both_packages_adapt_alike(
    family: str, targets: list[str] | None, feedforward: list[str] | None, tmp_path: Path
) -> None:
    task = new_base(family, tmp_path / "base")
    kind, task_type = THEIRS[task]
    config = peft.IA3Config(
        target_modules=targets, feedforward_modules=feedforward, task_type=task_type
    )
    theirs = peft.get_peft_model(kind.from_pretrained(tmp_path / "base"), config).eval()
    disturb(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    wanted = outputs_of(theirs)

    ours = TASKS[task].from_pretrained(tmp_path / "base")
    plain = outputs_of(ours)
    ours.add_lora(LoRASettings(ia3=True, targets=targets or [], feedforward=feedforward))
    assert torch.equal(outputs_of(ours), plain)
    trained = {name for name, p in ours.named_parameters() if p.requires_grad}
    loaded = TASKS[task].from_pretrained(tmp_path / "theirs")
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == trained
    assert_equal_in_fp32(outputs_of(loaded), wanted)
    assert (wanted - plain).norm() > 0.01 * plain.norm()

    of_theirs, found = gradients(theirs, wanted), gradients(loaded, outputs_of(loaded))
    named = {saved_names(loaded)[name]: gradient for name, gradient in found.items()}
    for name, gradient in named.items():
        module, _, leaf = name.rpartition(".")
        there = of_theirs.get(name, of_theirs.get(f"{module}.modules_to_save.{leaf}"))
        torch.testing.assert_close(gradient, there.view_as(gradient), rtol=1e-3, atol=1e-4)

    loaded.save_pretrained(tmp_path / "ours")
    files = [load_file(tmp_path / n / "adapter_model.safetensors") for n in ("theirs", "ours")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
    again = peft.PeftModel.from_pretrained(
        kind.from_pretrained(tmp_path / "base"), tmp_path / "ours"
    )
    assert_equal_in_fp32(outputs_of(again.eval()), wanted)

    loaded.merge_lora()
    assert_equal_in_fp32(outputs_of(loaded), wanted)
    assert loaded.lora is None and not any("ia3" in n for n, _ in loaded.named_parameters())


def test_folders_that_contradict_are_refused(tmp_path: Path) -> None:
    task = new_base("llama", tmp_path / "base")
    model = TASKS[task].from_pretrained(tmp_path / "base")
    model.add_lora(LoRASettings(ia3=True))
    model.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "adapter_config.json"
    entries = json.loads(file.read_text())
    for changed, said in (
        (
            {"peft_type": "LORA", "feedforward_modules": None, "init_ia3_weights": None},
            "scales of IA3; accepted with peft_type LORA: lora_A and lora_B",
        ),
        (
            {"alora_invocation_tokens": [1]},
            "alora_invocation_tokens: found .*; accepted: those of IA3",
        ),
    ):
        file.write_text(json.dumps({**entries, **changed}))
        with pytest.raises(InputError, match=said):
            TASKS[task].from_pretrained(tmp_path / "saved")
