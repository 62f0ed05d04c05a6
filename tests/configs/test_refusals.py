"""Config errors: one line with the key, the value found and the accepted values."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from trainer.config.peer_names import unknown_key
from trainer.config.sections import CLOSED
from trainer.peer_names import PEER_NAMES
from trainer.peer_reasons import NOTHING_TO_SET

FAULTS = [
    # misspelled and foreign keys
    ("trainer.learning_rte=1", "trainer.learning_rte", "did you mean 'trainer.learning_rate'?"),
    ("recipe.max_lenth=3", "recipe.max_lenth", "did you mean 'recipe.max_length'?"),
    ("dataset.columms={a: b}", "dataset.columms", "did you mean 'dataset.columns'?"),
    ("trainr.max_steps=3", "trainr.max_steps", "did you mean 'trainer.max_steps'?"),
    ("learning_rate=1e-5", "learning_rate", "did you mean 'trainer.learning_rate'?"),
    ("sed=1", "sed", "did you mean 'seed'?"),
    ("trainer.lora.rank=4", "trainer.lora.rank", "did you mean 'model.lora.rank'?"),
    ("lora.rank=4", "lora.rank", "did you mean 'model.lora.rank'?"),
    ("trainer.rank=4", "trainer.rank", "did you mean 'model.lora.rank'?"),
    ("recipe.shuffle_window=4", "recipe.shuffle_window", "did you mean 'dataset.shuffle_window'?"),
    ("trainer.max_new_tokens=4", "trainer.max_new_tokens", "'generation.max_new_tokens'?"),
    ("dataset.max_length=4", "dataset.max_length", "did you mean 'recipe.max_length' or"),
    ("dataset.max_lenght=4", "dataset.max_lenght", "did you mean 'recipe.max_length'?"),
    ("dataset.label=a", "dataset.label", "did you mean 'recipe.label'?"),
    ("trainer.seed=4", "trainer.seed", "did you mean 'seed'?"),
    ("trainer.metrics=f1", "trainer.metrics", "did you mean 'metrics'?"),
    ("zzz=1", "zzz", "accepted: model, tokenizer, trainer"),
    ("trainer.lr=1", "trainer.lr", "here it is trainer.learning_rate"),
    ("optim.lr=1", "optim.lr", "here it is trainer.learning_rate"),
    ("bf16=true", "bf16", "here it is trainer.precision (trainer.precision=bf16)"),
    ("packing=true", "packing", "nothing to set here: batches are never padded"),
    ("dataset@other=sst2", "dataset@other", "did you mean 'dataset'?"),
    # wrong types
    ("trainer.learning_rate=abc", "trainer.learning_rate", "found 'abc'; accepted: a number"),
    ("trainer.learning_rate=", "trainer.learning_rate", "found ''; accepted: a number"),
    ("trainer.learning_rate=null", "trainer.learning_rate", "found null; accepted: a number"),
    ("trainer.learning_rate=1 2", "trainer.learning_rate", "found '1 2'; accepted: a number"),
    ("trainer.learning_rate=[1", "trainer.learning_rate", "found '[1'; accepted: a number"),
    ("trainer.learning_rate.x=1", "trainer.learning_rate", "found a mapping (x)"),
    ("trainer.max_steps=2.5", "trainer.max_steps", "found 2.5; accepted: a whole number or null"),
    ("trainer.max_steps=true", "trainer.max_steps", "found true"),
    ("trainer.compile=1", "trainer.compile", "found 1; accepted: true or false"),
    ("trainer.eval_steps=true", "trainer.eval_steps", "found true"),
    ("trainer.trackers=wandb", "trainer.trackers", "found 'wandb'; accepted: a list"),
    ("model.freeze=emb*", "model.freeze", "found 'emb*'; accepted: a list"),
    ("model.config=3", "model.config", "found 3; accepted: a mapping"),
    ("recipe.labels=[a,true]", "recipe.labels", "found true; accepted: text"),
    ("recipe.max_length=x", "recipe.max_length", "found 'x'; accepted: a whole number"),
    ("metrics.f1.average=[1]", "metrics.f1.average", "accepted: text"),
    ("seed=a", "seed", "found 'a'; accepted: a whole number"),
    ("trusted_packages=os", "trusted_packages", "accepted: a list"),
    ("metrics.f1=3", "metrics.f1", "found 3; accepted: a mapping"),
    # mixtures
    ("dataset.mixture={a: {dataset: x.csv, weight: -1}}", "dataset.mixture.a.weight", "0 or more"),
    ("dataset.mixture={a: {dataset: x.csv, weight: 0}}", "dataset.mixture", "each weight is 0"),
    ("dataset.mixture={a: {dataset: x.csv, wieght: 1}}", "dataset.mixture.a.wieght", "weight'?"),
    ("dataset.mixture={a: {weight: 1}}", "dataset.mixture.a", "accepted: {dataset: a path or an"),
    ("dataset.mixture={a: {dataset: null}}", "dataset.mixture.a.dataset", "found null; accepted"),
    ("dataset.mixture={a: {dataset: {trian: x}}}", "dataset.mixture.a.dataset.trian", "train'?"),
    (
        "dataset.mixture={a: {dataset: {train: x, max_train_rows: 0}}}",
        "dataset.mixture.a.dataset.max_train_rows",
        "accepted: a number above 0",
    ),
    ("dataset.mixture={a: {dataset: x, max_rows: 0}}", "dataset.mixture.a.max_rows", "above 0"),
    (
        "dataset.mixture={a: {dataset: x, recipe: {max_length: y}}}",
        "dataset.mixture.a.recipe.max_length",
        "found 'y'; accepted: a whole number",
    ),
    (
        "dataset.mixture={a: {dataset: x, recipe: {lable: y}}}",
        "dataset.mixture.a.recipe",
        "no option 'lable'; did you mean 'label'?",
    ),
    ("dataset.mixture={a: {dataset: {_target_: os.system}}}", "dataset.mixture.a.dataset", "trust"),
    # impossible values
    ("trainer.learning_rate=-1", "trainer.learning_rate", "accepted: a number above 0"),
    ("trainer.learning_rate=nan", "trainer.learning_rate", "accepted: a number above 0"),
    ("trainer.learning_rate=inf", "trainer.learning_rate", "accepted: a number above 0"),
    (
        "trainer.global_batch_size=0",
        "trainer.global_batch_size",
        "accepted: a whole number above 0",
    ),
    ("trainer.precision=fp8", "trainer.precision", "accepted: auto, fp32, bf16, fp16"),
    ("trainer.save_total_limit=1", "trainer.save_total_limit", "accepted: 2 or more"),
    ("recipe.max_length=0", "recipe.max_length", "accepted: 1 or more"),
    ("recipe.problem=maybe", "recipe.problem", "accepted: auto, single_label"),
    ("seed=-1", "seed", "accepted: 0 to 4294967295"),
    (f"seed={2**70}", "seed", "accepted: 0 to 4294967295"),
    ("run_name=../../etc", "run_name", "accepted: 1 to 100 of"),
    ("run_name=..", "run_name", "accepted: 1 to 100 of"),
    ("run_name=a\x00b", "run_name", r"found 'a\x00b'"),
    ("run_name=a\nb", "run_name", r"found 'a\nb'"),
    ("run_name=a\u202eb", "run_name", r"found 'a\u202eb'"),
    ("run_name=", "run_name", "found ''"),
    ("output_dir=", "output_dir", "found ''"),
    ("output_dir=a\nb", "output_dir", r"found 'a\nb'"),
    ("launch.num_processes=0", "launch.num_processes", "accepted: auto, 1 or more"),
    ("launch.num_processes=many", "launch.num_processes", "accepted: auto, 1 or more"),
    ("launch.num_nodes=0", "launch.num_nodes", "accepted: 1 or more"),
    ("launch.node_rank=1", "launch.node_rank", "accepted: 0 to 0"),
    ("launch.num_nodes=2", "launch.rendezvous", "accepted: HOST:PORT"),
    ("launch.rendezvous=here", "launch.rendezvous", "accepted: HOST:PORT"),
    ("launch.rendezvous=here:70000", "launch.rendezvous", "port 1 to 65535"),
    ("launch.rendezvous=gpu..x:29500", "launch.rendezvous", "accepted: HOST:PORT"),
    ("launch.timeout=0", "launch.timeout", "accepted: seconds above 0"),
    ("launch.timeout=inf", "launch.timeout", "accepted: seconds above 0, up to 1e+08"),
    ("launch.timeout=nan", "launch.timeout", "accepted: seconds above 0, up to 1e+08"),
    ("launch.cpu_offload=true", "launch.cpu_offload", "accepted: launch.strategy=fsdp, or false"),
    ("launch.strategy=pipeline", "launch.strategy", "accepted: auto, ddp, fsdp"),
    ("trusted_packages=[../x]", "trusted_packages", "accepted: package names"),
    # groups
    ("model=nonesuch", "model", "no option 'nonesuch'; accepted: bert, distilbert, minilm"),
    ("model=../../sec/x", "model", "no option '../../sec/x'; accepted: bert"),
    ("model=bert-base-cased", "model", "or model.path=bert-base-cased"),
    ("dataset=sst", "dataset", "no option 'sst'; did you mean 'sst2'?"),
    ("experiment=none", "experiment", "no option 'none'"),
    ("job=mergd", "job", "did you mean 'merge'?; accepted: chat, evaluate,"),
    ("trainer=3", "trainer", "no option '3'; accepted: default"),
    ("dataset=[sst2,mrpc]", "dataset", "no option '[sst2,mrpc]'"),
    # targets
    ("recipe._target_=os.system", "recipe._target_", "'os.system' is not trusted"),
    ("recipe._target_=torch.hub.load", "recipe._target_", "'torch.hub.load' is not trusted"),
    ("recipe._target_=trainerx.a.B", "recipe._target_", "'trainerx.a.B' is not trusted"),
    ("recipe._target_=launch.subprocess.Popen", "recipe._target_", "is not trusted"),
    ("recipe._target_=trainer.run.subprocess.Popen", "recipe._target_", "no module 'trainer.run.s"),
    (
        "recipe._target_=trainer.runs.run.Path",
        "recipe._target_",
        "pathlib.Path, which is not trusted",
    ),
    ("recipe._target_=trainer.errors.nearest", "recipe._target_", "no class"),
    ("recipe._target_=trainer.errors.InputError", "recipe._target_", "is not a dataclass"),
    ("recipe._target_=trainer.settings.TrainSettings", "recipe._target_", "a subclass of"),
    ("dataset._target_=trainer.settings.TrainSettings", "dataset._target_", "a data source"),
    ("recipe._target_=recipes.nope.X", "recipe._target_", "no module 'recipes.nope'"),
    ("recipe._target_=recipes.sequence_classification.Classes", "recipe._target_", "no class"),
    ("recipe._target_=3", "recipe._target_", "found 3"),
    ("recipe._target_=a..b", "recipe._target_", "found 'a..b'"),
    ("recipe._partial_=true", "recipe._partial_", "accepted: _target_ alone"),
    ("recipe._args_=[1]", "recipe._args_", "accepted: _target_ alone"),
    ("model._target_=os.system", "model._target_", "accepted: _target_ alone"),
    ("dataset.x=[{_target_: os.system}]", "dataset.x[0]._target_", "accepted: _target_ alone"),
    ("metrics.m={average: macro}", "metrics.m._target_", "nothing given; accepted: metrics=NAME"),
    ("callbacks.m={_target_: os.system}", "callbacks.m._target_", "is not trusted"),
    # interpolations, deletions, Hydra's own
    ("trainer.learning_rate=${nope}", "trainer.learning_rate", "'nope' not found"),
    ("trainer.learning_rate=${oc.env:NOPE_X}", "trainer.learning_rate", "'NOPE_X' not found"),
    ("seed=${seed}", "seed", "Recursive interpolation"),
    ("seed=${x", "seed", "accepted: a value, or an interpolation"),
    ("~trainer.learning_rate", "trainer.learning_rate", "cannot be deleted: it is required"),
    ("~metrics.nope", "metrics.nope", "cannot be deleted: it is required, or not"),
    ("hydra.run.dir=x", "hydra.run.dir", "has no effect here; accepted: output_dir=FOLDER"),
    (
        "hydra/launcher=joblib",
        "hydra/launcher",
        "applies only to sweeps; accepted: in a command with -m",
    ),
    (
        "sweep.pruner=median",
        "sweep.pruner",
        "applies only to sweeps; accepted: in a command with -m",
    ),
    (
        "sweep={pruner: median}",
        "sweep",
        "applies only to sweeps; accepted: in a command with -m",
    ),
    ("hydra.job_logging.handlers.x.class=os.system", "hydra.job_logging", "has no effect here"),
    # the command line itself
    ("trainer.learning_rate=1,2", "trainer.learning_rate", "accepted: one, or -m for a sweep"),
    ("--foo", "--foo", "unknown flag"),
    ("--experimental-rerun=x", "--experimental-rerun=x", "unknown flag"),
    ("--multi-run", "--multi-run", "did you mean '--multirun'?"),
    ("--", "--", "unknown flag"),
    ("--cfg=jobs", "--cfg", "accepted: job, hydra, all"),
    ("--cfg", "--cfg", "nothing given"),
    ("--config-name=nope", "--config-name", "no 'nope.yaml'"),
    ("--config-name=../x", "--config-name", "accepted: a name of letters"),
    ("--config-dir=nope", "--config-dir", "no folder 'nope'"),
    ("foo", "'foo'", "no '=' in it"),
    ("=3", "'=3'", "'' is not a key"),
    ("a..b=3", "'a..b=3'", "is not a key"),
    ("from=nope", "from", "no file 'nope/config.yaml'"),
    # jobs
    ("job=evaluate", "model.path", "nothing given"),
    ("job=predict", "model.path", "nothing given"),
    ("input.text=hello", "input.text", "job=train has no input"),
    ("output.file=x", "output.file", "job=train has no output"),
]


@pytest.mark.parametrize(("argument", "key", "words"), FAULTS, ids=[f[0] for f in FAULTS])
def test_fault_is_one_line(
    refused: Callable[..., str], argument: str, key: str, words: str
) -> None:
    line = refused(argument)
    assert line.startswith(f"{key}") and words in line


def test_faults_of_several_arguments(refused: Callable[..., str]) -> None:
    path = "model.path=x"
    assert "at most max_steps (100)" in refused("trainer.warmup_steps=500", "trainer.max_steps=100")
    assert "input.txt: unknown key; did you mean" in refused("job=predict", path, "input.txt=a")
    line = refused("trainer.num_epochs=${seed}", "seed=${trainer.num_epochs}")
    assert "Recursive interpolation" in line
    line = refused("trusted_packages=[os]", "recipe._target_=os.system")
    assert "no class 'os.system'" in line
    sharded = "launch.strategy=fsdp"
    line = refused("recipe=instruction", "recipe.evaluate_texts=true", sharded)
    assert line.startswith(
        "recipe.evaluate_texts: found true with a sharded model; accepted: false"
    )
    line = refused("recipe=sentence_embedding", "recipe.texts_per_pass=4", sharded)
    assert line.startswith("recipe.texts_per_pass: found 4 with a sharded model; accepted: 0")
    streamed = ("dataset=files", "dataset.train=a.parquet", "dataset.streaming=true")
    line = refused(*streamed)
    assert line.startswith("trainer.max_steps: found null, but the data has no end; accepted: a ")
    line = refused(*streamed, "trainer.max_steps=2", "dataset.encoding=cp1252")
    assert line.startswith("dataset.encoding: found cp1252 with dataset.streaming=true; accepted")


def test_deep_value_is_one_line(refused: Callable[..., str]) -> None:
    refused(f"trainer.optimizer_options={'[' * 1000}{']' * 1000}")


@pytest.mark.parametrize("place", ["{}", "trainer.{}", "optim.args.{}"])
def test_peers_names_are_answered_wherever_they_stand(place: str) -> None:
    for name, answer in {**PEER_NAMES, **NOTHING_TO_SET}.items():
        given: Any = 1
        *sections, key = place.format(name).split(".")
        if sections[:1] == ["optim"]:
            sections, key, given = [], "optim", {"args": {name: 1}}
        line = str(unknown_key(".".join(sections), key, ["learning_rate"], given))
        assert line.startswith(f"{place.format(name)}: unknown key; ") and answer in line


def test_no_key_of_ours_is_taken_for_a_peers_name() -> None:
    for name, ours in PEER_NAMES.items():
        section, _, key = ours.partition(".")
        known = {f.name for f in fields(CLOSED[section])} if section in CLOSED else set()
        assert not key or name not in known


YAML_FAULTS = {
    "tab": ("trainer:\n\tlr: 1\n", "config.yaml:2: a tab"),
    "duplicate": ("seed: 1\nseed: 2\n", "config.yaml:2: found duplicate key seed"),
    "template": ("model: {{ name }}\n", "config.yaml:1: found a list or a mapping as a key"),
    "list as key": ("seed: 1\n? [a, b]\n: 2\n", "config.yaml:2: found a list or a mapping as a"),
    "indent": ("trainer:\n  a: 1\n b: 2\n", "config.yaml:3: "),
    "tag": (
        "seed: !!python/object/apply:os.system [touch pwned]\n",
        "config.yaml:1: found the tag",
    ),
    "huge": ("# " + "x" * 1_100_000, "bytes; accepted: at most 1,048,576"),
    "aliases": ("a: &a [1]\nb: [" + "*a, " * 30 + "]\n", "config.yaml:2: more aliases than"),
    "deep": ("a: " + "[" * 2000 + "]" * 2000, "config.yaml:1: nested deeper than 50"),
    "latin": ("a: \xe9", "is not UTF-8"),
    "unknown": ("defaults: [model: minilm]\nlr: 1\n", "lr: unknown key; here it is trainer."),
    "type": ("defaults: [model: minilm]\nseed: x\n", "seed: found 'x'"),
    "schema": (
        "model: {path: x}\ntrainer: {learning_rte: 1}\n",
        "trainer.learning_rte: unknown",
    ),
    "scalar": ("model: {path: x}\ntrainer: 3\n", "trainer"),
    "list": ("- 1\n", "config"),
    "option": ("defaults: [model: nope]\n", "model/nope"),
    "missing": ("model:\n  path: ???\n", "model.path: nothing given"),
    "hydra": ("hydra: {job_logging: {handlers: {x: {class: os.system}}}}\n", "model.path"),
}


@pytest.mark.parametrize("name", YAML_FAULTS)
def test_faults_in_the_users_own_file(
    refused: Callable[..., str], tmp_path: Path, name: str
) -> None:
    text, words = YAML_FAULTS[name]
    (tmp_path / "config.yaml").write_text(text, encoding="latin-1")
    line = refused("--config-dir", ".")
    assert words in line
    assert len(line) < 1000


def test_option_of_the_user_with_a_fault(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/mine.yaml").write_text("learning_rate: 1\nlearning_rate: 2\n")
    line = refused("--config-dir=.", "trainer=mine")
    assert "trainer/mine.yaml:2: found duplicate key learning_rate" in line
    (tmp_path / "trainer/mine.yaml").write_text("lr: 1\n")
    assert "trainer.lr: unknown key; here it is" in refused("--config-dir=.", "trainer=mine")


def test_only_the_first_rank_speaks(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    answer = ask("trainer.lr=1")
    assert (answer.code, answer.err) == (2, "")


COLD = """
import sys
sys.argv = ["launch.py", *{arguments!r}]
sys.path.insert(0, {repository!r})
import launch
code = launch.main()
heavy = ("torch", "datasets", "evaluate", "sklearn", "transformers", "accelerate", "pandas")
found = sorted({{name.split(".")[0] for name in sys.modules}} & set(heavy))
print("imported", found, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["trainer.lr=1"], 2),
        (["--help"], 0),
        (["--help", "trainer.learning_rate", "recipe=causal_lm", "metrics.f1.average"], 0),
        (["--version"], 0),
        (["schema", "recipe"], 0),
        (["--cfg", "job"], 0),
        (["-m", "seed=1,x"], 2),
    ],
)
def test_nothing_heavy_is_imported(
    repository: Path, tmp_path: Path, arguments: list[str], code: int
) -> None:
    script = COLD.format(arguments=arguments, repository=str(repository))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.endswith("imported []\n")
    assert done.stderr.count("\n") == (2 if code else 1)
    assert os.listdir(tmp_path) == []


def test_an_experiment_without_its_header_is_named(refused: Any, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("trainer:\n  max_steps: 1\n")
    line = refused(f"--config-dir={tmp_path / 'own'}", "experiment=mine")
    assert line.startswith("experiment=mine: ") and "mine.yaml does not say" in line
    assert line.endswith("accepted: the line '# @package _global_' above its first key")


def test_numbers_and_dates_out_of_range_are_refused(refused: Any) -> None:
    assert refused("trainer.max_steps=1e300").startswith("trainer.max_steps: found 1e+300; accept")
    assert refused('dataset.columns={"a": 2026-13-45}').startswith("dataset.columns: found")
