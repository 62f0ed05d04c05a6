"""The body of rotary decoders over flat batches: Llama and related families.

Dimensions: T tokens, D channels.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.decoder_layers import DecoderLayer
from trainer.models.blocks.layer_place import layer_kinds, layer_places
from trainer.models.blocks.norms import RMSNorm
from trainer.models.blocks.outgrown import outgrown
from trainer.models.blocks.rope import Rope, read_rope
from trainer.models.blocks.rotary import Rotation
from trainer.models.body import Body, Encoded, Trace
from trainer.models.config import ModelConfig
from trainer.models.context_share import ContextGroup, PartLayout
from trainer.models.inputs import FlatInputs


class DecoderBody(Body):
    """Embeddings, layers and a final norm, built by subclasses. `pooled` is the last token."""

    pools_last_token = True
    only_ids = False
    final_norm: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.context: ContextGroup | None = None
        """The ranks that share the tokens of a training batch; None: each rank has its own batch"""

    def forward(
        self, inputs: FlatInputs, hidden_states_wanted: bool, attentions_wanted: bool
    ) -> Encoded:
        x, rotations = self.embeddings(inputs), self.rotations(inputs)
        part = None
        if not (hidden_states_wanted or attentions_wanted):
            part = self._part(inputs, x.device)
        if part is not None:
            x, inputs = part.take(x), part.inputs(inputs)
            rotations = _rotations_of_part(rotations, part)
        layout, cache = inputs.layout, inputs.cache
        trace = Trace(layout, hidden_states_wanted)
        attentions: list[Tensor] = []
        for number, (layer, rotation) in enumerate(zip(self.layers, rotations, strict=True)):
            x = trace.record(x)
            past = None if cache is None else (cache, number)
            arguments = (x, rotation, layout, past, inputs.dropout_keys, attentions_wanted)
            x, weights = self.run_layer(layer, arguments)
            if weights is not None:
                attentions.append(weights)
        if cache is not None:
            cache.advance(layout)
        x = trace.record(self.final_norm(x))
        if part is not None and part.whole is not None:
            x, layout = part.gather_alike(x), part.whole
        return Encoded(
            tokens=x,
            pooled=x.index_select(0, layout.last_tokens),
            hidden_states=trace.recorded,
            attentions=tuple(attentions) if attentions_wanted else None,
        )

    def _part(self, inputs: FlatInputs, device: torch.device) -> PartLayout | None:
        """This rank's share of the tokens, if several ranks share each text in training."""
        trains = self.training and torch.is_grad_enabled()
        return None if self.context is None or not trains else self.context.part(inputs, device)

    def rotations(self, inputs: FlatInputs) -> Sequence[Rotation | None]:
        """The cosines and sines of the positions for each layer, or None without rotation."""
        return [None] * len(self.layers)


def _rotations_of_part(
    rotations: Sequence[Rotation | None], part: PartLayout
) -> list[Rotation | None]:
    """The rotations of this rank's tokens; layers that share a rotation still share it."""
    known: dict[int, Rotation] = {}
    for rotation in rotations:
        if rotation is not None and id(rotation) not in known:
            known[id(rotation)] = part.take(rotation[0]), part.take(rotation[1])
    return [None if rotation is None else known[id(rotation)] for rotation in rotations]


class TokenEmbeddings(nn.Module):
    """Token embeddings without positions, which the attention layers encode."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, pad = config.hidden_size, config.pad_token_id
        self.token = nn.Embedding(config.vocab_size, size, padding_idx=pad)

    def forward(self, inputs: FlatInputs) -> Tensor:
        """[T, D], in the dtype of the active autocast, if any, so that later layers use it too."""
        return to_autocast_type(inputs.embedded(self.token))


class Decoder(DecoderBody):
    """Llama's body (Touvron et al., 2023).

    Other families set class variables or override methods.
    """

    norm: ClassVar[type[Any]] = RMSNorm
    """The class of the final norm; its arguments are a size and an epsilon"""
    embeddings_class: ClassVar[type[TokenEmbeddings]] = TokenEmbeddings
    layer_class: ClassVar[type[Any]] = DecoderLayer
    """Its arguments are a config and a `LayerPlace`"""

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        assert not pooler, "these families have no pooler"
        super().__init__()
        kinds = self.kinds(config)
        self.ropes = self.make_ropes(config, kinds)
        self.keys_depend_on_length = any(r and r.depends_on_length for r in self.ropes)
        self.embeddings = self.embeddings_class(config)
        self.layers = nn.ModuleList(
            self.layer_class(config, place) for place in layer_places(config, kinds)
        )
        self.final_norm = self.norm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, inputs: FlatInputs, hidden_states_wanted: bool, attentions_wanted: bool
    ) -> Encoded:
        length = next((r.switch_length for r in self.ropes if r and r.switch_length), None)
        if length is None or (whole := outgrown(inputs, length)) is None:
            return super().forward(inputs, hidden_states_wanted, attentions_wanted)
        return whole.new_outputs(super().forward(whole.inputs, hidden_states_wanted, False))

    def kinds(self, config: ModelConfig) -> list[str]:
        """The kind of each layer: LOCAL (with the window) or GLOBAL."""
        return layer_kinds(config)

    def make_ropes(self, config: ModelConfig, kinds: list[str]) -> list[Rope | None]:
        """The rotary positions of each layer; None for a layer without them."""
        return [read_rope(config)] * len(kinds)

    def rotations(self, inputs: FlatInputs) -> Sequence[Rotation | None]:
        made: dict[int, Rotation] = {}  # layers share rope objects
        for rope in self.ropes:
            if rope is not None and id(rope) not in made:
                made[id(rope)] = rope.rotation(inputs.position_ids, inputs.layout)
        return [None if rope is None else made[id(rope)] for rope in self.ropes]
