"""Report facts: describes a run's data, settings and environment at its start."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from trainer.callbacks.callback import RunFacts
from trainer.checkpoint.files import finite_or_null
from trainer.metrics.direction import directions
from trainer.redaction import redacted
from trainer.rendering.start import start_lines
from trainer.reports.facts import Facts, Histogram, Start
from trainer.reports.settings_defaults import defaults_of, plain_values
from trainer.runs.outcome import versions
from trainer.tasks.plain_recipes import PlainRecipe
from trainer.training.run_facts import sets_of_known_size
from trainer.training.session import Session
from trainer.training.setup import Setup

GIB = 1 << 30


def report_facts(session: Session, facts: RunFacts, earlier: Sequence[Start]) -> Facts:
    """The facts for the report; `earlier` are the previous starts of this run."""
    setup = session.setup
    config = setup.context.description.config or _config(setup)
    sets = sets_of_known_size(session)
    return Facts(
        name=str(config.get("run_name") or (setup.folder.path.name if setup.folder else "run")),
        task=type(setup.recipe).__module__.rpartition(".")[2],
        starts=[*earlier, _start(facts)],
        summary=start_lines(facts),
        total_steps=session.total_steps,
        eval_sets=facts.num_eval_samples,
        best_metric=session.best_metric,
        greater_is_better=session.greater_is_better,
        directions={**directions(setup.metrics), **setup.recipe.measures},
        answer_columns=setup.recipe.answer_columns,
        class_counts=facts.class_counts,
        lengths={name: Histogram.of(s.lengths) for name, s in sets.items() if len(s.lengths)},
        truncated=facts.num_truncated_rows,
        environment=_environment(setup),
        config=finite_or_null(config),
        defaults=finite_or_null(defaults_of(config)),
    )


def _start(facts: RunFacts) -> Start:
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return Start(now, facts.first_step, facts.device, facts.num_processes)


def _config(setup: Setup) -> Mapping[str, Any]:
    """The settings of a run from Python, in the form of a config."""
    recipe = {} if isinstance(setup.recipe, PlainRecipe) else {"recipe": _node(setup.recipe)}
    found: dict[str, Any] = redacted(
        {
            "seed": setup.seed,
            **recipe,
            **_model(setup),
            "metrics": {name: _node(metric) for name, metric in setup.metrics.items()},
            "trainer": plain_values(setup.settings),
        }
    )
    return found


def _model(setup: Setup) -> dict[str, Any]:
    """The path of the initial weights, if it is known."""
    path = setup.model_path or getattr(setup.model, "name_or_path", "")
    return {"model": {"path": path}} if isinstance(path, str) and path else {}


def _node(part: object) -> dict[str, Any]:
    """The config that describes a dataclass."""
    fields = plain_values(part) if is_dataclass(part) else {}
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **fields}


def _environment(setup: Setup) -> dict[str, str]:
    ranks = setup.ranks
    return {
        "system": platform.platform(),
        "processor": f"{_processor()}, {os.cpu_count()} threads",
        "memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB",
        "device": _device(ranks.device),
        "processes": str(ranks.world_size),
        "precision": setup.placement.precision,
        "threads of torch": str(torch.get_num_threads()),
        "deterministic kernels": "yes" if setup.settings.deterministic else "no",
        **versions(),
    }


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    memory = torch.cuda.get_device_properties(device).total_memory
    name = torch.cuda.get_device_name(device)
    return f"{device}: {name}, {memory / GIB:.1f} GiB; CUDA {torch.version.cuda}"


@cache
def _processor() -> str:
    """The name of the processor, or of its architecture if the name is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
