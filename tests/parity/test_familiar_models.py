"""Calls of transformers' models give the same here, or an error that names an alternative."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import trainer as ours
from tests.parity.closeness import assert_equal_in_fp32
from trainer.errors import InputError

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "bert": transformers.BertConfig(**SIZES),
    "roberta": transformers.RobertaConfig(**SIZES, type_vocab_size=1, pad_token_id=1),
    "modernbert": transformers.ModernBertConfig(
        **SIZES, pad_token_id=0, global_attn_every_n_layers=2, local_attention=8
    ),
    "llama": transformers.LlamaConfig(**SIZES, num_key_value_heads=2, pad_token_id=0),
    "mistral": transformers.MistralConfig(
        **SIZES, num_key_value_heads=2, pad_token_id=0, sliding_window=6
    ),
    "gpt2": transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=64, pad_token_id=0
    ),
}
ENCODERS = ("bert", "roberta", "modernbert")
DECODERS = ("llama", "mistral", "gpt2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def saved(folder: Path, family: str, cls: str, **entries: Any) -> Path:
    """A folder saved by transformers, with weights that are all different."""
    name = "-".join([family, cls, *(f"{key}={value}" for key, value in entries.items())])
    if not (folder / name).is_dir():
        config = copy.deepcopy(CONFIGS[family])
        for key, value in entries.items():
            setattr(config, key, value)
        torch.manual_seed(1)
        model = getattr(transformers, cls).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder / name)
    return folder / name


def pair(
    folder: Path, family: str, cls: str, dtype: torch.dtype = torch.float64, **entries: Any
) -> tuple[Any, Any]:
    """transformers' model and ours with the same weights.

    In float64 theirs gives NaN if a row starts with pads.
    """
    path = saved(folder, family, cls, **entries)
    theirs = getattr(transformers, cls).from_pretrained(
        path, dtype=dtype, attn_implementation="eager"
    )
    return theirs.eval(), getattr(ours, cls).from_pretrained(path, dtype=dtype)


def batch(left: bool = False) -> tuple[Tensor, Tensor]:
    """ids and mask [3, 11]; more pads than Mistral's window give NaN in transformers."""
    torch.manual_seed(3)
    ids, mask = torch.randint(3, 99, (3, 11)), torch.ones(3, 11, dtype=torch.int64)
    mask[1, 7:] = 0
    mask[2, 8:] = 0
    ids = ids * mask
    return (ids.flip(1), mask.flip(1)) if left else (ids, mask)


def equal(found: Tensor, expected: Tensor) -> None:
    """Equal except for rounding in transformers' rotary angles, which are always float32."""
    if found.dtype == torch.float64:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    else:
        assert_equal_in_fp32(found, expected)


TAKEN = {
    "attn_implementation": ("eager", "sdpa", "flash_attention_2"),
    "device_map": ("cpu", "auto", {"": "cpu"}, torch.device("cpu")),
    "low_cpu_mem_usage": (True, False),
    "trust_remote_code": (False, True),
    "use_safetensors": (True,),
    "subfolder": ("",),
    "quantization_config": (None,),
    "state_dict": (None,),
    "use_cache": (False,),
}
REFUSED = {
    "attn_implementation": "fastest",
    "device_map": {"layers.0": 0, "layers.1": 1},
    "use_safetensors": False,
    "quantization_config": {"load_in_4bit": True},
    "load_in_8bit": True,
    "state_dict": {"a": 1},
    "subfolder": "../elsewhere",
    "tp_plan": "auto",
}


def test_arguments_of_from_pretrained_are_taken(folder: Path) -> None:
    path = saved(folder, "bert", "AutoModel")
    for name, values in TAKEN.items():
        for value in values:
            assert (
                ours.AutoModel.from_pretrained(path, **{name: value}).config.use_cache is not None
            )


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_obeyed_are_refused_by_name(folder: Path, name: str) -> None:
    path = saved(folder, "bert", "AutoModel")
    with pytest.raises(InputError, match=f"^{name}: "):
        ours.AutoModel.from_pretrained(path, **{name: REFUSED[name]})


