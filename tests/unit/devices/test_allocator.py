"""Allocators: few cached kernels for any number of shapes, and expandable segments."""

import os
import subprocess
import sys

import pytest
import torch

from trainer.devices.allocator import KERNELS, keep_few_kernels

PRODUCTS = """
import torch
import torch.nn.functional as F

from trainer.devices.allocator import keep_few_kernels

if BOUNDED:
    keep_few_kernels()

def resident() -> int:
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4096

def products(sizes: range) -> None:
    for size in sizes:
        F.linear(torch.ones(size, 64).bfloat16(), torch.ones(128, 64).bfloat16())

products(range(100, 400))
before = resident()
products(range(400, 700))
print(resident() - before)
"""


def growth(bounded: bool) -> int:
    """Bytes that 300 more shapes of products add to a process after 300 shapes."""
    program = PRODUCTS.replace("BOUNDED", str(bounded))
    command = [sys.executable, "-c", program]
    unset = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=unset)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_new_shapes_do_not_fill_the_memory() -> None:
    """The size of kernels depends on the CPU, so the growth is compared with that of all."""
    every = growth(bounded=False)
    if every < 64 << 20:
        pytest.skip("this machine's kernels are small")
    assert growth(bounded=True) < every / 3


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    keep_few_kernels()
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(KERNELS)
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")


SEGMENTS = """
import torch

from trainer.devices.allocator import let_segments_grow

let_segments_grow()
print(torch._C._accelerator_getAllocatorSettings())
"""


@pytest.mark.parametrize(
    "given,expected",
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
    ],
)
def test_gpu_memory_grows_in_place_unless_the_user_wants_it_otherwise(
    given: dict[str, str], expected: str
) -> None:
    """Torch reads the setting at the first allocation, long after its import."""
    if not hasattr(torch._C, "_accelerator_getAllocatorSettings"):
        pytest.skip("needs torch 2.13")
    own = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    command = [sys.executable, "-c", SEGMENTS]
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=own | given)
    assert done.stdout.strip() == expected


HOLES = """
import torch

from trainer.devices.allocator import give_back_freed_memory, keep_freed_memory

def resident() -> int:
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4096

keep_freed_memory()  # blocks of these sizes lie in one heap
before, kept = resident(), []
for _ in range(40):
    whole = torch.ones(1 << 20)  # as a layer's weights, of which a rank keeps a share
    kept.append(whole[: 1 << 14].clone())
    del whole
held = [torch.ones(1 << 20) for _ in range(40)]
kept += [torch.ones(1 << 14) for _ in range(40)]
del held
if GIVEN_BACK:
    give_back_freed_memory()
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_is_free_between_blocks_in_use_goes_back() -> None:
    grown = []
    for given_back in (False, True):
        program = HOLES.replace("GIVEN_BACK", str(given_back))
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        grown.append(int(done.stdout))
    if grown[0] < 100 << 20:
        pytest.skip("this allocator leaves no holes")
    assert grown[1] < 40 << 20
