"""Checked texts: the share of generated texts with the right answer, or that a function accepts."""

import importlib
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer import registry
from trainer.errors import InputError
from trainer.metrics.functions import single
from trainer.metrics.metric import Metric

if TYPE_CHECKING:
    from trainer.tasks.comparison import Compared


@dataclass(frozen=True)
class RegexAnswer(Metric):
    """The share of texts whose answer, as a pattern extracts it, equals the reference's answer.

    The answer is the pattern's first group, or the whole match if it has no group. Answers that are
    finite numbers are compared as numbers, so that 1,000 equals 1000.0; others are compared as
    texts, without surrounding spaces.
    """

    pattern: str = r"(-?[0-9][0-9,]*\.?[0-9]*)"
    """A regular expression; by default it matches numbers."""
    take: str = "last"
    """Which of several matches is the answer: first or last."""

    name: ClassVar[str] = "regex_answer"
    greater_is_better = True
    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            found = f"found {self.pattern!r:.60} ({error})"
            raise InputError(f"metrics.pattern: {found}; accepted: a regular expression") from None
        if self.take not in ("first", "last"):
            raise InputError(f"metrics.take: found '{self.take}'; accepted: first, last")

    def names(self) -> tuple[str, ...]:
        return ("regex_answer",)

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        """Return the result; raises InputError for a reference that the pattern does not match."""
        right = 0
        for number, (text, wanted) in enumerate(zip(predictions, references, strict=True)):
            several = [wanted] if isinstance(wanted, str) else list(wanted)
            answers = [self.answer(each) for each in several]
            if None in answers:
                found = f"reference {number}, {several[answers.index(None)]!r:.60}, has no match"
                raise InputError(
                    f"metrics.pattern: {found}; accepted: a pattern that matches its answer"
                )
            right += self.answer(text) in answers
        return {"regex_answer": right / len(predictions) if len(predictions) else math.nan}

    def answer(self, text: str) -> int | float | str | None:
        """The answer in a text; None if there is none."""
        found = list(re.finditer(self.pattern, text))
        if not found:
            return None
        match = found[0 if self.take == "first" else -1]
        answer = (match[1] if match.re.groups else match[0]) or ""
        number = _number(answer.replace(",", "").strip().rstrip("."))
        return answer.strip() if number is None else number


def _number(text: str) -> int | float | None:
    """The finite number that a text is; None for other texts, also for nan and infinity."""
    with suppress(ValueError):
        return int(text)  # exact: as floats, neighboring large numbers would be equal
    with suppress(ValueError):
        return number if math.isfinite(number := float(text)) else None
    return None


@dataclass
class PassRate(Metric):
    """The mean result of a user's function over all texts.

    The function is called as function(text, reference), and returns true, false, or a number from 0
    to 1. A function given by its path must be in a trusted package.
    """

    function: Any = None
    """module.function, such as my_package.checks.compiles; in Python, the function itself."""

    name: ClassVar[str] = "pass_rate"
    greater_is_better = True
    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    def names(self) -> tuple[str, ...]:
        return ("pass_rate",)

    def prepare(self) -> None:
        self._found()

    def compute(self, predictions: "Compared", references: "Compared") -> dict[str, float]:
        """Compute the result; raises InputError if the function raises or returns another value."""
        function, total = self._found(), 0.0
        for number, (text, wanted) in enumerate(zip(predictions, references, strict=True)):
            try:
                passed = single(function(text, wanted))
            except Exception as error:
                what = f"raised {type(error).__name__} ({error}) for text {number}"
                raise InputError(f"metrics.function: {' '.join(what.split())}") from error
            if not isinstance(passed, (bool, int, float)) or not 0 <= passed <= 1:
                found = f"returned {passed!r:.40} for text {number}"
                raise InputError(f"metrics.function: {found}; accepted: true, false, or 0 to 1")
            total += float(passed)
        return {"pass_rate": total / len(predictions) if len(predictions) else math.nan}

    def _found(self) -> Callable[[str, Any], Any]:
        """Return the function.

        Raises InputError if it is given as a path that names no function in a trusted package.
        """
        if callable(self.function):
            return self.function  # type: ignore[no-any-return]
        accepted = "accepted: module.function in a trusted package (trusted_packages=[...])"
        if not isinstance(self.function, str) or "." not in self.function:
            raise InputError(f"metrics.function: found {self.function!r:.60}; {accepted}")
        module, _, name = self.function.rpartition(".")
        packages = (*registry.OWN_PACKAGES, *registry.trusted())
        if not any(f"{module}.".startswith(f"{package}.") for package in packages):
            raise InputError(f"metrics.function: '{module}' is not trusted; {accepted}")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            raise InputError(f"metrics.function: no module '{error.name}'; {accepted}") from error
        if not callable(found):
            raise InputError(f"metrics.function: no function '{self.function}'; {accepted}")
        return found  # type: ignore[no-any-return]
