"""LoRA: trained parameters, masks, merging, resuming, and adapter folders that do not fit."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.unit.models.test_training import WITH_LOSS, batch_of, small
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.test_trainer import KillAt, Killed
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.models.adapters.adapted_layer import adapted_layers
from trainer.models.adapters.adapter import absolute_base
from trainer.models.adapters.adapter_files import tokenizer_home
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS, AutoConfig, AutoModelForCausalLM
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import token_keys
from trainer.models.families.gpt2 import InputsFirstLinear
from trainer.settings import TrainSettings
from trainer.trainer import Trainer
from trainer.training.freezing import trainable
from trainer.training.parameter_groups import NamedParameters, parameter_groups
from trainer.training.step import Stepper

INPUTS = ("input_ids", "attention_mask", "decoder_input_ids")
TOKENS: list[int | str] = [7, 4, 11]
"""Tokens whose embeddings are trained in addition to the adapters."""


def randomize(model: nn.Module) -> None:
    """Adapters with an effect; a fresh one's second matrix is zero."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, 0.0, 0.2)


def adapted(model: Any, **settings: Any) -> Any:
    model.add_lora(LoRASettings(**{"rank": 3, **settings}))
    return model


@pytest.mark.parametrize(("family", "task"), WITH_LOSS)
def test_adapters_alone_are_trained_and_merge(family: str, task: str) -> None:
    model = small(family, task).double().eval()
    inputs = {k: v for k, v in batch_of(task).items() if k in INPUTS}
    plain = model(**inputs)[0]
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, InputsFirstLinear)) and "layers." in name
    ]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapted(model, alpha=5)
    assert torch.equal(model(**inputs)[0], plain)  # they have no effect at first
    assert list(adapted_layers(model)) == linear
    head = task not in ("causal_lm", "masked_lm", "seq2seq_lm")
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
    assert after.keys() == before.keys()
    assert {n for n, p in after.items() if not p.requires_grad} <= {*model.fixed}
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed == {f"{n}.weight" for n in linear} | {n for n in after if head and "head." in n}


def test_adapters_of_the_embeddings_drop_by_token() -> None:
    """A sample's masks are the same alone and among others, wherever its adapters are."""
    targets = ["embeddings_project", "query"]
    model = adapted(small("electra", "token_classification"), dropout=0.4, targets=targets)
    randomize(model)
    model.double().train()
    for module in model.modules():
        if isinstance(module, Dropout) and module.p != 0.4:
            module.p = 0.0
    lengths, ids = torch.tensor([5, 2, 4]), torch.arange(4, 15)
    sample = torch.tensor([7, 3, 9]).repeat_interleave(lengths)
    token = torch.cat([torch.arange(int(length)) for length in lengths])
    keys = token_keys(1, 2, sample, torch.zeros_like(sample), token)
    together = model(ids, sequence_lengths=lengths, dropout_keys=keys).logits
    sizes = lengths.tolist()
    parts = zip(ids.split(sizes), lengths, keys.split(sizes), strict=True)
    alone = [model(i, sequence_lengths=n[None], dropout_keys=k).logits for i, n, k in parts]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)
    assert not torch.equal(together, model.eval()(ids, sequence_lengths=lengths).logits)


def test_targets_go_by_the_names_of_both_and_by_their_ends() -> None:
    def chosen(*targets: str) -> set[str]:
        model = adapted(small("llama", "causal_lm"), targets=list(targets))
        return {name.removeprefix("body.layers.") for name in adapted_layers(model)}

    queries = {f"{n}.attention.query" for n in (0, 1)}
    assert chosen("q_proj") == chosen("query") == chosen("self_attn.q_proj") == queries
    assert chosen("layers.1.attention.query") == {"1.attention.query"}
    assert chosen("query", "up_proj") == queries | {f"{n}.feed_forward.input" for n in (0, 1)}
    for wrong in ("q_prj", "proj", "lm_head", ""):
        with pytest.raises(
            InputError, match=f"model.lora.targets: '{wrong}' is not a linear layer"
        ):
            chosen(wrong)
    with pytest.raises(InputError, match=r"did you mean 'q_proj'\?"):
        chosen("q_prj")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"modules_to_save": ["embed_tokns"]}, r"is not a module with weights; .*'embed_tokens'\?"),
        ({"modules_to_save": ["lm_head"]}, "own .tie_word_embeddings.; accepted: embed_tokens"),
        ({"modules_to_save": ["mlp"], "targets": ["up_proj"]}, "is in model.lora.targets, too"),
        ({"modules_to_save": ["embed_tokens"], "trainable_tokens": [5]}, "is among model.lora.mod"),
        ({"modules_to_save": [""]}, "'' is not a module with weights"),
    ],
)
def test_modules_that_cannot_be_saved_whole_are_refused(settings: Any, said: str) -> None:
    config = small("llama", "causal_lm").config.to_dict() | {"tie_word_embeddings": True}
    with pytest.raises(InputError, match=said):
        adapted(AutoModelForCausalLM.from_config(AutoConfig(config)), **settings)


