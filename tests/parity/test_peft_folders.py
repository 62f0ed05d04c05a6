"""Folders of adapters: PEFT's read here, and ours in PEFT, transformers and vLLM."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from trainer import AutoModelForCausalLM
from trainer.errors import InputError
from trainer.models.adapters import adapter_config
from trainer.models.adapters.adapted_layer import adapted_layers
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.tokenizer import Tokenizer

peft = pytest.importorskip("peft")

SIZES = {
    **{"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 32},
    **{"bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
}
GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
IDS = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
THEIRS = transformers.AutoModelForCausalLM


def base_folder(folder: Path, family: str = "qwen2", **more: Any) -> Path:
    sizes = GPT2 | {"bos_token_id": None, "eos_token_id": None} if family == "gpt2" else SIZES
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**sizes, **more})
    model = THEIRS.from_config(config)
    randomize(model)
    model.save_pretrained(folder)
    return folder


def randomize(model: nn.Module) -> None:
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, 0.0, 0.15)


CONFIGS = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "rslora": {"target_modules": ["q_proj"], "use_rslora": True, "lora_alpha": 16},
    "all linear": {"target_modules": "all-linear"},
    "a pattern": {"target_modules": r".*\.(q_proj|gate_proj)"},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "one layer, named": {
        "target_modules": ["q_proj"],
        "layers_to_transform": 0,
        "layers_pattern": "layers",
    },
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "ranks": {
        "target_modules": ["q_proj", "k_proj"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 4, "k_proj": 1},
        "alpha_pattern": {r".*\.1\.self_attn\.q_proj": 3},
    },
    "ranks, rslora": {
        "target_modules": ["q_proj", "k_proj"],
        "rank_pattern": {"k_proj": 5},
        "alpha_pattern": {"k_proj": 7},
        "use_rslora": True,
    },
    "all biases": {"target_modules": ["q_proj"], "bias": "all"},
    "their biases": {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"},
    "embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "norms": {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"]},
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "no init": {"target_modules": ["q_proj"], "init_lora_weights": False},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]},
    "tokens of two": {
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": [3, 59], "lm_head": [5]},
    },
    "tokens, whole name": {
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"model.embed_tokens": [3, 7]},
    },
}


OF_TOKENS = ("embeddings", "tokens", "tokens of two", "tokens, whole name")
"""Configs whose result depends on the vocabulary's size and on tied weights."""
ALL = [
    (name, resized, tied)
    for name, config in CONFIGS.items()
    for resized in (0, 64)
    for tied in (False, True)
    if not (tied and "lm_head" in str(config))  # PEFT trains tied weights separately: see test_lora
]
QUICK = [case for case in ALL if case[0] in OF_TOKENS or case[1:] == (0, False)]
QUICK += [("all linear", 64, True)]
CASES = [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in ALL]


@pytest.mark.parametrize(("name", "resized", "tied"), CASES)
def test_what_peft_writes_loads_and_comes_back(
    tmp_path: Path, name: str, resized: int, tied: bool
) -> None:
    config = CONFIGS[name]
    base = base_folder(tmp_path / "base", tie_word_embeddings=tied)
    model = THEIRS.from_pretrained(base)
    if resized:
        model.resize_token_embeddings(resized)
    model.config._name_or_path = str(base)
    theirs = peft.get_peft_model(model, peft.LoraConfig(r=2, **config)).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, **CLOSE)
    ours.save_pretrained(tmp_path / "ours")
    if "tokens" in name and not resized:  # only the rows, as PEFT saves them
        files = [tmp_path / each / "adapter_model.safetensors" for each in ("theirs", "ours")]
        found = [{n: list(t.shape) for n, t in load_file(f).items()} for f in files]
        assert found[0] == found[1]
    again = THEIRS.from_pretrained(base)
    if resized:
        again.resize_token_embeddings(resized)
    again = peft.PeftModel.from_pretrained(again, tmp_path / "ours").eval()
    torch.testing.assert_close(again(IDS).logits, ours(IDS).logits, **CLOSE)
    ours.merge_lora()
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, **CLOSE)


