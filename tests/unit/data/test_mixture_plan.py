"""Plans of mixtures: shares, passes and orders, as functions of the seed and the step."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from trainer.data.mixed_rows import Blend
from trainer.data.mixture_plan import MixturePlan, epoch_counts
from trainer.data.plan import evaluation_batches
from trainer.errors import InputError

SIZES = {"many": 60, "some": 20, "few": 7}


def blend(weights: Any = None, epochs: Any = None, **form: Any) -> Blend:
    none = dict.fromkeys(SIZES)
    return Blend(
        none if weights is None else dict(zip(SIZES, weights, strict=True)),
        none if epochs is None else dict(zip(SIZES, epochs, strict=True)),
        **form,
    )


def plan(how: Blend, group_size: int = 1, batch: int = 12, seed: int = 3) -> MixturePlan:
    sizes = np.array(list(SIZES.values()))
    lengths = np.arange(sizes.sum()) % 9 + 1
    counts = epoch_counts(SIZES, how, group_size)
    return MixturePlan(lengths, sizes, counts, batch, seed, group_size)


def sources(samples: np.ndarray) -> list[int]:
    return np.searchsorted([60, 80], samples, side="right").tolist()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (blend(), [60, 20, 7]),
        (blend(temperature=1e9), [29, 29, 29]),
        (blend([2, 1, 1]), [43, 22, 22]),
        (blend([2, 1, 1], until="first"), [14, 7, 7]),
        (blend([2, 1, 1], until="all"), [60, 30, 30]),
        (blend([1, 0, 1]), [34, 0, 33]),
        (blend([4, 1, 1], temperature=2.0, until="first"), [14, 7, 7]),
        (blend([1e6, 1, 1]), [87, 1, 1]),
        (blend(epochs=[0.5, 1, 3]), [30, 20, 21]),
    ],
)
def test_the_samples_of_an_epoch_follow_from_the_weights(how: Blend, expected: list[int]) -> None:
    assert epoch_counts(SIZES, how).tolist() == expected


def test_counts_and_groups_are_whole() -> None:
    counts = epoch_counts(SIZES, blend([2, 1, 1], until="all"), group_size=4)
    assert counts.tolist() == [60, 32, 28]  # 30 groups: 15, and twice 7.5
    with pytest.raises(InputError, match=r"mixture.few: found 7 training samples; accepted: .* 8"):
        epoch_counts(SIZES, blend(), group_size=8)


@pytest.mark.parametrize(
    "how",
    [
        blend([1e12, 1, 1], until="all"),
        blend([1e30, 1, 1], until="all"),
        blend([3, 2, 1], until="all", temperature=0.01),
        blend(epochs=[1e8, 1, 1]),
        blend(epochs=[1e30, 1, 1]),
    ],
)
def test_an_epoch_without_end_is_refused(how: Blend) -> None:
    """Its order would not fit into memory; still larger numbers would not fit into 64 bits."""
    with pytest.raises(
        InputError, match=r"^dataset.mixture: .* make an epoch of [0-9.e+]+ samples"
    ):
        epoch_counts(SIZES, how)


def test_the_limit_counts_samples_and_not_groups() -> None:
    how = blend(epochs=[2e7, 1, 1])
    for group_size in (1, 4):
        with pytest.raises(InputError, match=r"make an epoch of 1.2e\+09 samples"):
            epoch_counts(SIZES, how, group_size)


def test_every_sample_of_a_source_is_seen_before_one_is_repeated() -> None:
    """Over epochs: a source goes on where the epoch before stopped."""
    mixed = plan(blend([2, 1, 1], until="first"))
    steps = mixed.steps_per_epoch * 9
    drawn = np.concatenate([mixed.global_batch(step) for step in range(steps)])
    assert len(drawn) == mixed.samples_before(steps) == 9 * 28
    for start, size in ((0, 60), (60, 20), (80, 7)):
        own = drawn[(drawn >= start) & (drawn < start + size)]
        for first in range(0, len(own) - size + 1, size):
            assert len(set(own[first : first + size].tolist())) == size
        orders = {tuple(own[n : n + size].tolist()) for n in range(0, len(own) - size + 1, size)}
        assert len(orders) == len(own) // size  # another order in each pass


def test_every_global_batch_has_nearly_the_shares_of_the_mixture() -> None:
    mixed = plan(blend([3, 2, 1]))
    for step in range(mixed.steps_per_epoch - 1):
        found = Counter(sources(mixed.global_batch(step)))
        assert all(
            abs(found[source] - 12 * share) <= 2
            for source, share in enumerate((1 / 2, 1 / 3, 1 / 6))
        )


@pytest.mark.parametrize("group_size", [1, 3])
def test_any_number_of_ranks_runs_the_planned_samples(group_size: int) -> None:
    """In any order of steps, as after a resume; groups stay whole, with samples of one source."""
    mixed, again = plan(blend([3, 2, 1]), group_size), plan(blend([3, 2, 1]), group_size)
    for step in (9, 0, 17, 4):
        whole = mixed.global_batch(step).tolist()
        for world_size in (1, 2, 4):
            parts = [
                batch
                for rank in range(world_size)
                for batch in again.micro_batches(
                    step, rank=rank, world_size=world_size, max_tokens=20
                )
            ]
            assert sorted(np.concatenate(parts).tolist()) == sorted(whole)
            groups = [b.reshape(-1, group_size) for b in parts]
            for group in np.concatenate(groups).tolist():
                assert len(set(group)) == group_size
                assert len(set(sources(np.array(group)))) == 1
    other = plan(blend([3, 2, 1]), group_size, seed=4)
    assert other.global_batch(0).tolist() != mixed.global_batch(0).tolist()


@pytest.mark.parametrize("group_size", [1, 3])
def test_no_micro_batch_mixes_sources_of_several_kinds(group_size: int) -> None:
    kinds = np.repeat([0, 1, 0], list(SIZES.values()))
    mixed = plan(blend([3, 2, 1]), group_size)
    mixed.kinds = kinds
    for step in range(mixed.steps_per_epoch):
        for world_size in (1, 2):
            options = {"micro_batch_size": 6, "max_tokens": 40}
            parts = [
                batch
                for rank in range(world_size)
                for batch in mixed.micro_batches(step, rank=rank, world_size=world_size, **options)
            ]
            assert all(len(set(kinds[part])) <= 1 for part in parts)
            whole = mixed.global_batch(step)
            assert sorted(np.concatenate(parts).tolist()) == sorted(whole.tolist())
    batches = evaluation_batches(mixed.lengths, 40, group_size, kinds)
    assert all(len(set(kinds[batch])) == 1 for batch in batches)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(kinds)))
    assert sum(len(batch) % group_size > 0 for batch in batches) <= 2, "one short group per kind"


def test_a_far_step_needs_no_earlier_one() -> None:
    mixed = plan(blend([2, 1, 1], until="first"))
    far = 10**9
    assert len(mixed.global_batch(far * mixed.steps_per_epoch)) == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"weights": [1, -1, 1]},
            r"mixture.some.weight: found -1; accepted: a number of 0 or more",
        ),
        ({"weights": [1, float("nan"), 1]}, r"mixture.some.weight: found nan; accepted"),
        ({"weights": [0, 0, 0]}, r"mixture: each weight is 0; accepted: at least one above 0"),
        ({"weights": [1, None, 1]}, r"mixture.some.weight: nothing given, but 'many' has one"),
        ({"epochs": [1, 0, 1]}, r"mixture.some.epochs: found 0; accepted: a number above 0"),
        ({"weights": [1, 1, 1], "epochs": [1, 1, 1]}, r"found weight and epochs; accepted: one of"),
        ({"temperature": 0.0}, r"dataset.temperature: found 0.0; accepted: a number above 0"),
        ({"until": "last"}, r"dataset.until: found 'last'; accepted: rows, first, all"),
        ({"epochs": [1, 1, 1], "until": "all"}, r"dataset.until: the sources set epochs"),
    ],
)
def test_what_defines_no_mixture_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        blend(**given)


def test_names_of_sources_can_be_part_of_file_names() -> None:
    with pytest.raises(InputError, match=r"found the name 'a/b'; accepted: letters, digits"):
        Blend({"a/b": None}, {"a/b": None})
    for name in ("eval", "eval_news"):
        with pytest.raises(InputError, match=f"found the name '{name}'; accepted: names that do"):
            Blend({name: None}, {name: None})
    with pytest.raises(InputError, match="found no source"):
        Blend({}, {})
