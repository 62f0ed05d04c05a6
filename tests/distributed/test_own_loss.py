"""A model's own loss on two ranks: the check before the first step runs on all of them."""

from pathlib import Path

import pytest

from tests.distributed.results import results


@pytest.mark.slow
def test_a_sharded_model_trains_with_its_own_loss(tmp_path: Path) -> None:
    found = results("own_loss", tmp_path, (2,), timeout=600)[2]
    assert found["fsdp"] == pytest.approx(found["ddp"], rel=1e-6)
