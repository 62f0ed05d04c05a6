"""Write batch: generates a text for each sample of a batch during an evaluation."""

from typing import Any

import torch
from torch import Tensor

from trainer.generation.generative_model import GenerativeModel
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_ids import generate_ids
from trainer.models.sharded import is_sharded


def written_tokens(model: GenerativeModel, batch: Any, settings: GenerationSettings) -> Tensor:
    """The ids that an encoder-decoder generates for each sample of a batch [N, max_new_tokens].

    Rows are padded with -1. The model must not be sharded, since all ranks would have to generate
    the same number of tokens.
    """
    assert not is_sharded(model), "refused by check_sharding"
    sources = batch.input_ids[batch.tokens_of_role("encoder")]
    prompts = [
        ids.tolist() for ids in sources.cpu().split(batch.lengths_of_role("encoder").tolist())
    ]
    found = generate_ids(model, prompts, settings)
    written = torch.full((len(prompts), settings.max_new_tokens), -1)
    for row, ids in zip(written, found, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return written.to(batch.input_ids.device)
