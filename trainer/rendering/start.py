"""Start summary: what is about to be trained, on what, for how long and where."""

from collections.abc import Mapping
from pathlib import Path

from rich.text import Text

from trainer.callbacks.callback import RunFacts
from trainer.rendering.figures import count, plural, share
from trainer.rendering.layout import labelled

MOST_CLASSES = 20
"""Classes that a summary lists."""


def start_summary(facts: RunFacts) -> Text:
    """A label and a few words a line, and an empty line."""
    lines = {
        "model": _model(facts),
        "data": _data(facts),
        **labels(facts.label_rule, facts.class_counts),
        "steps": _steps(facts),
        "device": _device(facts),
        "output": _shown(facts.output_dir) if facts.output_dir else "nothing is written",
    }
    return labelled(lines).append("\n")


def _model(facts: RunFacts) -> str:
    trained = facts.num_trainable_parameters
    part = "" if trained == facts.num_parameters else f", {count(trained)} of them trained"
    where = "" if facts.model_path in ("", facts.model_name) else f" from {facts.model_path}"
    fresh = f"\nfresh: {', '.join(facts.fresh)}" if facts.fresh else ""
    return f"{facts.model_name}{where}\n{count(facts.num_parameters)} parameters{part}{fresh}"


def _data(facts: RunFacts) -> str:
    samples = plural(facts.num_train_samples, "sample")
    trained = f"{samples}, {count(facts.num_train_tokens)} tokens"
    sets = [f"{n:,} {name}".rstrip() for name, n in facts.num_eval_samples.items()]
    evaluated = f"\nevaluated on {' + '.join(sets)} samples" if sets else "\nno evaluation set"
    dropped = facts.num_dropped_rows
    left_out = f"\n{plural(dropped, 'bad row')} left out, see dropped.jsonl" if dropped else ""
    notes = "".join(f"\n{note}" for note in facts.data_notes)
    avoided = f"{share(facts.padding_avoided)} padding avoided"
    return f"{trained}, {avoided}{evaluated}{notes}{left_out}"


def labels(rule: str, counts: Mapping[str, int]) -> dict[str, str]:
    """A line for what labels are, and how many samples have each of them."""
    if not rule:
        return {}
    shown = [f"{name} {number:,}" for name, number in list(counts.items())[:MOST_CLASSES]]
    more = f", and {left:,} more" if (left := len(counts) - len(shown)) > 0 else ""
    return {"labels": f"{rule}\n{', '.join(shown)}{more}".strip()}


def _steps(facts: RunFacts) -> str:
    epochs = facts.total_steps / facts.steps_per_epoch
    unit = "epoch" if epochs == 1 else "epochs"
    after = f", the first {facts.first_step:,} of them done" if facts.first_step else ""
    size = f"{plural(facts.global_batch_size, 'sample')} each"
    return f"{facts.total_steps:,} ({epochs:.4g} {unit}), {size}{after}"


def _device(facts: RunFacts) -> str:
    where = f"{facts.device}, {facts.precision}"
    if facts.num_processes == 1:
        return f"{where}, 1 process"
    uneven = f"the busiest does {share(facts.imbalance)} more than the mean"
    return f"{where}, {facts.num_processes} processes; {uneven}"


def _shown(path: Path) -> str:
    """A path below the working folder as relative to it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
