"""2 -> 1 -> 4 -> 2 processes on a mixture, with kills: samples as planned, and equal weights."""

import json
from pathlib import Path

import pytest

from tests.distributed import mixed
from tests.distributed.forked import run_ranks
from tests.distributed.legs import LEGS, STEPS, check_legs
from tests.distributed.mixed import SIZES


@pytest.mark.slow
def test_handed_from_2_to_1_to_4_to_2_processes_with_kills(tmp_path: Path) -> None:
    run_ranks("mixed", tmp_path, [processes for processes, _, _ in LEGS], timeout=900)
    alone = mixed.run(tmp_path, "alone")
    alone.fit()
    planned = [alone.session.plan.global_batch(step).tolist() for step in range(STEPS)]
    check_legs(tmp_path, planned, alone)
    drawn = [sample for step in planned for sample in step]
    assert {n for n in drawn if n < SIZES["many"]} == set(range(SIZES["many"]))
    assert losses(tmp_path / "run") == [pytest.approx(row) for row in losses(tmp_path / "alone")]


def losses(folder: Path) -> list[dict[str, float]]:
    """The losses of each logged step, by source."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k.endswith("loss") or k == "step"} for row in rows]
