"""Context parallelism: the groups of ranks that share the tokens of each text."""

from torch import nn

from trainer.devices.groups import own_group
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.models.blocks.decoder import DecoderBody
from trainer.models.blocks.router_balance import BalancedDecoder
from trainer.models.context_share import ContextGroup
from trainer.models.pretrained import PretrainedModel
from trainer.settings import TrainSettings


def share_context(model: nn.Module, ranks: Ranks, size: int, settings: TrainSettings) -> None:
    """Let every `size` consecutive ranks train on the same texts, each on its share of the tokens.

    Every rank calls it. Raises InputError for models other than decoders, if `size` does not divide
    the number of ranks, and with `trainer.compile`.
    """
    if size == 1:
        return
    where = f"launch.context_parallel: found {size}"
    if ranks.world_size % size:
        accepted = "accepted: a divisor of their number"
        raise InputError(f"{where} for {ranks.world_size} processes; {accepted}")
    if not isinstance(model, PretrainedModel) or not isinstance(model.body, DecoderBody):
        raise InputError(f"{where}, and {type(model).__name__} is not a decoder; accepted: 1")
    if isinstance(model.body, BalancedDecoder) and model.body.balances:
        found = f"{where} with output_router_logits, whose loss needs whole texts"
        raise InputError(f"{found}; accepted: 1, or model.config.output_router_logits=false")
    if settings.compile:
        raise InputError(f"{where} with trainer.compile=true; accepted: one of them")
    ranks.copies = size
    firsts = range(0, ranks.world_size, size)
    group = own_group([range(first, first + size) for first in firsts])
    model.body.context = ContextGroup(ranks.rank % size, size, group)