def gradient(
    parts: list[np.ndarray], recompute: bool = False, step: int = 3, dora: bool = False
) -> torch.Tensor:
    """Of a global batch cut into parts; only the adapters draw masks."""
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    pooled = ["query", "value", "pooler.dense"]
    model = adapted(model, dropout=0.3, targets=pooled, trainable_tokens=[5, 9, 3], dora=dora)
    model.train()
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


def test_lengths_that_are_trained_do_not_depend_on_the_split() -> None:
    """DoRA with dropout: the frozen weights' share of the output has the masks, too."""
    whole = gradient([np.random.default_rng(3).permutation(32)], dora=True)
    other = gradient(np.array_split(np.arange(32), 3), recompute=True, dora=True)
    assert (other - whole).norm() <= 1e-12 * whole.norm()
    model = adapted(tiny_model(), dora=True)
    for layer in adapted_layers(model).values():
        layer.weight.data[0] = 0  # an output whose weights are zero
    model(torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def run(folder: Path, tokens: list[int | str] = TOKENS, **settings: Any) -> Trainer:
    model = adapted(tiny_model().float(), dropout=0.1, trainable_tokens=tokens, **settings)
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


@pytest.mark.parametrize("dora", [False, True])
def test_a_resumed_run_with_adapters_is_one_that_never_stopped(tmp_path: Path, dora: bool) -> None:
    whole = run(tmp_path / "whole", dora=dora)
    base = {n: p.detach().clone() for n, p in whole.model.named_parameters() if not p.requires_grad}
    whole.fit()
    for name, parameter in whole.model.named_parameters():
        assert name not in base or torch.equal(parameter, base[name])
    stopped = run(tmp_path / "stopped", dora=dora)
    stopped.callbacks.append(KillAt(5))
    with pytest.raises(Killed):
        stopped.fit()
    again = run(tmp_path / "stopped", dora=dora)
    again.fit()
    files = [
        tmp_path / name / "model" / "adapter_model.safetensors" for name in ("whole", "stopped")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list(tmp_path.rglob("model.safetensors"))
    rows = {n: p for n, p in again.model.named_parameters() if n.endswith("token_rows")}
    assert [p.shape[0] for p in rows.values()] == [3]
    other = run(tmp_path / "stopped", dora=dora, alpha=2)
    with pytest.raises(InputError, match=r"model\.lora\.scaling"):
        other.fit()
    other = run(tmp_path / "stopped", tokens=[7, 4, 12], dora=dora)
    with pytest.raises(InputError, match=r"model\.lora\.trainable_tokens"):
        other.fit()


def test_pissa_begins_without_effect_and_goes_on_bitwise(tmp_path: Path) -> None:
    """The singular values are those of the weight; a resumed run has the initial values of the
    file."""
    model = tiny_model()
    inputs = ragged_table().collate(range(5)).inputs()
    wanted = model.eval()(**inputs).logits
    adapted(model, init="pissa", alpha=5)
    assert (model(**inputs).logits - wanted).norm() <= 1e-12 * wanted.norm()
    layer = next(iter(adapted_layers(model).values()))
    with pytest.raises(InputError, match=r"rank: found 25 for a layer of \[24, 24\]"):
        adapted(tiny_model(), init="pissa", rank=25)
    values = torch.linalg.svdvals(layer.weight)
    product = torch.linalg.svdvals(layer.scaling * layer.lora_B @ layer.lora_A)
    torch.testing.assert_close(product[:3], values[:3])
    whole, stopped = (run(tmp_path / n, init="pissa") for n in ("whole", "stopped"))
    whole.fit()
    stopped.callbacks.append(KillAt(5))
    with pytest.raises(Killed):
        stopped.fit()
    again = run(tmp_path / "stopped", init="pissa")
    for each in adapted_layers(again.model).values():
        each.start_A.data.mul_(1.001)  # as another machine's singular vectors might be
    again.fit()
    files = [tmp_path / n / "model" / "adapter_model.safetensors" for n in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    wanted = whole.model.eval()(**inputs).logits
    whole.model.merge_lora()
    torch.testing.assert_close(whole.model(**inputs).logits, wanted, rtol=1e-4, atol=1e-5)


def test_second_matrices_may_learn_faster() -> None:
    """LoRA+ (Hayou et al., 2024): the rates of docs/adapters.md, by the names of parameters."""
    model = adapted(tiny_model(), targets=["query"], dora=True)
    groups = {"*lora_B": {"lr_scale": 16.0}}
    named = NamedParameters(trainable(model), model)
    found = parameter_groups(named, TrainSettings(parameter_groups=groups))
    rates = {p: group["lr_scale"] for group in found for p in group["params"]}
    assert {name.endswith("lora_B"): rates[p] for name, p in named} == {True: 16, False: 1}


def test_a_merged_run_ships_a_whole_model(tmp_path: Path) -> None:
    merged = run(tmp_path / "run", merge=True)
    results = merged.fit()
    assert (tmp_path / "run" / f"checkpoint-{results['steps']}" / "adapter_config.json").exists()
    assert not (tmp_path / "run" / "model" / "adapter_config.json").exists()
    model = TASKS["sequence_classification"].from_pretrained(tmp_path / "run" / "model")
    assert model.lora is None
    inputs = ragged_table().collate(range(9)).inputs()
    with merged.session.ema.applied():
        wanted = merged.model(**inputs).logits
    torch.testing.assert_close(model(**inputs).logits, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "task"), WITH_LOSS)
def test_rows_of_single_tokens_are_trained_and_merge(family: str, task: str) -> None:
    inputs = {k: v for k, v in batch_of(task).items() if k in INPUTS}
    tokens = sorted(set(inputs["input_ids"].flatten().tolist()))[-3:]
    model = small(family, task).double().eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain = model(**inputs)[0]
    adapted(model, trainable_tokens=tokens)
    assert torch.equal(model(**inputs)[0], plain)  # they start as the base's
    changed = {n.removesuffix("token_rows"): p for n, p in model.named_parameters() if "rows" in n}
    untied = task in ("causal_lm", "seq2seq_lm") and "head.weight" in before
    assert len(changed) == 1 + untied
    randomize(model)
    model(**batch_of(task)).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    wanted = model(**inputs)[0]
    model.merge_lora()
    assert (model(**inputs)[0] - wanted).norm() <= 1e-12 * wanted.norm()
    others = torch.ones(len(before["body.embeddings.token.weight"]), dtype=torch.bool)
    others[tokens] = False
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    for name, rows in changed.items():
        weight = f"{name}weight"
        assert torch.equal(after[weight][others], before[weight][others])
        assert torch.equal(after[weight][tokens], rows)


def test_rows_of_tokens_that_cannot_be_are_refused() -> None:
    model = small("llama", "causal_lm")
    for tokens, said in (
        ([10**6], "found 1000000; accepted: token ids, 0 to"),
        ([-1], "found -1; accepted: token ids"),
        (["<tool>"], "found '<tool>'; accepted without a tokenizer: token ids"),
    ):
        with pytest.raises(InputError, match=f"model.lora.trainable_tokens: {said}"):
            adapted(small("llama", "causal_lm"), trainable_tokens=tokens)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    with pytest.raises(InputError, match="all its rows are trained"):
        adapted(model, trainable_tokens=[3])
    model = adapted(small("llama", "causal_lm"), trainable_tokens=[3])
    rows = model.body.embeddings.token.token_rows.detach() + 1
    model.body.embeddings.token.token_rows.data = rows
    model.resize_token_embeddings(model.config.vocab_size + 3)
    weight = model.get_input_embeddings().weight
    assert torch.equal(weight[3], rows[0]) and weight.requires_grad


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of an adapter, next to that of its base."""
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
    model.save_pretrained(tmp_path / "again")  # in place of a whole model
    assert not (tmp_path / "again" / "model.safetensors").exists()
    with pytest.raises(InputError, match=r"base: found the adapters' base model, which th"):
        model.save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match="tf_model.h5 cannot hold adapters"):
        model.save_pretrained(tmp_path / "tf", format="tf")


@pytest.mark.parametrize("base", ["{0}/base", "file://{0}/base", "~/base", "base", "link", ""])
@pytest.mark.parametrize("kind", [LoRASettings(rank=2), LoRASettings(ia3=True)])
def test_no_adapter_replaces_its_base(
    base: str, kind: LoRASettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the base is named, and also after the working folder has changed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small("llama", "causal_lm").save_pretrained("base")
    (tmp_path / "link").symlink_to("base")
    (tmp_path / "other").mkdir()
    path, subfolder = (base.format(tmp_path), "") if base else (".", "base")
    model = AutoModelForCausalLM.from_pretrained(path, subfolder=subfolder)
    monkeypatch.chdir("other")
    model.add_lora(kind)
    before = {each.name: each.read_bytes() for each in (tmp_path / "base").iterdir()}
    for place in (tmp_path / "base", f"file://{tmp_path}/base", "~/base", "../base", "../link"):
        with pytest.raises(InputError, match="found the adapters' base model"):
            model.save_pretrained(place)
    assert before == {each.name: each.read_bytes() for each in (tmp_path / "base").iterdir()}
    model.save_pretrained("~/adapter")
    again = AutoModelForCausalLM.from_pretrained("~/adapter")
    assert again.lora is not None and again.lora.base == str(tmp_path / "base")
    with pytest.raises(InputError, match="found the adapters' base model"):
        again.save_pretrained("../base")
    again.merge_lora()
    again.add_lora(kind)
    with pytest.raises(InputError, match="found the adapters' base model"):
        again.save_pretrained("../adapter")  # the merged weights are in no other folder


@pytest.mark.parametrize(
    ("path", "subfolder", "base"),
    [
        ("org/name", "sub", "org/name"),
        ("memory://b/model/", "sub", "memory://b/model/sub"),
        ("pkg://weights", "model", "pkg://weights/model"),
        ("here", "sub", "{}/here/sub"),
        ("here", "", "{}/here"),
        ("", "", ""),
    ],
)
def test_the_base_in_an_adapters_files(
    path: str, subfolder: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "sub").mkdir(parents=True)
    assert absolute_base(path, subfolder) == base.format(tmp_path)


@pytest.mark.parametrize("wrong", [None, 3, b"x"])
def test_only_paths_are_saved_to(wrong: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    model = small("llama", "causal_lm")
    for each in (model, model.config):
        with pytest.raises(InputError, match="^(save_pretrained|directory): found .*; accepted: "):
            each.save_pretrained(wrong)
    assert not list(tmp_path.iterdir())


def test_an_adapter_keeps_the_base_that_it_was_read_from(tmp_path: Path) -> None:
    """The base has moved to the folder that PEFT's config names."""
    small("llama", "causal_lm").save_pretrained(tmp_path / "old")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "old")
    model.add_lora(LoRASettings(rank=2, base_name=str(tmp_path / "new")))
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "old").rename(tmp_path / "new")
    assert tokenizer_home(str(tmp_path / "adapter"), None) == (str(tmp_path / "new"), None)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="new: found the adapters' base model"):
        again.save_pretrained(tmp_path / "new")


