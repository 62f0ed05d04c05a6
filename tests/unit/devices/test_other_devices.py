"""Devices that are neither a CPU nor a CUDA GPU: Apple's and Intel's, by fake tensors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.unit.test_exactness import SIZES
from trainer.devices.precision import in_float64
from trainer.devices.ranks import Ranks
from trainer.models.adapters.adapted_layer import adapted_layers
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.adapters.merging import merged_parameters
from trainer.models.auto import AutoModelForCausalLM
from trainer.models.config import ModelConfig
from trainer.models.families.marian import sinusoids

WITHOUT_FLOAT64 = ("mps",)


class Device(TorchDispatchMode):
    """Records the operations of a device, and refuses dtypes that it does not have."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for x in tree_leaves(found):
            if isinstance(x, Tensor) and x.device.type == self.kind:
                self.names.add(func.name())
                if self.kind in WITHOUT_FLOAT64:
                    assert x.dtype != torch.float64, f"{func.name()} in float64"
        return found


@pytest.fixture(params=["mps", "xpu"])
def kind(request: pytest.FixtureRequest) -> str:
    """The type of a device."""
    return request.param


@contextmanager
def pretended(kind: str) -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True), Device(kind):
        yield


def placed(model: nn.Module, kind: str) -> nn.Module:
    """The model with fake parameters on a device."""
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                new = torch.empty(old.shape, dtype=old.dtype, device=kind)
                module._parameters[name] = nn.Parameter(new, requires_grad=old.requires_grad)
    return model


def test_float64_is_on_the_device_where_it_has_it(kind: str) -> None:
    with pretended(kind):
        found = in_float64(torch.empty(3, device=kind))
    assert found.dtype == torch.float64
    assert found.device.type == ("cpu" if kind in WITHOUT_FLOAT64 else kind)


def test_adapters_are_merged_on_the_device(kind: str) -> None:
    entries = {"model_type": "llama", **SIZES, "num_key_value_heads": 3}
    model = AutoModelForCausalLM.from_config(ModelConfig(entries))
    model.add_lora(LoRASettings(rank=2), "nowhere")
    with pretended(kind):
        merged = dict(merged_parameters(placed(model, kind)))
    for name in adapted_layers(model):
        assert merged[f"{name}.weight"].device.type == kind


def test_sinusoids_are_computed_in_float64_where_it_is() -> None:
    with pretended("mps"):
        found = sinusoids(torch.empty(5, dtype=torch.int64, device="mps"), 8)
    assert found.dtype == torch.float32 and found.device.type == "mps"


ROOT = Path(__file__).parents[3]
ELSEWHERE = {
    "trainer/generation/logit_rules.py": "only for CUDA",
    "trainer/generation/sampling.py": "of scores that in_float64 returned; draws made on the host",
    "trainer/generation/assisted.py": "where the probabilities are, which in_float64 returned",
    "trainer/models/attention/flash_trial.py": "only for CUDA",
    "trainer/models/families/marian.py": "where the positions are, which in_float64 returned",
    "trainer/devices/precision.py": "in_float64 itself",
    "trainer/data/task_samples.py": "counts of the data, on the host",
    "trainer/tasks/label_losses.py": "counts of the data, on the host",
    "trainer/pipelines/sentence_similarity.py": "of lists of numbers, on the host",
}
"""File with a tensor in float64 -> why no device without the type gets it."""


def test_no_other_file_makes_float64_on_a_device() -> None:
    """Apple's GPUs have no float64: other files call `in_float64`, or are listed with a reason."""
    found = set()
    for path in [*ROOT.glob("trainer/**/*.py"), *ROOT.glob("recipes/*.py")]:
        text = path.read_text(encoding="utf-8")
        if re.search(
            r"\.double\(\)|dtype=torch\.(float64|double)|\.to\(torch\.(float64|double)", text
        ):
            found.add(path.relative_to(ROOT).as_posix())
    assert found == set(ELSEWHERE)


def test_sums_have_a_type_that_the_device_has() -> None:
    assert Ranks(torch.device("mps")).widest == torch.float32
    assert Ranks(torch.device("xpu")).widest == torch.float64
