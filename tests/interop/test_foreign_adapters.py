"""Adapters on models of transformers: each of this package and PEFT loads the other's files."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from tests.interop.foreign import DECODERS, OWN, params, save_foreign
from trainer.errors import InputError
from trainer.interop.padded_loading import load_padded
from trainer.interop.padded_model import PaddedModel
from trainer.models.adapters.lora_settings import LoRASettings

SMALL = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2}
IDS = torch.arange(3, 12).unsqueeze(0)
LENGTHS = torch.tensor([9])
LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}}
KINDS = [name for name in OWN if name not in ("convbert", "mamba")]


@pytest.fixture(scope="module", params=params(KINDS, ("roformer", "opt", "falcon")))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_foreign(request.param, tmp_path_factory.mktemp("base") / request.param, **SMALL)


def task_of(base: Path) -> tuple[str, dict[str, Any]]:
    return ("causal_lm", {}) if base.name in DECODERS else ("sequence_classification", LABELS)


def disturb(model: torch.nn.Module) -> None:
    """Change the trained parameters, so that adapters have an effect."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def logits(model: PaddedModel) -> torch.Tensor:
    with torch.no_grad():
        outputs = model.eval()(IDS[0], LENGTHS)
    return outputs.projection.rows() if model.task == "causal_lm" else outputs.logits


def theirs(task: str, folder: Path, adapter: Path | None = None) -> Any:
    """transformers' model of a folder, with an adapter by PEFT."""
    model: Any
    if task == "causal_lm":
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    else:
        kind = transformers.AutoModelForSequenceClassification
        model = kind.from_pretrained(folder, num_labels=3)
    return model if adapter is None else peft.PeftModel.from_pretrained(model, adapter)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found[0] if found.ndim == 3 else found


@pytest.mark.parametrize("dora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_peft_and_this_package_load_what_is_saved(base: Path, dora: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task, labels = task_of(base)
    model = load_padded(base, task, labels)
    before = logits(model)
    model.add_lora(LoRASettings(rank=4, dora=dora))
    torch.testing.assert_close(logits(model), before)
    disturb(model)
    wanted = logits(model)
    assert (wanted - before).norm() > 0.05 * before.norm()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    found = logits_of(theirs(task, base, tmp_path))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    again = load_padded(tmp_path, task, {})
    assert torch.equal(logits(again), wanted)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in again.named_parameters() if p.requires_grad} == trained
    again.save_pretrained(tmp_path / "merged", merge=True)
    merged = logits_of(theirs(task, tmp_path / "merged"))
    torch.testing.assert_close(merged, wanted, rtol=1e-4, atol=1e-5)
    again.merge_lora()
    torch.testing.assert_close(logits(again), wanted, rtol=1e-4, atol=1e-5)


def test_adapters_of_peft_load_here(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task, labels = task_of(base)
    inner = theirs(task, base)
    kind = peft.TaskType.CAUSAL_LM if task == "causal_lm" else peft.TaskType.SEQ_CLS
    config = peft.LoraConfig(task_type=kind, r=3, lora_alpha=5, target_modules="all-linear")
    model = peft.get_peft_model(inner, config)
    disturb(model)
    wanted = logits_of(model)
    model.save_pretrained(tmp_path)
    found = load_padded(tmp_path, task, labels)
    torch.testing.assert_close(logits(found), wanted, rtol=1e-4, atol=1e-5)


def test_rows_of_tokens_and_modules_are_trained_beside(tmp_path: Path) -> None:
    base = save_foreign("opt", tmp_path / "opt", **SMALL)
    model = load_padded(base, "causal_lm", {})
    settings = LoRASettings(rank=2, trainable_tokens=[5, 9], targets=["q_proj"])
    model.add_lora(settings)
    disturb(model)
    wanted = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    found = logits_of(theirs("causal_lm", base, tmp_path / "adapter"))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(load_padded(tmp_path / "adapter", "causal_lm", {})), wanted)


def test_what_adapters_cannot_be_put_on_is_refused(tmp_path: Path) -> None:
    base = save_foreign("opt", tmp_path / "opt", **SMALL)
    model = load_padded(base, "causal_lm", {})
    with pytest.raises(InputError, match="model.lora.targets: 'q_prj' is not a linear layer"):
        model.add_lora(LoRASettings(rank=2, targets=["q_prj"]))
    model.add_lora(LoRASettings(rank=2))
    model.save_pretrained(tmp_path / "adapter")
    other = save_foreign("opt", tmp_path / "other", **SMALL, hidden_size=32, word_embed_proj_dim=32)
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(file.read_text().replace(str(base), str(other)))
    with pytest.raises(InputError, match="trained on other weights"):
        load_padded(tmp_path / "adapter", "causal_lm", {})


def test_trained_tokens_of_embeddings_of_another_class_are_refused(tmp_path: Path) -> None:
    """XGLM scales its embeddings. PEFT can train rows of these, and this package cannot."""
    sizes = {"d_model": 16, "ffn_dim": 16, "num_layers": 1, "attention_heads": 2}
    config = transformers.AutoConfig.for_model("xglm", **SMALL, **sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices=[3], task_type="CAUSAL_LM"
    )
    peft.get_peft_model(model, lora).save_pretrained(tmp_path / "rows")
    with pytest.raises(InputError, match="rows: found trained tokens, but the embeddings are a X"):
        load_padded(tmp_path / "rows", "causal_lm", {})


def test_a_whole_model_replaces_the_adapters_in_a_folder(tmp_path: Path) -> None:
    model = load_padded(save_foreign("opt", tmp_path / "base", **SMALL), "causal_lm", {})
    model.add_lora(LoRASettings(rank=2))
    disturb(model)
    model.save_pretrained(tmp_path / "saved")
    model.merge_lora()
    disturb(model)
    model.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("adapter_*"))
    torch.testing.assert_close(
        logits(load_padded(tmp_path / "saved", "causal_lm", {})), logits(model)
    )


def test_a_classifier_of_a_generator_is_saved(tmp_path: Path) -> None:
    """Its folder names tokens that end texts, but a classifier does not generate any."""
    base = save_foreign("gpt_neox", tmp_path / "base", **SMALL)
    generation = transformers.GenerationConfig(eos_token_id=[2, 3])
    generation.save_pretrained(base)
    model = load_padded(base, "sequence_classification", LABELS)
    assert model.generation_config["eos_token_id"] == [2, 3]
    model.save_pretrained(tmp_path / "saved")
    again = load_padded(tmp_path / "saved", "sequence_classification", LABELS)
    for name, parameter in model.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name
