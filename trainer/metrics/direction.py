"""Direction: whether a greater value of each evaluation result is better."""

from collections.abc import Iterable, Mapping, Sequence

from trainer.errors import InputError, nearest
from trainer.metrics.functions import greater_is_better
from trainer.metrics.metric import Metric
from trainer.tasks.recipe import Recipe


def direction(
    metrics: Mapping[str, Metric],
    name: str,
    sets: Iterable[str] = (),
    own: Mapping[str, bool] | None = None,
    computed: bool = False,
) -> bool:
    """Whether a greater value of the evaluation result `name` is better.

    `name` is a result ("accuracy", "loss"), with or without "eval_". It may include the name of one
    of the evaluation `sets` ("eval_matched_accuracy"). `own` are the recipe's own results. Raises
    InputError for other names. If `computed`, the user's functions compute results whose names are
    not known in advance; then the answer is guessed from the name.
    """
    results = {**directions(metrics), **(own or {})}
    of_sets = {f"{s}_{result}": better for s in sets if s for result, better in results.items()}
    accepted = {**results, **of_sets}
    bare = name.removeprefix("eval_")
    if bare not in accepted and computed:
        return greater_is_better(bare)
    if bare not in accepted:
        raise InputError(
            f"trainer.metric_for_best_model: found '{name}'; "
            f"accepted: {', '.join(accepted)}{nearest(bare, accepted)}"
        )
    return accepted[bare]


def directions(metrics: Mapping[str, Metric]) -> dict[str, bool]:
    """Whether a greater value is better, for every result of an evaluation, the loss first.

    Raises InputError if two metrics have a result of the same name.
    """
    results = {"loss": False}
    for key, metric in metrics.items():
        for name in metric.names():
            if name in results:
                accepted = "a different name for each result"
                raise InputError(f"metrics.{key}: found '{name}' twice; accepted: {accepted}")
            results[name] = metric.greater_is_better
    return results


def metric_for_best_model(
    wanted: str | None,
    recipe: Recipe,
    metrics: Mapping[str, Metric],
    sets: Sequence[str],
    computed: bool = False,
) -> tuple[str, bool]:
    """The result that selects the best model ("eval_accuracy"), and whether greater is better.

    If `wanted` (the setting) is None, the result is the recipe's choice, or the loss if the
    evaluation does not compute that choice. With several named sets it is the first set's, unless
    `wanted` names another. With `computed`, the user's functions compute more results.
    """
    own = recipe.metric_for_best_model
    name = wanted or (own if own in directions(metrics) else "loss")
    greater = direction(metrics, name, sets, recipe.measures, computed)
    bare = name.removeprefix("eval_")
    results = {*directions(metrics), *recipe.measures}
    named = {f"{each}_{result}" for each in sets if each for result in results}
    of_a_set = any(bare.startswith(f"{each}_") for each in sets if each)
    is_named = bare in named or (of_a_set and bare not in results)
    if sets and "" not in sets and not is_named:
        bare = f"{sets[0]}_{bare}"
    return f"eval_{bare}", greater