def test_one_of_several_adapters_is_chosen_by_its_path(tmp_path: Path) -> None:
    """PEFT's layout: default in the folder itself, each other in a folder of its name."""
    base = base_folder(tmp_path / "base")
    config = {"r": 2, "target_modules": ["q_proj"]}
    theirs = peft.get_peft_model(THEIRS.from_pretrained(base), peft.LoraConfig(**config)).eval()
    theirs.add_adapter("french", peft.LoraConfig(**{**config, "r": 3}))
    for name in ("french", "default"):
        theirs.set_adapter(name)
        randomize(theirs)
    folder, wanted = tmp_path / "both", {}
    theirs.save_pretrained(folder)
    for name, place in {"default": folder, "french": folder / "french"}.items():
        theirs.set_adapter(name)
        wanted[name] = theirs(IDS).logits
        ours = AutoModelForCausalLM.from_pretrained(place)
        torch.testing.assert_close(ours(IDS).logits, wanted[name], **CLOSE)
        ours.save_pretrained(tmp_path / "ours" / name)
    by_subfolder = AutoModelForCausalLM.from_pretrained(folder, subfolder="french")
    torch.testing.assert_close(by_subfolder(IDS).logits, wanted["french"], **CLOSE)
    found = r"found .*/ours, which holds the adapters default, french; accepted: .*/ours/default"
    with pytest.raises(InputError, match=found):
        AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(
        THEIRS.from_pretrained(base), tmp_path / "ours" / "default"
    )
    again.load_adapter(tmp_path / "ours" / "french", "french")
    again.eval().set_adapter("french")
    torch.testing.assert_close(again(IDS).logits, wanted["french"], **CLOSE)


def test_other_methods_of_peft_are_refused_by_name(tmp_path: Path) -> None:
    """Every kind that the installed PEFT has, written as its own config class writes it."""
    others = [kind for kind in peft.PeftType if kind.value not in adapter_config.KINDS]
    assert len(others) > 20
    for kind in others:
        config = {"peft_type": kind.value, "base_model_name_or_path": "base"}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=rf"peft_type: found '{kind.value}'; accepted: LORA"):
            adapter_config.read_adapter_config(tmp_path / "adapter_config.json")


def test_every_entry_of_pefts_config_is_read_or_refused_by_name(tmp_path: Path) -> None:
    known = adapter_config.READ | adapter_config.NO_EFFECT | set(adapter_config.OTHER_KINDS)
    assert {field.name for field in fields(peft.LoraConfig)} - known == set()
    assert not adapter_config.READ & adapter_config.NO_EFFECT
    base = base_folder(tmp_path / "base")
    model = THEIRS.from_pretrained(base)
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        tmp_path / "theirs"
    )
    file = tmp_path / "theirs" / "adapter_config.json"
    entries = json.loads(file.read_text())
    for name in (*adapter_config.OTHER_KINDS, "what_comes_next"):
        file.write_text(json.dumps({**entries, name: True}))
        with pytest.raises(InputError, match=f"{name}: found True"):
            AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")


