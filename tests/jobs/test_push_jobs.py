"""The push job and push_to_hub on real runs, with a hub on this machine."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

from recipes.sequence_classification import SequenceClassification
from tests.hub_server import TOKEN, Hub, hub_here
from tests.jobs.conftest import sentences
from trainer import AutoModelForSequenceClassification, AutoTokenizer, hub
from trainer.checkpoint.verify import verify
from trainer.errors import EnvironmentFault, InputError
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

NAME = "me/my-model"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_here(monkeypatch) as server:
        yield server


@pytest.fixture
def copy(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run in the working folder, to be changed."""
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def front(card: bytes) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.decode().split("---\n")[1])
    return found


def test_a_run_is_pushed_and_its_model_predicts_from_the_hub(
    server: Hub, trained: Path, tiny: Path, ask: Any, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    before = sorted(path.relative_to(trained) for path in trained.rglob("*"))
    answer = ask("job=push", "run=run", "repo=my-model", "push.checkpoints=all", "push.tags=[v1]")
    assert answer.code == 0, answer.err
    assert f"{server.endpoint}/{NAME} (private)" in answer.out and "tags" in answer.out
    assert server.repositories[NAME].private
    found, model = server.tree(NAME, "v1"), trained / "model"
    local = {path.name: path.read_bytes() for path in model.iterdir()}
    local.pop("manifest.json")
    checkpoints = sorted(trained.glob("checkpoint-*"))
    assert len(checkpoints) >= 2
    for path in (each for folder in checkpoints for each in folder.rglob("*") if each.is_file()):
        local[path.relative_to(trained).as_posix()] = path.read_bytes()
    local["report.html"] = (trained / "report.html").read_bytes()
    assert set(found) - set(local) == {".gitattributes", "README.md", "pushed.json"}
    assert {name: found[name] for name in local} == local
    _check_card(found["README.md"], trained, tiny)
    answer = ask("job=predict", f"model.path={NAME}", "input.text=a happy day")
    assert answer.code == 0 and "good" in answer.out
    for name in checkpoints:  # what came back can be resumed
        folder = tmp_path / name.name
        for path in (path for path in found if path.startswith(f"{name.name}/")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(found[path])
        assert verify(folder).facts["step"] == int(name.name.partition("-")[2])
    shutil.rmtree(tmp_path / checkpoints[-1].name)
    assert ask("from=run", f"output_dir={tmp_path}").code == 0
    again = tmp_path / "model" / "model.safetensors"
    assert again.read_bytes() == (model / "model.safetensors").read_bytes()
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["step"] > int(checkpoints[0].name.partition("-")[2])
    assert before == sorted(path.relative_to(trained) for path in trained.rglob("*"))
    everything = b"".join(found.values()).decode(errors="replace") + caplog.text + answer.out
    assert TOKEN not in everything and "hf_secret" not in everything


def _check_card(card: bytes, trained: Path, tiny: Path) -> None:
    facts, text = front(card), card.decode()
    results = json.loads((trained / "results.json").read_text())
    assert (
        facts["pipeline_tag"] == "text-classification" and facts["library_name"] == "transformers"
    )
    (measured,) = facts["model-index"][0]["results"]
    metrics = {each["type"]: each["value"] for each in measured["metrics"]}
    assert metrics["accuracy"] == round(results["metrics"]["eval_accuracy"], 6)
    assert "loss" not in metrics and facts["model-index"][0]["name"] == "my-model"
    for words in (
        "# my-model",
        "`BertForSequenceClassification`",
        "| bad |",
        "Trained on `train.jsonl`.",
        "| `trainer.learning_rate` | `0.003` |",
        f'pipeline("text-classification", model="{NAME}")',
        "It can only predict its 2 classes.",
        "## Licence",
    ):
        assert words in text, words
    assert str(tiny.parent) not in text and str(trained.parent) not in text


def test_a_repeated_push_sends_nothing_and_another_one_what_changed(
    server: Hub, copy: Path, ask: Any, caplog: Any
) -> None:
    command = ("job=push", "run=run", f"repo={NAME}")
    assert ask(*command).code == 0
    commits, sent = len(server.repositories[NAME].commits), len(server.requests)
    answer = ask(*command)
    assert answer.code == 0 and "nothing; it has these files already" in answer.out
    assert len(server.repositories[NAME].commits) == commits
    assert {method for method, _ in server.requests[sent:]} <= {"GET", "HEAD"}
    card = copy / "report.html"
    card.write_bytes(card.read_bytes() + b"<!-- again -->")
    answer = ask(*command)
    assert answer.code == 0 and "1 file" in answer.out
    server.put(NAME, {"README.md": b"---\nlicense: mit\n---\nedited", "notes.txt": b"mine"})
    answer = ask(*command)
    assert answer.code == 0 and "kept as edited there  README.md" in answer.out
    assert "README.md was edited there and stays; replace=true replaces it" in caplog.text
    answer = ask("job=push", "run=run", f"repo={NAME}", "push.report=false")
    found = server.tree(NAME)
    assert "removed" in answer.out and "report.html" not in found
    assert found["README.md"].endswith(b"edited") and found["notes.txt"] == b"mine"
    assert ask(*command, "push.replace=true").code == 0
    found = server.tree(NAME)
    assert found["README.md"].startswith(b"---\n") and b"# my-model" in found["README.md"]
    assert found["notes.txt"] == b"mine"


def test_what_a_push_refuses(server: Hub, copy: Path, ask: Any, monkeypatch: Any) -> None:
    server.create("me/public", private=False)
    server.create("me/other")
    server.put("me/other", {"model.safetensors": b"theirs", "config.json": b"{}"})
    server.put("me/public", {})
    push = ("job=push", "run=run")
    cases: list[tuple[tuple[str, ...], int, str]] = [
        (push, 2, "push.repo: null; accepted: name or owner/name"),
        (("job=push", "repo=a"), 2, "run: nothing given; accepted: run=runs/a"),
        ((*push, "repo=a", "push.folder=run/model"), 2, "run: found run and push.folder"),
        ((*push, "repo=a/b/c"), 2, "push.repo: found 'a/b/c'; accepted: name or owner/name"),
        ((*push, "repo=a", "push.tags=['a b']"), 2, "push.tags: found 'a b'"),
        (("job=push", "run=nothing", "repo=a"), 2, "nothing: holds no run"),
        (
            (*push, "repo=me/public"),
            2,
            "push to 'me/public': it is public; accepted: private=false",
        ),
        (
            (*push, "repo=me/other"),
            2,
            "it holds config.json, model.safetensors, which this program",
        ),
        ((*push, "repo=them/x"), 2, "the hub refuses it (You don't have the rights to create"),
        ((*push, "repo=a", "push.license=???x"), 2, '"license" must be one of the known ones'),
        (("job=push", "push.folder=run", "repo=a"), 2, "run is a run's; accepted: run=run"),
        ((*push, "repo=a", "launch.num_processes=2"), 2, "found 2 for job=push; accepted: auto, 1"),
        (("job=push", "push.folder=x", "repo=a"), 2, "push.folder: there is no folder 'x'"),
    ]
    for command, code, words in cases:
        answer = ask(*command)
        assert (answer.code, answer.out) == (code, "") and words in answer.err, answer.err
        assert len(answer.err.strip().splitlines()) == 1 and TOKEN not in answer.err, answer.err
    assert server.tree("me/other")["model.safetensors"] == b"theirs"
    weights = copy / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    answer = ask(*push, "repo=damaged")
    assert answer.code == 3 and "model.safetensors" in answer.err
    (copy / "results.json").unlink()
    assert "not finished" in ask(*push, "repo=damaged").err
    monkeypatch.setenv("HF_TOKEN", "hf_" + "wrong" * 6)
    answer = ask(*push, "repo=a")
    assert answer.code == 2 and "the hub does not accept the token" in answer.err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    answer = ask(*push, "repo=a")
    assert answer.code == 2 and "there is no token for the hub; set HF_TOKEN" in answer.err


@pytest.mark.slow
def test_a_folder_is_added_beside_the_model(server: Hub, copy: Path, ask: Any) -> None:
    """An export keeps its own card, and gets the metadata of the model that it was made from."""
    assert ask("job=push", "run=run", f"repo={NAME}").code == 0
    export = ("job=export", "model.path=run/model", "format=safetensors", "dtype=bf16")
    assert ask(*export, "output.path=exported").code == 0
    answer = ask("job=push", "push.folder=exported", f"repo={NAME}", "push.path=bf16")
    assert answer.code == 0, answer.err
    found = server.tree(NAME)
    card = found["bf16/README.md"]
    assert front(card)["library_name"] == "transformers" and b"What was checked" in card
    assert {"bf16/model.safetensors", "model.safetensors", "report.html"} <= found.keys()
    (checkpoint, *_) = sorted(copy.glob("checkpoint-*"))
    answer = ask("job=push", f"push.folder={checkpoint.relative_to(Path.cwd())}", "repo=early")
    found = server.tree("me/early")
    assert not [name for name in found if name.startswith("state/")]
    assert b"model-index" not in found["README.md"]
    assert b"No evaluation of this model is known." in found["README.md"]
    assert "model.safetensors" in found


def test_a_store_gives_what_the_disk_does(
    server: Hub, trained: Path, copy: Path, ask: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("TEMPERING_STAGE", "stage")
    store = fsspec.filesystem("memory")
    store.put(str(trained), "/bucket/run", recursive=True)
    checkpoint = sorted(trained.glob("checkpoint-*"))[0].name
    for number, place in enumerate(("run=run", f"push.folder=run/{checkpoint}")):
        assert ask("job=push", place, f"repo=repo-{number}").code == 0
        in_store = place.replace("=run", "=memory://bucket/run")
        again = ask("job=push", in_store, f"repo=repo-{number}")
        assert again.code == 0 and "nothing; it has these files already" in again.out, again
    answer = ask("job=push", "push.folder=memory://bucket/none", "repo=a")
    assert answer.code == 2 and "push.folder: memory://bucket/none: there are no" in answer.err


@pytest.mark.slow
def test_a_trainer_pushes_its_model_with_the_metrics_of_its_training(
    server: Hub, tiny: Path, alone: None, tmp_path: Path
) -> None:
    rows = sentences(24, seed=2)
    settings = TrainSettings(max_steps=2, global_batch_size=8)
    for folder in (None, tmp_path / "kept"):
        trainer = Trainer(
            str(tiny),
            SequenceClassification(),
            settings=settings,
            train_dataset=rows,
            eval_dataset=rows[:8],
            metrics=["accuracy"],
            output_dir=folder,
        )
        trainer.fit()
        options: Any = {} if folder is None else {"checkpoints": "last", "tags": ["v1"]}
        url = trainer.push_to_hub("mine", license="apache-2.0", commit_message="first", **options)
        found = server.tree("me/mine")
        assert url.startswith(f"{server.endpoint}/me/mine/commit/")
        facts = front(found["README.md"])
        assert facts["license"] == "apache-2.0"
        measured = {m["type"]: m["value"] for m in facts["model-index"][0]["results"][0]["metrics"]}
        assert measured["accuracy"] == round(trainer.evaluate()["eval_accuracy"], 6)
    assert "checkpoint-2/state/optimizer.safetensors" in found and "report.html" in found
    assert server.repositories["me/mine"].messages[1:] == ["first", "first"]
    with pytest.raises(InputError, match="no argument 'tag'; accepted: private"):
        trainer.push_to_hub("mine", tag="v1")  # type: ignore[call-arg]
    server.fail["/api/"] = 503
    with pytest.raises(EnvironmentFault, match="sends only what is missing") as caught:
        trainer.push_to_hub("another")
    assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)


def test_models_and_tokenizers_push_as_in_transformers(
    server: Hub, trained: Path, tmp_path: Path
) -> None:
    """Both into one repository, without removing each other's files."""
    model = AutoModelForSequenceClassification.from_pretrained(trained / "model")
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    assert "/commit/" in model.push_to_hub("plain", commit_message="weights", max_shard_size="1MB")
    assert any("-of-" in name for name in server.tree("me/plain"))
    tokenizer.push_to_hub("plain", private=True, token=TOKEN)
    model.push_to_hub("plain")
    found = server.tree("me/plain")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= found.keys()
    assert not any("-of-" in name or "index" in name for name in found)  # no old weights
    folder = hub.find("me/plain", cache_dir=tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(folder)
    assert all((a == b).all() for a, b in zip(again.parameters(), model.parameters(), strict=True))
    with pytest.raises(
        InputError, match="create_pr: found True; accepted: False; push to a branch"
    ):
        model.push_to_hub("plain", create_pr=True)
    with pytest.raises(InputError, match="safe_serialization: found False; accepted: True; pickl"):
        model.push_to_hub("plain", safe_serialization=False)
    model.push_to_hub("plain", safe_serialization=True, tags=[])
    with pytest.raises(TypeError, match="unexpected keyword argument 'priv'"):
        tokenizer.push_to_hub("plain", priv=True)  # type: ignore[call-arg]