@pytest.mark.parametrize("device", [99, "cuda:99", {"": 99}, torch.device("cuda", 99)])
def test_a_device_that_the_machine_lacks_is_refused(folder: Path, device: Any) -> None:
    path = saved(folder, "bert", "AutoModel")
    with pytest.raises(
        InputError, match=r"^device_map: found .*here \(.+\); accepted: (.*, )?cpu$"
    ):
        ours.AutoModel.from_pretrained(path, device_map=device)


def test_a_device_may_be_an_index(folder: Path) -> None:
    path = saved(folder, "bert", "AutoModel")
    for given in (-1, {"": -1}):
        assert ours.AutoModel.from_pretrained(path, device_map=given).device.type == "cpu"


def test_a_config_may_be_a_path(folder: Path, tmp_path: Path) -> None:
    path = saved(folder, "bert", "AutoModel")
    config = ours.AutoConfig.from_pretrained(path, hidden_act="relu")
    config.save_pretrained(tmp_path)
    for given in (str(tmp_path), tmp_path, config):
        assert ours.AutoModel.from_pretrained(path, config=given).config.hidden_act == "relu"
    with pytest.raises(InputError, match=r"^config: found int; accepted: a config, or the path"):
        ours.AutoModel.from_pretrained(path, config=3)


def test_inputs_that_are_not_tensors_are_refused(folder: Path) -> None:
    model = ours.AutoModelForSequenceClassification.from_pretrained(
        saved(folder, "bert", "AutoModelForSequenceClassification")
    )
    ids, mask = batch()
    with pytest.raises(InputError, match=r"^input_ids: found dict; accepted: a tensor \(model\(\*"):
        model({"input_ids": ids, "attention_mask": mask})
    for name, value in {"input_ids": ids.tolist(), "labels": [0, 1, 0], "input_ids ": "a"}.items():
        given = {"input_ids": ids, **{name.strip(): value}}
        with pytest.raises(InputError, match=f"^{name.strip()}: found (list|str); accepted: a ten"):
            model(**given)


def test_models_are_made_from_configs(folder: Path) -> None:
    path = saved(folder, "bert", "AutoModel")
    options = {
        "torch_dtype": "bfloat16",
        "attn_implementation": "eager",
        "trust_remote_code": False,
    }
    config = ours.AutoConfig.from_pretrained(path)
    for given in (config, transformers.AutoConfig.from_pretrained(path), path):
        model = ours.AutoModel.from_config(given, **options)
        assert model.dtype == torch.bfloat16
        assert model.config._attn_implementation == "eager"
        assert model.config.hidden_size == config.hidden_size
    with pytest.raises(InputError, match=r"^from_config: found hidden_size; accepted: config.hid"):
        ours.AutoModel.from_config(config, hidden_size=8)
    with pytest.raises(InputError, match=r"^path: found an empty text; accepted: one path"):
        ours.AutoModel.from_pretrained("")


def test_memory_is_counted_as_by_transformers(folder: Path) -> None:
    path = saved(folder, "bert", "AutoModelForMaskedLM")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(path, dtype=torch.bfloat16)
    model = ours.AutoModelForMaskedLM.from_pretrained(path, dtype=torch.bfloat16)
    expected = theirs.get_memory_footprint(return_buffers=False)
    assert model.get_memory_footprint(return_buffers=False) == expected


