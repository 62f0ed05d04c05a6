"""A tiny BERT with MiniLM's tokenizer, and small tables to train it on."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import launch
from trainer import AutoModel, AutoTokenizer
from trainer.models.config import ModelConfig

WORDS = {"good": ["happy", "great", "lovely", "kind"], "bad": ["awful", "sad", "cruel", "ugly"]}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    """The folder of a random model of two layers without a head."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    entries = {"model_type": "bert", "intermediate_size": 64, "max_position_embeddings": 128}
    folder = tmp_path_factory.mktemp("tiny")
    config = ModelConfig({**entries, **sizes, "vocab_size": 30522})
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return folder


def sentences(number: int, seed: int) -> list[dict[str, str]]:
    """Rows whose labels follow from their words."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        label = draw.choice(["good", "bad"])
        words = draw.choices(WORDS[label], k=draw.randint(1, 6)) + ["day"] * draw.randint(1, 6)
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return rows


def write_tables(folder: Path) -> None:
    """train.jsonl and dev.jsonl."""
    for name, number in (("train", 96), ("dev", 40)):
        lines = [json.dumps(row) for row in sentences(number, seed=number)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def table(alone: None) -> Path:
    """The tables in a working folder of this test."""
    write_tables(Path.cwd())
    return Path.cwd()


DATA = ("dataset.train=train.jsonl", "dataset.validation=dev.jsonl")
FAST = ("trainer.learning_rate=3e-3", "trainer.num_epochs=4", "trainer.global_batch_size=16")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A folder with the tables and a finished run in `run`."""
    folder = tmp_path_factory.mktemp("workshop")
    write_tables(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert launch.main([f"model.path={tiny}", *DATA, *FAST, "output_dir=run"]) == 0
    return folder


@pytest.fixture
def trained(
    alone: None, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A copy of the finished run; the working folder is its parent."""
    folder = Path(shutil.copytree(workshop, tmp_path / "workshop"))
    monkeypatch.chdir(folder)
    yield folder / "run"
    shutil.rmtree(folder)


@pytest.fixture
def run_readme() -> Callable[[str], dict[str, Any]]:
    """Runs the program in the README of an export, there; returns its variables."""

    def run(folder: str) -> dict[str, Any]:
        text = Path(folder, "README.md").read_text()
        program = text.partition("```python\n")[2].partition("```")[0]
        names: dict[str, Any] = {}
        with contextlib.chdir(folder):
            exec(compile(program, f"{folder}/README.md", "exec"), names)
        return names

    return run
