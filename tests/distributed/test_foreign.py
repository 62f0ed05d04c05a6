"""Models of transformers on 1 and 2 processes, whole and sharded: the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.foreign import RESUMED, TASKS, save_all
from tests.distributed.forked import run_ranks
from tests.distributed.results import far

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results of 2 processes and of 1."""
    folder = tmp_path_factory.mktemp("foreign")
    save_all(folder)
    run_ranks("foreign", folder, (2, 1), timeout=900)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[int, Any]:
    return {n: json.loads((folder / f"{n}.json").read_text()) for n in (1, 2)}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", TASKS)
def test_two_processes_train_as_one(
    name: str, strategy: str, folder: Path, found: dict[int, Any]
) -> None:
    """Weights, the evaluation, and the saved folder, which transformers can load."""
    import transformers

    weights, facts, sizes = found[2][f"{name} {strategy}"]
    alone, wanted, (size,) = found[1][f"{name} ddp"]
    assert far(weights, alone) <= 1e-12
    assert facts == pytest.approx(wanted, rel=1e-6)
    if strategy == "fsdp":
        assert max(sizes) < 0.6 * size
    adapts = "adapters" in name
    file = "adapter_model.safetensors" if adapts else "model.safetensors"
    folders = [folder / each for each in (f"{name} {strategy} 2", f"{name} ddp 1")]
    saved, reference = (load_file(each / file) for each in folders)
    assert saved.keys() == reference.keys()
    for key, tensor in saved.items():
        torch.testing.assert_close(tensor, reference[key], rtol=1e-10, atol=1e-12)
    if not adapts:
        options = {"output_loading_info": True}
        _, info = transformers.AutoModel.from_pretrained(folders[0], **options)
        assert not info["missing_keys"]


@pytest.mark.parametrize(("name", "strategy"), RESUMED)
def test_a_run_on_two_processes_resumes_bit_for_bit(
    name: str, strategy: str, found: dict[int, Any]
) -> None:
    """With dropout."""
    whole, cut = found[2][f"{name} {strategy} resumed"]
    assert whole == cut


def test_layers_are_gathered_in_bf16(found: dict[int, Any]) -> None:
    ddp, fsdp = found[2]["bf16"]
    assert far(fsdp, ddp) < 0.02
