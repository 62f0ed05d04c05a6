"""The plan of global batches: every sample once per epoch, for any ranks and micro batches."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.dealing import ATTENTION_PARITY, cost
from trainer.data.plan import GlobalBatchPlan, epoch_order, evaluation_batches, splitmix64
from trainer.errors import InputError


def ragged(num_samples: int, seed: int = 0) -> np.ndarray:
    """Lengths like those of texts: many short, few long."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.lognormal(3.5, 0.8, num_samples), 1, 512).astype(np.int64)


plans = st.builds(
    lambda n, size, seed: GlobalBatchPlan(ragged(n, seed=n), size, seed),
    st.integers(1, 200),
    st.integers(1, 64),
    st.integers(-5, 2**70),
)
properties = settings(deadline=None, database=None, derandomize=True)
bounds = st.one_of(st.none(), st.integers(1, 600))


@properties
@given(plans, st.integers(0, 3))
def test_an_epoch_holds_every_sample_once(plan: GlobalBatchPlan, epoch: int) -> None:
    first = epoch * plan.steps_per_epoch
    batches = [plan.global_batch(first + i) for i in range(plan.steps_per_epoch)]
    assert sorted(np.concatenate(batches)) == list(range(len(plan)))
    assert all(len(batch) == plan.global_batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= plan.global_batch_size


@properties
@given(plans)
def test_position_counts_the_samples_of_all_steps_before(plan: GlobalBatchPlan) -> None:
    consumed = 0
    for step in range(3 * plan.steps_per_epoch):
        assert plan.samples_before(step) == consumed
        consumed += len(plan.global_batch(step))


def dealt(
    plan: GlobalBatchPlan, step: int, world_size: int, size: int | None, tokens: int | None
) -> list[list[np.ndarray]]:
    """The micro batches of each rank, of up to `size` samples and `tokens` tokens."""
    limits: dict[str, Any] = {"micro_batch_size": size, "max_tokens": tokens}
    return [
        plan.micro_batches(step, rank=rank, world_size=world_size, **limits)
        for rank in range(world_size)
    ]


@properties
@given(plans, st.integers(1, 6), bounds, bounds)
def test_ranks_share_a_global_batch(
    plan: GlobalBatchPlan, world_size: int, micro_batch_size: int | None, max_tokens: int | None
) -> None:
    step = plan.steps_per_epoch - 1
    ranks = dealt(plan, step, world_size, micro_batch_size, max_tokens)
    assert len({len(parts) for parts in ranks}) == 1
    everything = np.concatenate([part for parts in ranks for part in parts])
    assert sorted(everything) == sorted(plan.global_batch(step))
    for part in (part for parts in ranks for part in parts):
        assert micro_batch_size is None or len(part) <= micro_batch_size
        assert max_tokens is None or len(part) <= 1 or plan.lengths[part].sum() <= max_tokens
        assert (np.diff(plan.lengths[part]) <= 0).all()


@properties
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 9))
def test_micro_batch_size_makes_no_more_micro_batches_than_it_must(
    size: int, world_size: int, micro_batch_size: int
) -> None:
    plan = GlobalBatchPlan(ragged(size), size, seed=0)
    parts = plan.micro_batches(0, rank=0, world_size=world_size, micro_batch_size=micro_batch_size)
    assert len(parts) == -(-size // (world_size * micro_batch_size))


@properties
@given(plans, st.data())
def test_resuming_anywhere_in_any_world_sees_every_sample_once(
    plan: GlobalBatchPlan, data: st.DataObject
) -> None:
    """Runs that stop at any step and continue with another world size see the same samples."""
    total = 2 * plan.steps_per_epoch
    seen: list[int] = []
    step = 0
    while step < total:
        stop = data.draw(st.integers(step + 1, total))
        world_size = data.draw(st.sampled_from([1, 2, 4]))
        fresh = GlobalBatchPlan(plan.lengths, plan.global_batch_size, plan.seed)
        for at in range(step, stop):
            for rank in range(world_size):
                for part in fresh.micro_batches(at, rank=rank, world_size=world_size):
                    seen.extend(part.tolist())
        step = stop
    assert sorted(seen[: len(plan)]) == sorted(seen[len(plan) :]) == list(range(len(plan)))


def test_a_global_batch_depends_on_neither_ranks_nor_bounds_nor_the_steps_before() -> None:
    asked_in_order = GlobalBatchPlan(ragged(1000), 32, seed=7)
    for step in range(70):
        for rank in range(3):
            asked_in_order.micro_batches(step, rank=rank, world_size=3, max_tokens=200)
        backwards = GlobalBatchPlan(ragged(1000), 32, seed=7)
        np.testing.assert_array_equal(
            asked_in_order.global_batch(step), backwards.global_batch(step)
        )


def test_work_is_dealt_by_cost_and_not_by_count() -> None:
    """Compared with dealing samples round robin in the order of the plan, as samplers do."""
    lengths = np.random.default_rng(0).lognormal(4, 1, 2000).astype(np.int64) + 1
    plan = GlobalBatchPlan(lengths, 64, seed=0)
    assert plan.imbalance(1) == 0.0
    round_robin = []
    for step in range(plan.steps_per_epoch):
        costs = cost(lengths[plan.global_batch(step)])
        loads = [costs[rank::4].sum() for rank in range(4)]
        round_robin.append(max(loads) / np.mean(loads) - 1)
    assert 0 < plan.imbalance(4) < 0.1 * np.mean(round_robin)
    assert GlobalBatchPlan(np.array([7, 7]), 2, seed=0).imbalance(2) == 0.0
    assert GlobalBatchPlan(np.array([7]), 2, seed=0).imbalance(2) == 1.0


def test_lengths_do_not_decide_the_order() -> None:
    one, other = GlobalBatchPlan(ragged(99), 8, 3), GlobalBatchPlan(ragged(99, seed=1), 8, 3)
    np.testing.assert_array_equal(one.global_batch(5), other.global_batch(5))


def test_the_hash_is_splitmix64() -> None:
    """The first three numbers of its authors' generator, started at 0."""
    states = np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(states).tolist() == expected


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    """Recorded: a run resumed after an upgrade must continue with the same samples."""
    assert epoch_order(12, seed=0, epoch=0).tolist() == RECORDED[0]
    assert epoch_order(12, seed=42, epoch=3).tolist() == RECORDED[1]


def test_orders_of_other_seeds_and_epochs_are_unrelated() -> None:
    orders = [epoch_order(2000, seed, epoch) for seed in range(6) for epoch in range(6)]
    for i, one in enumerate(orders):
        # The correlation of unrelated orders has a standard deviation of 1 / sqrt(2000).
        assert abs(np.corrcoef(one, np.arange(2000))[0, 1]) < 0.12
        for other in orders[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.12


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_have_about_the_same_to_do(world_size: int) -> None:
    plan = GlobalBatchPlan(ragged(4096), 256, seed=0)
    for step in range(plan.steps_per_epoch):
        shares = [
            np.concatenate(plan.micro_batches(step, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        lengths = [plan.lengths[share] for share in shares]
        costs = [(length * (ATTENTION_PARITY + length)).sum() for length in lengths]
        assert max(costs) <= 1.02 * np.mean(costs)


def test_a_micro_batch_size_that_fits_exactly_gives_each_rank_as_many_samples() -> None:
    plan = GlobalBatchPlan(ragged(64), 64, seed=0)
    shares = [plan.micro_batches(0, rank=r, world_size=2, micro_batch_size=32) for r in (0, 1)]
    assert [[len(part) for part in parts] for parts in shares] == [[32], [32]]
    loads = [plan.lengths[parts[0]].sum() for parts in shares]
    assert max(loads) <= 1.05 * np.mean(loads)


def test_a_rank_without_samples_gets_empty_micro_batches() -> None:
    plan = GlobalBatchPlan(np.array([5, 9, 7]), 2, seed=0)
    parts = [plan.micro_batches(1, rank=rank, world_size=3) for rank in range(3)]
    assert sorted(len(part[0]) for part in parts) == [0, 0, 1]


def test_a_sample_longer_than_the_budget_goes_alone() -> None:
    plan = GlobalBatchPlan(np.array([3, 50, 3, 3]), 4, seed=0)
    parts = plan.micro_batches(0, rank=0, world_size=1, max_tokens=10)
    assert [sorted(plan.lengths[part]) for part in parts] == [[50], [3, 3, 3]]


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match="no rows"):
        GlobalBatchPlan(np.array([], dtype=np.int64), 8, seed=0)


@properties
@given(st.lists(st.integers(1, 100), max_size=300), st.integers(1, 150))
def test_evaluation_batches_hold_every_sample_once_within_the_budget(
    lengths: list[int], max_tokens: int
) -> None:
    batches = evaluation_batches(np.array(lengths, dtype=np.int64), max_tokens)
    everything = [i for batch in batches for i in batch.tolist()]
    assert sorted(everything) == list(range(len(lengths)))
    assert [lengths[i] for i in everything] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= max_tokens


RECORDED = ([4, 8, 0, 1, 7, 6, 11, 2, 10, 5, 3, 9], [8, 0, 1, 9, 6, 11, 5, 3, 10, 7, 4, 2])


RECORDED_PLANS = {
    (131, 16, 0, 1, None, None): "219ff772bef02fd6",
    (131, 16, 42, 2, None, 120): "1e1f5c66fd47238e",
    (200, 32, 7, 3, 4, None): "387f43ada29364db",
    (99, 8, 2**40, 4, 3, 200): "b1c3156f857dd8dc",
    (7, 11, 1, 8, None, 60): "e6ff11791c65a78e",
}
"""(samples, global batch size, seed, ranks, micro batch size, max tokens) -> digest of the plan."""


@pytest.mark.parametrize("case", RECORDED_PLANS)
def test_plans_are_those_of_earlier_versions(case: tuple[int, int, int, int, int, int]) -> None:
    """Checkpoints hold only a position, so that another plan would train on other samples."""
    num_samples, size, seed, world_size, micro_batch_size, max_tokens = case
    lengths = (np.arange(num_samples, dtype=np.int64) * 7919) % 97 + 1
    plan = GlobalBatchPlan(lengths, size, seed)
    found = hashlib.sha256()
    for step in range(plan.steps_per_epoch + 2):
        for rank in range(world_size):
            for part in plan.micro_batches(
                step,
                rank=rank,
                world_size=world_size,
                micro_batch_size=micro_batch_size,
                max_tokens=max_tokens,
            ):
                found.update(repr(part.tolist()).encode())
    batches = evaluation_batches(lengths, max_tokens or 100)
    found.update(repr([batch.tolist() for batch in batches]).encode())
    assert found.hexdigest()[:16] == RECORDED_PLANS[case]


def runs_of(part: np.ndarray, size: int) -> list[list[int]]:
    """A micro batch cut into groups of `size`; the last one may be shorter."""
    return [part[start : start + size].tolist() for start in range(0, len(part), size)]


@properties
@given(
    st.integers(1, 150),
    st.integers(2, 5),
    st.integers(1, 12),
    st.integers(1, 8),
    st.one_of(st.none(), st.integers(1, 40)),
    bounds,
)
def test_no_split_divides_a_group(
    num_samples: int,
    group_size: int,
    groups: int,
    world_size: int,
    more: int | None,
    max_tokens: int | None,
) -> None:
    """Each group runs once, whole and in order; a short one comes last in its micro batch."""
    plan = GlobalBatchPlan(
        ragged(num_samples, seed=groups), group_size * groups, 3, group_size=group_size
    )
    micro_batch_size = None if more is None else group_size + more - 1
    for step in {0, plan.steps_per_epoch - 1}:
        ranks = dealt(plan, step, world_size, micro_batch_size, max_tokens)
        assert len({len(parts) for parts in ranks}) == 1
        found = [group for parts in ranks for part in parts for group in runs_of(part, group_size)]
        assert sorted(found) == sorted(runs_of(plan.global_batch(step), group_size))
        for part in (part for parts in ranks for part in parts):
            assert micro_batch_size is None or len(part) <= micro_batch_size
            fits = max_tokens is None or plan.lengths[part].sum() <= max_tokens
            assert fits or len(part) <= group_size
    assert plan.imbalance(world_size, micro_batch_size) >= 0


@properties
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 600))
def test_evaluation_keeps_groups_of_the_data_set(size: int, group_size: int, tokens: int) -> None:
    batches = evaluation_batches(ragged(size), tokens, group_size)
    found = [group for batch in batches for group in runs_of(batch, group_size)]
    assert sorted(found) == runs_of(np.arange(size), group_size)


def test_sizes_that_would_divide_a_group_are_refused() -> None:
    with pytest.raises(InputError, match=r"^trainer.global_batch_size: found 6; .* multiple of 4,"):
        GlobalBatchPlan(ragged(9), 6, seed=0, group_size=4)
    plan = GlobalBatchPlan(ragged(9), 8, seed=0, group_size=4)
    for ask in (
        lambda: plan.imbalance(1, 3),
        lambda: plan.micro_batches(0, rank=0, world_size=1, micro_batch_size=3),
    ):
        with pytest.raises(InputError, match=r"^trainer.micro_batch_size: found 3; .*at least 4,"):
            ask()
