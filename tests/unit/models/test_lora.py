"""LoRA: what is trained, masks, merging, resuming, and adapters' folders that do not fit."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.unit.models.test_training import CASES, batch_of, small
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.test_trainer import KillAt, Killed
from trainer.errors import InputError
from trainer.models.auto import TASKS, AutoConfig, AutoModelForCausalLM
from trainer.models.gpt2 import Projection
from trainer.models.lora import adapted_layers
from trainer.models.lora_settings import LoRASettings
from trainer.ranks import Ranks
from trainer.settings import TrainSettings
from trainer.step import Stepper
from trainer.trainer import Trainer


def randomize(model: nn.Module) -> None:
    """Adapters that do something; a fresh one's second matrix is zero."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, 0.0, 0.2)


def adapted(model: Any, **settings: Any) -> Any:
    model.add_lora(LoRASettings(**{"rank": 3, **settings}))
    return model


@pytest.mark.parametrize(("family", "task"), CASES)
def test_adapters_alone_are_trained_and_merge(family: str, task: str) -> None:
    model = small(family, task).double().eval()
    inputs = {k: v for k, v in batch_of(task).items() if k in ("input_ids", "attention_mask")}
    plain = model(**inputs)[0]
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Projection)) and name.startswith("body.layers.")
    ]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapted(model, alpha=5)
    assert torch.equal(model(**inputs)[0], plain)  # they begin as nothing
    assert list(adapted_layers(model)) == linear
    head = task not in ("causal_lm", "masked_lm")
    for name, parameter in model.named_parameters():
        is_head = head and name.startswith("head.")
        assert parameter.requires_grad == (".lora_" in name or is_head), name
    randomize(model)
    model(**batch_of(task)).loss.backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
    wanted = model(**inputs)[0]
    assert not torch.allclose(wanted, plain)
    model.merge_lora()
    assert (model(**inputs)[0] - wanted).norm() <= 1e-12 * wanted.norm()
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and all(p.requires_grad for p in after.values())
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed == {f"{n}.weight" for n in linear} | {n for n in after if head and "head." in n}


def test_targets_go_by_the_names_of_both_and_by_their_ends() -> None:
    def chosen(*targets: str) -> set[str]:
        model = adapted(small("llama", "causal_lm"), targets=list(targets))
        return {name.removeprefix("body.layers.") for name in adapted_layers(model)}

    queries = {f"{n}.attention.query" for n in (0, 1)}
    assert chosen("q_proj") == chosen("query") == chosen("self_attn.q_proj") == queries
    assert chosen("layers.1.attention.query") == {"1.attention.query"}
    assert chosen("query", "up_proj") == queries | {f"{n}.feed_forward.input" for n in (0, 1)}
    for wrong in ("q_prj", "proj", "lm_head", ""):
        with pytest.raises(InputError, match=f"model.lora.targets: '{wrong}' is no linear layer"):
            chosen(wrong)
    with pytest.raises(InputError, match=r"did you mean 'q_proj'\?"):
        chosen("q_prj")


def gradient(parts: list[np.ndarray], recompute: bool = False, step: int = 3) -> torch.Tensor:
    """Of a global batch cut into parts; masks are drawn in the adapters alone."""
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    pooled = ["query", "value", "pooler.dense"]
    model = adapted(model, dropout=0.3, targets=pooled).train()
    torch.manual_seed(2)
    randomize(model)
    if recompute:
        model.gradient_checkpointing_enable()
    trained = [p for p in model.parameters() if p.requires_grad]
    before = nn.utils.parameters_to_vector(trained).detach().clone()
    stepper = Stepper(
        model,
        RECIPES["single_label"],
        torch.optim.SGD(trained, lr=1.0),
        ranks=Ranks(),
        global_batch_size=32,
    )
    table = ragged_table()
    batches = [(table.collate(part).for_step(seed=7, step=step), True) for part in parts]
    stepper.step(batches, len(batches), learning_rate=1.0)
    return before - nn.utils.parameters_to_vector(trained).detach()