@pytest.mark.parametrize(
    "targets", [["attn.c_proj"], ["c_proj"], ["mlp.c_fc"], ["h.0.attn.c_attn"], []]
)
def test_target_names_mean_the_same_layers_there(tmp_path: Path, targets: list[str]) -> None:
    base = base_folder(tmp_path / "base", "gpt2")
    ours = AutoModelForCausalLM.from_pretrained(base)
    ours.add_lora(LoRASettings(rank=2, targets=targets))
    randomize(ours)
    ours.save_pretrained(tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(
        THEIRS.from_pretrained(base), tmp_path / "ours", is_trainable=True
    )
    trained = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert trained == ours.num_parameters(only_trainable=True)
    torch.testing.assert_close(theirs.eval()(IDS).logits, ours(IDS).logits, **CLOSE)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_new_rows_of_the_vocabulary_are_in_the_adapter(
    tmp_path: Path, when: str, tied: bool
) -> None:
    base = base_folder(tmp_path / "base", "llama", tie_word_embeddings=tied)
    tokenizer = Tokenizer.train(["a b"] * 3, vocab_size=60, kind="wordpiece")
    tokenizer.add_tokens([f"<{n}>" for n in range(64 - len(tokenizer))])
    ours = AutoModelForCausalLM.from_pretrained(base)
    if when == "before":
        ours.resize_token_embeddings(64)
    ours.add_lora(LoRASettings(rank=2))
    if when == "after":
        ours.resize_token_embeddings(64)
    randomize(ours)
    assert ours.get_input_embeddings().weight.requires_grad and ours.output_weight.requires_grad
    folder = tmp_path / "ours"
    ours.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    wanted = ours(torch.tensor([[63, 5, 62]])).logits
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert again.config.vocab_size == 64
    torch.testing.assert_close(again(torch.tensor([[63, 5, 62]])).logits, wanted)
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(folder).eval()  # resized by PEFT
    torch.testing.assert_close(theirs(torch.tensor([[63, 5, 62]])).logits, wanted, **CLOSE)


def test_our_folder_is_an_adapter_to_transformers(tmp_path: Path) -> None:
    ours = AutoModelForCausalLM.from_pretrained(base_folder(tmp_path / "base"))
    ours.add_lora(LoRASettings(rank=2))
    randomize(ours)
    ours.save_pretrained(tmp_path / "ours")
    theirs = THEIRS.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(IDS).logits, ours(IDS).logits, **CLOSE)
    theirs = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(IDS).logits, ours(IDS).logits, **CLOSE)
    ours.save_pretrained(tmp_path / "base2", merge=True)
    ours.save_pretrained(tmp_path / "base2")  # an adapter that replaces a whole model
    assert not (tmp_path / "base2" / "config.json").exists()
    assert THEIRS.from_pretrained(tmp_path / "base2") is not None


VLLM_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
"""The linear layers of a Llama that vLLM puts adapters beside; all decoders here name them so."""


