"""Checks of recipes' settings: choices, minimums, shares and ranges, with uniform errors."""

from collections.abc import Mapping, Sequence

from trainer.errors import InputError


def check_choices(recipe: object, choices: Mapping[str, Sequence[str]]) -> None:
    """Raise InputError for a setting that is not one of its choices."""
    for name, accepted in choices.items():
        if (found := getattr(recipe, name)) not in accepted:
            raise InputError(f"recipe.{name}: found '{found}'; accepted: {', '.join(accepted)}")


def check_least(recipe: object, least: int, *names: str) -> None:
    """Raise InputError for a setting below `least`; null is accepted."""
    for name in names:
        if (found := getattr(recipe, name)) is not None and not found >= least:
            raise InputError(f"recipe.{name}: found {found}; accepted: {least} or more")


def check_positive(recipe: object, *names: str) -> None:
    """Raise InputError for a setting that is not above 0; null is accepted."""
    for name in names:
        if (found := getattr(recipe, name)) is not None and not found > 0:
            raise InputError(f"recipe.{name}: found {found}; accepted: above 0")


def check_share(recipe: object, *names: str) -> None:
    """Raise InputError for a setting that is not between 0 and 1."""
    for name in names:
        if not 0 <= (found := getattr(recipe, name)) <= 1:
            raise InputError(f"recipe.{name}: found {found}; accepted: 0 to 1")


def check_score_range(score_range: Sequence[float]) -> None:
    """Raise InputError for a `score_range` that is not a minimum and a maximum."""
    if len(score_range) != 2 or not score_range[0] < score_range[1]:
        found = f"found {list(score_range)}"
        raise InputError(f"recipe.score_range: {found}; accepted: [minimum, maximum]")


def check_sharding(recipe: object, *, trains: bool) -> None:
    """Raise InputError for a setting that a sharded model (launch.strategy=fsdp) does not support.

    The ranks of a sharded model must run the same passes. `trains` is false for an evaluation.
    """
    if getattr(recipe, "evaluate_texts", False):
        accepted = "accepted: false, or launch.strategy=ddp"
        raise InputError(f"recipe.evaluate_texts: found true with a sharded model; {accepted}")
    if trains and (found := getattr(recipe, "texts_per_pass", 0)):
        accepted = "accepted: 0, or launch.strategy=ddp"
        raise InputError(f"recipe.texts_per_pass: found {found} with a sharded model; {accepted}")