def test_masks_of_adapters_do_not_depend_on_the_split() -> None:
    whole = gradient([np.random.default_rng(3).permutation(32)])
    for num_parts in (32, 3):
        other = gradient(np.array_split(np.arange(32), num_parts))
        assert (other - whole).norm() <= 1e-12 * whole.norm()
    again = gradient(np.array_split(np.arange(32), 3), recompute=True)
    assert (again - whole).norm() <= 1e-12 * whole.norm()
    assert (gradient([np.arange(32)], step=4) - whole).norm() > 1e-3 * whole.norm()


def run(folder: Path, **settings: Any) -> Trainer:
    model = adapted(tiny_model().float(), dropout=0.1, **settings)
    return Trainer(
        model,
        RECIPES["single_label"],
        TrainSettings(
            num_epochs=3,
            global_batch_size=16,
            learning_rate=1e-2,
            precision="fp32",
            save_steps=2,
            ema_decay=0.9,
            load_best_model_at_end=True,
            gradient_checkpointing=True,
        ),
        train_dataset=ragged_table(45),
        eval_dataset=ragged_table(20, seed=1),
        output_dir=folder,
    )


def test_a_resumed_run_with_adapters_is_one_that_never_stopped(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    base = {n: p.detach().clone() for n, p in whole.model.named_parameters() if not p.requires_grad}
    whole.fit()
    for name, parameter in whole.model.named_parameters():
        assert name not in base or torch.equal(parameter, base[name])
    stopped = run(tmp_path / "stopped")
    stopped.callbacks.append(KillAt(5))
    with pytest.raises(Killed):
        stopped.fit()
    again = run(tmp_path / "stopped")
    again.fit()
    files = [
        tmp_path / name / "model" / "adapter_model.safetensors" for name in ("whole", "stopped")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list(tmp_path.rglob("model.safetensors"))
    other = run(tmp_path / "stopped", alpha=2)
    with pytest.raises(InputError, match=r"model\.lora\.scaling"):
        other.fit()


def test_a_merged_run_ships_a_whole_model(tmp_path: Path) -> None:
    merged = run(tmp_path / "run", merge=True)
    results = merged.fit()
    assert (tmp_path / "run" / f"checkpoint-{results['steps']}" / "adapter_config.json").exists()
    assert not (tmp_path / "run" / "model" / "adapter_config.json").exists()
    model = TASKS["sequence_classification"].from_pretrained(tmp_path / "run" / "model")
    assert model.lora is None
    inputs = ragged_table().collate(range(9)).inputs()
    with merged.ema.applied():
        wanted = merged.model(**inputs).logits
    torch.testing.assert_close(model(**inputs).logits, wanted, rtol=1e-5, atol=1e-6)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of an adapter, beside that of its base."""
    model = small("llama", "causal_lm")
    model.save_pretrained(tmp_path / "base")
    model.add_lora(LoRASettings(rank=2), str(tmp_path / "base"))
    randomize(model)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapters_folder_gives_the_adapted_model(saved: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(saved)
    assert model.lora is not None and model.lora.rank == 2 and model.lora.scaling == 2
    model.save_pretrained(tmp_path / "again")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (saved / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    model.save_pretrained(tmp_path / "again", merge=True)
    whole = {"config.json", "generation_config.json", "model.safetensors"}
    assert {file.name for file in (tmp_path / "again").iterdir()} == whole
    model.save_pretrained(tmp_path / "base")  # where a whole model was
    assert not (tmp_path / "base" / "model.safetensors").exists()
    with pytest.raises(InputError, match="tf_model.h5 has no adapters"):
        model.save_pretrained(tmp_path / "tf", format="tf")


def test_a_new_head_over_an_adapter_is_trained_and_saved(tmp_path: Path) -> None:
    small("bert", "base").save_pretrained(tmp_path / "base")
    kind = TASKS["sequence_classification"]
    model = kind.from_pretrained(tmp_path / "base", num_labels=3)
    model.add_lora(LoRASettings(rank=2))
    model.save_pretrained(tmp_path / "adapter")
    assert kind.from_pretrained(tmp_path / "adapter").config.num_labels == 3
    other = kind.from_pretrained(tmp_path / "adapter", num_labels=5, new_head=True)
    assert [n for n in other.lora.whole if n.startswith("head.")] and other.fresh
    assert all(other.get_parameter(name).requires_grad for name in other.lora.whole)
    other.save_pretrained(tmp_path / "other")
    again = kind.from_pretrained(tmp_path / "other")
    inputs = {"input_ids": torch.arange(4, 12).view(2, 4)}
    assert torch.equal(again(**inputs).logits, other(**inputs).logits)
    assert again.config.num_labels == 5 and not again.fresh


def test_the_type_of_a_base_does_not_make_it_another(saved: Path) -> None:
    for dtype in ("bfloat16", "float16", "float64"):
        assert AutoModelForCausalLM.from_pretrained(saved, dtype=dtype).lora is not None


def changed_config(saved: Path, **entries: Any) -> None:
    file = saved / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"peft_type": "IA3"}, "accepted: a JSON object with the peft_type LORA"),
        ({"use_dora": True}, "use_dora: found True; accepted: plain LoRA"),
        ({"rank_pattern": {"q_proj": 3}}, "rank_pattern: found 3; accepted: the rank of tensor"),
        ({"rank_pattern": {"(": 3}}, r"rank_pattern: '\(': "),
        ({"alpha_pattern": {"q_proj": "3"}}, "q_proj: found '3'; accepted: a number"),
        ({"lora_bias": True}, "lora_bias: found True; accepted: plain LoRA"),
        ({"new_kind": {"beta": 1}}, "new_kind: found .*, an entry that is not known here"),
        ({"trainable_token_indices": "a"}, "trainable_token_indices: found 'a'"),
        ({"kasa_config": {"beta": 1}}, "kasa_config: found"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights: found 'pissa_niter_4'; accepted: true, false, gaussian, orthogonal",
        ),
        ({"init_lora_weights": "olora"}, "init_lora_weights: found 'olora'"),
        ({"bias": "some"}, "bias: found 'some'; accepted: none, lora_only, all"),
        ({"r": 0}, "r: found 0; accepted: a whole number from 1"),
        ({"r": "2"}, "r: found '2'; accepted: a number"),
        ({"lora_alpha": 1e30}, r"lora_alpha: found 1e\+30; accepted: a number, at most 1,048,576"),
        ({"lora_alpha": 10**400}, "lora_alpha: found 1000.*; accepted: a number"),
        ({"alpha_pattern": {r"(a)\1": 3}}, "alpha_pattern: '.*': Invalid regular expression"),
        ({"r": 3}, r"r: found 3; accepted: the rank of tensor .*lora_[AB].weight, of shape"),
        ({"lora_dropout": 1}, "lora_dropout: found 1"),
        ({"base_model_name_or_path": None}, "names no model that it adapts"),
        ({"base_model_name_or_path": "./none"}, "base_model_name_or_path: there is no directory"),
    ],
)
def test_configs_that_are_not_ours_are_refused(saved: Path, entries: Any, said: str) -> None:
    changed_config(saved, **entries)
    with pytest.raises(InputError, match=said):
        AutoModelForCausalLM.from_pretrained(saved)


def test_another_base_is_refused(saved: Path, tmp_path: Path) -> None:
    weights = load_file(tmp_path / "base" / "model.safetensors")
    other = {name: tensor * 1.1 for name, tensor in weights.items()}
    save_file(other, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="its adapters were trained on other weights than"):
        AutoModelForCausalLM.from_pretrained(saved)
    changed_config(saved, base_model_name_or_path=str(saved))
    with pytest.raises(InputError, match="is an adapter too; accepted: a whole model"):
        AutoModelForCausalLM.from_pretrained(saved)
    small("gpt2", "causal_lm").save_pretrained(tmp_path / "gpt2")
    changed_config(saved, base_model_name_or_path=str(tmp_path / "gpt2"))
    (saved / "model_config.json").unlink()
    with pytest.raises(InputError, match="nothing of the kind .an adapter of another base"):
        AutoModelForCausalLM.from_pretrained(saved)


def rebase(saved: Path, **config: Any) -> Any:
    """Another base in the place of an adapter's own, which is told of nowhere else."""
    (saved / "model_config.json").unlink()
    folder = saved.parent / "base"
    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, **config))
    base.save_pretrained(folder)
    file = saved / "adapter_model.safetensors"
    save_file(load_file(file), file)  # without the digest of the old one
    return base