def test_models_are_saved_to_local_folders_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = small("llama", "causal_lm")
    for place in ("s3://bucket/x", "pkg://x/y", "file://x"):
        for saved in (model, model.config):
            with pytest.raises(InputError, match=f"^save_pretrained: found '{place}'; accepted: "):
                saved.save_pretrained(place)
    assert not [*tmp_path.iterdir()]
    model.save_pretrained(f"file://{tmp_path}/a%20b")
    assert (tmp_path / "a b" / "model.safetensors").exists()


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
        ({"peft_type": "LOHA"}, "peft_type: found 'LOHA'; accepted: LORA, IA3"),
        ({"peft_type": "IA3"}, "an unknown entry; accepted: those of IA3"),
        ({"use_dora": True}, "tensor .*lora_magnitude_vector is missing"),
        ({"rank_pattern": {"q_proj": 3}}, "rank_pattern: found 3; accepted: the rank of tensor"),
        ({"rank_pattern": {"(": 3}}, r"rank_pattern: '\(': "),
        ({"alpha_pattern": {"q_proj": "3"}}, "q_proj: found '3'; accepted: a number"),
        ({"lora_bias": True}, "lora_bias: found True; accepted: plain LoRA"),
        ({"new_kind": {"beta": 1}}, "new_kind: found .*, an unknown entry"),
        ({"trainable_token_indices": "a"}, "trainable_token_indices: found 'a'"),
        ({"kasa_config": {"beta": 1}}, "kasa_config: found"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights: found 'pissa_niter_4'; accepted: true, false, gaussian, orthogonal",
        ),
        ({"init_lora_weights": "olora"}, "init_lora_weights: found 'olora'"),
        ({"bias": "some"}, "bias: found 'some'; accepted: none, lora_only, all"),
        ({"r": 0}, "r: found 0; accepted: a positive integer"),
        ({"r": "2"}, "r: found '2'; accepted: a number"),
        ({"lora_alpha": 1e30}, r"lora_alpha: found 1e\+30; accepted: a number, at most 1,048,576"),
        ({"lora_alpha": 10**400}, "lora_alpha: found 1000.*; accepted: a number"),
        ({"alpha_pattern": {r"(a)\1": 3}}, "alpha_pattern: '.*': Invalid regular expression"),
        ({"r": 3}, r"r: found 3; accepted: the rank of tensor .*lora_[AB].weight, of shape"),
        ({"lora_dropout": 1}, "lora_dropout: found 1"),
        ({"base_model_name_or_path": None}, "names no base model"),
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
    with pytest.raises(InputError, match="is itself an adapter; accepted: a whole model"):
        AutoModelForCausalLM.from_pretrained(saved)
    small("gpt2", "causal_lm").save_pretrained(tmp_path / "gpt2")
    changed_config(saved, base_model_name_or_path=str(tmp_path / "gpt2"))
    (saved / "model_config.json").unlink()
    with pytest.raises(InputError, match="no such tensor .an adapter of another base"):
        AutoModelForCausalLM.from_pretrained(saved)


