"""Adapters of Nomic BERT: transformers splits and renames layers that the files have as one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

peft = pytest.importorskip("peft")
import transformers  # noqa: E402

from tests.parity.test_peft import IDS, SIZES, randomize  # noqa: E402
from trainer.errors import InputError  # noqa: E402
from trainer.models.adapters.lora_settings import LoRASettings  # noqa: E402
from trainer.models.auto import TASKS, AutoConfig  # noqa: E402

THEIRS = transformers.AutoModelForTokenClassification
TASK = "token_classification"
SPLIT = ["q_proj", "k_proj", "v_proj"]
NUMBERS = {"num_labels": 3}
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = AutoConfig({"model_type": "nomic_bert", **SIZES})
    TASKS["base"].from_config(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def ours(folder: Path) -> Any:
    return TASKS[TASK].from_pretrained(folder, **NUMBERS)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


SETTINGS = {
    "lora": LoRASettings(rank=3, alpha=5),
    "rslora": LoRASettings(rank=3, rslora=True, targets=["Wqkv"]),
    "dora": LoRASettings(rank=3, dora=True),
    "ia3": LoRASettings(ia3=True, targets=["Wqkv", "fc2"], feedforward=["fc2"]),
    "ia3, inputs": LoRASettings(ia3=True, targets=["Wqkv"], feedforward=["Wqkv"]),
    "norms": LoRASettings(rank=2, targets=["fc11"], modules_to_save=["emb_ln", "norm2"]),
}


USUAL = ("lora", "ia3, inputs")
KINDS = [pytest.param(kind, marks=() if kind in USUAL else pytest.mark.slow) for kind in SETTINGS]


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_ours_and_they_come_back(base: Path, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ours(base)
    model.add_lora(SETTINGS[kind])
    randomize(model)
    wanted = logits(model)
    model.save_pretrained(tmp_path / "ours")
    theirs = THEIRS.from_pretrained(base, **NUMBERS)
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours")
    torch.testing.assert_close(logits(adapted), wanted, **CLOSE)
    adapted.save_pretrained(tmp_path / "theirs")
    files = [load_file(tmp_path / n / "adapter_model.safetensors") for n in ("ours", "theirs")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
    again = ours(tmp_path / "theirs")
    assert torch.equal(logits(again), wanted)
    for name, parameter in model.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({"target_modules": SPLIT, "r": 2}, "LoraConfig"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"], "r": 2}, "LoraConfig"),
        (
            {"target_modules": SPLIT, "r": 2, "rank_pattern": {"k_proj": 4},
             "alpha_pattern": {"k_proj": 16}},
            "LoraConfig",
        ),
        ({"target_modules": [*SPLIT, "up_proj"], "r": 2, "use_dora": True}, "LoraConfig"),
        (
            {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
            "IA3Config",
        ),
    ],
)  # fmt: skip
def test_pefts_adapters_load_and_merge(
    base: Path, options: dict[str, Any], method: str, tmp_path: Path
) -> None:
    config = getattr(peft, method)(task_type="TOKEN_CLS", **options)
    theirs = peft.get_peft_model(THEIRS.from_pretrained(base, **NUMBERS), config)
    randomize(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    wanted = logits(theirs)
    model = ours(tmp_path / "theirs")
    torch.testing.assert_close(logits(model), wanted, **CLOSE)
    model.save_pretrained(tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(
        THEIRS.from_pretrained(base, **NUMBERS), tmp_path / "ours"
    )
    torch.testing.assert_close(logits(again), wanted, **CLOSE)
    model.merge_lora()
    torch.testing.assert_close(logits(model), wanted, **CLOSE)


def test_names_of_the_published_files_load_too(base: Path, tmp_path: Path) -> None:
    """PEFT writes them for the model's own code, which has the matrices of the files."""
    model = ours(base)
    model.add_lora(LoRASettings(rank=3, targets=["Wqkv"]))
    randomize(model)
    model.save_pretrained(tmp_path / "new")
    file = tmp_path / "new" / "adapter_model.safetensors"
    tensors = load_file(file)
    for layer in range(SIZES["num_hidden_layers"]):
        here = f"base_model.model.nomic_bert.layers.{layer}.self_attn"
        there = f"base_model.model.nomic_bert.encoder.layers.{layer}.attn.Wqkv"
        found = {
            s: [tensors.pop(f"{here}.{n}.{s}.weight") for n in SPLIT] for s in ("lora_A", "lora_B")
        }
        tensors[f"{there}.lora_A.weight"] = found["lora_A"][0]
        tensors[f"{there}.lora_B.weight"] = torch.cat(found["lora_B"])
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    assert torch.equal(logits(ours(tmp_path / "new")), logits(model))


def test_parts_of_unlike_shapes_are_refused(base: Path, tmp_path: Path) -> None:
    model = ours(base)
    model.add_lora(LoRASettings(rank=3, targets=["Wqkv"]))
    model.save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = min(name for name in tensors if name.endswith("k_proj.lora_A.weight"))
    for wrong in (tensors[name][:, :5].contiguous(), torch.tensor(1.0)):
        save_file({**tensors, "odd": torch.ones(1), name: wrong}, file)
        with pytest.raises(InputError, match=r"accepted: tensors of 3 parts|no such tensor"):
            ours(tmp_path / "a")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"target_modules": SPLIT, "alpha_pattern": {"k_proj": 3}},
            "alpha_pattern: found different",
        ),
        ({"target_modules": ["q_proj"], "use_dora": True}, "it is of one part of a layer"),
    ],
)
def test_parts_that_one_matrix_cannot_have_are_refused(
    base: Path, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    config = peft.LoraConfig(task_type="TOKEN_CLS", r=2, **options)
    peft.get_peft_model(THEIRS.from_pretrained(base, **NUMBERS), config).save_pretrained(
        tmp_path / "a"
    )
    with pytest.raises(InputError, match=said):
        ours(tmp_path / "a")
