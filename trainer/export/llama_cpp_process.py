"""The process that runs llama.cpp: reads a request as JSON from stdin, and prints the answer."""

import ctypes
import json
import sys
from typing import Any, TypeAlias

import llama_cpp
import numpy as np

Llama: TypeAlias = Any
"""llama_cpp.Llama, a loaded model; the package has no type annotations."""
FP32_CACHE = 0
"""ggml's number for fp32. The default, fp16, would round the cached keys and values."""


def main() -> None:
    """Answer the request: quantize a file, or continue prompts and tokenize texts."""
    request = json.load(sys.stdin)
    if "quantize" in request:
        quantize(*request["quantize"])
        print(json.dumps({}))
        return
    longest = max((len(prompt) for prompt in request["prompts"]), default=1)
    llama = llama_cpp.Llama(
        request["file"],
        n_ctx=longest + request["count"] + 8,
        n_gpu_layers=0,
        type_k=FP32_CACHE,
        type_v=FP32_CACHE,
        verbose=False,
    )
    found = [continued(llama, prompt, request["count"]) for prompt in request["prompts"]]
    texts = [llama.tokenize(text.encode(), special=True) for text in request["texts"]]
    print(json.dumps({"continuations": found, "tokenized": texts}))


def continued(llama: Llama, prompt: list[int], count: int) -> list[int]:
    """Continue a prompt greedily by `count` tokens."""
    llama.reset()
    new, found = prompt, []
    for _ in range(count):
        llama.eval(new)
        pointer = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(llama.n_vocab(),))
        new = [int(logits.argmax())]
        found += new
    return found


def quantize(source: str, target: str, name: str) -> None:
    """Write the file `source` to `target`, with its matrices in the type `name`."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    code = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options))
    if code:
        sys.exit(f"llama_model_quantize failed with code {code}")


if __name__ == "__main__":
    main()