def rebase(saved: Path, **config: Any) -> Any:
    """Another base replaces an adapter's own, which only the adapter's config names."""
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
    said = f"tensor {tensor}: an adapter on .*embed_tokens, an embedding; accepted: adapters"
    with pytest.raises(InputError, match=said) as caught:
        AutoModelForCausalLM.from_pretrained(saved)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("layer", ["norm", "embed_tokens", "layers.0.input_layernorm"])
@pytest.mark.parametrize("ending", ["lora_A.weight", "lora_magnitude_vector", "ia3_l"])
def test_an_adapter_on_a_layer_that_is_not_linear_is_refused(
    saved: Path, layer: str, ending: str
) -> None:
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, f"base_model.model.model.{layer}.{ending}": torch.ones(2, 16)}, file)
    with pytest.raises(InputError, match="an adapter on .*; accepted: adapters on linear layers"):
        AutoModelForCausalLM.from_pretrained(saved)


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
    with pytest.raises(InputError, match="is truncated or not a safetensors file"):
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
        ({"init": "pissa"}, "model.lora.init: found it without a rank"),
        (
            {"rank": 2, "init": "olora"},
            "model.lora.init: found 'olora'; accepted: default, pissa, loftq",
        ),
        ({"rank": 2, "init": "pissa", "dora": True}, "model.lora.init: found pissa with dora"),
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


