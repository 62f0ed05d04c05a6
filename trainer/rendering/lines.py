"""Lines: a logged row or an evaluation in one line each."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text

from trainer.callbacks.callback import RunFacts
from trainer.rendering.figures import data_wait, measure, pace, speed


def training_line(row: Mapping[str, Any], total_steps: int) -> Text:
    """`step 120/666  epoch 0.54  loss 0.5123  lr 4.1e-05  310 samples/s  data wait 12 %`."""
    values = {"loss": measure(row.get("loss"))}
    if "learning_rate" in row:
        values["lr"] = f"{row['learning_rate']:.1e}"
    line = _pairs(_where(row["step"], row["epoch"], total_steps) | values)
    for figure in (speed(row), data_wait(row)):
        line.append(f"  {figure}" if figure else "")
    return line


def evaluation_lines(
    step: int, facts: RunFacts, results: Mapping[str, float], improved: bool
) -> Text:
    """One line, and one below it for each named set.

    The keys of `results` are eval_<metric> or eval_<set>_<metric>.
    """
    sets = by_set(results, facts.num_eval_samples)
    width = max(map(len, sets), default=0)
    where = _where(step, step / facts.steps_per_epoch, facts.total_steps)
    line = Text.assemble(("eval", "bold"), "  ", _pairs(where))
    if "" in sets:
        line.append("  ").append_text(_measures(sets.pop("")))
    if improved:
        line.append("  best", style="bold green")
    for name, metrics in sets.items():
        line.append(f"\n      {name:<{width}}  ").append_text(_measures(metrics))
    return line


def evaluating_line(done: int, total: int, share: float, seconds: float) -> Text:
    """`evaluating  samples 1,024/2,000  31 samples/s  32.0 s left`; `share` of the work is done."""
    rate, left = pace(done, share, seconds)
    line = Text.assemble(("evaluating", "bold"), "  ")
    return line.append_text(_pairs({"samples": f"{done:,}/{total:,}"})).append(
        f"  {rate}  {left} left"
    )


def sample_lines(step: int, prompt: str, text: str) -> Text:
    """`sample  step 120`; below it a prompt, and what the model wrote after it."""
    where = _pairs({"step": str(step)})
    return Text.assemble(("sample", "bold"), "  ", where, "\n", (prompt, "dim"), text)


def by_set(results: Mapping[str, float], sets: Iterable[str]) -> dict[str, dict[str, float]]:
    """The metrics of each set by their own names; the longest set name that fits owns a key."""
    longest_first = sorted((name for name in sets if name), key=len, reverse=True)
    found: dict[str, dict[str, float]] = {}
    for key, value in results.items():
        bare = key.removeprefix("eval_")
        owner = next((name for name in longest_first if bare.startswith(f"{name}_")), "")
        found.setdefault(owner, {})[bare.removeprefix(f"{owner}_" if owner else "")] = value
    return found


def _where(step: int, epoch: float, total_steps: int) -> dict[str, str]:
    width = len(str(total_steps))
    return {"step": f"{step:>{width}}/{total_steps}", "epoch": f"{epoch:.2f}"}


def _measures(metrics: Mapping[str, float]) -> Text:
    return _pairs({name: measure(value) for name, value in metrics.items()})


def _pairs(values: Mapping[str, str]) -> Text:
    pairs = [Text.assemble((key, "dim"), " ", value) for key, value in values.items()]
    return Text("  ").join(pairs)
