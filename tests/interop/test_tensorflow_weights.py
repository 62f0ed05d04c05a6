"""tf_model.h5 without TensorFlow: read and written for every family and head; broken files."""

import json
import sys

import h5py
import numpy as np
import pytest
import torch

from trainer import TFAutoModel
from trainer.errors import InputError
from trainer.interop.tensorflow_names import hub_name, model_name
from trainer.models.auto import TASKS, AutoConfig, AutoModel, AutoModelForSequenceClassification
from trainer.models.blocks.encoder import Encoder
from trainer.models.family import find_family, native_families

FAMILIES = [name for name in native_families() if find_family(name).body is Encoder]
"""Families that transformers had in TensorFlow."""
SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}
Classifier = AutoModelForSequenceClassification


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    """Neither reading nor writing may import TensorFlow."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "keras", None)


def made(model_type="bert", task="sequence_classification"):
    """A small model in which no two parameters are equal."""
    torch.manual_seed(0)
    model = TASKS[task].from_config(AutoConfig({"model_type": model_type}, SIZES))
    for parameter in model.parameters():
        parameter.data.normal_()
    return model


@pytest.fixture
def folder(tmp_path):
    """A saved classifier; tests break it."""
    made().save_pretrained(tmp_path, format="tf")
    return tmp_path


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refusal(folder, kind=Classifier, **options):
    with pytest.raises(InputError) as caught:
        kind.from_pretrained(folder, from_tf=True, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "task", [task for task in find_family("bert").heads if task != "multi_task"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_read_bit_for_bit(family, task, tmp_path):
    model = made(family, task)
    for size in ("5GB", "3KB"):
        model.save_pretrained(tmp_path, size, format="tf")
        assert (tmp_path / "tf_model.h5").exists() == (size == "5GB")
        assert (tmp_path / "tf_model.h5.index.json").exists() == (size == "3KB")
        assert same(TASKS[task].from_pretrained(tmp_path, from_tf=True), model)
    assert AutoConfig.from_pretrained(tmp_path) == AutoConfig.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        model.architecture
    ]


LAYERS = {
    ("bert", "base"): ["bert"],
    ("bert", "masked_lm"): ["bert", "mlm___cls"],
    ("bert", "question_answering"): ["bert", "qa_outputs"],
    ("distilbert", "multiple_choice"): ["distilbert", "pre_classifier", "classifier"],
    ("distilbert", "masked_lm"): [
        "distilbert",
        "vocab_projector",
        "vocab_transform",
        "vocab_layer_norm",
    ],
    ("roberta", "sequence_classification"): ["roberta", "classifier"],
    ("xlm-roberta", "masked_lm"): ["roberta", "lm_head"],
}
"""The top layers with weights of transformers 4.57's TensorFlow classes."""


@pytest.mark.parametrize(("family", "task"), LAYERS)
def test_layers_are_those_of_keras(family, task, tmp_path):
    made(family, task).save_pretrained(tmp_path, format="tf")
    with h5py.File(tmp_path / "tf_model.h5") as file:
        layers = [name.decode() for name in file.attrs["layer_names"]]
        assert sorted(layers) == sorted(LAYERS[family, task])
        for layer in layers:
            for name in file[layer].attrs["weight_names"]:
                assert file[layer][name.decode()].dtype == np.float32


def test_names_are_those_of_transformers(tmp_path):
    made("bert", "masked_lm").save_pretrained(tmp_path, format="tf")
    with h5py.File(tmp_path / "tf_model.h5") as file:
        names = {name.decode() for name in file["bert"].attrs["weight_names"]}
        head = {name.decode() for name in file["mlm___cls"].attrs["weight_names"]}
    body = "tf_bert_for_masked_lm/bert"
    assert f"{body}/embeddings/word_embeddings/weight:0" in names
    assert f"{body}/embeddings/position_embeddings/embeddings:0" in names
    assert f"{body}/encoder/layer_._1/attention/self/query/kernel:0" in names
    assert f"{body}/encoder/layer_._0/output/LayerNorm/beta:0" in names
    predictions = "tf_bert_for_masked_lm/mlm___cls/predictions"
    assert f"{predictions}/bias:0" in head
    assert f"{predictions}/transform/LayerNorm/gamma:0" in head
    assert f"{body}/embeddings/word_embeddings/weight:0" in head  # tied, so it is listed again