def refusals_of_vllm(folder: Path, max_lora_rank: int = 16) -> list[str]:
    """The reasons for which vLLM would refuse an adapter (rules of vllm/lora, 0.8 to 0.11).

    PEFTHelper needs r, lora_alpha and target_modules, takes bias=none, no modules_to_save and no
    DoRA, and computes each layer's scaling from r, lora_alpha and use_rslora: patterns are not
    read. parse_fine_tuned_lora_name takes base_model.model.MODULE.lora_A.weight and .lora_B.weight
    alone, and the last part of MODULE must be one of the model's linear layers.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    found = [f"no {name}" for name in ("r", "lora_alpha", "target_modules") if name not in config]
    found += [name for name in ("modules_to_save", "use_dora") if config.get(name)]
    found += [name for name in ("rank_pattern", "alpha_pattern") if config.get(name)]
    found += ["bias"] if config["bias"] != "none" else []
    found += ["rank"] if config["r"] > max_lora_rank else []
    found += ["peft_type"] if config["peft_type"] != "LORA" else []
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        module = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name)
        if module is None or module[1].rpartition(".")[2] not in VLLM_LAYERS:
            found.append(name)
        elif tensor.shape[module[2] == "B"] != config["r"]:
            found.append(f"{name} of another rank")
    return found


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("targets", [[], ["q_proj", "down_proj"]])
def test_our_folder_has_the_format_that_vllm_takes(
    tmp_path: Path, family: str, targets: list[str]
) -> None:
    ours = AutoModelForCausalLM.from_pretrained(base_folder(tmp_path / "base", family))
    ours.add_lora(LoRASettings(rank=2, alpha=4, targets=targets))
    ours.save_pretrained(tmp_path / "ours")
    assert refusals_of_vllm(tmp_path / "ours") == []
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == 2 and not config["use_rslora"]


def test_peft_scales_our_rslora_as_we_do(tmp_path: Path) -> None:
    """For a rank with an inexact square root; alpha is saved unchanged."""
    base = base_folder(tmp_path / "base")
    ours = AutoModelForCausalLM.from_pretrained(base)
    ours.add_lora(LoRASettings(rank=3, alpha=5, rslora=True, targets=["q_proj"]))
    randomize(ours)
    ours.save_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["lora_alpha"], config["alpha_pattern"]) == (True, 5, {})
    theirs = peft.PeftModel.from_pretrained(THEIRS.from_pretrained(base), tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(IDS).logits, ours(IDS).logits, **CLOSE)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(IDS).logits, ours(IDS).logits)
    again.merge_lora()
    torch.testing.assert_close(again(IDS).logits, ours(IDS).logits, **CLOSE)


@pytest.mark.parametrize(
    ("tied", "modules"), [(True, ["embed_tokens", "norm"]), (False, ["lm_head", "mlp"])]
)
def test_peft_loads_what_we_train_whole(tmp_path: Path, tied: bool, modules: list[str]) -> None:
    base = base_folder(tmp_path / "base", tie_word_embeddings=tied)
    ours = AutoModelForCausalLM.from_pretrained(base)
    ours.add_lora(LoRASettings(rank=2, modules_to_save=modules))
    layers = {name.rpartition(".")[2] for name in adapted_layers(ours)}
    assert layers == {"query", "key", "value", "output"} | ({"input", "gate"} if tied else set())
    randomize(ours)
    ours.save_pretrained(tmp_path / "ours")
    trained = THEIRS.from_pretrained(base)
    theirs = peft.PeftModel.from_pretrained(trained, tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(IDS).logits, ours(IDS).logits, **CLOSE)
    theirs.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        again = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert torch.equal(again(IDS).logits, ours(IDS).logits)


def test_what_vllm_does_not_take_is_what_the_settings_say(tmp_path: Path) -> None:
    """trainable_tokens documents it, and merge=true writes a model that vLLM loads."""
    ours = AutoModelForCausalLM.from_pretrained(base_folder(tmp_path / "base", "llama"))
    ours.add_lora(LoRASettings(rank=2, trainable_tokens=[5]))
    ours.save_pretrained(tmp_path / "ours")
    rows = [name for name in refusals_of_vllm(tmp_path / "ours") if "trainable_tokens" in name]
    assert len(rows) == 2
    ours.save_pretrained(tmp_path / "merged", merge=True)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


@pytest.mark.parametrize("suffix", ["pkg", "gguf"])
def test_a_base_that_others_cannot_follow_has_another_name(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shipped_model"
    package.mkdir()
    (package / "__init__.py").touch()
    base = base_folder(package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    path = "pkg://shipped_model/model" if suffix == "pkg" else "model.gguf"
    ours = AutoModelForCausalLM.from_pretrained("pkg://shipped_model/model")
    ours.add_lora(LoRASettings(rank=2), path)
    assert f"cannot load the base '{path}'; set model.lora.base_name to" in caplog.text
    command = re.search(r'python -c "(.*)"', caplog.text)
    assert command is not None
    if suffix == "gguf":
        return
    monkeypatch.chdir(tmp_path)
    exec(command[1], {})  # the command that the message recommends
    named = AutoModelForCausalLM.from_pretrained("pkg://shipped_model/model")
    named.add_lora(LoRASettings(rank=2, base_name=str(tmp_path / "BASE")))
    randomize(named)
    named.save_pretrained(tmp_path / "ours")
    wanted = named(IDS).logits
    theirs = THEIRS.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(IDS).logits, wanted, **CLOSE)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert again.lora.base == "pkg://shipped_model/model" and base.is_dir()
    again.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "BASE")
    (tmp_path / "BASE").rename(tmp_path / "gone")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "again")(IDS).logits, wanted)
