"""Checks that the hub's clients load every kind of folder that a Trainer writes.

    pip install "tempering[test]" "transformers[serving]"
    python benchmarks/clients.py

`Trainer.save` writes small models with random weights. Each folder is then loaded by transformers
or sentence-transformers, or served by `transformers serve`. The answers must equal those of our
pipelines: labels and texts exactly, numbers up to 1e-4.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import tempering
from recipes.causal_lm import CausalLM
from recipes.masked_lm import MaskedLM
from recipes.question_answering import QuestionAnswering
from recipes.reranking import Reranking
from recipes.sentence_embedding import SentenceEmbedding
from recipes.seq2seq import Seq2Seq
from recipes.sequence_classification import SequenceClassification
from recipes.token_classification import TokenClassification
from trainer.models.config import ModelConfig
from trainer.models.of_task import model_class
from trainer.tokenizer import Tokenizer

TEXTS = ["the quick brown fox jumps over the lazy dog", "who sleeps in the house at night"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


def main() -> None:
    root = Path(tempfile.mkdtemp())
    failed = 0
    for name, compare in COMPARED.items():
        try:
            compare(root / name)
            print(f"equal   {name}", flush=True)
        except Exception as error:
            failed += 1
            print(f"DIFFERS {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    raise SystemExit(bool(failed))


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer.train(TEXTS * 9, vocab_size=120, kind="wordpiece")
    tokenizer.model_max_length = 128
    return tokenizer


def byte_level() -> Tokenizer:
    control = ["<|im_start|>", "<|im_end|>", "<pad>"]
    tokenizer = Tokenizer.train(TEXTS * 9, vocab_size=320, kind="gpt2", special_tokens=control)
    tokenizer.pad_token, tokenizer.eos_token = "<pad>", "<|im_end|>"
    tokenizer.chat_template, tokenizer.model_max_length = TEMPLATE, 128
    return tokenizer


def saved(folder: Path, recipe: Any, **entries: Any) -> str:
    """Save a small model with a recipe's head by a Trainer; returns its folder."""
    torch.manual_seed(3)
    decoder = entries.get("model_type") == "llama"
    tokenizer = byte_level() if decoder else wordpiece()
    config = {"model_type": "bert", **SIZES, "vocab_size": len(tokenizer), **entries}
    made = ModelConfig({**config, **recipe.head.config})
    model: Any = model_class(recipe.head.task).from_config(made)
    trainer = tempering.Trainer(model, recipe, {"precision": "fp32"}, tokenizer=tokenizer)
    trainer.save(folder)
    return str(folder)


def assert_same(found: Any, expected: Any, where: str = "answer") -> None:
    """Raise AssertionError unless numbers are close and everything else is equal."""
    if isinstance(expected, dict):
        for name in expected:
            assert_same(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), f"{where}: {len(found)} and {len(expected)} answers"
        for place, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{where}[{place}]")
    elif hasattr(expected, "__float__") and not isinstance(expected, (str, bool)):
        assert abs(float(found) - float(expected)) < 1e-4, f"{where}: {found} and {expected}"
    else:
        assert found == expected, f"{where}: {found!r} and {expected!r}"


def pipelines(task: str, recipe: Any, inputs: Any, **options: Any) -> Callable[[Path], None]:
    """A function that compares the pipelines of both packages for one task."""
    entries = options.pop("entries", {})

    def compare(folder: Path) -> None:
        path = saved(folder, recipe, **entries)
        theirs = transformers.pipeline(task, model=path, device="cpu")
        ours = tempering.pipeline(task, path)
        assert_same(ours(inputs, **options), theirs(inputs, **options))

    return compare


