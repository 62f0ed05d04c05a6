"""One file with everything: its entries are those of the command line, which takes precedence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.config import yaml_files
from trainer.config.command import parse, typed
from trainer.config.composing import compose_run, hydra_settings
from trainer.runs.run import Run

Composed = Callable[..., Run]
Refused = Callable[..., str]

SAME = {
    "dataset: sst2\nmodel: {path: somewhere}\ntrainer: {learning_rate: 3e-5, num_epochs: 2}\n": (
        *("dataset=sst2", "model.path=somewhere"),
        *("trainer.learning_rate=3e-5", "trainer.num_epochs=2"),
    ),
    "dataset: {train: a.csv, validation: b.csv}\nseed: 4\n": (
        *("dataset.train=a.csv", "dataset.validation=b.csv", "seed=4"),
    ),
    "experiment: masked_lm_quickstart\ntrainer.max_steps: 3\n": (
        *("experiment=masked_lm_quickstart", "trainer.max_steps=3"),
    ),
    "job: predict\nmodel.path: m\ninput: {text: 'a, b'}\noutput.file: null\n": (
        *("job=predict", "model.path=m", "input.text=a, b"),
    ),
    "metrics: null\ncallbacks: none\nmodel: {lora: {rank: 4}}\n": (
        *("metrics=null", "callbacks=none", "model.lora.rank=4"),
    ),
}


@pytest.mark.parametrize("text", SAME)
def test_a_file_is_as_the_command_line(text: str, composed: Composed) -> None:
    Path("run.yaml").write_text(text)
    wanted = composed(*SAME[text]).config
    assert composed("run.yaml").config == wanted
    assert composed("--config", "run.yaml").config == wanted
    assert composed("--config=run.yaml", "seed=9").config["seed"] == 9


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dataset=mnli", "model.path=m", "metrics=classification"),
        ("experiment=preference_quickstart", "trainer.learning_rate=1e-4"),
        ("recipe=causal_lm", "dataset=plain_text", "callbacks=samples", "model=smollm2"),
    ],
)
def test_the_config_of_a_run_is_such_a_file(arguments: tuple[str, ...], composed: Composed) -> None:
    config = composed(*arguments).config
    Path("config.yaml").write_text(yaml_files.dump(config))
    assert composed("config.yaml").config == config


def test_interpolations_in_a_file(composed: Composed) -> None:
    Path("run.yaml").write_text("seed: 3\noutput_dir: runs/${seed}\ndataset: {seed: '${seed}'}\n")
    run = composed("run.yaml", "seed=5")
    assert (run.output_dir, run.dataset.seed) == (Path("runs/5"), 5)


def test_jobs_of_a_sweep_read_the_file_too() -> None:
    Path("run.yaml").write_text(
        "hydra/sweeper: optuna\nseed: 3\nhydra:\n  sweeper:\n    n_trials: 5\n    n_jobs: 1\n"
        "    params: {trainer.learning_rate: 'interval(1, 2)'}\n  sweep: {dir: there}\n"
    )
    command = parse(["-m", "run.yaml", "hydra.sweeper.n_jobs=3"])
    assert compose_run(parse(typed(command))).seed == 3
    found = hydra_settings(command).hydra
    assert (found.sweeper.n_trials, found.sweeper.n_jobs, found.sweep.dir) == (5, 3, "there")
    assert found.sweeper.params == {"trainer.learning_rate": "interval(1, 2)"}


REFUSED = {
    "defaults: [dataset: sst2]\n": "run.yaml: found a defaults list; accepted: GROUP: OPTION",
    "from: runs/a\n": "run.yaml: found from; accepted: from=FOLDER on the command line",
    "trainer: {lr: 1}\n": "trainer.lr: unknown key; here it is trainer.learning_rate",
    "dataset: nope\n": "dataset: no option 'nope'",
    "- 1\n": "run.yaml: found no mapping",
    "hydra: {mode: MULTIRUN}\n": "run.yaml: found hydra.mode; accepted: hydra.mode=VALUE on the",
    "hydra.verbose: true\n": "run.yaml: found hydra.verbose; accepted: hydra.verbose=VALUE on",
    "seed: [1\n": "run.yaml:2: ",
    "seed: 1\nseed: 2\n": "run.yaml:2: found duplicate key seed",
    "1: 2\n": "1: unknown key",
    "model: {{ name }}\n": "run.yaml:1: found a list or a mapping as a key; accepted: text",
    "trusted_packages: [evil]\n": "run.yaml: trusted_packages: found",
    "model: {trust_remote_code: true}\n": "run.yaml: model.trust_remote_code: found true, which",
    "dataset: {_target_: os.system}\n": "run.yaml: dataset._target_: found 'os.system', which",
    "output.file: x.csv\n": "run.yaml: output.file: found 'x.csv', which this file may not",
    "launch.rendezvous: a:1\n": "run.yaml: launch.rendezvous: found 'a:1', which this file may",
    "callbacks.x: {_target_: os.system}\ncallbacks: {x: null}\n": "run.yaml: callbacks.x._target_",
    "hydra: {sweeper: {_target_: os.system}}\n": "run.yaml: hydra.sweeper._target_: found",
    "hydra: 3\n": "run.yaml: hydra: found 3; accepted: a mapping",
    "hydra: {run: {dir: x}}\n": "hydra.run.dir: Hydra's setting has no effect here",
    "hydra/job_logging: x\n": "hydra/job_logging: Hydra's setting has no effect here",
}


@pytest.mark.parametrize("text", REFUSED)
def test_faults_of_a_file(text: str, refused: Refused) -> None:
    Path("run.yaml").write_text(text)
    assert refused("run.yaml").startswith(REFUSED[text])


def test_faults_of_the_flag(refused: Refused, ask: Callable[..., Any]) -> None:
    assert refused("nowhere.yaml") == "--config: no file 'nowhere.yaml'; accepted: a YAML file"
    Path("a.yaml").write_text("seed: 1\n")
    assert refused("a.yaml", "a.yaml") == "--config=a.yaml: found a second file; accepted: one"
    assert refused("--config") == "--config: nothing given; accepted: --config VALUE"
    assert "--config FILE" in ask("--help").out
