"""Lines: formats each logged row and each evaluation as a line of text."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text

from trainer.callbacks.callback import RunFacts
from trainer.rendering.figures import data_wait, measure, memory, pace, speed
from trainer.rendering.layout import flowed


def training_line(row: Mapping[str, Any], total_steps: int) -> Text:
    """`step 120/666  epoch 0.54  loss 0.5123  lr 4.1e-05  310 samples/s  1.2 GiB  peak 1.4 GiB`.

    If training waits for data, `data wait 12 %` is added.
    """
    values = {"loss": measure(row.get("loss"))}
    if "learning_rate" in row:
        values["lr"] = f"{row['learning_rate']:.1e}"
    width = len(str(total_steps))
    where = _where(f"{row['step']:>{width}}/{total_steps}", row.get("epoch"))
    line = Text("  ").join(_pairs(where | values))
    for figure in (speed(row), data_wait(row), *memory_figures(row)):
        line.append(f"  {figure}" if figure else "")
    return line


def memory_figures(row: Mapping[str, Any]) -> tuple[str, str]:
    """The used memory and its maximum so far: `1.2 GiB`, `peak 1.4 GiB`; '' if unknown."""
    peak = memory(row.get("peak_memory_gib"))
    return memory(row.get("memory_gib")), f"peak {peak}" if peak else ""


def skipped_line(row: Mapping[str, Any]) -> Text:
    """`skipped  step 120  loss -  gradient norm inf`, for a step with infinite or NaN numbers."""
    values = {"step": str(row["step"]), "loss": measure(row["skipped_loss"])}
    values["gradient norm"] = measure(row["grad_norm"])
    return Text("  ").join([Text("skipped", "bold yellow"), *_pairs(values)])


def evaluation_lines(
    step: int,
    facts: RunFacts,
    results: Mapping[str, float],
    improved: bool,
    width: int | None = None,
) -> Text:
    """A line for the evaluation set without a name, and below it a line for each named set.

    The keys of `results` are eval_<metric> or eval_<set>_<metric>. With `width`, longer lines are
    wrapped.
    """
    sets = by_set(results, facts.num_eval_samples)
    longest = max(map(len, sets), default=0)
    epoch = step / facts.steps_per_epoch if facts.steps_per_epoch else None
    pieces = [
        Text("eval", "bold"),
        *_pairs(_where(f"{step:>{len(str(facts.total_steps))}}", epoch)),
    ]
    pieces += _measures(sets.pop("", {}))
    if improved:
        pieces.append(Text("best", style="bold green"))
    lines = [flowed(pieces, width, indent=6)]
    for name, metrics in sets.items():
        named = [Text(f"      {name:<{longest}}"), *_measures(metrics)]
        lines.append(flowed(named, width, indent=6 + longest + 2))
    return Text("\n").join(lines)


def evaluating_line(done: int, total: int, share: float, seconds: float) -> Text:
    """`evaluating  samples 1,024/2,000  31 samples/s  32.0 s left`, after `share` of the work."""
    rate, left = pace(done, share, seconds)
    line = Text.assemble(("evaluating", "bold"), "  ")
    samples = Text.assemble(("samples", "dim"), f" {done:,}/{total:,}")
    return line.append_text(samples).append(f"  {rate}  {left} left")


def sample_lines(step: int, prompt: str, text: str) -> Text:
    """`sample step 120`, and on the next line a prompt, followed by the generated text."""
    where = Text.assemble(("step", "dim"), f" {step}")
    return Text.assemble(("sample", "bold"), "  ", where, "\n", (prompt, "dim"), text)


def by_set(results: Mapping[str, float], sets: Iterable[str]) -> dict[str, dict[str, float]]:
    """Group metrics by set: set name ('' for none) -> metric without the set's prefix -> value.

    If several set names fit a key, the longest is used.
    """
    longest_first = sorted((name for name in sets if name), key=len, reverse=True)
    found: dict[str, dict[str, float]] = {}
    for key, value in results.items():
        bare = key.removeprefix("eval_")
        owner = next((name for name in longest_first if bare.startswith(f"{name}_")), "")
        found.setdefault(owner, {})[bare.removeprefix(f"{owner}_" if owner else "")] = value
    return found


def _where(step: str, epoch: float | None) -> dict[str, str]:
    return {"step": step} if epoch is None else {"step": step, "epoch": f"{epoch:.2f}"}


def _measures(metrics: Mapping[str, float]) -> list[Text]:
    return _pairs({name: measure(value) for name, value in metrics.items()})


def _pairs(values: Mapping[str, str]) -> list[Text]:
    return [Text.assemble((key, "dim"), " ", value) for key, value in values.items()]
