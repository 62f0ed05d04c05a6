"""Predictions are gathered in host memory, whatever the devices of the ranks are."""

from pathlib import Path

from tests.distributed.forked import run_ranks


def test_arrays_do_not_travel_through_the_group_of_the_devices(tmp_path: Path) -> None:
    run_ranks("host_gathers", tmp_path, [2], timeout=600)
    assert {path.name for path in tmp_path.iterdir()} == {"rank0", "rank1"}
