"""Every metadata key of GGUF: read as by llama.cpp, without effect, or refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

gguf = pytest.importorskip("gguf")

from tests.interop.test_gguf import tensors_of, theirs, write  # noqa: E402
from trainer import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trainer.errors import InputError  # noqa: E402
from trainer.generation.stop_tokens import stop_token_ids  # noqa: E402
from trainer.interop.gguf_keys import READ, SAME, _is_among, treatment  # noqa: E402
from trainer.interop.gguf_tokenizer import QWEN2  # noqa: E402

IDS = torch.randint(3, 90, (2, 40), generator=torch.Generator().manual_seed(0))


def known_keys(found: Any) -> list[str]:
    """The keys in the package gguf, with its placeholders {arch} and {id}."""
    keys: list[str] = []
    for name, value in vars(found).items():
        if name.startswith("_"):
            continue
        keys += [value] if isinstance(value, str) else known_keys(value)
    return keys


def test_every_key_that_the_package_names_has_a_fate() -> None:
    keys = known_keys(gguf.constants.Keys)
    assert len(keys) > 150
    fates = {key: treatment(key.replace("{arch}", "qwen2"), "qwen2") for key in keys}
    own = {key for key, found in fates.items() if found == "read"}
    stale = {key for key in READ | set(SAME) if key not in keys}
    assert stale == {  # older than the package gguf
        "{arch}.rope.scale_linear",
        "tokenizer.ggml.cls_token_id",
        "tokenizer.ggml.add_space_prefix",
    } - set(keys)
    assert own >= READ & set(keys)
    refused = {key for key, found in fates.items() if found == "refused"}
    assert {"{arch}.ssm.state_size", "{arch}.attention.q_lora_rank"} <= refused


@pytest.fixture
def qwen2() -> Any:
    return theirs("qwen2")


def written(folder: Path, model: Any, **kv: Any) -> Path:
    """A GGUF file of the model with more metadata: key -> (type, value)."""
    real = gguf.GGUFWriter

    class Writer(real):  # type: ignore[misc,valid-type]
        def write_header_to_file(self) -> None:
            for key, (kind, value) in kv.items():
                self.kv_data[0].pop(key, None)
                if kind is not None:
                    getattr(self, f"add_{kind}")(key, value)
            super().write_header_to_file()

    gguf.GGUFWriter = Writer
    try:
        return write(folder / "model.gguf", "qwen2", tensors_of(model, "qwen2"))
    finally:
        gguf.GGUFWriter = real


@pytest.mark.parametrize("key", sorted({*SAME, "{arch}.ssm.state_size", "{arch}.swin_norm"}))
def test_what_would_make_another_model_is_refused_by_name(
    tmp_path: Path, qwen2: Any, key: str
) -> None:
    key = key.replace("{arch}", "qwen2")
    accepted = SAME.get(key.replace("qwen2", "{arch}"), 0)
    accepted = accepted[0] if isinstance(accepted, tuple) else accepted
    other: tuple[str, Any] = ("float32", 3.5)
    if key == "general.type":
        other = ("string", "adapter")
    elif key.endswith("causal"):
        other = ("bool", False)
    elif isinstance(accepted, bool) and not key.endswith("parallel_residual"):
        other = ("bool", not accepted)
    elif isinstance(accepted, int):
        other = ("uint32", 3)
    file = written(tmp_path, qwen2, **{key: other})
    with pytest.raises(InputError) as caught:
        AutoModelForCausalLM.from_pretrained(file)
    assert key in str(caught.value) or "mixture of experts" in str(caught.value)


@pytest.mark.parametrize("name", ["rope.dimension_count", "attention.value_length"])
def test_heads_that_turn_in_part_are_refused(tmp_path: Path, qwen2: Any, name: str) -> None:
    file = written(tmp_path, qwen2, **{f"qwen2.{name}": ("uint32", 8)})
    with pytest.raises(InputError, match=f"qwen2.{name}: found 8; accepted: 16, the size of a"):
        AutoModelForCausalLM.from_pretrained(file)


F32 = "float32"
SCALINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"scale_linear": (F32, 4.0)}, {"rope_type": "linear", "factor": 4.0}),
    ({"scaling.factor": (F32, 4.0)}, {"rope_type": "linear", "factor": 4.0}),
    (
        {"scaling.type": ("string", "linear"), "scaling.factor": (F32, 2.0)},
        {"rope_type": "linear", "factor": 2.0},
    ),
    ({"scaling.type": ("string", "none"), "scaling.factor": (F32, 4.0)}, {}),
    ({"scaling.type": ("string", "linear")}, {}),
    (
        {
            "scaling.type": ("string", "yarn"),
            "scaling.factor": (F32, 4.0),
            "scaling.original_context_length": ("uint32", 16),
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    ),
    (
        {
            "scaling.type": ("string", "yarn"),
            "scaling.factor": (F32, 4.0),
            "scaling.original_context_length": ("uint32", 16),
            "scaling.yarn_beta_fast": (F32, 8.0),
            "scaling.yarn_beta_slow": (F32, 2.0),
            "scaling.yarn_attn_factor": (F32, 0.5),
        },
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "beta_fast": 8.0,
            "beta_slow": 2.0,
            "attention_factor": 0.5 * (0.1 * math.log(4.0) + 1.0),
        },
    ),
]


@pytest.mark.parametrize(("entries", "rope"), SCALINGS)
def test_every_spelling_of_rope_scaling_equals(
    tmp_path: Path, qwen2: Any, entries: dict[str, Any], rope: dict[str, Any]
) -> None:
    config = transformers.Qwen2Config(**qwen2.config.to_dict())
    config.rope_parameters = {"rope_theta": 10000.0, "rope_type": "default", **rope}
    reference = transformers.Qwen2ForCausalLM(config).eval()
    reference.load_state_dict(qwen2.state_dict())
    kv = {f"qwen2.rope.{name}": value for name, value in entries.items()}
    ours = AutoModelForCausalLM.from_pretrained(written(tmp_path, qwen2, **kv))
    torch.testing.assert_close(ours(IDS).logits, reference(IDS).logits, rtol=1e-4, atol=1e-3)


def test_ends_and_templates_are_all_read(tmp_path: Path, qwen2: Any) -> None:
    kv: dict[str, Any] = {
        "tokenizer.ggml.pre": ("string", "qwen2"),
        "tokenizer.ggml.eot_token_id": ("uint32", 5),
        "tokenizer.ggml.eom_token_id": ("uint32", 7),
        "tokenizer.chat_template.tool_use": ("string", "tools"),
        "tokenizer.chat_templates": ("array", ["tool_use"]),
    }
    file = written(tmp_path, qwen2, **kv)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(file),
        AutoTokenizer.from_pretrained(file),
    )
    assert model.config.eos_token_id == [2, 5, 7]
    assert set(stop_token_ids(model, tokenizer)) >= {2, 5, 7}
    chat = [{"role": "user", "content": "a"}]
    assert tokenizer.apply_chat_template(chat, tools=[{}], tokenize=False) == "tools"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|im_start|>a"


def test_without_a_name_texts_are_cut_as_the_architecture_does_or_refused(tmp_path: Path) -> None:
    own = Tokenizer(models.BPE())
    own.decoder = decoders.ByteLevel()
    split = pre_tokenizers.Split(Regex(QWEN2), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        ["What?\n\nYes!\n\nWE'LL see\n\n"] * 9,
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False),
    )
    vocab = sorted(own.get_vocab().items(), key=lambda item: item[1])
    for architecture in ("qwen2", "qwen3", "llama"):
        for pre in (None, "default"):
            writer = gguf.GGUFWriter(tmp_path / "t.gguf", architecture)
            writer.add_tokenizer_model("gpt2")
            writer.add_token_list([token for token, _ in vocab])
            writer.add_token_merges([" ".join(m) for m in _merges(own)])
            if pre:
                writer.add_tokenizer_pre(pre)
            writer.add_tensor("token_embd.weight", torch.zeros(2, 2).numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            if architecture == "llama":
                with pytest.raises(InputError, match="tokenizer.ggml.pre: found no pre-tokenizer"):
                    AutoTokenizer.from_pretrained(tmp_path / "t.gguf")
                continue
            found = AutoTokenizer.from_pretrained(tmp_path / "t.gguf").tokenize("What?\n\nWE'LL")
            assert found == own.encode("What?\n\nWE'LL").tokens


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    return json.loads(tokenizer.to_str())["model"]["merges"]


def test_sampling_that_a_file_recommends_is_its_generation_config(
    tmp_path: Path, qwen2: Any
) -> None:
    kv: dict[str, Any] = {
        "general.sampling.temp": (F32, 0.7),
        "general.sampling.top_k": ("int32", 20),
        "general.sampling.penalty_repeat": (F32, 1.1),
    }
    model = AutoModelForCausalLM.from_pretrained(written(tmp_path, qwen2, **kv))
    wanted = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1}
    assert model.generation_config == wanted


def test_a_value_of_another_type_is_not_an_accepted_one() -> None:
    assert _is_among(0.1 + 0.2, (0.3,)) and _is_among(0, (0.0, 1.0))
    assert not _is_among(0.0, ("model",)) and not _is_among("model", (0.0,))
