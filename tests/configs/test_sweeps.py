"""Sweeps by Hydra's plugins: searches, pruning, continuing, folders, and what is refused.

The jobs are functions here; tests/jobs/test_sweeps.py runs real ones.
"""

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.causal_lm import CausalLM
from trainer.config.command import parse
from trainer.config.composing import compose_run
from trainer.config.sweeps import task
from trainer.config.sweeps.jobs import JobLoader, label_of
from trainer.config.sweeps.needed_files import check_files_of_jobs
from trainer.config.sweeps.objective import objective_of
from trainer.config.sweeps.prepared import prepared
from trainer.config.sweeps.pruning import decide, make_pruner
from trainer.errors import InputError
from trainer.metrics.classification import Accuracy
from trainer.runs.sweep_records import JobRecord, Objective, evaluations
from trainer.runs.sweep_results import measured
from trainer.runs.sweep_settings import PRUNERS, SweepSettings

SEARCH = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", "output_dir=s")
RATE = "trainer.learning_rate=tag(log,interval(1e-5,1e-1))"
SEED = "hydra.sweeper.sampler.seed=3"
BEST_RATE = 1e-3


class BalancedAccuracy(Accuracy):
    def names(self) -> tuple[str, ...]:
        return ("balanced_accuracy",)


class Training:
    """Stands for the processes of jobs: their accuracy is best at BEST_RATE, after ten steps."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.codes: dict[int, int] = {}
        """Number of a job -> another exit code than 0; negative: without a signal to the sweep."""

    def __call__(
        self, command: Sequence[str], _: object, should_stop: Callable[[], bool]
    ) -> tuple[int, bool]:
        typed = dict(text.split("=", 1) for text in command[2:] if "=" in text)
        rate = float(typed.get("trainer.learning_rate", BEST_RATE))
        self.rates.append(rate)
        code = self.codes.get(len(self.rates), 0)
        if code:
            return abs(code), code == 143
        rows = []
        folder = Path(typed["output_dir"])
        for step in range(1, 11):
            value = self.accuracy(rate, step)
            rows.append({"step": step, "eval_accuracy": value, "eval_loss": 1 - value})
            (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
            if should_stop():
                return 143, False
        best = {"metric": "eval_accuracy", "value": value, "step": 10}
        (folder / "results.json").write_text(json.dumps({"best": best, "metrics": rows[-1]}))
        return 0, False

    @staticmethod
    def accuracy(rate: float, step: int) -> float:
        far = abs(rate / BEST_RATE) if rate > BEST_RATE else abs(BEST_RATE / rate)
        return round(step / 10 / (1 + far), 6)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    found = Training()
    monkeypatch.setattr(task, "run_child", found)
    return found


def table(folder: str = "s") -> list[dict[str, str]]:
    """The rows of the newest table of a sweep."""
    newest = max(Path(folder).glob("sweep-*.csv"), key=lambda path: path.stat().st_mtime_ns)
    return list(csv.DictReader(newest.open()))


def test_a_search_finds_a_better_rate(ask: Callable[..., Any], training: Training) -> None:
    startup = "hydra.sweeper.sampler.n_startup_trials=5"
    answer = ask(*SEARCH, RATE, SEED, startup, "hydra.sweeper.n_trials=8")
    assert answer.code == 0 and len(training.rates) == 8
    assert answer.out.count("sweep: job") == 8 and "sweep: job 8 of 8, s/" in answer.out
    assert answer.err == ""  # no warnings of Optuna
    best = max(training.rates, key=lambda rate: training.accuracy(rate, 10))
    assert f"best        s/learning_rate={best!r} (eval_accuracy" in answer.out
    assert best in training.rates[5:]  # not one of the random draws
    rows = table()
    assert [float(row["trainer.learning_rate"]) for row in rows] == training.rates
    assert {row["status"] for row in rows} == {"done"}
    plot = next(Path("s").glob("sweep-*.svg")).read_text()
    assert plot.count("<circle") == 8 and plot.count('class="best"') == 1


def test_a_stopped_search_goes_on(ask: Callable[..., Any], training: Training) -> None:
    """The stopped job runs again, finished ones do not, and the draws are not repeated."""
    training.codes = {4: 143}
    first = ask(*SEARCH, RATE, SEED, "hydra.sweeper.n_trials=6")
    assert first.code == 143 and len(training.rates) == 4
    assert [row["status"] for row in table()] == ["done", "done", "done", "stopped"]
    training.codes = {}
    second = ask(*SEARCH, RATE, SEED, "hydra.sweeper.n_trials=6")
    assert second.code == 0 and len(training.rates) == 7
    assert training.rates[4] == training.rates[3]
    assert len(set(training.rates)) == 6
    assert [row["status"] for row in table()] == ["done"] * 6
    assert ask(*SEARCH, RATE, SEED, "hydra.sweeper.n_trials=6").code == 0
    assert len(training.rates) == 7  # there was nothing left to do
    ask(*SEARCH, RATE, SEED, "hydra.sweeper.n_trials=8")
    assert len(set(training.rates)) == 8


def test_failed_trials_do_not_end_a_search(ask: Callable[..., Any], training: Training) -> None:
    """Numbers that fail would fail again; a full disk may be mended until the next command."""
    training.codes = {1: 4, 2: 3}
    answer = ask(*SEARCH, RATE, SEED, "hydra.sweeper.n_trials=4")
    assert answer.code == 4 and len(training.rates) == 4
    ask(*SEARCH, RATE, SEED, "hydra.sweeper.n_trials=4")
    assert training.rates[4:] == [training.rates[1]]
    states = {float(row["trainer.learning_rate"]): row["status"] for row in table()}
    assert [states[rate] for rate in training.rates[:2]] == ["numbers failed", "done"]
    training.codes = dict.fromkeys(range(6, 8), 2)
    code = ask(*SEARCH, "trainer.learning_rate=interval(1,2)", "hydra.sweeper.n_trials=2").code
    assert code == 2  # no trial has a value


def test_a_pruner_ends_jobs_of_any_sweeper(ask: Callable[..., Any], training: Training) -> None:
    rates = "trainer.learning_rate=1e-3,9e-4,1e-5,1e-1"
    given = ("sweep.pruner=median", "sweep.pruner_options={n_startup_trials: 2}")
    assert ask("-m", rates, *given, "output_dir=s").code == 0
    assert [row["status"] for row in table()] == ["done", "done", "pruned", "pruned"]
    assert all(float(row["value"]) < 0.1 for row in table()[2:])
    ask("-m", rates, *given, "output_dir=s")
    assert len(training.rates) == 4  # pruned jobs are final


@pytest.mark.parametrize(
    ("pruner", "options"),
    [
        ("median", {"n_startup_trials": 2}),
        ("percentile", {"percentile": 50.0, "n_startup_trials": 2}),
        ("successive_halving", {"min_resource": 1, "reduction_factor": 2}),
        ("hyperband", {"min_resource": 1, "max_resource": 2, "reduction_factor": 2}),
        ("threshold", {"lower": 0.05, "n_warmup_steps": 2}),
    ],
)
def test_pruners_decide(pruner: str, options: dict[str, Any]) -> None:
    """Against two finished jobs; a worse evaluation speaks against a job, a better one does not."""
    made = make_pruner(SweepSettings(None, pruner, options))  # type: ignore[arg-type]
    assert type(made).__name__ == PRUNERS[pruner]
    for objective, sign in ((Objective("accuracy", True), 1), (Objective("loss", False), -1)):
        if pruner == "threshold" and sign < 0:
            continue  # it knows only bounds
        done = [
            ([(step, sign * step * rate) for step in range(1, 5)], record(sign * 4 * rate))
            for rate in (0.1, 0.11, 0.12, 0.13, 0.14, 0.15)
        ]
        bad, good = ([(s, sign * s * rate) for s in range(1, 4)] for rate in (0.001, 0.2))
        assert decide(made, objective, done, bad), objective
        assert not decide(made, objective, done, good), objective


def record(value: float) -> JobRecord:
    return JobRecord("a", {}, "a", exit_code=0, value=value)


def test_a_job_with_a_time_limit_does_not_end_the_sweep(
    ask: Callable[..., Any], training: Training
) -> None:
    training.codes = {1: -143}
    assert ask("-m", "seed=1,2", "output_dir=s").code == 143
    assert [row["status"] for row in table()] == ["stopped", "done"]


def test_the_objective_may_be_a_loss(ask: Callable[..., Any], training: Training) -> None:
    ask(*SEARCH, RATE, SEED, "hydra.sweeper.n_trials=3", "sweep.objective=eval_loss")
    found = [float(row["value"]) for row in table()]
    assert found == [pytest.approx(1 - training.accuracy(rate, 10)) for rate in training.rates]
    assert [row["metric"] for row in table()] == ["eval_loss"] * 3
    results = Path("s/optimization_results.yaml").read_text()
    assert f"best_value: {min(found)}" in results


def test_hydras_folders(ask: Callable[..., Any], training: Training) -> None:
    folder = "hydra.sweep.dir=by/${hydra.job.name}"
    subdir = "hydra.sweep.subdir=${hydra.job.num}-${hydra.job.override_dirname}"
    ask("-m", "seed=1,2", folder)
    ask("-m", "seed=1,2", folder, subdir)
    found = {path.parent.name for path in Path("by/tempering").glob("*/results.json")}
    assert found == {"seed=1", "seed=2", "0-seed=1", "1-seed=2"}
    assert Path("by/tempering/multirun.yaml").is_file()


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        (["run.yaml"], "of_file"),
        (["--config-dir=mine", "experiment=tuned"], "place_of_experiment"),
        (["--config-dir=mine", "experiment=tuned", "output_dir=s"], "s"),
        (["--config-dir=mine", "experiment=tuned", "run.yaml"], "of_file"),
        (["--config-dir=mine", "experiment=tuned", "hydra.sweep.dir=by_hydra"], "by_hydra"),
        (["run.yaml", "hydra.sweep.dir=by_hydra"], "by_hydra"),
        (["output_dir=${oc.env:PLACE}/s"], "place/s"),
        (["output_dir='a b'"], "a b"),
        (["output_dir=~/s"], "home/s"),
        (["output_dir=."], "."),
        (["output_dir=null"], "runs"),
    ],
)
def test_all_jobs_and_the_table_are_in_one_folder(
    given: list[str], folder: str, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("run.yaml").write_text("output_dir: of_file\ntrainer: {max_steps: 1}\n")
    Path("mine/experiment").mkdir(parents=True)
    experiment = "# @package _global_\noutput_dir: ${oc.env:PLACE}_of_experiment\n"
    Path("mine/experiment/tuned.yaml").write_text(experiment)
    monkeypatch.setenv("PLACE", "place")
    monkeypatch.setenv("HOME", "home")
    found = prepared(parse([*given, "-m", "seed=1,2"]))
    assert found.folder == Path(folder)
    assert str(found.config.hydra.sweep.dir) == folder
    assert {job.run.output_dir.parent for job in found.jobs} == {Path(folder)}


def test_a_swept_output_dir_is_not_the_folder_of_all(alone: None) -> None:
    Path("run.yaml").write_text("output_dir: of_file\n")
    found = prepared(parse(["run.yaml", "-m", "output_dir=a,b"]))
    assert [job.run.place for job in found.jobs] == ["a", "b"]


def test_a_file_may_hold_the_search(ask: Callable[..., Any], training: Training) -> None:
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/search.yaml").write_text(
        "# @package _global_\ndefaults: [{override /hydra/sweeper: optuna}]\n"
        "hydra: {sweeper: {n_trials: 2, n_jobs: 1, params: {trainer.learning_rate: "
        "'tag(log, interval(1e-5, 1e-1))'}}}\nsweep: {objective: loss}\n"
    )
    mine = ("--config-dir=mine", "experiment=search", "output_dir=s")
    answer = ask("-m", *mine)
    assert answer.code == 0 and len(training.rates) == 2
    assert {row["metric"] for row in table()} == {"eval_loss"}
    assert "sweep" not in compose_run(parse(mine)).config  # which is that of a single run


REFUSED = (
    (["seed=1,2", "sweep.objective=bleu"], "sweep.objective: found 'bleu'; accepted: loss, "),
    (["seed=1,2", "sweep.pruner=mean"], "sweep.pruner: found 'mean'; accepted: none, median"),
    (["seed=1,2", "sweep.prunner=median"], "sweep.prunner: unknown key"),
    (["seed=1,2", "sweep.pruner=median", "sweep.pruner_options={x: 1}"], "sweep.pruner_options: "),
    (["seed=interval(1,3)"], "seed: found interval(1,3); accepted: values a,b,c, or hydra/sweeper"),
    (["trainer.nope=1,2"], "trainer.nope: unknown key"),
    (
        ["seed=range(0,100000)"],
        "-m: found 1,001 jobs or more, each of which is checked before the first starts; accepted: "
        "up to 1,000, or a search with hydra/sweeper=optuna",
    ),
    (["seed=range(0,2000000000)"], "-m: found 1,001 jobs or more"),
    (["seed=range(0,40)", "trainer.num_epochs=range(1,41)"], "-m: found 1,600 jobs or more"),
    (
        ["seed=1,2", "hydra/launcher=ray"],
        "hydra/launcher=ray: not installed; accepted: pip install",
    ),
    (["seed=1,2", "hydra/sweeper=ax"], "hydra/sweeper=ax: not installed; accepted: the package"),
    (["seed=1,2", "hydra.sweeper.trials=3"], "hydra.sweeper.trials: unknown setting"),
    (["seed=1,2", "hydra.sweep.dir="], "hydra.sweep.dir: found ''"),
    (["seed=1,2", "hydra.sweep.dir=x", "output_dir=y"], "hydra.sweep.dir: found with output_dir"),
    (["seed=1,2", "hydra.sweep.dir=${nope}"], "hydra.sweep.dir: "),
    (["seed=1,2", "hydra.run.dir=x"], "hydra.run.dir: Hydra's setting has no effect here"),
)
OF_SEARCHES = (
    (["trainer.nope=interval(1,2)"], "trainer.nope: unknown key"),
    (["trainer.global_batch_size=interval(0,2)"], "trainer.global_batch_size: "),
    ([RATE, "sweep.objective=bleu"], "sweep.objective: found 'bleu'"),
    ([RATE, "hydra.sweeper.direction=minimize"], "hydra.sweeper.direction: found minimize, but a "),
    (
        [RATE, "sweep.objective=loss", "hydra.sweeper.direction=maximize"],
        "hydra.sweeper.direction: found maximize, but a smaller loss is better",
    ),
    (
        [RATE, "hydra.sweep.subdir=${hydra.job.num}"],
        "hydra.sweep.subdir: found with a search, whose job numbers restart",
    ),
    ([RATE, "hydra.sweeper.direction=[minimize,maximize]"], "hydra.sweeper.direction: found sev"),
    ([RATE, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials: found 0; accepted: 1 or more"),
    ([RATE, "hydra.sweeper.n_jobs=0"], "hydra.sweeper.n_jobs: found 0; accepted: 1 or more"),
    (["seed=interval(1,2)", "job=predict", "model.path=x"], "job: found predict in a search"),
)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [*REFUSED, *((["hydra/sweeper=optuna", *given], line) for given, line in OF_SEARCHES)],
)
def test_faults_are_found_before_the_first_job(
    arguments: list[str], line: str, refused: Callable[..., str], training: Training
) -> None:
    assert refused("-m", *arguments).startswith(line)
    assert training.rates == []


def test_errors_of_plugins_are_one_line(ask: Callable[..., Any], training: Training) -> None:
    bad = {
        "hydra.sweeper.sampler.n_startup_trials=x": 2,
        "hydra.sweeper.storage=sqlite:////nowhere/x.db": 2,
        "hydra/launcher=joblib hydra.launcher.n_jobs=0": 2,
    }
    for settings, code in bad.items():
        answer = ask(*SEARCH, RATE, *settings.split())
        assert (answer.code, answer.err.count("\n")) == (code, 1), (settings, answer)
        assert answer.err.startswith("error: ")


def test_labels_are_names_of_files() -> None:
    assert label_of(["trainer.learning_rate=1e-05", "+seed=1"]) == "learning_rate=1e-05,seed=1"
    assert label_of([]) == "0"
    paths = [label_of([f"dataset.train={path}"]) for path in ("a/b.csv", "a_b.csv", "x" * 300)]
    assert paths[0] != paths[1] == "train=a_b.csv"
    assert all("/" not in path and len(path) < 220 for path in paths)


def test_evaluations_are_read_while_they_are_written() -> None:
    rows: list[Mapping[str, object]] = [{"step": 1, "eval_accuracy": 0.5}, {"step": 2, "loss": 1.0}]
    rows += [{"step": 3, "eval_accuracy": 0.75}, {"step": 3, "eval_f1": 0.1}]
    Path("metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 4, "eval_')
    assert evaluations(Path(), Objective("accuracy", True)) == [(1, 0.5), (3, 0.75)]
    assert evaluations(Path("nowhere"), Objective("accuracy", True)) == []


def test_a_result_is_not_taken_for_one_whose_name_it_ends() -> None:
    row = {"step": 1, "eval_tag_accuracy": 0.9, "eval_accuracy": 1, "eval_b_f1": 0.3}
    Path("metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert evaluations(Path(), Objective("accuracy", True)) == [(1, 1.0)]
    assert evaluations(Path(), Objective("f1", True)) == [(1, 0.3)]  # of the set b
    results = {"metrics": {name: value for name, value in row.items() if name != "step"}}
    tracked = {"best": {"metric": "eval_tag_accuracy", "value": 0.9, "step": 1}}
    Path("results.json").write_text(json.dumps(results | tracked))
    run: Any = SimpleNamespace(output_dir=Path(), job="train", metrics={}, recipe=None)
    found = measured(run, Objective("accuracy", True))
    assert (found["metric"], found["value"]) == ("eval_accuracy", 1.0)
    found = measured(run, Objective("tag_accuracy", True))
    assert (found["metric"], found["step"]) == ("eval_tag_accuracy", 1)


def test_the_direction_of_what_a_recipe_measures_is_known() -> None:
    Path("results.json").write_text(
        json.dumps({"best": {"metric": "eval_perplexity", "value": 2.5, "step": 1}, "metrics": {}})
    )
    run: Any = SimpleNamespace(output_dir=Path(), job="train", metrics={}, recipe=CausalLM())
    assert measured(run, None) == {
        "metric": "eval_perplexity",
        "value": 2.5,
        "step": 1,
        "greater_is_better": False,
    }


def test_statuses() -> None:
    record = JobRecord("a", {}, "a", exit_code=7)
    assert (record.status, record.is_final) == ("failed (7)", False)


COMPLETIONS = {
    "trainer.lear": "trainer.learning_rate=",
    "recipe=caus": "recipe=causal_lm",
    "hydra/laun": "hydra/launcher=",
}


def test_hydras_flags(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "OptunaSweeper" in ask("--info", "plugins").out
    assert "| main     | file://" in ask("--info=searchpath").out
    assert "experiment: quickstart" in ask("-i", "defaults-tree").out
    assert "hydra_bash_completion()" in ask("--shell-completion", "install=bash").out
    for typed, found in COMPLETIONS.items():
        monkeypatch.setitem(os.environ, "COMP_LINE", f"tempering {typed}")
        assert found in ask("-sc", "query=bash").out.split()
    assert "sampler:" in ask("--cfg", "hydra", "-m", "hydra/sweeper=optuna").out
    assert ask("--info", "config", "nope.x=1").err.startswith("error: --info config: Could not ov")
    printed = ask("--cfg", "all", "seed=7").out
    assert "seed: 7\n" in printed and "\nhydra:\n" in printed


def test_hydras_flags_refuse(refused: Callable[..., str]) -> None:
    assert refused("--info=x").startswith("--info: found 'x'; accepted: all, config")
    assert refused("-sc", "install=tcsh").startswith("--shell-completion: No completion plugin")
    assert refused("-sc", "query=bash").startswith("--shell-completion: 'COMP_LINE' is not set")
    assert refused("hydra.verbose=3").startswith("hydra.verbose: found 3; accepted: true, false")
    assert refused("hydra.mode=BOTH").startswith("hydra.mode: found 'BOTH'; accepted: RUN, MULTIR")


def test_hydras_mode(ask: Callable[..., Any], training: Training) -> None:
    assert ask("hydra.mode=MULTIRUN", "seed=1,2", "output_dir=s").code == 0
    assert len(training.rates) == 2


@pytest.mark.parametrize("method", ["load_configuration", "get_search_path", "get_sources"])
def test_a_plugin_that_composes_by_itself_is_answered_in_one_line(method: str) -> None:
    with pytest.raises(InputError, match="^hydra/sweeper, hydra/launcher: the plugin composes"):
        getattr(JobLoader(parse([]), None), method)()


LIST = "dataset.train=[a.csv],[b.csv]"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("dataset.train=a.csv,b.csv",), "dataset.train: b.csv does not exist"),
        ((LIST,), "dataset.train: b.csv does not exist"),
        (("dataset.train=a.csv,'data/*.csv'",), "dataset.train: data/*.csv does not exist"),
        (("dataset.path=a.csv,./rows",), "dataset.path: ./rows does not exist"),
        (
            ("dataset.train=a.csv", "dataset.validation={x:a.csv},{x:a.csv,y:c.csv}"),
            "dataset.validation.y: c.csv does not exist",
        ),
        (
            ("dataset=plain_text", "recipe=causal_lm", "dataset.train=a.csv,b.txt"),
            "dataset.train: b.txt does not exist",
        ),
        (
            ("dataset=mixture", "dataset.mixture.a.dataset=a.csv,b.csv"),
            "dataset.mixture.a: dataset.path: b.csv does not exist",
        ),
        (("model.path=/nowhere,/nowhere_2",), "model.path: there is no directory '/nowhere'"),
        (("job=generate", "model.path=x", "input.file=a.csv,b.csv"), "input.file: b.csv does not"),
    ],
)
def test_every_job_finds_its_files_before_the_first_starts(
    ask: Callable[..., Any], training: Training, arguments: Sequence[str], error: str
) -> None:
    Path("a.csv").write_text("text,label\na,b\n")
    answer = ask("-m", *arguments)
    assert answer.code == 2 and answer.err.startswith(f"error: {error}"), answer.err
    assert not training.rates


@pytest.mark.parametrize(
    "values",
    [
        "dataset.path=nyu-mll/glue,a.csv",  # on the hub
        "dataset.path=memory://x/a.csv,memory://x/b.csv",  # in a store
        "dataset.train='*.csv',a.csv",
    ],
)
def test_only_local_files_are_looked_for(
    ask: Callable[..., Any], training: Training, values: str
) -> None:
    Path("a.csv").write_text("text,label\na,b\n")
    assert ask("-m", values, "output_dir=s").code == 0
    assert len(training.rates) == 2


def test_finished_jobs_and_other_machines_need_no_files(
    ask: Callable[..., Any], training: Training
) -> None:
    files = ("-m", "dataset.train=a.csv,b.csv", "output_dir=s")
    for name in ("a.csv", "b.csv"):
        Path(name).write_text("text,label\na,b\n")
    training.codes = {2: 3}
    assert ask(*files).code == 3
    Path("a.csv").unlink()
    training.codes = {}
    assert ask(*files).code == 0 and len(training.rates) == 3
    Path("b.csv").unlink()
    sweep = prepared(parse(["-m", "dataset.train=c.csv,d.csv"]))
    with pytest.raises(InputError, match=r"c\.csv does not exist"):
        check_files_of_jobs(sweep)
    sweep.config.hydra.launcher._target_ = "submitit_launcher.SlurmLauncher"
    check_files_of_jobs(sweep)


def test_an_objective_is_no_result_whose_name_only_ends_alike() -> None:
    """Here `balanced_accuracy` is logged before `accuracy`, and both for a set named dev."""
    run = compose_run(parse([]))
    run = replace(run, metrics={"balanced": BalancedAccuracy(), "accuracy": Accuracy()})
    objective = objective_of(run, SweepSettings(objective="accuracy"))
    row = {"step": 1, "eval_balanced_accuracy": 0.1, "eval_dev_accuracy": 0.2, "eval_accuracy": 0.3}
    Path("metrics.jsonl").write_text(json.dumps(row))
    assert evaluations(Path(), objective) == [(1, 0.3)]
    results = {"best": {"metric": "eval_balanced_accuracy", "value": 0.1, "step": 1}}
    Path("results.json").write_text(json.dumps({**results, "metrics": row}))
    found = measured(replace(run, output_dir=Path()), objective)
    assert (found["metric"], found["value"]) == ("eval_accuracy", 0.3)


def test_a_recipes_own_result_is_the_value_of_a_job() -> None:
    run = compose_run(parse(["recipe=causal_lm", "metrics=none", "dataset.train=a.csv"]))
    best = {"metric": "eval_token_accuracy", "value": 0.5, "step": 3}
    Path("results.json").write_text(json.dumps({"best": best, "metrics": {}}))
    found = measured(replace(run, output_dir=Path()), None)
    assert (found["value"], found["greater_is_better"]) == (0.5, True)
    best = {"metric": "eval_dev_perplexity", "value": 9.5, "step": 3}
    Path("results.json").write_text(json.dumps({"best": best, "metrics": {}}))
    assert not measured(replace(run, output_dir=Path()), None)["greater_is_better"]
