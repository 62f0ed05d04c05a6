"""Ranks that share the tokens of texts: which kernels a rank's attention runs on a GPU."""

from typing import Any

import pytest
from torch import Tensor

from tests.cuda.device import CUDA, Device
from tests.cuda.models import batch_of, model_of
from trainer.devices.precision import autocast
from trainer.models import context_share
from trainer.models.context_share import ContextGroup, PartLayout


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_rank_attends_with_torchs_kernel_or_in_blocks(
    dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host never waits for the device; the exchange with the other rank is omitted."""

    def alone(ctx: Any, x: Tensor, part: PartLayout, alike: bool) -> Tensor:
        ctx.part = part
        assert part.whole is not None
        return x.new_empty(part.whole.num_tokens, *x.shape[1:])

    def back(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.part.take(grad), None, None

    monkeypatch.setattr(context_share._Gather, "forward", staticmethod(alone))
    monkeypatch.setattr(context_share._Gather, "backward", staticmethod(back))
    with Device() as device:
        model = device.place(model_of("llama", attention_dropout=dropout))
        model.body.context = ContextGroup(1, 2, None)  # type: ignore[arg-type, assignment]
        batch = batch_of([9000, 700]).to(CUDA)
        with device.traced() as trace, autocast("bf16", CUDA):
            outputs = model(**batch.inputs())
            outputs[0].sum().backward()
    varlen = [name for name in trace.launches if "varlen" in name]
    assert bool(varlen) == (dropout == 0), trace.launches
    assert not trace.waits, trace.waits
    assert trace.largest < 9700 * 9700