def test_trust_remote_code_is_answered(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trainer"):
        ours.AutoModel.from_pretrained(saved(folder, "bert", "AutoModel"), trust_remote_code=True)
    assert "trust_remote_code=True has no effect" in caplog.text


def test_a_subfolder_is_read(folder: Path) -> None:
    path = saved(folder, "bert", "AutoModel")
    model = ours.AutoModel.from_pretrained(path.parent, subfolder=path.name)
    assert model.num_parameters() == ours.AutoModel.from_pretrained(path).num_parameters()


def test_a_head_of_other_sizes_starts_fresh(folder: Path) -> None:
    path = saved(folder, "bert", "AutoModelForSequenceClassification", num_labels=3)
    cls = ours.AutoModelForSequenceClassification
    with pytest.raises(InputError, match="its head was trained for other labels"):
        cls.from_pretrained(path, num_labels=5)
    options = {"ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = cls.from_pretrained(path, num_labels=5, **options)
    assert model.config.num_labels == 5
    assert info["mismatched_keys"] == {"classifier.bias", "classifier.weight"}
    assert info["missing_keys"] == info["unexpected_keys"] == set()


def test_weights_may_be_given_as_a_state_dict(folder: Path) -> None:
    theirs, model = pair(folder, "bert", "AutoModelForSequenceClassification")
    ids, mask = batch()
    expected = model(ids, mask).logits
    bare = {name: tensor for name, tensor in model.state_dict().items() if "head" not in name}
    for weights in (theirs.state_dict(), model.state_dict()):
        again, info = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=weights,
            dtype=torch.float64,
            output_loading_info=True,
        )
        equal(again(ids, mask).logits, expected)
        assert info["missing_keys"] == set() and not again.training
    path = saved(folder, "bert", "AutoModelForSequenceClassification")
    _, info = type(model).from_pretrained(path, state_dict=bare, output_loading_info=True)
    assert info["missing_keys"] == {"classifier.bias", "classifier.weight"}
    with pytest.raises(InputError, match="tensor bert.embeddings.word_embeddings.weight is miss"):
        type(model).from_pretrained(None, config=model.config, state_dict={})
    with pytest.raises(InputError, match="^state_dict: accepted: "):
        type(model).from_pretrained(None, state_dict=bare)


def test_configs_have_what_libraries_ask_for(folder: Path, tmp_path: Path) -> None:
    _, model = pair(folder, "bert", "AutoModel")
    config = model.config
    assert config.is_encoder_decoder is False and config.get_text_config() is config
    assert config.use_return_dict and config.sub_configs == {}
    assert type(config)(config.to_diff_dict()) == config
    assert ours.BertConfig(**config.to_dict()) == config
    config.save_pretrained(tmp_path / "config")
    assert ours.AutoConfig.from_pretrained(tmp_path, subfolder="config") == config
    assert (tmp_path / "config/config.json").read_text() and '"bert"' in config.to_json_string()
    config.update({"hidden_dropout_prob": 0.5})
    assert config.hidden_dropout_prob == 0.5
    assert config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    eager = ours.AutoModel.from_pretrained(
        saved(folder, "bert", "AutoModel"), attn_implementation="eager"
    )
    assert config._attn_implementation == eager.config._attn_implementation == "eager"
    assert "eager" not in config.to_json_string()
    with pytest.raises(InputError, match="^attn_implementation: found 'foo'"):
        model.set_attn_implementation("foo")


def test_attentions_that_the_config_asks_for_come_without_a_cache(folder: Path) -> None:
    path = saved(folder, "llama", "AutoModelForCausalLM")
    model = ours.AutoModelForCausalLM.from_pretrained(path, output_attentions=True)
    with torch.no_grad():
        found = [model(batch()[0], **flags).keys() for flags in ({}, {"output_attentions": True})]
    assert found[0] == found[1] == ["logits", "attentions"]


def test_arguments_of_save_pretrained(folder: Path, tmp_path: Path) -> None:
    model = ours.AutoModel.from_pretrained(saved(folder, "bert", "AutoModel"))
    model.save_pretrained(save_directory=tmp_path / "a", safe_serialization=True)
    assert (tmp_path / "a" / "model.safetensors").is_file()
    model.save_pretrained(tmp_path / "b", is_main_process=False)
    assert not (tmp_path / "b").exists()
    with pytest.raises(InputError, match="^safe_serialization: "):
        model.save_pretrained(tmp_path / "b", safe_serialization=False)
    with pytest.raises(TypeError, match="unexpected"):
        model.save_pretrained(tmp_path / "b", shard_size=3)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_parts_of_a_model(folder: Path, family: str) -> None:
    task = "AutoModelForMaskedLM" if family in ENCODERS else "AutoModelForCausalLM"
    theirs, model = pair(folder, family, task)
    ids, mask = batch()
    assert model.base_model_prefix == theirs.base_model_prefix
    bare = getattr(model, model.base_model_prefix)
    expected = theirs.base_model(ids, attention_mask=mask).last_hidden_state
    equal(bare(ids, mask).last_hidden_state[mask.bool()], expected[mask.bool()])
    assert bare.get_input_embeddings() is model.get_input_embeddings()
    output = model.get_output_embeddings()
    equal(output.weight, theirs.get_output_embeddings().weight)
    with torch.no_grad():
        output.weight[5] += 1.0
    assert model(ids, mask).logits[0, 0, 5] != theirs(ids, attention_mask=mask).logits[0, 0, 5]
    assert model.num_parameters(exclude_embeddings=True) == theirs.num_parameters(
        exclude_embeddings=True
    )


def test_embeddings_are_set(folder: Path) -> None:
    _, model = pair(folder, "gpt2", "AutoModelForCausalLM")
    new = torch.nn.Embedding(99, 32, dtype=torch.float64)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    assert model.get_output_embeddings().weight is new.weight
    with pytest.raises(InputError, match="^value: "):
        model.set_input_embeddings(torch.nn.Embedding(99, 31))
    with pytest.raises(InputError, match="^new_embeddings: "):
        model.set_output_embeddings(torch.nn.Linear(32, 99, bias=False))


def test_rows_of_a_grown_vocabulary_lie_at_the_mean(folder: Path) -> None:
    theirs, model = pair(folder, "llama", "AutoModelForCausalLM")
    theirs.resize_token_embeddings(105)
    model.resize_token_embeddings(105)
    for name in ("get_input_embeddings", "get_output_embeddings"):
        new, expected = getattr(model, name)().weight, getattr(theirs, name)().weight
        torch.testing.assert_close(new, expected, rtol=0, atol=2e-4)
        assert new[99:].std(0).max() > 0


def test_checkpointing_takes_transformers_arguments(folder: Path) -> None:
    model = ours.AutoModel.from_pretrained(saved(folder, "bert", "AutoModel"))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing and model.is_activation_checkpointing
    model.activation_checkpointing_disable()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_activation_checkpointing
    with pytest.raises(InputError, match="gradient_checkpointing_kwargs"):
        model.gradient_checkpointing_enable({"depth": 2})


@pytest.mark.parametrize("family", CONFIGS)
def test_a_config_may_ask_for_checkpointing(folder: Path, tmp_path: Path, family: str) -> None:
    path = saved(folder, family, "AutoModel")
    config = ours.AutoConfig.from_pretrained(path)
    assert not ours.AutoModel.from_config(config).is_gradient_checkpointing
    config.gradient_checkpointing = True
    model = ours.AutoModel.from_config(config)
    assert model.is_gradient_checkpointing
    weight = model.get_input_embeddings().weight.clone()
    model.post_init()
    assert torch.equal(model.get_input_embeddings().weight, weight)
    given = {"gradient_checkpointing": True}
    assert ours.AutoModel.from_pretrained(path, **given).is_gradient_checkpointing


def test_output_fields_are_assigned(folder: Path) -> None:
    outputs = ours.AutoModel.from_pretrained(saved(folder, "bert", "AutoModel"))(batch()[0])
    outputs["last_hidden_state"] = outputs.pooler_output = torch.ones(1)
    assert outputs[0] is outputs[1] is outputs["pooler_output"]
    with pytest.raises(KeyError):
        outputs["logits"] = torch.ones(1)


@pytest.mark.parametrize("family", CONFIGS)
def test_embeddings_and_masks_of_pairs_are_inputs(folder: Path, family: str) -> None:
    theirs, model = pair(folder, family, "AutoModel")
    ids, mask = batch()
    seen = mask.bool()
    embeds = model.get_input_embeddings()(ids)
    for given in ({}, {"attention_mask": mask}):
        expected = theirs(inputs_embeds=embeds, **given).last_hidden_state
        rows = seen if given else torch.ones_like(seen)
        equal(model(inputs_embeds=embeds, **given).last_hidden_state[rows], expected[rows])
    pairs = torch.rand(3, 1, 11, 11) < 0.5
    pairs |= torch.eye(11, dtype=torch.bool)
    added = torch.zeros(pairs.shape, dtype=torch.float64).masked_fill(~pairs, -1e30)
    for pairwise in (pairs, added, pairs[:1], added.expand(3, 4, 11, 11)):
        expected = theirs(ids, attention_mask=added[: len(pairwise)]).last_hidden_state
        equal(model(ids, attention_mask=pairwise).last_hidden_state, expected)
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": embeds}):
        with pytest.raises(InputError, match="^input_ids, inputs_embeds: "):
            model(**wrong)
    with pytest.raises(InputError, match="^attention_mask: found torch.bool"):
        model(ids, attention_mask=pairs[:, :, :5])


@pytest.mark.parametrize("family", CONFIGS)
def test_returned_states_and_attentions_have_gradients(folder: Path, family: str) -> None:
    theirs, model = pair(folder, family, "AutoModelForSequenceClassification")
    ids, mask = batch()
    gradients = []
    for each in (theirs, model):
        outputs = each(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
        for tensor in (*outputs.hidden_states, *outputs.attentions):
            tensor.retain_grad()
        outputs.logits.square().sum().backward()
        states = [state.grad * mask[:, :, None] for state in outputs.hidden_states]
        weights = [weight.grad * mask[:, None, :, None] for weight in outputs.attentions]
        gradients.append((states, [w * mask[:, None, None] for w in weights]))
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        for mine, other in zip(found, expected, strict=True):
            equal(mine, other)


@pytest.mark.parametrize(
    ("family", "left"),
    [("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True), ("mistral", True)],
)
def test_calls_go_on_from_past_key_values(folder: Path, family: str, left: bool) -> None:
    theirs, model = pair(folder, family, "AutoModelForCausalLM", torch.float32)
    ids, mask = batch(left)
    more = torch.randint(3, 99, (3, 2))
    whole = torch.cat((mask, torch.ones_like(more)), 1)
    found, expected = [], []
    with torch.no_grad():
        for each, rows in ((model, found), (theirs, expected)):
            outputs = each(ids, attention_mask=mask)  # both return a cache by default
            rows.append(outputs.logits * mask[:, :, None])
            for width in (1, 2):
                seen = whole[:, : 11 + width]
                past = outputs.past_key_values
                assert past.get_seq_length() == 10 + width
                outputs = each(
                    more[:, width - 1 : width], attention_mask=seen, past_key_values=past
                )
                rows.append(outputs.logits)
    for mine, other in zip(found, expected, strict=True):
        equal(mine, other)


def test_a_cache_is_given_where_transformers_gives_one(folder: Path) -> None:
    model = ours.AutoModelForCausalLM.from_pretrained(
        saved(folder, "llama", "AutoModelForCausalLM")
    )
    ids, _ = batch()
    assert model(ids).past_key_values is None  # with gradients there is no generation
    assert model(ids, use_cache=True).past_key_values is not None
    with torch.no_grad():
        assert len(model(ids, return_dict=False)) == 2
        assert model(ids, use_cache=False).past_key_values is None
        past = model(ids).past_key_values
        with pytest.raises(InputError, match="^attention_mask: found 3 columns"):
            model(ids[:, :1], attention_mask=torch.ones(3, 3), past_key_values=past)
        with pytest.raises(InputError, match="^past_key_values: found DynamicCache"):
            model(ids, past_key_values=transformers.DynamicCache())
        past.crop(-2)
        past.reorder_cache(torch.tensor([2, 0]))
        again = model(ids[[2, 0], -2:], past_key_values=past).logits
        torch.testing.assert_close(again, model(ids).logits[[2, 0], -2:], rtol=1e-4, atol=1e-5)
        past.crop(-100)
        assert past.get_seq_length() == 0
        again = model(ids[[2, 0]], past_key_values=past).logits
        torch.testing.assert_close(again, model(ids).logits[[2, 0]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_logits_to_keep_and_num_items(folder: Path, family: str) -> None:
    theirs, model = pair(folder, family, "AutoModelForCausalLM")
    ids, mask = batch()
    kept = (mask.bool(), mask[:, -2:].bool())
    for count in (0, 2):
        given = {"attention_mask": mask, "logits_to_keep": count}
        found, expected = model(ids, **given).logits, theirs(ids, **given).logits
        rows = kept[0] if count == 0 else kept[1]
        equal(found[rows], expected[rows])
    columns = torch.tensor([0, 2])
    equal(model(ids, logits_to_keep=columns).logits, theirs(ids, logits_to_keep=columns).logits)
    labels = ids.masked_fill(mask == 0, -100)
    for items in (torch.tensor(7), 7):
        given = {"attention_mask": mask, "labels": labels, "num_items_in_batch": items}
        equal(model(ids, **given).loss.float(), theirs(ids, **given).loss)


@pytest.mark.parametrize("family", DECODERS)
def test_labels_may_be_shifted_already(folder: Path, family: str) -> None:
    theirs, model = pair(folder, family, "AutoModelForCausalLM")
    ids, mask = batch()
    shifted = torch.nn.functional.pad(ids.masked_fill(mask == 0, -100)[:, 1:], (0, 1), value=-100)
    given = {"attention_mask": mask, "labels": ids.flip(1), "shift_labels": shifted}
    outputs = model(ids, **given)
    equal(outputs.loss, theirs(ids, **given).loss.double())
    equal(model(ids, mask, labels=ids.masked_fill(mask == 0, -100)).loss, outputs.loss)
    assert outputs.projection.shifts
    with pytest.raises(InputError, match="^shift_labels: found [0-9]+; accepted: 0 to 98"):
        model(ids, mask, shift_labels=shifted + 99)


def test_token_types_of_models_without_any(folder: Path) -> None:
    ids, _ = batch()
    model = ours.AutoModel.from_pretrained(saved(folder, "llama", "AutoModel"))
    equal(model(ids, token_type_ids=ids * 0)[0], model(ids)[0])
    with pytest.raises(InputError, match="^token_type_ids: "):
        model(ids, token_type_ids=ids)
    theirs, model = pair(folder, "gpt2", "AutoModel")  # adds the embeddings of tokens
    types = torch.full_like(ids, 5)
    equal(model(ids, token_type_ids=types)[0], theirs(ids, token_type_ids=types)[0])


GRAPHS = {
    "bert": "AutoModelForSequenceClassification",
    "roberta": "AutoModelForQuestionAnswering",
    "modernbert": "AutoModel",
    "llama": "AutoModelForCausalLM",
    "mistral": "AutoModelForSequenceClassification",
}


@pytest.mark.slow
@pytest.mark.parametrize("family", GRAPHS)
def test_models_are_exported_and_compiled_whole(folder: Path, family: str) -> None:
    cls = GRAPHS[family]
    model = getattr(ours, cls).from_pretrained(saved(folder, family, cls))
    ids, mask = batch(left=True)
    expected = model(ids, mask).to_tuple()
    size = torch.export.Dim("size", min=2, max=64)
    program = torch.export.export(
        model,
        (),
        {"input_ids": ids, "attention_mask": mask},
        dynamic_shapes={"input_ids": {0: size}, "attention_mask": {0: size}},
    )
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    exported = program.module()(input_ids=ids, attention_mask=mask).values()
    for found in (exported, compiled(ids, mask).to_tuple()):
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    two = program.module()(input_ids=ids[:2], attention_mask=mask[:2]).values()
    torch.testing.assert_close(next(iter(two)), expected[0][:2], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_losses_are_compiled_whole(folder: Path, family: str) -> None:
    cls = "AutoModelForCausalLM" if family == "llama" else "AutoModelForTokenClassification"
    _, model = pair(folder, family, cls)
    ids, mask = batch(left=True)
    given = {"input_ids": ids, "attention_mask": mask, "labels": ids % 2}
    torch._dynamo.reset()
    gradients = []
    for each in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        each(**given).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-8)


def trained_by_transformers(model: Any, folder: Path, accumulated: int) -> Any:
    torch.manual_seed(0)
    rows = [
        {"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)}
        for row in torch.randint(3, 99, (8, 6))
    ]
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulated,
        max_steps=3,
        learning_rate=0.1,
        optim="sgd",
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        eval_strategy="steps",
        eval_steps=3,
        gradient_checkpointing=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("family", "cls"), [("llama", "AutoModelForCausalLM"), ("bert", "AutoModelForMaskedLM")]
)
def test_transformers_trainer_trains_our_models(
    folder: Path, tmp_path: Path, family: str, cls: str
) -> None:
    entries = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    theirs, model = pair(folder, family, cls, **(entries if family == "bert" else {}))
    # their BERT ignores num_items_in_batch, so its sums over micro batches are too large
    accumulated = 2 if family == "llama" else 1
    both = [trained_by_transformers(each, tmp_path, accumulated) for each in (theirs, model)]
    logs = [each.state.log_history for each in both]
    assert abs(logs[0][-1]["train_loss"] - logs[1][-1]["train_loss"]) < 1e-6
    assert abs(logs[0][-2]["eval_loss"] - logs[1][-2]["eval_loss"]) < 1e-6
    model.save_pretrained(tmp_path / "saved")
    kept = getattr(transformers, cls).from_pretrained(tmp_path / "saved", dtype=torch.float64)
    expected = theirs.state_dict()
    for name, tensor in kept.state_dict().items():
        equal(tensor, expected[name])


def test_peft_wraps_our_models(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    path = saved(folder, "llama", "AutoModelForCausalLM")
    ids, mask = batch()
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["query", "value"], r=2)
    wrapped = peft.get_peft_model(ours.AutoModelForCausalLM.from_pretrained(path), config)
    before = wrapped(input_ids=ids, attention_mask=mask).logits
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        wrapped(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        optimizer.step()
    wrapped.eval()
    after = wrapped(input_ids=ids, attention_mask=mask).logits
    assert not torch.equal(before, after)
    wrapped.save_pretrained(tmp_path)
    base = ours.AutoModelForCausalLM.from_pretrained(path)
    again = peft.PeftModel.from_pretrained(base, tmp_path)
    equal(again(input_ids=ids, attention_mask=mask).logits, after)
    assert again.generate(input_ids=ids[:1], max_new_tokens=2).shape == (1, 13)
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(ids, mask).logits, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["query", "token"]},
        {"target_modules": ["query"], "modules_to_save": ["token"]},
        {"target_modules": ["query"], "trainable_token_indices": {"token": [3, 5]}},
    ],
)
def test_peft_wraps_our_embeddings(folder: Path, options: dict[str, Any]) -> None:
    """A fresh wrapper changes nothing; inputs_embeds of another width are still refused."""
    peft = pytest.importorskip("peft")
    model = ours.AutoModelForCausalLM.from_pretrained(
        saved(folder, "llama", "AutoModelForCausalLM")
    )
    ids, mask = batch()
    before = model(ids, mask).logits
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, **options)).eval()
    equal(wrapped(input_ids=ids, attention_mask=mask).logits, before)
    with pytest.raises(InputError, match=r"inputs_embeds: found shape \(1, 4, 3\)"):
        wrapped(inputs_embeds=torch.zeros(1, 4, 3))
