"""GenerationWorker: its cache and its number of texts stay within their limits."""

import asyncio
import random
from collections import deque

import torch

from tests.jobs.serving import HEADS, SIZES, tokenizer_with
from trainer import AutoModelForCausalLM
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_choice import ChoiceSettings
from trainer.models.cache import KeyValueCache
from trainer.models.config import ModelConfig
from trainer.serving.figures import Figures
from trainer.serving.generation_worker import GenerationWorker, Prompt
from trainer.serving.scheduler import Channel

LIMIT, TEXTS = 400, 6


def held(grids: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> int:
    """The tokens that a cache has room for in a layer."""
    return max((grid[0].shape[0] * grid[0].shape[2] for grid in grids.values()), default=0)


def some_prompt(channel: Channel, draw: random.Random) -> Prompt:
    length, new = draw.choice([(1, 1), (2, 5), (9, 3), (90, 9), (5, 120), (300, 100)])
    copies = draw.choice([1, 1, 3]) if length < 90 else 1
    settings = [
        ChoiceSettings(GenerationSettings(max_new_tokens=new, temperature=1.0), number)
        for number in range(copies)
    ]
    ids = draw.choices(range(100), k=length)
    return Prompt(channel, ids, settings, frozenset({3}) if draw.random() < 0.5 else frozenset())


def test_the_cache_holds_no_more_than_its_limit() -> None:
    """Room for later tokens and texts included, and the texts that are being read."""
    torch.manual_seed(0)
    tokenizer = tokenizer_with()
    entries = {"model_type": "llama", "vocab_size": len(tokenizer), **SIZES, **HEADS}
    model = AutoModelForCausalLM.from_config(ModelConfig(entries)).eval()
    worker = GenerationWorker(model, tokenizer, Figures(), LIMIT, 32, TEXTS)
    most = {"cells": 0, "texts": 0}

    def look(cache: KeyValueCache) -> None:
        reading = worker._reading
        cells = held(worker._batch._cache.grids)
        cells += held(reading.cache.grids) if reading is not None else 0
        most["cells"] = max(most["cells"], cells)
        most["texts"] = max(most["texts"], worker.running)

    model.register_forward_hook(lambda *given, **_: look(given[2]["cache"]), with_kwargs=True)

    async def serve() -> None:
        draw, channel = random.Random(1), Channel()
        for count in (1, 15, 1):
            waiting = deque(some_prompt(channel, draw) for _ in range(count))
            while waiting or worker.busy:
                worker.admit(waiting)
                worker.step()

    asyncio.run(serve())
    assert LIMIT / 2 < most["cells"] <= LIMIT
    assert most["texts"] == TEXTS
