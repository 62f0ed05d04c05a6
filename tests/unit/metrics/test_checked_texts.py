"""Checked texts: answers by a pattern, and the user's functions."""

from typing import Any

import numpy as np
import pytest
import torch

from trainer.errors import InputError
from trainer.metrics.checked_texts import PassRate, RegexAnswer


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("It is 1,000. So #### 1,000", "a #### 1000.0", True),
        ("12 then 13", "13", True),
        ("13 then 12", "13", False),
        ("none", "13", False),
        ("-4.50", "so -4.5.", True),
        ("12345678901234567890", "12345678901234567891", False),
        ("1" * 400, "1" * 400, True),
    ],
)
def test_numbers_are_compared_as_numbers(text: str, reference: str, right: bool) -> None:
    assert RegexAnswer().compute([text], [reference]) == {"regex_answer": float(right)}


@pytest.mark.parametrize("word", ["Nan", "nan", "infinity", "inf"])
def test_words_that_read_as_numbers_are_texts(word: str) -> None:
    metric = RegexAnswer(pattern=r"name: (\w+)")
    found = metric.compute([f"name: {word}", "name: NAN"], [f"name: {word}"] * 2)
    assert found == {"regex_answer": 0.5}


def test_functions_may_return_numbers_of_numpy_and_torch() -> None:
    results = iter([np.isclose(1.0, 1.0), np.float32(0.5), torch.tensor(True), False])
    found = PassRate(lambda text, wanted: next(results)).compute([""] * 4, [""] * 4)
    assert found == {"pass_rate": 2.5 / 4}


def test_patterns_have_groups_and_references_several_answers() -> None:
    metric = RegexAnswer(pattern=r"answer: (\w+)", take="first")
    texts = ["answer: yes, answer: no", "answer: no"]
    references = [["answer: no", "answer: yes"], "answer: yes"]
    assert metric.compute(texts, references) == {"regex_answer": 0.5}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RegexAnswer(pattern="("), r"metrics.pattern: found '\('"),
        (lambda: RegexAnswer(take="any"), "metrics.take: found 'any'; accepted: first, last"),
        (lambda: RegexAnswer().compute(["1"], ["x"]), "reference 0, 'x', has no match"),
        (lambda: PassRate().prepare(), "metrics.function: found None; accepted: module.function"),
        (lambda: PassRate("os.system").prepare(), "metrics.function: 'os' is not trusted"),
        (lambda: PassRate("trainer.errors.none").prepare(), "no function 'trainer.errors.none'"),
        (lambda: PassRate("trainer.nothing.f").prepare(), "no module 'trainer.nothing'"),
        (lambda: PassRate(lambda a, b: 2).compute(["a"], ["b"]), "returned 2 for text 0"),
    ],
)
def test_what_checks_nothing_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_function_that_raises_is_one_line() -> None:
    def fails(text: str, wanted: str) -> bool:
        raise KeyError("a\nb")

    with pytest.raises(InputError, match=r"metrics.function: raised KeyError .* for text 0"):
        PassRate(fails).compute(["a"], ["b"])
