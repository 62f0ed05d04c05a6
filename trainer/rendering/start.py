"""Start summary: describes the model, data, steps and devices of a run before it starts."""

from collections.abc import Mapping

from rich.text import Text

from trainer.callbacks.callback import RunFacts
from trainer.plurals import plural
from trainer.rendering.figures import amount, count, epochs_passed, share
from trainer.rendering.layout import SPACE, labelled
from trainer.terminal.plain_text import short_path

MOST_CLASSES = 20
"""The largest number of classes that a summary lists."""


def start_summary(facts: RunFacts, width: int | None = None) -> Text:
    """Labeled lines that describe the run, and an empty line; `width` is that of the terminal."""
    folder = short_path(facts.output_dir) if facts.output_dir else "nothing is written"
    output = facts.output_url or folder
    return labelled({**start_lines(facts), "output": output}, width).append("\n")


def start_lines(facts: RunFacts) -> dict[str, str]:
    """The model, data, steps and devices of the run: label -> text of one or more lines."""
    return {
        "model": _model(facts),
        "data": _data(facts),
        **labels(facts.label_rule, facts.class_counts),
        "steps": _steps(facts),
        **({"rates": facts.rates} if facts.rates else {}),
        "device": _device(facts),
    }


def _model(facts: RunFacts) -> str:
    trained = facts.num_trainable_parameters
    part = "" if trained == facts.num_parameters else f", {count(trained)} of them trained"
    where = "" if facts.model_path in ("", facts.model_name) else f" from {facts.model_path}"
    fresh = f"\nfresh: {', '.join(facts.fresh)}" if facts.fresh else ""
    size = amount(facts.num_parameters, "parameter")
    return f"{facts.model_name}{where}\n{size}{part}{fresh}"


def _data(facts: RunFacts) -> str:
    sizes = [
        "a stream" if (n := facts.num_train_samples) is None else plural(n, "sample"),
        None if (n := facts.num_train_tokens) is None else amount(n, "token"),
        None if (part := facts.padding_avoided) is None else f"{share(part)} padding avoided",
    ]
    trained = ", ".join(size for size in sizes if size)
    evaluated = f"\n{_evaluated(facts.num_eval_samples)}"
    cut = _truncated(facts.num_truncated_rows)
    dropped = facts.num_dropped_rows
    left_out = f"\n{plural(dropped, 'bad row')} left out, see dropped.jsonl" if dropped else ""
    notes = "".join(f"\n{note}" for note in facts.data_notes)
    return f"{trained}{evaluated}{cut}{notes}{left_out}"


def _truncated(counts: Mapping[str, int]) -> str:
    """The line about truncated rows; empty if there are none."""
    parts = [f"{plural(count, 'row')} of {name}" for name, count in counts.items() if count]
    return f"\ncut to the maximum length: {', '.join(parts)}" if parts else ""


def _evaluated(sizes: Mapping[str, int]) -> str:
    """The sizes of the evaluation sets, with their names if they have any."""
    if not sizes:
        return "no evaluation set"
    sets = [f"{n:,} {name}".rstrip() for name, n in sizes.items()]
    noun = "sample" if list(sizes.values()) == [1] else "samples"
    return f"evaluated on {' + '.join(sets)} {noun}"


def labels(rule: str, counts: Mapping[str, int]) -> dict[str, str]:
    """The label rule and the number of samples with each label; {} if there is no rule."""
    if not rule:
        return {}
    shown = [f"{name}{SPACE}{number:,}" for name, number in list(counts.items())[:MOST_CLASSES]]
    more = f", and {left:,} more" if (left := len(counts) - len(shown)) > 0 else ""
    return {"labels": f"{rule}\n{', '.join(shown)}{more}".strip()}


def _steps(facts: RunFacts) -> str:
    passes = ""
    if facts.steps_per_epoch is not None:
        passes = f" ({epochs_passed(facts.total_steps / facts.steps_per_epoch)})"
    after = f", the first {facts.first_step:,} steps done" if facts.first_step else ""
    size = f"{plural(facts.global_batch_size, 'sample')} each"
    return f"{facts.total_steps:,}{passes}, {size}{after}"


def _device(facts: RunFacts) -> str:
    where = f"{facts.device}, {facts.precision}"
    if facts.num_processes == 1:
        return f"{where}, 1 process"
    uneven = f"the busiest does {share(facts.imbalance)} more than the mean"
    return f"{where}, {facts.num_processes} processes; {uneven}"
