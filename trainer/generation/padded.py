"""Generation as Hugging Face users call it: padded rows of ids in, longer rows of ids out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.errors import InputError, nearest
from trainer.generation.decoding import generate_ids
from trainer.generation.settings import GenerationSettings
from trainer.models.generation_config import model_end_ids


def continued(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None, options: Mapping[str, Any]
) -> Tensor:
    """input_ids [B, L] and what follows each row, [B, L + n]; `options` as `GenerationSettings`.

    Pads after a row that ends early are the config's pad token, or its end token if it has none.
    Raises InputError for an option that is none, and for stop texts, which need a tokenizer.
    """
    known = [name for name in GenerationSettings.__dataclass_fields__ if name != "stop"]
    for name in options:
        if name not in known:
            accepted = f"{', '.join(known)}{nearest(name, known)}"
            raise InputError(f"generate: found the option '{name}'; accepted: {accepted}")
    seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    prompts = [row[mask != 0].tolist() for row, mask in zip(input_ids, seen, strict=True)]
    new = generate_ids(model, prompts, GenerationSettings(**options))
    pad = next((i for i in (model.config.pad_token_id, *model_end_ids(model)) if i is not None), 0)
    grid = input_ids.new_full((len(new), max(map(len, new))), pad)
    for row, ids in zip(grid, new, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return torch.cat((input_ids, grid), 1)