EMBEDDINGS = "base_model.model.model.embed_tokens.weight"
OUTPUTS = "base_model.model.lm_head.weight"


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_on_the_output_weights_is_refused(saved: Path, tied: bool) -> None:
    rebase(saved, tie_word_embeddings=tied)
    file = saved / "adapter_model.safetensors"
    layer = OUTPUTS.removesuffix(".weight")
    matrices = {f"{layer}.lora_A.weight": torch.ones(2, 16)}
    for more in (matrices, {f"{layer}.base_layer.weight": torch.ones(20, 16), **matrices}):
        save_file({**load_file(file), **more}, file)
        with pytest.raises(InputError, match="an adapter on lm_head, the output weights"):
            AutoModelForCausalLM.from_pretrained(saved)


@pytest.mark.parametrize("name", ["lora_embedding_A", "lora_embedding_B", "base_layer.weight"])
def test_an_adapter_on_the_embeddings_is_refused_as_what_it_is(saved: Path, name: str) -> None:
    file = saved / "adapter_model.safetensors"
    tensor = EMBEDDINGS.removesuffix("weight") + name
    save_file({**load_file(file), tensor: torch.ones(2, 20)}, file)
    said = (
        f"tensor {tensor}: an adapter on .*embed_tokens, which are embeddings; accepted: adapters"
    )
    with pytest.raises(InputError, match=said) as caught:
        AutoModelForCausalLM.from_pretrained(saved)
    assert "did you mean" not in str(caught.value)


