"""Written GGUF files: read back bit for bit, and run by llama.cpp if it is installed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trainer.errors import InputError
from trainer.export import llama_cpp
from trainer.export.greedy import TIES, TOKENS, compare_greedy, greedy
from trainer.interop.gguf_config import read_config
from trainer.interop.gguf_metadata import architecture_of, metadata_of
from trainer.interop.gguf_vocabulary import vocabulary_of
from trainer.interop.gguf_writing import write_gguf
from trainer.tokenizer import Tokenizer

pytest.importorskip("gguf")

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 2),
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
SCALES = {"attention_multiplier": 0.2, "embedding_multiplier": 3.0}
SCALES |= {"residual_multiplier": 0.25, "logits_scaling": 4.0}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"rope_scaling": YARN, "tie_word_embeddings": True},
    "llama 3": {"rope_scaling": LLAMA3, "rope_theta": 500_000.0},
    "llama linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 32},
    "gemma2": {"head_dim": 16, "sliding_window": 64, "query_pre_attn_scalar": 16, **CAPS},
    "gemma3_text": {
        **{"head_dim": 16, "sliding_window": 64, "query_pre_attn_scalar": 16},
        "num_hidden_layers": 6,
    },
    "phi3": {},
    "olmo2": {},
    "granite": SCALES,
    "smollm3": {"num_hidden_layers": 4},
    "glm4": {"head_dim": 16},
    "cohere2": {"num_hidden_layers": 4, "logit_scale": 0.25},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": 300},
}
"""A family, and its entries in addition to SIZES."""
FIRST = ("llama", "gemma2", "gpt2")


def marked() -> list[Any]:
    """The models, most of them for the slow tests."""
    slow = pytest.mark.slow
    return [n if n in FIRST else pytest.param(n, marks=slow) for n in MODELS]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Byte-level BPE as GPT-2's, of 300 tokens."""
    texts = ["the cat sat on the mat, and the dog sat on the cat" for _ in range(20)]
    return Tokenizer.train(texts, vocab_size=300, kind="gpt2")


def random_model(name: str) -> Any:
    torch.manual_seed(0)
    family = name.split()[0]
    sizes = {"vocab_size": 300} if family == "gpt2" else SIZES
    entries = {"model_type": family, **sizes, **MODELS[name]}
    model = AutoModelForCausalLM.from_config(AutoConfig(entries)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases would be ones and zeros
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("name", marked())
def test_what_is_written_is_read(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Every tensor bit for bit, the logits, and the same ids and greedy texts in llama.cpp."""
    model = random_model(name)
    ids = torch.arange(3, 203).view(2, 100)
    vocabulary = vocabulary_of(tokenizer, 300, [tokenizer.eos_token_id])
    for dtype in ("fp32", "q8_0") if name in FIRST else ("fp32",):
        file = tmp_path / f"{dtype}.gguf"
        write_gguf(file, model, vocabulary, dtype, "tiny")
        again = AutoModelForCausalLM.from_pretrained(file).eval()
        family = {"mistral": "llama"}.get(name, name.split()[0])  # without a window they are equal
        assert read_config(file)["model_type"] == family
        if dtype == "fp32":
            wanted = model.state_dict()
            for key, tensor in again.state_dict().items():
                torch.testing.assert_close(tensor, wanted[key], rtol=0, atol=5e-7)
            torch.testing.assert_close(again(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
        if llama_cpp.is_installed():
            check_in_llama_cpp(file, again, tokenizer, dtype)


def check_in_llama_cpp(file: Path, model: Any, tokenizer: Tokenizer, dtype: str) -> None:
    texts = ["the cat sat", "and  the dog's 12 mats"]
    prompts = [list(tokenizer(text)["input_ids"]) for text in texts]
    found = llama_cpp.read(file, prompts, texts, TOKENS)
    assert found.tokenized == prompts
    own = greedy(model, prompts)
    agreement = compare_greedy(model, prompts, own, found.continuations, TIES[dtype])
    assert agreement.wrong is None


def test_the_vocabulary_is_read_as_it_was(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Byte-level BPE with digits split or not, and BPE with bytes as in Llama 2; templates."""
    model = random_model("llama")
    texts = [
        "the cat sat on 12 mats,  and\n\nthe dog's",
        "\u00e4\u4f60 \U0001f600 x",
        "a<|im_end|>b",
    ]
    for number, made in enumerate((tokenizer, with_digits(), sentencepiece(tmp_path))):
        made.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        end = made.eos_token_id
        file = tmp_path / f"{number}.gguf"
        size = len(made) + 4  # like a vocabulary that was rounded up
        model.resize_token_embeddings(size)
        write_gguf(file, model, vocabulary_of(made, size, [end, 5]), "fp32", "tiny")
        again = AutoTokenizer.from_pretrained(file)
        for text in texts:
            assert again(text)["input_ids"] == made(text)["input_ids"], text
        assert again.chat_template == made.chat_template
        assert again.eos_token_id == end and read_config(file)["eos_token_id"] == [end, 5]
        if llama_cpp.is_installed():
            wanted = [made(text)["input_ids"] for text in texts]
            assert llama_cpp.read(file, [], texts, 0).tokenized == wanted


def with_digits() -> Tokenizer:
    """Byte-level BPE with single digits, as SmolLM's."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    made = Tokenizer.train(["the cat and 12 dogs"] * 9, vocab_size=290, kind="gpt2")
    split = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    made.backend.pre_tokenizer = Sequence(split)
    return made


def sentencepiece(folder: Path) -> Tokenizer:
    """BPE with byte fallback and a space before each text, as Llama 2's tokenizer.json."""
    import tokenizers
    from tokenizers import AddedToken, decoders, models, normalizers

    pieces = [
        "\u2581",
        *"thecasondmgx',.12",
        "th",
        "the",
        "\u2581the",
        "at",
        "\u2581cat",
        "\u2581c",
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *pieces]
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("a", "t"), ("\u2581", "c")]
    merges.append(("\u2581c", "at"))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    replace = normalizers.Replace(" ", "\u2581")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace])
    ends = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*ends, decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens([AddedToken(token, special=True) for token in tokens[:3]])
    backend.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return AutoTokenizer.from_pretrained(folder)


