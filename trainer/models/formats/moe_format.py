"""The format of mixtures of experts: additions to the format of other decoders."""

from collections.abc import Mapping
from typing import Any

from trainer.models.formats import decoder_format

DEFAULTS: Mapping[str, Any] = {
    **decoder_format.DEFAULTS,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}

REQUIRED: Mapping[str, Any] = decoder_format.REQUIRED

KEYS: Mapping[str, str] = {
    **decoder_format.KEYS,
    "layers.*.feed_forward.router": "layers.*.mlp.gate",
    **{
        f"layers.*.feed_forward.experts.{each}{leaf}": f"layers.*.mlp.experts.{each}"
        for each in ("gate_up_proj", "down_proj")
        for leaf in ("", ".weight")  # "": the module name, for the parameters of its adapters
    },
}
