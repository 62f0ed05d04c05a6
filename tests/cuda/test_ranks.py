"""Ranks on pretended devices: how DDP and FSDP move a batch, and one of their steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import (
    DefaultAllGather,
    DefaultReduceScatter,
)
from torch.distributed.utils import _to_kwargs
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.cuda.device import CUDA, Device
from tests.cuda.models import EVERY_FAMILY, EXPERTS, batch_of, head_of, loss_of, model_of
from trainer.devices.collectives import Collectives
from trainer.devices.sharding import shard
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_ids import generate_ids

TWO_LAYERS = {"num_hidden_layers": 2}


@contextmanager
def group_of(world_size: int, rank: int = 0) -> Iterator[None]:
    """This process as one rank of many, whose collectives do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_batch_is_usable_after_a_wrapper_has_moved_it(family: str) -> None:
    """`_to_kwargs` is what DDP and FSDP2 call before a model's forward pass."""
    with Device() as device:
        model = device.place(model_of(family))
        batch = batch_of([64] * 8).to(CUDA)
        _, (inputs,) = _to_kwargs((), batch.inputs(), CUDA, False)
        with device.traced() as trace:
            with torch.autocast("cuda", torch.bfloat16, enabled=family in EXPERTS):
                outputs = model(**inputs)
            outputs.last_hidden_state.sum().backward()
        assert not trace.waits


def _as_they_are(_: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Returns DDP's gradient buckets unchanged, since the pretended group gives no result."""
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_step_of_two_ranks_under_ddp(family: str, rank: int) -> None:
    with Device(num_devices=2) as device, group_of(2, rank):
        model = device.place(model_of(family, head_of(family)))
        wrapped = DistributedDataParallel(
            model, device_ids=[0], gradient_as_bucket_view=True, init_sync=False
        )
        wrapped.register_comm_hook(None, _as_they_are)
        batch = batch_of([9, 33, 5]).to(CUDA)
        with device.traced() as trace:
            with torch.autocast("cuda", torch.bfloat16):
                outputs = wrapped(**batch.inputs())
            loss_of(outputs, batch).backward()
        assert not trace.waits, trace.waits
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("world_size", "rank", "precision"), [(2, 0, "fp32"), (2, 1, "bf16"), (8, 5, "bf16")]
)
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_step_of_sharded_ranks(family: str, world_size: int, rank: int, precision: str) -> None:
    if family in EXPERTS and precision == "fp32":
        return  # only in bf16 does the kernel for experts not wait
    with Device(num_devices=world_size) as device, group_of(world_size, rank):
        model = device.place(model_of(family, head_of(family)))
        shard(model, CUDA, precision)
        batch = batch_of([9, 33, 5]).to(CUDA)
        with device.traced() as trace:
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
                outputs = model(**batch.inputs())
            loss_of(outputs, batch).backward()
        assert not trace.waits, trace.waits
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name


@contextmanager
def communications(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, torch.dtype]]]:
    """Records the collectives of sharded ranks, with the dtypes of their tensors."""
    done: list[tuple[str, torch.dtype]] = []

    def watch(kind: type, what: str) -> None:
        def call(self: Any, *args: Any, usual: Any = kind.__call__, **options: Any) -> Any:
            done.append((what, options["output_tensor"].dtype))
            return usual(self, *args, **options)

        monkeypatch.setattr(kind, "__call__", call)

    with monkeypatch.context() as patch:
        monkeypatch = patch
        watch(DefaultAllGather, "gather")
        watch(DefaultReduceScatter, "reduce")
        yield done


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradients_are_reduced_once_a_step_or_after_each_pass(
    family: str, once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Device(num_devices=8) as device, group_of(8):
        model = device.place(model_of(family, head_of(family), **TWO_LAYERS))
        shard(model, CUDA, "bf16")
        batch, collectives = batch_of([9, 33, 5]).to(CUDA), Collectives(model, once)
        parts = sum(isinstance(part, FSDPModule) for part in model.modules())
        reduced = []
        for last in (False, False, True):
            with communications(monkeypatch) as done, collectives.averaged_if(last):
                with torch.autocast("cuda", torch.bfloat16):
                    outputs = model(**batch.inputs())
                loss_of(outputs, batch).backward()
            reduced.append(sum(what == "reduce" for what, _ in done))
        assert reduced == ([0, 0, parts] if once else [parts] * 3)
        gradients = [p.grad for p in model.parameters()]
        assert all(g is not None and g.dtype == torch.float32 for g in gradients)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_whole_weights_are_gathered_in_the_type_they_compute_in(
    family: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them in bf16, except for a head that computes in fp32."""
    if family in EXPERTS and precision == "fp32":
        return  # only in bf16 does the kernel for experts not wait
    with Device(num_devices=8) as device, group_of(8):
        model = device.place(model_of(family, head_of(family)))
        shard(model, CUDA, precision)
        batch = batch_of([9, 33, 5]).to(CUDA)
        with (
            communications(monkeypatch) as done,
            torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"),
        ):
            model(**batch.inputs())
        wide = [what for what, dtype in done if dtype == torch.float32]
        assert len(wide) == (len(done) if precision == "fp32" else model.head_in_fp32)


def test_a_layer_is_gathered_while_the_one_before_it_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Device(num_devices=8) as device, group_of(8):
        model = device.place(model_of("llama", "causal_lm", num_hidden_layers=4))
        shard(model, CUDA, "bf16")
        batch = batch_of([9, 33, 5]).to(CUDA)
        known: list[int] = []
        with communications(monkeypatch) as done:
            for layer in model.body.layers:
                layer.register_forward_pre_hook(lambda *_: known.append(len(done)))
            with torch.autocast("cuda", torch.bfloat16):
                model(**batch.inputs())
        assert known == [3, 4, 5, 5]  # the root, the layer itself, and the next one


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_sharded_ranks_generate(family: str) -> None:
    """A text generated during training: FSDP moves the arguments of this call too."""
    with Device(num_devices=2) as device, group_of(2):
        model = device.place(model_of(family, "causal_lm"))
        shard(model, CUDA, "bf16")
        settings = GenerationSettings(max_new_tokens=3)
        with device.traced() as trace, torch.autocast("cuda", torch.bfloat16):
            found = generate_ids(model, [[5, 6, 7], [8]], settings, end_ids=[])
        assert [len(ids) for ids in found] == [3, 3]
        assert trace.waits.total() == 3, trace.waits
