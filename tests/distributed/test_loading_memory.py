"""Loading a sharded model: no rank ever holds the whole model in host memory."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.loading_memory import KINDS
from tests.distributed.results import results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("memory")
    return results("loading_memory", folder, (2,), timeout=900)[2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_takes_the_memory_of_its_shard(kind: str, found: Any) -> None:
    """A rank also holds the layer that it reads, and its copy of that layer's rows."""
    for rank in found:
        peak, own, whole = rank[kind]
        assert own <= 0.55 * whole
        assert peak <= 0.8 * whole
