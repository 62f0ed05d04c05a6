"""Sections: the sections of a config and its keys at the top level, with types and descriptions."""

from typing import Any

from trainer.generation.settings import GenerationSettings
from trainer.pushing.push_settings import PushSettings
from trainer.runs.prepare_settings import PrepareSettings, PruneSettings
from trainer.runs.run import (
    ExportSettings,
    InputSettings,
    InspectSettings,
    LaunchSettings,
    ModelSettings,
    OutputSettings,
    PlanSettings,
    TokenizerSettings,
)
from trainer.runs.serve_settings import ServeSettings
from trainer.runs.sweep_settings import SweepSettings
from trainer.settings import TrainSettings

CLOSED: dict[str, type[Any]] = {
    "model": ModelSettings,
    "tokenizer": TokenizerSettings,
    "trainer": TrainSettings,
    "launch": LaunchSettings,
    "input": InputSettings,
    "output": OutputSettings,
    "inspect": InspectSettings,
    "plan": PlanSettings,
    "export": ExportSettings,
    "generation": GenerationSettings,
    "serve": ServeSettings,
    "prepare": PrepareSettings,
    "prune": PruneSettings,
    "push": PushSettings,
    "sweep": SweepSettings,
}
"""A section whose keys are fixed -> its dataclass."""

OF_JOBS = {
    "input": "predict",
    "output": "predict",
    "inspect": "inspect",
    "plan": "plan",
    "export": "export",
    "generation": "generate",
    "serve": "serve",
    "prepare": "prepare",
    "prune": "prune",
    "push": "push",
    "runs": "report",
    "run": "show",
}
"""A section or key that only some jobs have -> one of these jobs, as an example for errors."""

KEYS_OF_JOBS: dict[str, tuple[Any, str]] = {
    "runs": (
        list[str] | str,
        "The folders or URLs of runs; job=report compares all of them with the first one.",
    ),
    "run": (str | None, "The folder or URL of the run that job=show and job=push read."),
}
"""A top-level key that only some jobs have -> its type and description."""

OF_SWEEPS = "sweep"
"""The section that configures a sweep; the configs of the sweep's jobs do not have it."""

OPEN = ("dataset", "recipe", "metrics", "callbacks")
"""Sections whose keys depend on their `_target_`."""

TOP_LEVEL: dict[str, tuple[Any, str]] = {
    "job": (str, "The name of the job to perform, which is a module of trainer/jobs."),
    "output_dir": (
        str | None,
        "The run's folder, or the URL of an object store (s3://, gs://, hf://); "
        "null: runs/<run_name>.",
    ),
    "run_name": (
        str | None,
        "The name of the run; null: <recipe>-<dataset>-<8 hex digits of the config>.",
    ),
    "seed": (int, "The seed of all random numbers, from 0 to 2**32 - 1."),
    "trusted_packages": (
        list[str],
        "The packages, in addition to trainer and recipes, whose classes a _target_ may name.",
    ),
}
"""A key that is in no section -> its type and description."""