def test_model_names():
    assert model_name("BertForSequenceClassification") == "tf_bert_for_sequence_classification"
    assert model_name("DistilBertModel") == "tf_distil_bert_model"
    assert model_name("RobertaForMaskedLM") == "tf_roberta_for_masked_lm"
    assert model_name("XLMRobertaModel") == "tfxlm_roberta_model"


def test_hub_names():
    path = "tf_bert_for_pre_training_2/nsp___cls/seq_relationship/kernel:0"
    assert hub_name(path, ["bert", "nsp___cls"]) == "cls.seq_relationship.weight"
    path = "distilbert/transformer/layer_._11/ffn/lin1/bias:0"
    assert hub_name(path, ["distilbert"]) == "distilbert.transformer.layer.11.ffn.lin1.bias"
    assert hub_name(path) == "distilbert.transformer.layer.11.ffn.lin1.bias"


def rewritten(folder, change):
    """Rewrites tf_model.h5 with `change(attribute, names)` and `change(path, array)`."""
    with h5py.File(folder / "tf_model.h5") as old, h5py.File(folder / "new", "w") as new:
        layers = list(old.attrs["layer_names"])
        for name, value in change("layer_names", layers).items():
            new.attrs[name] = value
        for layer in layers:
            group = new.create_group(layer.decode())
            paths = list(old[layer].attrs["weight_names"])
            for name, value in change("weight_names", paths).items():
                group.attrs[name] = value
            for path in paths:
                for name, value in change(path.decode(), old[layer][path][()]).items():
                    group.create_dataset(name, data=value)
    (folder / "new").replace(folder / "tf_model.h5")


def names_as_text(name, value):
    return {name: [text.decode() for text in value] if isinstance(value, list) else value}


def names_in_pieces(name, value):
    if not isinstance(value, list):
        return {name: value}
    return {f"{name}{number}": [piece] for number, piece in enumerate(value)}


def no_model_name(name, value):
    if name == "weight_names":
        return {name: [path.split(b"/", 1)[1] for path in value]}
    return {name: value} if isinstance(value, list) else {name.split("/", 1)[1]: value}


def big_endian(name, value):
    return {name: value if isinstance(value, list) else value.astype(">f8")}


@pytest.mark.parametrize("change", [names_as_text, names_in_pieces, no_model_name, big_endian])
def test_files_of_all_ages(folder, change):
    rewritten(folder, change)
    assert same(Classifier.from_pretrained(folder, from_tf=True), made())


def test_long_lists_of_names_are_cut_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.interop.tensorflow_saving.ATTRIBUTE_BYTES", 300)
    made().save_pretrained(tmp_path, format="tf")
    with h5py.File(tmp_path / "tf_model.h5") as file:
        assert "weight_names7" in file["bert"].attrs
        assert "weight_names" not in file["bert"].attrs
    assert same(Classifier.from_pretrained(tmp_path, from_tf=True), made())


def test_half_precision_is_written_in_full(tmp_path):
    made().bfloat16().save_pretrained(tmp_path, format="tf")
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    assert same(Classifier.from_pretrained(tmp_path, from_tf=True), made().bfloat16().float())


def test_real_weights_there_and_back(minilm, tmp_path):
    model = AutoModel.from_pretrained(minilm)
    model.save_pretrained(tmp_path, format="tf")
    assert same(AutoModel.from_pretrained(tmp_path, from_tf=True), model)


def test_a_save_replaces_only_its_own_format(folder):
    other = made()
    other.body.embeddings.token.weight.data += 1
    other.save_pretrained(folder)
    assert same(Classifier.from_pretrained(folder), other)
    assert same(Classifier.from_pretrained(folder, from_tf=True), made())
    other.save_pretrained(folder, "3KB", format="tf")
    other.save_pretrained(folder, format="tf")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tf_model.h5",
    ]


def test_a_body_gets_a_fresh_head(tmp_path):
    body = made(task="base")
    body.save_pretrained(tmp_path, format="tf")
    model = Classifier.from_pretrained(tmp_path, from_tf=True)
    assert same(model.body, body.body)


def test_h5_weights_alone_are_pointed_out(folder):
    with pytest.raises(InputError, match="only as tf_model.h5; from_tf=True reads them"):
        Classifier.from_pretrained(folder)


def test_another_architecture(folder, tmp_path):
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"bert"', '"roberta"'))
    assert "tensor roberta.embeddings" in refusal(folder) or "is missing" in refusal(folder)


