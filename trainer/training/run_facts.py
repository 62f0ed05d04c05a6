"""Run facts: describes a run for callbacks, trainer.json and results.json."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from trainer.callbacks.callback import RunFacts
from trainer.checkpoint.state import Progress
from trainer.data.batch import Samples
from trainer.data.in_memory_rows import set_key
from trainer.data.mixture_samples import MixtureSamples
from trainer.data.read_options import BadRow
from trainer.data.task_samples import TaskSamples
from trainer.data.tokens import TokenTable
from trainer.devices.device_memory import GIB, memory_used
from trainer.interop.padded_model import PaddedModel
from trainer.models.quantization.quantized_linear import num_weights
from trainer.reports.run_report import FILE as REPORT
from trainer.runs.folder import length_settings
from trainer.runs.outcome import evaluation_results, versions
from trainer.tasks.recipe import Recipe
from trainer.training.evaluation import Evaluation
from trainer.training.freezing import trainable
from trainer.training.parameter_groups import describe_rates
from trainer.training.session import Session
from trainer.training.setup import Setup


def facts_at_start(session: Session, logged_before: Mapping[str, int] | None = None) -> RunFacts:
    """The facts for callbacks before the first step."""
    setup, samples, state = session.setup, session.samples, session.state
    model, settings, ranks = setup.model, setup.settings, setup.ranks
    has_end = session.plan.steps_per_epoch is not None
    return RunFacts(
        output_dir=setup.folder.path if setup.folder else None,
        output_url=store.url if setup.folder and (store := setup.folder.store) else None,
        model_name=getattr(model, "architecture", type(model).__name__),
        model_path=setup.model_path,
        num_parameters=num_weights(model),
        num_trainable_parameters=sum(p.numel() for _, p in trainable(model)),
        num_train_samples=_num_samples(session),
        num_train_tokens=int(samples.lengths.sum()) if has_end else None,
        num_eval_samples={name: len(found) for name, found in setup.evaluation.items()},
        total_steps=session.total_steps,
        steps_per_epoch=session.plan.steps_per_epoch,
        first_step=state.step,
        global_batch_size=settings.global_batch_size,
        logged_before=logged_before or {},
        rates=describe_rates(session.optimizer.param_groups),
        num_processes=ranks.world_size,
        device=str(ranks.device),
        precision=setup.placement.precision,
        padding_avoided=_padding_avoided(session) if has_end else None,
        imbalance=session.plan.imbalance(ranks.data_world_size, settings.micro_batch_size),
        fresh=() if state.step else tuple(getattr(model, "fresh", ())),
        class_counts=_class_counts(setup.recipe, samples) if has_end else {},
        label_rule=setup.recipe.label_rule or "",
        data_notes=(*_mixture_notes(session), *setup.context.data.notes, *setup.unread),
        num_dropped_rows=len(dropped_rows(setup)),
        num_truncated_rows=_num_truncated(session),
        config=setup.context.description.config,
    )


def _class_counts(recipe: Recipe, samples: Samples) -> dict[str, int]:
    """The number of samples with each label; for a mixture, over all its sources."""
    if not isinstance(samples, MixtureSamples):
        return recipe.class_counts(samples)
    total: Counter[str] = Counter()
    for name, table in samples.tables.items():
        total.update(samples.recipes[name].class_counts(table))
    return dict(total)


def _mixture_notes(session: Session) -> list[str]:
    samples = session.samples
    group_size = session.setup.recipe.group_size
    return samples.notes(group_size) if isinstance(samples, MixtureSamples) else []


def _padding_avoided(session: Session) -> float | None:
    """The share of padding that padded batches would have; None if the model pads its batches."""
    if isinstance(session.setup.model, PaddedModel):
        return None
    return session.samples.padding_avoided(session.setup.settings.global_batch_size)


def sets_of_known_size(session: Session) -> dict[str, Samples]:
    """Name -> data set, for the data sets whose number of samples is known."""
    is_stream = session.plan.steps_per_epoch is None
    found = {} if is_stream else {"train": session.samples}
    evaluation = session.setup.evaluation.items()
    # an evaluation set may also have the name train
    shown = {"": "validation", "train": "validation train"}
    return found | {shown.get(name, name): samples for name, samples in evaluation}


def _num_truncated(session: Session) -> dict[str, int]:
    """Data set -> number of rows that were truncated, if they were counted."""
    counts = {name: _truncated(each) for name, each in sets_of_known_size(session).items()}
    return {name: count for name, count in counts.items() if count is not None}


def _truncated(samples: object) -> int | None:
    """How many rows were truncated; None if they were not counted."""
    if isinstance(samples, (TaskSamples, MixtureSamples)):
        counts = [_truncated(table) for table in samples.tables.values()]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None
    return samples.counts.get("truncated") if isinstance(samples, TokenTable) else None


def dropped_rows(setup: Setup) -> list[BadRow]:
    """The bad rows that were left out while reading files or making samples."""
    tables = [setup.train, *setup.evaluation.values()]
    of_sets = [row for table in tables for row in getattr(table, "dropped", ())]
    return [*setup.bad_rows.dropped, *of_sets]


def progress(session: Session) -> Progress:
    """The progress of the run, for trainer.json of a checkpoint."""
    setup, state = session.setup, session.state
    return Progress(
        step=state.step,
        samples_consumed=session.plan.samples_before(state.step),
        epoch=session.epochs(state.step),
        seed=setup.seed,
        global_batch_size=setup.settings.global_batch_size,
        micro_batch_size=setup.settings.micro_batch_size,
        max_tokens=session.max_tokens,
        world_size=setup.ranks.world_size,
        precision=setup.placement.precision,
        data_fingerprint=_data_fingerprint(session),
        config_fingerprint=_config_fingerprint(session),
        best_metric=state.best.value if state.best else None,
        best_step=state.best.step if state.best else None,
        evaluations_without_improvement=state.evaluations_without_improvement,
        total_steps=session.total_steps,
        finished=session.over,
        versions=versions(),
    )


def _data_fingerprint(session: Session) -> str:
    """The size and the digest of the training data."""
    number = _num_samples(session)
    size = "endless" if number is None else number
    return f"{size} samples ({session.samples.fingerprint[:16]})"


def _num_samples(session: Session) -> int | None:
    """The number of training samples; None for a stream, which has no size."""
    return None if session.plan.steps_per_epoch is None else len(session.samples)


def _config_fingerprint(session: Session) -> dict[str, str]:
    found = session.resumable.fingerprints(session.setup.settings)
    custom = session.setup.seams.optimizer
    return found if custom is None else {**found, "trainer.optimizer": custom.name}


def results(
    session: Session,
    evaluations: Mapping[str, Evaluation],
    model_step: int,
    last: Mapping[str, float],
) -> dict[str, Any]:
    """The contents of results.json.

    `model_step` is the step of the weights in model/, to which `evaluations` belong; `last` has
    the metrics of the last step's weights.
    """
    setup, state, folder = session.setup, session.state, session.setup.folder
    model_path = f"{folder.name}/{folder.model.name}" if folder else None
    return {
        "steps": state.step,
        "total_steps": session.total_steps,
        "samples": session.plan.samples_before(state.step),
        "train_samples": _num_samples(session),
        "epochs": session.epochs(state.step),
        "tokens": state.tokens,
        "train_loss": state.train_loss,
        "seconds": session.throughput.elapsed,
        "peak_memory_gib": round(memory_used(setup.ranks.device)[1] / GIB, 4),
        "best": asdict(state.best) if state.best else None,
        "model_step": model_step,
        "last_metrics": dict(last),
        "asked": length_settings(setup.settings),
        "config": setup.context.description.config_digest,
        "data": _data_fingerprints(session),
        "commands": dict(setup.context.description.commands),
        "stopped": state.stopped or None,
        "skipped_steps": state.skipped,
        "report_path": _report_path(setup),
        **evaluation_results(evaluations, model_path),
    }


def _report_path(setup: Setup) -> str | None:
    """The path of the report; None if none will be written."""
    if setup.folder is None or not setup.settings.report:
        return None
    return f"{setup.folder.name}/{REPORT}"


def _data_fingerprints(session: Session) -> dict[str, str]:
    """Digests of the training rows and of each evaluation set, by the names used in errors."""
    sets = {set_key(name): samples for name, samples in session.setup.evaluation.items()}
    return {
        name: samples.fingerprint
        for name, samples in {"dataset.train": session.samples, **sets}.items()
    }
