"""Freezing by name patterns."""

import pytest

from tests.unit.test_exactness import tiny_model
from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.training.freezing import freeze, trainable
from trainer.training.name_patterns import name_pattern
from trainer.training.optim import build_optimizer


def test_freezing_by_the_hubs_names_and_by_ours() -> None:
    for pattern in ("bert.embeddings.*", "body.embeddings.*"):
        model = tiny_model()
        assert freeze(model, [pattern]) == 5
        names = [name for name, _ in trainable(model)]
        assert names and not any("embeddings" in name for name in names)
        optimizer = build_optimizer(trainable(model), TrainSettings())
        assert sum(len(g["params"]) for g in optimizer.param_groups) == len(names)


@pytest.mark.parametrize(
    ("patterns", "message"), [(["nothing*"], "matches no parameter"), (["*"], "nothing to train")]
)
def test_freezing_refuses(patterns: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        freeze(tiny_model(), patterns)


def test_brackets_of_a_pattern_are_whole_numbers() -> None:
    names = [f"layers.{n}.weight" for n in range(13)]

    def matched(pattern: str) -> list[int]:
        meant = name_pattern(pattern)
        return [n for n, name in enumerate(names) if meant.fullmatch(name)]

    assert matched("layers.[0-11].*") == list(range(12))
    assert matched("layers.[0, 10-12].weight") == [0, 10, 11, 12]
    assert matched("*.[3]*") == [3] and matched("layers.?.weight") == list(range(10))
    ambiguous = "layers.[01].*"
    for wrong in (
        ambiguous,
        "layers.[ab].*",
        "layers.[3-1].*",
        "layers.[3",
        "layers.[!0].*",
        "layers.[].*",
    ):
        with pytest.raises(InputError, match="accepted: whole numbers in brackets"):
            name_pattern(wrong)
    model = tiny_model()
    assert freeze(model, ["body.layers.[0-1].*", "bert.embeddings.*"]) > 5
    assert not any(name.startswith("body.layers.0.") for name, _ in trainable(model))
