"""Pipelines of private repositories: the token, revision and folder reach every file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

import trainer
from recipes.sequence_classification import SequenceClassification
from tests.hub_server import TOKEN, Hub, hub_here
from tests.unit.pipelines.test_of_recipes import saved
from trainer.errors import InputError

TEXTS = ["two and two", "hello world"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with the model at the revision v1, in the folder `inside`, and no token in HF_TOKEN."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub_here(monkeypatch) as server:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        folder = Path(
            saved(
                tmp_path / "model",
                SequenceClassification(problem="single_label", labels=["a", "b"]),
            )
        )
        contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert {"recipe.json", "tokenizer.json"} <= set(contents)
        repository = server.create("me/private")
        inside = {f"inside/{name}": content for name, content in contents.items()}
        repository.branches["v1"] = repository.branches["main"]
        server.put("me/private", contents | inside, "v1")
        yield server


def test_a_token_reads_the_recipe_and_the_tokenizer(server: Hub, tmp_path: Path) -> None:
    local = trainer.pipeline("text-classification", str(tmp_path / "model"))
    wanted = local(TEXTS)
    for task in ("text-classification", None):
        found = trainer.pipeline(task, "me/private", revision="v1", token=TOKEN)
        assert found(TEXTS) == wanted
    places = {"subfolder": "inside", "cache_dir": tmp_path / "elsewhere", "token": TOKEN}
    asked = len(server.requests)
    found = trainer.pipeline(model="me/private", revision="v1", model_kwargs=places)
    assert found(TEXTS) == wanted and len(server.requests) > asked
    again = {**places, "local_files_only": True}
    asked = len(server.requests)
    found = trainer.pipeline(model="me/private", revision="v1", model_kwargs=again)
    assert found(TEXTS) == wanted and len(server.requests) == asked
    with pytest.raises(InputError, match="a private one needs a token"):
        trainer.pipeline(model="me/private", model_kwargs={"cache_dir": tmp_path / "empty"})


def test_the_tokenizer_of_a_loaded_model_is_of_its_revision(server: Hub) -> None:
    """The branch main has no files."""
    kind = trainer.AutoModelForSequenceClassification
    model = kind.from_pretrained("me/private", revision="v1", token=TOKEN)
    found = trainer.pipeline("text-classification", model, token=TOKEN)
    assert found.tokenizer.name_or_path == "me/private"


def test_a_module_called_source_is_no_place_of_files() -> None:
    model = nn.ModuleDict({"source": nn.Linear(1, 1)})
    with pytest.raises(InputError, match="^pipeline: tokenizer: found None with a loaded model"):
        trainer.pipeline("fill-mask", model)