def answers(folder: Path) -> None:
    """Compare the logits of question answering, for which transformers 5 has no pipeline."""
    path = saved(folder, QuestionAnswering())
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(path)
    ours = tempering.AutoModelForQuestionAnswering.from_pretrained(path)
    batch = tokenizer(TEXTS[1], TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        found, expected = ours(**batch), theirs(**batch)
    for name in ("start_logits", "end_logits"):
        assert_same(found[name].tolist(), expected[name].tolist(), name)


def sequences(folder: Path) -> None:
    """Compare greedy texts of an encoder-decoder."""
    entries = {"model_type": "t5", "d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 48}
    entries |= {"num_layers": 2, "decoder_start_token_id": 0}
    torch.manual_seed(3)
    tokenizer = wordpiece()
    entries |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    entries |= {"eos_token_id": tokenizer.sep_token_id}
    model = tempering.AutoModelForSeq2SeqLM.from_config(ModelConfig(entries))
    tempering.Trainer(model, Seq2Seq(), {"precision": "fp32"}, tokenizer=tokenizer).save(folder)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    ours = tempering.AutoModelForSeq2SeqLM.from_pretrained(folder)
    batch = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 8, "do_sample": False}
    assert_same(
        ours.generate(**ids, **settings).tolist(), theirs.generate(**ids, **settings).tolist()
    )


def embeddings(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    path = saved(folder, SentenceEmbedding())
    theirs = SentenceTransformer(path, device="cpu").encode(TEXTS, convert_to_tensor=True)
    inputs = {"source_sentence": TEXTS[0], "sentences": [TEXTS[1]]}
    found = tempering.pipeline("sentence-similarity", path)(inputs)
    assert_same(found, torch.cosine_similarity(theirs[:1], theirs[1:]).tolist())


def ranks(folder: Path) -> None:
    from sentence_transformers import CrossEncoder

    path = saved(folder, Reranking())
    found = tempering.pipeline("text-ranking", path)({"query": "the fox", "documents": TEXTS})
    assert_same(found, CrossEncoder(path, device="cpu").rank("the fox", TEXTS))


def served(folder: Path) -> None:
    """Compare a greedy answer of `transformers serve` in a chat."""
    path = saved(folder, CausalLM(), model_type="llama", pad_token_id=2, bos_token_id=0)
    chat = [{"role": "user", "content": TEXTS[0]}]
    written = tempering.pipeline("text-generation", path)(chat, max_new_tokens=8, do_sample=False)
    expected = written[0]["generated_text"][-1]["content"]
    assert expected, "found no text to compare"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", path]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        body = {"model": path, "messages": chat, "temperature": 0.0, "max_tokens": 8}
        answer = posted(f"http://127.0.0.1:{port}", body, server)
    finally:
        server.terminate()
        server.wait()
    assert_same(answer["choices"][0]["message"]["content"], expected)


def posted(address: str, body: dict[str, Any], server: "subprocess.Popen[bytes]") -> Any:
    """Wait until the server is ready, send the request, and return the answer."""
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/chat/completions", data, headers)
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                break
        except OSError:
            if server.poll() is not None:
                assert server.stderr is not None
                lines = server.stderr.read().decode().splitlines()
                raise RuntimeError(f"transformers serve ended: {lines[-1:]}") from None
            time.sleep(0.5)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.loads(answer.read())


LABELS = SequenceClassification(label="label", problem="single_label", labels=["bad", "good"])
LLAMA = {"model_type": "llama", "pad_token_id": 2, "bos_token_id": 0}
COMPARED: dict[str, Callable[[Path], None]] = {
    "text-classification": pipelines("text-classification", LABELS, TEXTS, top_k=None),
    "token-classification": pipelines(
        "token-classification", TokenClassification(labels=["O", "B-x", "I-x"]), TEXTS[0]
    ),
    "fill-mask": pipelines("fill-mask", MaskedLM(), "the quick [MASK] fox"),
    "feature-extraction": pipelines("feature-extraction", SentenceEmbedding(), TEXTS[0]),
    "text-generation": pipelines(
        "text-generation",
        CausalLM(),
        TEXTS[0],
        max_new_tokens=6,
        do_sample=False,
        entries=LLAMA,
    ),
    "question answering": answers,
    "sequence to sequence": sequences,
    "SentenceTransformer": embeddings,
    "CrossEncoder": ranks,
    "transformers serve": served,
}

if __name__ == "__main__":
    main()
