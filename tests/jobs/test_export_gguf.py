"""The export job's GGUF files: written, generated from, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import AutoConfig, AutoModelForCausalLM
from trainer.export import gguf_folder, llama_cpp
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.chat import CHATML

pytest.importorskip("gguf")


@pytest.fixture
def writer(alone: None) -> Path:
    """The folder of a random language model that chats."""
    torch.manual_seed(0)
    texts = ["the cat sat on the mat, and the dog sat on the cat" for _ in range(20)]
    tokenizer = Tokenizer.train(texts, vocab_size=300, kind="gpt2")
    tokenizer.chat_template = CHATML
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 128}
    entries = {"model_type": "llama", "vocab_size": 300, **sizes}
    model = AutoModelForCausalLM.from_config(AutoConfig(entries))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained("writer")
    tokenizer.save_pretrained("writer")
    return Path("writer")


def test_a_file_writes_what_the_model_writes(ask: Callable[..., Any], writer: Path) -> None:
    answer = ask("job=export", "model.path=writer", "output.path=gguf", "format=gguf", "dtype=f16")
    assert answer.code == 0, answer.err
    assert {"model.gguf", "Modelfile", "export.json"} <= {p.name for p in Path("gguf").iterdir()}
    assert "<|im_start|>" in Path("gguf/Modelfile").read_text()
    card = json.loads(Path("gguf/export.json").read_text())
    assert card["dtype"] == "fp16" and "tokens" in card["checks"][0]["found"]
    if not llama_cpp.is_installed():
        assert any("llama.cpp did not run the file" in note for note in card["notes"])
    prompt = (
        "job=generate",
        "input.prompt=the cat",
        "input.chat=false",
        "generation.max_new_tokens=9",
    )
    texts = [ask(*prompt, f"model.path={path}") for path in ("writer", "gguf/model.gguf")]
    assert texts[0].code == 0 and texts[0].out == texts[1].out, texts


def test_another_text_is_refused(
    ask: Callable[..., Any], writer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose rows of queries are in another order than the format's."""
    monkeypatch.setattr("trainer.interop.gguf_writing.is_reordered", lambda *_: False)
    answer = ask("job=export", "model.path=writer", "output.path=x", "format=gguf")
    assert answer.code == 4 and "nothing was written" in answer.err and "token" in answer.err
    assert answer.err.count("\n") == 1 and not list(Path.cwd().glob("*x"))


def test_what_is_missing_is_named(
    ask: Callable[..., Any], writer: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    monkeypatch.setattr(llama_cpp, "QUANTIZER", "a-program-that-nobody-has")
    export = ("job=export", "output.path=x", "format=gguf")
    refused = {
        (*export, "model.path=writer", "dtype=Q4_K_M"): "q4_k_m needs llama.cpp's quantizer",
        (*export, f"model.path={tiny}"): "gguf has no writer for bert; accepted: cohere2, gemma",
    }
    for arguments, message in refused.items():
        answer = ask(*arguments)
        assert answer.code == 2 and message in answer.err, answer.err
        assert answer.err.count("\n") == 1 and not Path("x").exists()
    monkeypatch.setattr(gguf_folder, "find_spec", lambda name: None)
    answer = ask(*export, "model.path=writer")
    assert answer.code == 2 and "pip install 'tempering[gguf]'" in answer.err