def test_weights_of_other_adapters_are_refused(tmp_path: Path) -> None:
    """Their tensors fit, but have another factor, belong to other tokens, or would be left out."""
    tiny_model().save_pretrained(tmp_path / "base")
    load = TASKS["sequence_classification"].from_pretrained
    same = {"targets": ["query"], "alpha": 5, "trainable_tokens": [7, 4]}
    saved = adapted(load(tmp_path / "base"), **same)
    randomize(saved)
    saved.save_pretrained(tmp_path / "saved")
    found = adapted(load(tmp_path / "base"), **same)
    found.load_weights(tmp_path / "saved")
    for name, parameter in saved.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter), name
    for changed, message in (
        (
            {"alpha": 2},
            r"adapter_config\.json: lora_alpha: found 1\.66667 as the factor of .*query",
        ),
        (
            {"trainable_tokens": [4, 7]},
            r"trainable_token_indices: found \[7, 4\]; accepted: \[4, 7\]",
        ),
        (
            {"trainable_tokens": []},
            r"token_adapter\.trainable_tokens_delta: not among the adapters",
        ),
    ):
        with pytest.raises(InputError, match=message):
            adapted(load(tmp_path / "base"), **{**same, **changed}).load_weights(tmp_path / "saved")


def test_adapters_of_experts_load_into_a_model_without_files(tmp_path: Path) -> None:
    """The config of such adapters, which names no base, says which weights they belong to."""
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    saved, found = (adapted(small("mixtral", "causal_lm"), targets=targets) for _ in range(2))
    randomize(saved)
    saved.save_pretrained(tmp_path)
    found.load_weights(tmp_path)
    for name, parameter in saved.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter), name