def without_unknown(folder: Path) -> Tokenizer:
    """The tokenizer of `sentencepiece` with an unknown token that is not in its vocabulary."""
    import tokenizers

    made = sentencepiece(folder)
    saved = json.loads(made.backend.to_str())
    saved["model"]["unk_token"] = "<none>"
    made.backend = tokenizers.Tokenizer.from_str(json.dumps(saved))
    return made


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path, minilm: Path) -> None:
    with pytest.raises(InputError, match="gguf has no writer for bert; accepted: cohere2, gemma"):
        architecture_of(AutoConfig({"model_type": "bert"}))
    with pytest.raises(InputError, match="gguf does not support a WordPiece model"):
        vocabulary_of(AutoTokenizer.from_pretrained(minilm), 30522, [])
    refused = {
        "rope_type dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
        "query_pre_attn_scalar 99; accepted: 16": (
            "gemma2",
            {**MODELS["gemma2"], "query_pre_attn_scalar": 99},
        ),
        "layer_types other than": (
            "gemma2",
            {**MODELS["gemma2"], "layer_types": ["full_attention", "sliding_attention"]},
        ),
        "no_rope_layer_interval 3": ("smollm3", {"no_rope_layer_interval": 3}),
    }
    for message, (family, entries) in refused.items():
        with pytest.raises(InputError, match=re.escape(message)):
            metadata_of(AutoConfig({"model_type": family, **SIZES, **entries}))
    with pytest.raises(
        InputError, match="^tokenizer: unk_token: found '<none>'; accepted: a token"
    ):
        vocabulary_of(without_unknown(tmp_path), 300, [])
    tokenizer = with_digits()
    with pytest.raises(InputError, match=r"found \d+ tokens for 20 embeddings"):
        vocabulary_of(tokenizer, 20, [])
    from tokenizers.pre_tokenizers import ByteLevel, Punctuation, Sequence

    tokenizer.backend.pre_tokenizer = Sequence([Punctuation(), ByteLevel(use_regex=False)])
    with pytest.raises(InputError, match="a pre-tokenizer other than those of gpt-2, smollm"):
        vocabulary_of(tokenizer, 290, [])
