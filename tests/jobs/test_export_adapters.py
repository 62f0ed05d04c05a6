"""The export job with an adapter's folder: the formats for other programs get the merged model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import AutoConfig, AutoModelForCausalLM
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.tokenizer import Tokenizer

PACKAGES = {"gguf": "gguf", "onnx": "onnxruntime"}
IDS = torch.tensor([[5, 9, 3, 7]])


def write_adapter(base: Path, adapter: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Write a random language model and an adapter for it; returns the logits [1, 4, V] of both."""
    torch.manual_seed(0)
    texts = ["the cat sat on the mat, and the dog sat on the cat"] * 20
    Tokenizer.train(texts, vocab_size=300, kind="gpt2").save_pretrained(base)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 128}
    config = AutoConfig({"model_type": "llama", "vocab_size": 300, **sizes})
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    plain = model(IDS).logits
    model.add_lora(LoRASettings(rank=4))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        adapted = model(IDS).logits
    model.save_pretrained(adapter)
    return plain, adapted


def logits_of(folder: Path, format: str) -> torch.Tensor:
    """The logits of an exported model."""
    if format == "gguf":
        return AutoModelForCausalLM.from_pretrained(folder / "model.gguf").eval()(IDS).logits
    import onnxruntime

    mask, past = torch.ones_like(IDS), [torch.zeros(1, 2, 0, 16) for _ in range(2)]

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    given = dict(zip([each.name for each in session.get_inputs()], [IDS, mask, *past], strict=True))
    found = session.run(["logits"], {name: tensor.numpy() for name, tensor in given.items()})
    return torch.tensor(found[0])


@pytest.mark.slow
@pytest.mark.parametrize("format", PACKAGES)
def test_the_merged_model_is_exported(ask: Callable[..., Any], format: str) -> None:
    pytest.importorskip(PACKAGES[format])
    plain, adapted = write_adapter(Path("base"), Path("adapter"))
    answer = ask("job=export", "model.path=adapter", "output.path=out", f"format={format}")
    assert answer.code == 0, answer.err
    assert (adapted - plain).abs().max() > 0.2
    tolerance = 0.02 if format == "gguf" else 1e-4  # whose weights are rounded to fp16
    with torch.no_grad():
        found = logits_of(Path("out"), format)
    torch.testing.assert_close(found, adapted, atol=tolerance, rtol=tolerance)
