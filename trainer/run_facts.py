"""What is told of a Trainer's run: at its start, in each checkpoint, and at its end."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainer.callbacks.callback import RunFacts
from trainer.checkpoint.state import Progress
from trainer.data.given_rows import set_key
from trainer.data.reading import BadRow
from trainer.optim import trainable
from trainer.outcome import evaluation_results, versions
from trainer.run_folder import asked_of

if TYPE_CHECKING:
    from trainer.trainer import Trainer


def facts_at_start(trainer: "Trainer") -> RunFacts:
    """What callbacks are told before the first step."""
    samples, model, settings = trainer.train_samples, trainer.model, trainer.settings
    return RunFacts(
        output_dir=trainer.folder.path if trainer.folder else None,
        model_name=getattr(model, "architecture", type(model).__name__),
        model_path=trainer.model_path,
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_trainable_parameters=sum(p.numel() for _, p in trainable(model)),
        num_train_samples=len(samples),
        num_train_tokens=int(samples.lengths.sum()),
        num_eval_samples={name: len(found) for name, found in trainer.eval_samples.items()},
        total_steps=trainer.total_steps,
        steps_per_epoch=trainer.plan.steps_per_epoch,
        first_step=trainer.state.step,
        global_batch_size=settings.global_batch_size,
        num_processes=trainer.ranks.world_size,
        device=str(trainer.ranks.device),
        precision=trainer.placement.precision,
        padding_avoided=samples.padding_avoided(settings.global_batch_size),
        imbalance=trainer.plan.imbalance(trainer.ranks.world_size, settings.micro_batch_size),
        fresh=() if trainer.state.step else tuple(getattr(model, "fresh", ())),
        class_counts=trainer.recipe.class_counts(samples),
        label_rule=trainer.recipe.label_rule or "",
        data_notes=tuple(trainer.data_notes),
        num_dropped_rows=len(dropped_rows(trainer)),
        config=trainer.config,
    )


def dropped_rows(trainer: "Trainer") -> list[BadRow]:
    """The rows that were left out as bad: while files were read, and of each set."""
    tables = [trainer.train_samples, *trainer.eval_samples.values()]
    of_sets = [row for table in tables for row in getattr(table, "dropped", ())]
    return [*trainer.bad_rows.dropped, *of_sets]


def progress(trainer: "Trainer") -> Progress:
    """Where the run stands, as trainer.json of a checkpoint holds it."""
    settings, state, samples = trainer.settings, trainer.state, trainer.train_samples
    return Progress(
        step=state.step,
        samples_consumed=trainer.plan.samples_before(state.step),
        epoch=state.step / trainer.plan.steps_per_epoch,
        seed=trainer.seed,
        global_batch_size=settings.global_batch_size,
        micro_batch_size=settings.micro_batch_size,
        max_tokens=trainer.step_tokens,
        world_size=trainer.ranks.world_size,
        precision=trainer.placement.precision,
        data_fingerprint=f"{len(samples)} samples ({samples.fingerprint[:16]})",
        config_fingerprint=trainer.resumable.fingerprints(settings),
        best_metric=state.best.value if state.best else None,
        best_step=state.best.step if state.best else None,
        evaluations_without_improvement=state.evaluations_without_improvement,
        total_steps=trainer.total_steps,
        finished=state.step == trainer.total_steps or bool(state.stopped),
        versions=versions(),
    )


def results(trainer: "Trainer", shipped: int, last: Mapping[str, float]) -> dict[str, Any]:
    """What results.json holds: `shipped` is the step of model/, `last` the last step's metrics."""
    state, folder = trainer.state, trainer.folder
    model_path = str(folder.name / folder.model.name) if folder else None
    return {
        "steps": state.step,
        "total_steps": trainer.total_steps,
        "samples": trainer.plan.samples_before(state.step),
        "train_samples": len(trainer.train_samples),
        "epochs": state.step / trainer.plan.steps_per_epoch,
        "tokens": state.tokens,
        "seconds": trainer.throughput.elapsed,
        "best": asdict(state.best) if state.best else None,
        "model_step": shipped,
        "last_metrics": dict(last),
        "asked": asked_of(trainer.settings),
        "config": trainer.config_digest,
        "data": data_fingerprints(trainer),
        "commands": trainer.commands,
        "stopped": state.stopped or None,
        "skipped_steps": state.skipped,
        **evaluation_results(trainer.evaluations, trainer.recipe, model_path),
    }


def data_fingerprints(trainer: "Trainer") -> dict[str, str]:
    """Of the training rows and of each evaluation set, by the name that errors give it."""
    sets = {set_key(name): samples for name, samples in trainer.eval_samples.items()}
    return {
        name: samples.fingerprint
        for name, samples in {"dataset.train": trainer.train_samples, **sets}.items()
    }
