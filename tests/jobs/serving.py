"""Shared by the tests of the serve job: a tiny chat model, and its application."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from starlette.testclient import TestClient

from trainer import AutoModelForCausalLM
from trainer.config.command import parse
from trainer.config.composing import compose_run
from trainer.config.saved_recipe import with_saved_recipe
from trainer.jobs.serve import service_of
from trainer.models.config import ModelConfig
from trainer.runs.run import Run
from trainer.serving.app import Service, application
from trainer.tokenizer import Tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 400}
TEMPLATE = (
    "{% if tools %}<tool_call> {{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = ("<tool_call>", '{"name": "weather", "arguments": {"city": "Oslo"}}', "</tool_call>")
"""The tokens that `calling_model` generates after a newline."""


def tokenizer_with(tokens: Sequence[str] = ()) -> Tokenizer:
    """A small tokenizer with a chat template and these additional tokens."""
    found = Tokenizer.train(
        ["what a happy day for a function"] * 3,
        vocab_size=300,
        kind="gpt2",
        special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    found.add_tokens(list(tokens))
    found.chat_template = TEMPLATE
    return found


def write_chatty(folder: Path) -> Path:
    """A random Llama with a chat template, in a folder."""
    torch.manual_seed(1)
    tokenizer = tokenizer_with()
    entries = {"model_type": "llama", "vocab_size": len(tokenizer), "initializer_range": 0.5}
    AutoModelForCausalLM.from_config(ModelConfig({**entries, **SIZES, **HEADS})).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


def write_calling(folder: Path) -> Path:
    """A Llama that generates CALL after each newline, then ends; each token implies the next."""
    tokenizer = tokenizer_with(CALL)
    size = len(tokenizer)
    entries = {"model_type": "llama", "vocab_size": size, "hidden_size": size}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 4}
    layers = {"num_hidden_layers": 1, "intermediate_size": 4, "max_position_embeddings": 900}
    model = AutoModelForCausalLM.from_config(ModelConfig({**entries, **heads, **layers}))
    chain = [*tokenizer("\n", add_special_tokens=False)["input_ids"]]
    chain += tokenizer.convert_tokens_to_ids([*CALL, "<|im_end|>"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        model.get_input_embeddings().weight.copy_(torch.eye(size))
        head = model.get_output_embeddings().weight
        for token, following in zip(chain, chain[1:], strict=False):
            head[following, token] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def service_in(folder: Path, *options: str) -> tuple[Run, Service]:
    """The service of a folder's model, which is not started."""
    arguments = ["job=serve", f"model.path={folder}", "serve.name=m", *options]
    run = with_saved_recipe(compose_run(parse(arguments)))
    assert run.recipe is not None
    return run, service_of(run, run.recipe)


@contextmanager
def client_of(folder: Path, *options: str, key: str | None = None) -> Iterator[Any]:
    """A client of the served model of a folder, in this process."""
    run, service = service_in(folder, *options)
    service.scheduler.start()
    try:
        with TestClient(application(service, run.serve, key)) as client:
            yield client
    finally:
        service.scheduler.stop()