def test_other_adapters_may_follow_merged_ones() -> None:
    model = adapted(small("llama", "causal_lm"), dropout=0.3)
    inputs = {name: v for name, v in batch_of("causal_lm").items() if name in INPUTS}
    model.train()(**inputs)
    model.merge_lora()
    assert not any("keys" in vars(module) for module in model.modules())
    model.add_lora(LoRASettings(ia3=True))
    assert torch.isfinite(model.train()(**inputs)[0]).all()


def test_tokens_of_numpy_are_token_ids() -> None:
    model = adapted(small("llama", "causal_lm"), trainable_tokens=list(np.array([5, 3])))
    assert model.get_input_embeddings().token_ids.tolist() == [5, 3]
    with pytest.raises(InputError, match=r"trainable_tokens: found 2\.5; accepted without"):
        adapted(small("llama", "causal_lm"), trainable_tokens=[3, 2.5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 2.5}, r"rank: found 2\.5; accepted: a whole number"),
        ({"rank": True}, "rank: found True; accepted: a whole number"),
        ({"rank": 2, "alpha": "8"}, "alpha: found '8'; accepted: a number"),
        (
            {"rank": 2, "targets": "q_proj"},
            r"targets: found 'q_proj'; accepted: a list, such as \['q",
        ),
        ({"rank": 2, "modules_to_save": "norm"}, "modules_to_save: found 'norm'; accepted: a list"),
    ],
)
def test_settings_of_other_types_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^model\.lora\.{message}"):
        LoRASettings(**settings)


@pytest.mark.parametrize(("family", "head"), [("llama", "causal_lm"), ("bert", "masked_lm")])
def test_output_weights_among_several_tasks_are_trained_in_full(
    family: str, head: str, tmp_path: Path
) -> None:
    """All of their rows are trained with the head, so trained tokens only add the embeddings'."""
    heads = {"a": {"head": head}, "b": {"head": "token_classification"}}
    entries = {**small(family, head).config.to_dict(), "tie_word_embeddings": False}
    config = AutoConfig({**entries, "task_heads": heads})
    TASKS["multi_task"].from_config(config).save_pretrained(tmp_path / "base")
    load = TASKS["multi_task"].from_pretrained
    saved = adapted(load(tmp_path / "base"), trainable_tokens=[7, 4])
    rows = [name for name, _ in saved.named_parameters() if name.endswith("token_rows")]
    assert rows == ["body.embeddings.token.token_rows"]
    randomize(saved)
    saved.save_pretrained(tmp_path / "saved")
    resumed = adapted(load(tmp_path / "base"), trainable_tokens=[7, 4])
    resumed.load_weights(tmp_path / "saved")
    for found in (resumed, load(tmp_path / "saved")):
        for name, parameter in saved.named_parameters():
            assert torch.equal(found.get_parameter(name), parameter), name
