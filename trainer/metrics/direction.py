"""Direction: which way each result of an evaluation is better, as its metric says."""

from collections.abc import Iterable, Mapping, Sequence

from trainer.errors import InputError, nearest
from trainer.metrics.metric import Metric
from trainer.recipe import Recipe


def direction(
    metrics: Mapping[str, Metric],
    name: str,
    sets: Iterable[str] = (),
    own: Mapping[str, bool] | None = None,
) -> bool:
    """Whether a greater value of the evaluation result `name` is better.

    `name` is a result ("accuracy", "loss"), with or without "eval_" and, where `sets` names the
    evaluation sets, the name of one ("eval_matched_accuracy"); `own` are the recipe's own results.
    Raises InputError for any other.
    """
    results = {**directions(metrics), **(own or {})}
    of_sets = {f"{s}_{result}": better for s in sets if s for result, better in results.items()}
    accepted = {**results, **of_sets}
    bare = name.removeprefix("eval_")
    if bare not in accepted:
        raise InputError(
            f"trainer.metric_for_best_model: found '{name}'; "
            f"accepted: {', '.join(accepted)}{nearest(bare, accepted)}"
        )
    return accepted[bare]


def directions(metrics: Mapping[str, Metric]) -> dict[str, bool]:
    """Every result of an evaluation, the loss first, and whether a greater value is better.

    Raises InputError where two metrics would write to the same name.
    """
    results = {"loss": False}
    for key, metric in metrics.items():
        for name in metric.names():
            if name in results:
                raise InputError(f"metrics.{key}: '{name}' is taken; accepted: one metric a name")
            results[name] = metric.greater_is_better
    return results


def metric_for_best_model(
    wanted: str | None, recipe: Recipe, metrics: Mapping[str, Metric], sets: Sequence[str]
) -> tuple[str, bool]:
    """The evaluation result that means better ("eval_accuracy"), and whether greater is better.

    Where the settings want none it is the recipe's own, or the loss if that is not computed. Of
    several named sets the first decides, unless `wanted` names another.
    """
    own = recipe.metric_for_best_model
    name = wanted or (own if own in directions(metrics) else "loss")
    greater_is_better = direction(metrics, name, sets, recipe.measures)
    bare = name.removeprefix("eval_")
    results = {*directions(metrics), *recipe.measures}
    named = {f"{each}_{result}" for each in sets if each for result in results}
    if sets and "" not in sets and bare not in named:
        bare = f"{sets[0]}_{bare}"
    return f"eval_{bare}", greater_is_better