def test_another_shape(folder):
    text = refusal(folder, hidden_size=8)
    assert "found shape (30, 16); accepted: (30, 8)" in text
    text = refusal(folder, intermediate_size=40)
    assert "found shape (24, 16); accepted: (40, 16)" in text  # as in torch, not as in the file
    assert "head was trained for other labels" in refusal(folder, num_labels=3)


def test_numbers_that_are_none(folder):
    with h5py.File(folder / "tf_model.h5", "r+") as file:
        file["bert/tf_bert_for_sequence_classification/bert/pooler/dense/bias:0"][3] = np.nan
    assert "pooler.dense.bias: 1 of 16 numbers are not finite" in refusal(folder)


def test_no_weights(tmp_path):
    made().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "has no weights; accepted: tf_model.h5" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<!DOCTYPE html>", "HTML page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "truncated or not a HDF5 file"),
    ],
)
def test_what_is_no_h5_file(folder, content, reason):
    (folder / "tf_model.h5").write_bytes(content)
    assert reason in refusal(folder)


def test_a_file_that_is_cut(folder):
    whole = (folder / "tf_model.h5").read_bytes()
    for size in range(100, len(whole), len(whole) // 7):
        (folder / "tf_model.h5").write_bytes(whole[:size])
        assert "truncated" in refusal(folder)


def test_an_h5_file_of_something_else(folder):
    with h5py.File(folder / "tf_model.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(3))
    assert "has no layer_names" in refusal(folder)


VARIABLE = "bert/tf_bert_for_sequence_classification/bert/pooler/dense/bias:0"


def external_storage(file, folder):
    (folder / "secret").write_bytes(bytes(64))
    file.create_dataset(
        VARIABLE, (16,), np.float32, external=[(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)]
    )


def external_link(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros(16, np.float32)
    file[VARIABLE] = h5py.ExternalLink(str(folder / "other.h5"), "x")


def dangling_link(file, folder):
    file[VARIABLE] = h5py.ExternalLink(str(folder / "nowhere.h5"), "x")


def virtual(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros(16, np.float32)
    layout = h5py.VirtualLayout((16,), np.float32)
    layout[:] = h5py.VirtualSource(folder / "other.h5", "x", (16,))
    file.create_virtual_dataset(VARIABLE, layout)


def integers(file, folder):
    file[VARIABLE] = np.zeros(16, np.int32)


def group(file, folder):
    file.create_group(VARIABLE)


def nothing(file, folder):
    pass


@pytest.mark.parametrize(
    "put", [external_storage, external_link, dangling_link, virtual, integers, group, nothing]
)
def test_arrays_lie_in_the_file_itself(folder, put):
    with h5py.File(folder / "tf_model.h5", "r+") as file:
        del file[VARIABLE]
        put(file, folder)
    assert "accepted: an array of floats stored in this file" in refusal(folder)


def test_shards_stay_in_the_folder(folder):
    made().save_pretrained(folder, "3KB", format="tf")
    index = folder / "tf_model.h5.index.json"
    entries = json.loads(index.read_text())
    name = next(iter(entries["weight_map"]))
    shard = entries["weight_map"][name]
    for wrong, reason in (("../x.h5", "a file in the same folder"), ("gone.h5", "missing, but")):
        index.write_text(json.dumps({"weight_map": {**entries["weight_map"], name: wrong}}))
        assert reason in refusal(folder)
    index.write_text(json.dumps(entries))
    (folder / shard).unlink()
    assert "missing, but tf_model.h5.index.json lists it" in refusal(folder)


def test_formats_that_are_none(tmp_path):
    with pytest.raises(InputError, match="format: found 'keras'; accepted: safetensors, tf"):
        made().save_pretrained(tmp_path / "a", format="keras")
    assert not (tmp_path / "a").exists()


def test_a_family_without_tensorflow_classes(tmp_path):
    entries = {"model_type": "modernbert", "pad_token_id": 0}
    model = AutoModel.from_config(AutoConfig(entries, SIZES))
    with pytest.raises(InputError, match="found tf for ModernBertModel, which has no TensorFlow"):
        model.save_pretrained(tmp_path / "a", format="tf")
    assert not (tmp_path / "a").exists()


def test_without_h5py(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'tempering[tensorflow]'" in refusal(folder)
    with pytest.raises(InputError, match="h5py is not installed"):
        made().save_pretrained(tmp_path / "b", format="tf")
    assert not (tmp_path / "b").exists()


def test_without_tensorflow(folder):
    with pytest.raises(InputError, match=r"tensorflow is not installed.*tempering\[tensorflow\]"):
        TFAutoModel.from_pretrained(folder)
