"""Adapters on a model whose weights are read later: they are the same, and weights stay unread."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS, AutoConfig
from trainer.models.lazy_values import values_of

SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
DECODER = {"model_type": "llama", **SIZES, "tie_word_embeddings": False}
MIXTURE = {"model_type": "mixtral", **SIZES, "num_key_value_heads": 2, "num_local_experts": 2}
SETTINGS = {
    "lora": LoRASettings(rank=2, dropout=0.1),
    "dora": LoRASettings(rank=2, dora=True),
    "pissa": LoRASettings(rank=2, init="pissa"),
    "scales": LoRASettings(ia3=True),
    "rows": LoRASettings(rank=2, trainable_tokens=[3, 5]),
    "modules": LoRASettings(rank=2, modules_to_save=["embed_tokens", "lm_head"]),
}
HEADS = ("causal_lm", "sequence_classification")
"""The head of the saved models, and a head that is new."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a decoder and of a mixture of experts."""
    folder, found = tmp_path_factory.mktemp("bases"), {}
    for name, config in (("decoder", DECODER), ("mixture", MIXTURE)):
        torch.manual_seed(0)
        TASKS["causal_lm"].from_config(AutoConfig(config)).save_pretrained(folder / name)
        found[name] = folder / name
    return found


def loaded(home: Path, task: str, lazily: bool, **options: Any) -> Any:
    torch.manual_seed(1)
    return TASKS[task].from_pretrained(home, lazily=lazily, **options)


def assert_equal(lazy: Any, eager: Any) -> None:
    """Equal bits, the same trained parameters, and the same state of the generator."""
    after = torch.get_rng_state()
    one, other = (dict(model.named_parameters()) for model in (lazy, eager))
    assert one.keys() == other.keys()
    for name, parameter in one.items():
        assert parameter.dtype == other[name].dtype, name
        assert torch.equal(parameter, other[name]), name
        assert parameter.requires_grad == other[name].requires_grad, name
    assert lazy.lora == eager.lora
    assert torch.equal(after, torch.get_rng_state())


def from_files(model: nn.Module) -> set[str]:
    """The parameters that have values though a file could still be read for them."""
    in_files = model.pending.names
    named = model.named_parameters()
    return {name for name, p in named if in_files.get(name) is not None and not p.is_meta}


CASES = [("decoder", task, kind) for task in HEADS for kind in SETTINGS]
CASES += [("mixture", "causal_lm", kind) for kind in ("lora", "rows", "modules")]


@pytest.mark.parametrize(("base", "task", "kind"), CASES)
def test_adapters_of_a_lazy_model_have_the_same_bits(
    base: str, task: str, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = SETTINGS[kind]
    if task != "causal_lm" and kind == "modules":
        settings = LoRASettings(rank=2, modules_to_save=["embed_tokens"])
    models = []
    for lazily in (True, False):
        model = loaded(folders[base], task, lazily)
        model.add_lora(settings)
        assert not from_files(model) or not lazily
        models.append((model, torch.get_rng_state()))
    (lazy, drawn), (eager, wanted) = models
    assert torch.equal(drawn, wanted)
    lazy.fill(lazy)
    assert_equal(lazy, eager)
    with torch.no_grad():
        for parameter in eager.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.arange(parameter.numel()).view_as(parameter).sin())
    eager.save_pretrained(tmp_path / "saved")
    for options in ({}, {"dtype": torch.float16}, {"new_head": True}):
        lazy, eager = (loaded(tmp_path / "saved", task, how, **options) for how in (True, False))
        assert from_files(lazy) <= {*lazy.lora.whole}
        lazy.fill(lazy)
        assert_equal(lazy, eager)


def test_a_resized_lazy_model_has_the_same_bits(folders: dict[str, Path]) -> None:
    lazy, eager = (loaded(folders["decoder"], "causal_lm", how) for how in (True, False))
    for model in (lazy, eager):
        torch.manual_seed(2)
        model.resize_token_embeddings(41)
        model.add_lora(SETTINGS["lora"])
    assert from_files(lazy) == {"body.embeddings.token.weight", "head.weight"}
    lazy.fill(lazy)
    assert_equal(lazy, eager)


def test_a_lazy_model_may_be_merged(folders: dict[str, Path]) -> None:
    models = []
    for lazily in (True, False):
        model = loaded(folders["decoder"], "causal_lm", lazily)
        model.add_lora(SETTINGS["pissa"])
        model.merge_lora()
        models.append(model)
    assert_equal(*models)


@pytest.mark.parametrize("name", [None, *SETTINGS])
def test_a_lazy_model_may_be_saved(
    folders: dict[str, Path], name: str | None, tmp_path: Path
) -> None:
    for folder, lazily in (("lazy", True), ("eager", False)):
        model = loaded(folders["decoder"], "causal_lm", lazily)
        if name is not None:
            torch.manual_seed(2)
            model.add_lora(SETTINGS[name])
        model.save_pretrained(tmp_path / folder)
    files = [path.name for path in (tmp_path / "eager").glob("*.safetensors")]
    for file in files:
        assert (tmp_path / "lazy" / file).read_bytes() == (tmp_path / "eager" / file).read_bytes()
    assert files


def test_a_part_of_a_lazy_model_reads_its_weights(tmp_path: Path) -> None:
    heads = {"a": {"head": "sequence_classification"}, "b": {"head": "token_classification"}}
    sizes = {"model_type": "bert", **SIZES, "task_heads": heads}
    TASKS["multi_task"].from_config(AutoConfig(sizes)).save_pretrained(tmp_path)
    lazy, eager = (loaded(tmp_path, "multi_task", lazily) for lazily in (True, False))
    part = lazy.part("b")
    part.fill(part)
    assert_equal(part, eager.part("b"))
    assert all(parameter.is_meta for parameter in lazy.part("a").head.parameters())
    lazy.part("a").save_pretrained(tmp_path / "a")
    assert_equal(lazy, eager)


def test_a_part_of_a_model_with_random_weights_draws_all_of_them() -> None:
    """They are drawn in the model's order, and the part's head is not the first."""
    heads = {"a": {"head": "sequence_classification"}, "b": {"head": "token_classification"}}
    config = AutoConfig({"model_type": "bert", **SIZES, "task_heads": heads})
    found = []
    for lazily in (True, False):
        torch.manual_seed(3)
        found.append(TASKS["multi_task"].from_config(config, lazily=lazily))
    part = found[0].part("b")
    part.fill(part)
    assert_equal(found[0], found[1])


def test_weights_read_for_a_moment_stay_tied(tmp_path: Path) -> None:
    config = AutoConfig({**DECODER, "tie_word_embeddings": True})
    TASKS["causal_lm"].from_config(config).save_pretrained(tmp_path)
    model = loaded(tmp_path, "causal_lm", True)
    with pytest.raises(KeyError), values_of(model, model.body.embed):
        assert not model.get_output_embeddings().weight.is_meta
        raise KeyError
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert all(parameter.is_meta for parameter in model.parameters())
