"""Loading: missing and additional tensors, and a one-line error for every broken file."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.errors import InputError
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
from trainer.models.family import find_family, native_families

SIZES = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}
NAMED = {**SIZES, "id2label": {"0": "bad", "1": "good"}}
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
Classifier = AutoModelForSequenceClassification


@pytest.fixture
def folder(tmp_path):
    """A saved classifier; tests break it."""
    torch.manual_seed(0)
    Classifier.from_config(AutoConfig(NAMED)).save_pretrained(tmp_path)
    return tmp_path


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, change):
    """Replaces the weights by change(weights)."""
    weights = weights_of(folder)
    changed = change(weights)
    save_file(weights if changed is None else changed, folder / "model.safetensors")


def without(folder, name):
    """Removes one tensor from the weights."""
    rewrite(folder, lambda weights: {key: weights[key] for key in weights if key != name})


def shard(folder):
    model = Classifier.from_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="4KB")
    return folder / "model.safetensors.index.json"


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refused(folder, *parts, loader=Classifier, **options):
    with pytest.raises(InputError) as caught:
        loader.from_pretrained(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_evaluation_mode_and_requested_type(folder):
    model = Classifier.from_pretrained(folder)
    assert not model.training and model.dtype == torch.float32
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert Classifier.from_pretrained(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert Classifier.from_pretrained(folder, dtype=torch.float64).dtype == torch.float64
    Classifier.from_pretrained(folder, dtype="float16").save_pretrained(folder)
    assert Classifier.from_pretrained(folder, dtype="auto").dtype == torch.float16
    assert Classifier.from_pretrained(folder).dtype == torch.float32
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    refused(folder, "dtype: found 'int8'; accepted: auto, float32", dtype="int8")
    refused(folder, "dtype: found torch.int8", dtype=torch.int8)


def test_the_weights_do_not_hang_on_the_file(folder):
    model = Classifier.from_pretrained(folder)
    before = model.head.classifier.weight.clone()
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    assert torch.equal(model.head.classifier.weight, before)


def test_prefix_and_old_names_are_understood(folder, tmp_path):
    model = Classifier.from_pretrained(folder)

    def age(weights):
        old = {}
        for name, tensor in weights.items():
            if "LayerNorm" in name:
                name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            old[name.removeprefix("bert.")] = tensor
        return old

    rewrite(folder, age)
    assert same(Classifier.from_pretrained(folder), model)


def test_known_extras_are_silent_and_others_are_named_in_one_line(folder, caplog):
    caplog.set_level(logging.INFO, logger="trainer")

    def add(weights):
        weights["bert.embeddings.position_ids"] = torch.arange(12)
        weights["cls.predictions.bias"] = torch.zeros(3)

    rewrite(folder, add)
    model = Classifier.from_pretrained(folder)
    assert caplog.messages == []
    rewrite(folder, lambda weights: weights.update({"surprise.weight": torch.zeros(2)}))
    assert same(Classifier.from_pretrained(folder), model)
    assert [m for m in caplog.messages if "not used: surprise.weight" in m] == caplog.messages
    assert len(caplog.messages) == 1


def test_a_bare_model_reads_a_classifiers_body(folder, caplog):
    caplog.set_level(logging.INFO, logger="trainer")
    body = AutoModel.from_pretrained(folder)
    assert same(body.body, Classifier.from_pretrained(folder).body)
    assert caplog.messages == []


def test_a_fresh_head_is_said_in_one_line(folder, caplog):
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    assert not any("classifier" in name for name in weights_of(folder))
    caplog.set_level(logging.INFO, logger="trainer")
    torch.manual_seed(1)
    one = Classifier.from_pretrained(folder, num_labels=5)
    assert len(caplog.messages) == 1
    assert "fresh random weights for head.classifier" in caplog.messages[0]
    torch.manual_seed(1)
    assert same(Classifier.from_pretrained(folder, num_labels=5), one)
    assert one.head.classifier.weight.shape == (5, 16)


def test_a_missing_pooler_is_fresh(folder, caplog):
    rewrite(folder, lambda w: {name: w[name] for name in w if "pooler" not in name})
    Classifier.from_pretrained(folder)
    assert "fresh random weights for body.pooler.dense" in caplog.messages[0]


def test_half_a_head_is_refused(folder):
    without(folder, "classifier.bias")
    refused(folder, "a part of the head is missing (classifier.bias)", "model.new_head=true")
    Classifier.from_pretrained(folder, new_head=True)


def test_a_missing_body_tensor_is_refused_by_name(folder):
    name = "bert.encoder.layer.1.attention.self.query.weight"
    without(folder, name)
    refused(folder, name, "is missing")


def test_a_misshaped_body_tensor_is_refused_by_name(folder):
    refused(folder, "embeddings.token.weight: found shape (30, 16)", "(31, 16)", vocab_size=31)


def test_one_tensor_under_two_names_is_refused(folder):
    rewrite(
        folder,
        lambda w: w.update({"pooler.dense.bias": w["bert.pooler.dense.bias"].clone()}),
    )
    refused(folder, "pooler.dense.bias is stored twice")


@pytest.mark.parametrize("labels", [["bad", "good", "ugly"], ["good", "bad"], ["no", "yes"]])
def test_a_head_of_other_labels_is_refused_until_a_new_one_is_asked_for(folder, labels):
    refused(folder, "trained for the labels bad, good", "model.new_head=true", id2label=labels)
    old = Classifier.from_pretrained(folder)
    new = Classifier.from_pretrained(folder, id2label=labels, new_head=True)
    assert list(new.config.id2label.values()) == labels
    assert same(new.body, old.body)
    assert not torch.equal(new.head.classifier.weight[:2], old.head.classifier.weight)


def test_a_head_of_another_size_is_refused_until_a_new_one_is_asked_for(folder):
    refused(folder, "head was trained for other labels", "model.new_head=true", num_labels=3)
    assert Classifier.from_pretrained(folder, num_labels=3, new_head=True).config.num_labels == 3


def test_labels_given_by_name_are_compared_too(folder):
    refused(folder, "its head was trained for the labels bad, good", label2id={"no": 0, "yes": 1})


def test_labels_without_names_may_be_named(folder):
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    (folder / "config.json").write_text(json.dumps(config))
    model = Classifier.from_pretrained(folder, id2label=["bad", "good"])
    assert model.config.label2id == {"bad": 0, "good": 1}
    Classifier.from_pretrained(folder, id2label={0: "LABEL_0", 1: "LABEL_1"})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, number):
    bias = torch.zeros(16).index_fill(0, torch.tensor([1, 5, 15]), number)
    rewrite(folder, lambda weights: weights.update({"bert.pooler.dense.bias": bias}))
    refused(folder, "bert.pooler.dense.bias: 3 of 16 numbers are not finite")


def test_integer_weights_are_refused(folder):
    rewrite(folder, lambda w: w.update({"classifier.bias": torch.zeros(2, dtype=torch.int64)}))
    refused(folder, "classifier.bias: found torch.int64; accepted: float32")


def truncate(content):
    return content[: len(content) // 2]


BROKEN = {
    "truncated": (truncate, "is truncated or not a safetensors file"),
    "header cut": (lambda content: content[:20], "is truncated or not a safetensors file"),
    "empty": (lambda content: b"", "is empty (0 bytes)"),
    "lfs": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid x\n", "git-lfs pointer"),
    "html": (lambda _: b"\n<!DOCTYPE html><html></html>", "is an HTML page"),
    "garbage": (lambda _: b"\xff" * 1000, "is truncated or not a safetensors file"),
    "pickle": (lambda _: b"\x80\x02}q\x00.", "is truncated or not a safetensors file"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
def test_a_broken_file_is_refused(folder, kind, sharded):
    if sharded:
        shard(folder)
    spoil, message = BROKEN[kind]
    file = sorted(folder.glob("*.safetensors"))[-1]
    file.write_bytes(spoil(file.read_bytes()))
    refused(folder, str(file), message)


def test_a_pickle_is_never_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin, a pickle, which is never opened here")


def test_no_weights_and_no_config(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "has no weights; accepted: model.safetensors")
    (folder / "config.json").unlink()
    refused(folder, "has no config.json")


@pytest.mark.parametrize("shard_name", ["../w.safetensors", "/tmp/w.safetensors", "a/b", "..", ""])
def test_a_shard_that_leaves_the_folder_is_refused(folder, shard_name):
    index = shard(folder)
    content = json.loads(index.read_text())
    content["weight_map"]["classifier.bias"] = shard_name
    index.write_text(json.dumps(content))
    refused(folder, f"found the shard '{shard_name}'; accepted: a file in the same folder")


def test_a_shard_that_links_out_of_the_folder_is_refused(folder, tmp_path_factory):
    shard(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "w"
    victim = sorted(folder.glob("*.safetensors"))[0]
    victim.rename(elsewhere)
    victim.symlink_to(elsewhere)
    refused(folder, "accepted: files in the folder")


def test_the_hub_caches_links_into_its_blobs_are_followed(folder, tmp_path_factory):
    """A snapshot holds links to ../../blobs of the same repository."""
    shard(folder)
    repository = tmp_path_factory.mktemp("cache") / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = blobs / str(number)
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert same(Classifier.from_pretrained(snapshot), Classifier.from_pretrained(folder))
    (repository / "secret").write_bytes(b"")
    victim = sorted(snapshot.glob("*.safetensors"))[0]
    victim.unlink()
    victim.symlink_to("../../secret")
    refused(snapshot, "accepted: files in the folder")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_broken_index_is_refused(folder, text):
    shard(folder).write_text(text)
    refused(folder, "accepted: a JSON object whose weight_map maps tensors to files")


def test_an_index_that_contradicts_its_shards_is_refused(folder):
    index = shard(folder)
    content = json.loads(index.read_text())
    content["weight_map"]["no.such"] = content["weight_map"]["classifier.bias"]
    index.write_text(json.dumps(content))
    refused(folder, "has no tensor no.such")
    content["weight_map"]["no.such"] = "model-9.safetensors"
    index.write_text(json.dumps(content))
    refused(folder, "model-9.safetensors: missing, but")


def test_weights_may_be_read_a_module_at_a_time(folder):
    model = Classifier.from_pretrained(folder, lazily=True)
    model.head.requires_grad_(False)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.fill(model.body.layers)
    there = {name for name, parameter in model.named_parameters() if not parameter.is_meta}
    assert there == {n for n, _ in model.named_parameters() if n.startswith("body.layers.")}
    model.fill(model)
    assert same(model, Classifier.from_pretrained(folder))
    assert not any(parameter.requires_grad for parameter in model.head.parameters())


@pytest.mark.parametrize("family", native_families())
def test_weights_may_be_drawn_a_module_at_a_time(family):
    """In the order in which sharding requests them, and with other draws in between."""
    defaults = find_family(family).defaults
    own = {name: 1 for name in ("num_key_value_heads", *SPECIAL) if name in defaults}
    names = find_family(family).synonyms
    if find_family(family).kind == "encoder_decoder":
        own |= {"num_decoder_layers": 1, "decoder_start_token_id": 1}
    sizes = {names.get(name, name): value for name, value in {**SIZES, **own}.items()}
    config = AutoConfig({**sizes, "model_type": family, "num_labels": 3})
    torch.manual_seed(7)
    kind = AutoModelForSeq2SeqLM if config.family.kind == "encoder_decoder" else Classifier
    whole = kind.from_config(config)
    after = torch.rand(3)
    torch.manual_seed(7)
    model = kind.from_config(config, lazily=True)
    for part in (model.body.embed, *(unit for _, unit in model.body.units), model):
        assert any(parameter.is_meta for parameter in part.parameters())
        model.fill(part)
        assert not any(parameter.is_meta for parameter in part.parameters())
        torch.rand(5)
    assert same(model, whole)
    torch.manual_seed(7)
    kind.from_config(config)
    assert torch.equal(torch.rand(3), after)


def test_weights_are_overwritten_in_place(folder):
    model = Classifier.from_pretrained(folder)
    torch.manual_seed(5)
    other = Classifier.from_config(AutoConfig(NAMED))
    parameters = list(other.parameters())
    other.load_weights(folder)
    assert same(other, model)
    assert all(new is old for new, old in zip(other.parameters(), parameters, strict=True))
    without(folder, "classifier.bias")
    with pytest.raises(InputError, match="tensor classifier.bias is missing"):
        other.load_weights(folder)


def test_shared_parameters_stay_shared_and_are_saved_once(folder):
    """No family here ties weights yet; loading must not untie shared weights."""
    model = Classifier.from_pretrained(folder)
    layers = model.body.layers
    layers[1].feed_forward.input.weight = layers[0].feed_forward.input.weight
    count = sum(parameter.numel() for parameter in model.parameters())
    assert model.num_parameters() == count
    model.save_pretrained(folder)
    assert sum(tensor.numel() for tensor in weights_of(folder).values()) == count


def test_saving_over_shards_leaves_none(folder):
    model = Classifier.from_pretrained(folder)
    shard(folder)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 3
    model.save_pretrained(folder)
    assert [file.name for file in folder.glob("*safetensors*")] == ["model.safetensors"]
    assert same(Classifier.from_pretrained(folder), model)


def test_saving_keeps_weights_with_other_names(folder):
    names = ("model_best.safetensors", "model-1.safetensors", "modeling.safetensors")
    for name in names:
        (folder / name).write_bytes(b"mine")
    model = Classifier.from_config(AutoConfig(NAMED))
    model.save_pretrained(folder)
    model.add_lora(LoRASettings(rank=2))
    model.save_pretrained(folder)
    assert all((folder / name).read_bytes() == b"mine" for name in names)
    assert not (folder / "model.safetensors").exists()


def test_weights_that_no_format_takes_are_refused(folder):
    model = Classifier.from_pretrained(folder)
    with pytest.raises(InputError, match="state_dict: found one with format='tf'"):
        model.save_pretrained(folder / "tf", format="tf", state_dict=model.state_dict())


def test_shards_keep_their_size(folder):
    index = json.loads(shard(folder).read_text())
    for file in set(index["weight_map"].values()):
        tensors = load_file(folder / file)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        assert size <= 4000 or len(tensors) == 1
    model = Classifier.from_pretrained(folder)
    assert index["metadata"]["total_size"] == 4 * model.num_parameters()


@pytest.mark.parametrize("size", ["0", "many", "5PB", -1, "-5GB", ""])
def test_a_shard_size_that_is_none_is_refused(folder, size):
    model = Classifier.from_pretrained(folder)
    with pytest.raises(InputError, match="max_shard_size"):
        model.save_pretrained(folder, max_shard_size=size)


def test_the_saved_config_names_class_and_labels(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "bad", "1": "good"}
    assert config["label2id"] == {"bad": 0, "good": 1}
    assert (config["model_type"], config["dtype"]) == ("bert", "float32")
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertModel"]


def test_every_hub_name_is_in_the_file(folder):
    model = Classifier.from_pretrained(folder)
    names = {model.hub_name(name) for name, _ in model.named_parameters()}
    assert names == weights_of(folder).keys()
    compiled = model.hub_name("body.layers.0._orig_mod.attention.query.bias")
    assert compiled == "bert.encoder.layer.0.attention.self.query.bias"
    assert model.hub_name("body.layers.11.attention.query.bias") == (
        "bert.encoder.layer.11.attention.self.query.bias"
    )


def test_weights_in_memory_take_all_options(tmp_path):
    torch.manual_seed(0)
    config = AutoConfig({**NAMED, "hidden_dropout_prob": 0.2})
    model = Classifier.from_config(config)
    model.save_pretrained(tmp_path / "inside")
    weights = model.state_dict()
    found = Classifier.from_pretrained(tmp_path, subfolder="inside", state_dict=weights)
    assert same(found, model) and found.config.hidden_dropout_prob == 0.2
    bare = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    given = {"config": config, "state_dict": bare}
    found = Classifier.from_pretrained(**given, num_labels=5, attn_implementation="eager")
    assert found.head.classifier.weight.shape == (5, 16) and config.num_labels == 2
    assert found.config._attn_implementation == "eager"
    other = Classifier.from_pretrained(config=config, state_dict=weights, new_head=True)
    assert not torch.equal(other.head.classifier.weight, model.head.classifier.weight)
    assert torch.equal(other.body.pooler.dense.weight, model.body.pooler.dense.weight)


def test_weights_in_memory_come_with_the_folders_generation_config(tmp_path):
    sizes = {**SIZES, "model_type": "llama", "num_key_value_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig(sizes))
    model.generation_config["eos_token_id"] = [3, 4]
    model.save_pretrained(tmp_path)
    found = AutoModelForCausalLM.from_pretrained(tmp_path, state_dict=model.state_dict())
    assert found.generation_config["eos_token_id"] == [3, 4, 2]


def test_new_weights_have_the_requested_type_also_if_drawn_later():
    torch.manual_seed(3)
    now = AutoModel.from_config(AutoConfig(SIZES), dtype="bfloat16")
    torch.manual_seed(3)
    later = AutoModel.from_config(AutoConfig(SIZES), dtype="bfloat16", lazily=True)
    assert later.dtype == torch.bfloat16
    later.fill(later)
    assert later.dtype == torch.bfloat16 and same(now, later)


@pytest.mark.parametrize(
    ("name", "value"), [("state_dict", {"x": 1}), ("subfolder", "x"), ("output_loading_info", True)]
)
def test_options_that_need_files_are_refused_for_new_weights(name, value):
    with pytest.raises(InputError, match=f"from_config: found {name}; accepted only by from_pret"):
        AutoModel.from_config(AutoConfig(SIZES), **{name: value})
