"""Checks of recipes' settings: accepted values, and the error for others."""

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from trainer.errors import InputError
from trainer.tasks import setting_checks as checks

NAN = float("nan")
REFUSED: list[tuple[Callable[[], None], str]] = [
    (
        lambda: checks.check_choices(SimpleNamespace(unit="x"), {"unit": ("a", "b")}),
        "recipe.unit: found 'x'; accepted: a, b",
    ),
    (
        lambda: checks.check_least(SimpleNamespace(size=1, top_k=0), 1, "size", "top_k"),
        "recipe.top_k: found 0; accepted: 1 or more",
    ),
    (
        lambda: checks.check_least(SimpleNamespace(margin=NAN), 0, "margin"),
        "recipe.margin: found nan; accepted: 0 or more",
    ),
    (
        lambda: checks.check_positive(SimpleNamespace(beta=0.0), "beta"),
        "recipe.beta: found 0.0; accepted: above 0",
    ),
    (
        lambda: checks.check_share(SimpleNamespace(weight=NAN), "weight"),
        "recipe.weight: found nan; accepted: 0 to 1",
    ),
    (
        lambda: checks.check_score_range([1.0, 1.0]),
        "recipe.score_range: found [1.0, 1.0]; accepted: [minimum, maximum]",
    ),
]


@pytest.mark.parametrize(("check", "line"), REFUSED)
def test_a_setting_is_refused_in_one_line(check: Callable[[], None], line: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        check()


def test_bounds_and_null_are_accepted() -> None:
    settings = SimpleNamespace(size=1, weight=1, share=0.0, beta=None)
    checks.check_least(settings, 1, "size", "beta")
    checks.check_positive(settings, "size", "beta")
    checks.check_share(settings, "weight", "share")
    checks.check_score_range([0.0, 5.0])