def test_tied_embeddings_come_twice_and_equal(saved: Path, tmp_path: Path) -> None:
    base = rebase(saved, tie_word_embeddings=True)
    file = saved / "adapter_model.safetensors"
    matrices = load_file(file)
    trained = base.get_input_embeddings().weight.detach() * 2
    for wrong in ({EMBEDDINGS: trained}, {OUTPUTS: trained}):
        save_file({**matrices, **wrong}, file)
        with pytest.raises(InputError, match="are one tensor in this model .tie_word_embeddings"):
            AutoModelForCausalLM.from_pretrained(saved)
    save_file({**matrices, EMBEDDINGS: trained, OUTPUTS: trained + 1}, file)
    with pytest.raises(InputError, match="accepted: both of them, and equal"):
        AutoModelForCausalLM.from_pretrained(saved)
    save_file({**matrices, EMBEDDINGS: trained, OUTPUTS: trained.clone()}, file)
    model = AutoModelForCausalLM.from_pretrained(saved)
    assert torch.equal(model.output_weight, trained) and model.output_weight.requires_grad
    model.save_pretrained(tmp_path / "again")
    again = tmp_path / "again"
    assert load_file(again / "adapter_model.safetensors").keys() == load_file(file).keys()
    modules = json.loads((again / "adapter_config.json").read_text())["modules_to_save"]
    assert modules == ["embed_tokens", "lm_head"]
    other = AutoModelForCausalLM.from_pretrained(again)
    assert torch.equal(other.output_weight, trained)


def test_files_that_are_not_whole_are_refused(saved: Path) -> None:
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    save_file({n: t for n, t in tensors.items() if n != name}, file)
    with pytest.raises(InputError, match="lora_A.weight is missing"):
        AutoModelForCausalLM.from_pretrained(saved)
    save_file({**tensors, name: tensors[name] / 0}, file)
    with pytest.raises(InputError, match="numbers are not finite"):
        AutoModelForCausalLM.from_pretrained(saved)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="is truncated or no safetensors file"):
        AutoModelForCausalLM.from_pretrained(saved)
    file.unlink()
    with pytest.raises(InputError, match="has no weights; accepted: adapter_model.safetensors"):
        AutoModelForCausalLM.from_pretrained(saved)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 0}, "model.lora.rank: found 0"),
        ({"rank": 2, "alpha": 0}, "model.lora.alpha: found 0"),
        ({"rank": 2, "dropout": 1}, "model.lora.dropout: found 1"),
        ({"targets": ["query"]}, "model.lora.targets: found it without a rank"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        LoRASettings(**settings)


def test_a_pattern_that_backtracks_without_end_in_re_is_matched_in_linear_time(saved: Path) -> None:
    changed_config(saved, alpha_pattern={"(([a-z0-9_.])*)*!": 3})
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("still matching"))
    signal.alarm(20)
    try:
        assert AutoModelForCausalLM.from_pretrained(saved).lora is not None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
