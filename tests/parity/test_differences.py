"""Every row of docs/differences.md on models and generation holds, seen from both sides."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import trainer as ours
from trainer.errors import InputError
from trainer.models.cache import KeyValueCache

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 40,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, Any] = {
    "bert": transformers.BertConfig(**SIZES),
    "modernbert": transformers.ModernBertConfig(
        **SIZES, **TOKENS, cls_token_id=1, sep_token_id=2, local_attention=8
    ),
    "deberta-v2": transformers.DebertaV2Config(
        **SIZES, relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=9
    ),
    "llama": transformers.LlamaConfig(**SIZES, **TOKENS),
    "t5": transformers.T5Config(
        vocab_size=50,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    ),
    "mistral": transformers.MistralConfig(
        **SIZES, **TOKENS, num_key_value_heads=1, sliding_window=4
    ),
}


@dataclass
class Both:
    """Small models of both packages with the same weights, created once per class."""

    root: Path

    def __call__(self, family: str, task: str, **options: Any) -> tuple[Any, Any]:
        """transformers' model and ours."""
        path, auto = self.folder(family, task), f"AutoModel{task}"
        theirs = getattr(transformers, auto).from_pretrained(
            path, attn_implementation="eager", dtype=torch.float32, **options
        )
        return theirs.eval(), getattr(ours, auto).from_pretrained(path, **options)

    def folder(self, family: str, task: str) -> Path:
        path = self.root / f"{family}-{task}"
        if not path.is_dir():
            torch.manual_seed(1)
            model = getattr(transformers, f"AutoModel{task}").from_config(CONFIGS[family])
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
            model.save_pretrained(path)
        return path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("models"))


def rows(left: bool = False) -> tuple[Tensor, Tensor]:
    """ids and mask [2, 7]; the second row has three pads."""
    torch.manual_seed(2)
    ids, mask = torch.randint(3, 50, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    ids = ids * mask
    return (ids.flip(1), mask.flip(1)) if left else (ids, mask)


def refused(call: Callable[[], Any], start: str) -> None:
    with pytest.raises(InputError, match=f"^{start}"):
        call()


def fails(call: Callable[[], Any]) -> bool:
    """Whether transformers refuses a call or fails."""
    try:
        call()
    except Exception:
        return True
    return False


def near(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def dtype_of_the_call(both: Both, tmp_path: Path) -> None:
    both("bert", "")[0].to(torch.bfloat16).save_pretrained(tmp_path)
    found = [each.AutoModel.from_pretrained(tmp_path).dtype for each in (transformers, ours)]
    assert found == [torch.bfloat16, torch.float32]
    assert ours.AutoModel.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16


def no_traces(both: Both) -> None:
    theirs, model = both("bert", "")
    theirs.requires_grad_(False)
    ids = rows()[0][:1]
    traced = torch.jit.trace(lambda ids: theirs(ids, return_dict=False)[0], ids, check_trace=False)
    assert near(traced(ids), theirs(ids)[0])
    refused(lambda: torch.jit.trace(lambda ids: model(ids)[0], ids), "torch.jit.trace: not supp")


def adapters_beside_their_base(both: Both, tmp_path: Path) -> None:
    theirs, model = both("llama", "ForCausalLM")
    theirs.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = ours.AutoModelForCausalLM.from_pretrained(f"{tmp_path}/.")
    model.add_lora(ours.LoRASettings(rank=2))
    refused(lambda: model.save_pretrained(tmp_path), f"{tmp_path}: found the adapters' base model")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    model.save_pretrained(tmp_path / "adapter")
    again = ours.AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert again.lora is not None


def pads_are_zeros(both: Both) -> None:
    ids, mask = rows()
    pads = mask == 0
    for task, field in (("", "last_hidden_state"), ("ForMaskedLM", "logits")):
        theirs, model = both("bert", task)
        assert getattr(theirs(ids, attention_mask=mask), field)[pads].abs().min() > 0
        assert not getattr(model(ids, mask), field)[pads].any()
    outputs = model(ids, mask, output_hidden_states=True, output_attentions=True)
    assert not any(state[pads].any() for state in outputs.hidden_states)
    assert not any(weight.transpose(1, 2)[pads].any() for weight in outputs.attentions)


def rows_that_begin_with_pads(both: Both) -> None:
    theirs, model = both("mistral", "")
    ids, mask = torch.randint(3, 50, (1, 9)), torch.ones(1, 9, dtype=torch.int64)
    ids[:, :6] = mask[:, :6] = 0  # more pads than the window is wide
    alone = model(ids[:, 6:], position_ids=torch.arange(6, 9)[None]).last_hidden_state
    assert near(model(ids, mask, position_ids=torch.arange(9)[None])[0][:, 6:], alone)
    assert theirs.double()(ids, attention_mask=mask)[0].isnan().any()


def modernbert_pools_the_first_token(both: Both) -> None:
    theirs, model = both("modernbert", "ForSequenceClassification", classifier_pooling="cls")
    ids, mask = rows(left=True)
    bare = torch.cat((ids[1:, 3:], ids[1:, :0]), 1)
    positions = torch.arange(3, 7)[None]
    expected = theirs(bare, position_ids=positions).logits
    assert near(model(ids, mask).logits[1:], expected)
    assert not near(theirs(ids, attention_mask=mask).logits[1:], expected)


def deberta_pools_the_first_token(both: Both) -> None:
    theirs, model = both("deberta-v2", "ForSequenceClassification")
    ids, mask = rows(left=True)
    expected = theirs(ids[1:, 3:], position_ids=torch.arange(3, 7)[None]).logits
    assert near(model(ids, mask).logits[1:], expected)
    assert not near(theirs(ids, attention_mask=mask).logits[1:], expected)


def deberta_takes_columns_for_labels(both: Both) -> None:
    theirs, model = both("deberta-v2", "ForSequenceClassification")
    ids, _ = rows()
    labels = torch.tensor([[1.0, 1.0], [0.0, 1.0]])[: len(ids)]
    logits = model(ids).logits
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert near(model(ids, labels=labels).loss, wanted)
    assert not near(theirs(ids, labels=labels).loss, wanted)
    soft = -(logits.log_softmax(-1) * labels).sum(-1).mean()
    assert near(theirs(ids, labels=labels).loss, soft)


def names_of_kernels_change_nothing(both: Both) -> None:
    ids, mask = rows()
    path, found = both.folder("bert", ""), []
    for name in ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"):
        model = ours.AutoModel.from_pretrained(path, attn_implementation=name)
        assert model(ids, mask, output_attentions=True).attentions is not None
        found.append(model(ids, mask)[0])
    assert all(torch.equal(each, found[0]) for each in found)
    auto = transformers.AutoModel
    assert fails(lambda: auto.from_pretrained(path, attn_implementation="flash_attention_2"))


def one_device(both: Both) -> None:
    path = both.folder("bert", "")
    for name in ("auto", "cpu", {"": "cpu"}):
        assert ours.AutoModel.from_pretrained(path, device_map=name).device.type == "cpu"
    two = {"embeddings": "cpu", "encoder": "meta"}
    refused(lambda: ours.AutoModel.from_pretrained(path, device_map=two), "device_map: found 2")


def remote_code(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    path = both.folder("bert", "")
    ours.AutoModel.from_pretrained(path, trust_remote_code=True)
    assert "trust_remote_code=True has no effect" in caplog.text


def pickled_weights(both: Both) -> None:
    path = both.folder("bert", "")
    refused(lambda: ours.AutoModel.from_pretrained(path, use_safetensors=False), "use_safetensors")
    model = ours.AutoModel.from_pretrained(path)
    refused(lambda: model.save_pretrained(path, safe_serialization=False), "safe_serialization")


def quantised(both: Both) -> None:
    given = {"quantization_config": {"load_in_4bit": True}}
    for options in (given, {"load_in_4bit": True}, {"load_in_8bit": True}):
        path, name = both.folder("bert", ""), next(iter(options))
        refused(lambda p=path, o=options: ours.AutoModel.from_pretrained(p, **o), f"{name}: ")  # type: ignore[misc]


def other_labels(both: Both) -> None:
    path, task = both.folder("bert", "ForSequenceClassification"), "ForSequenceClassification"
    cls = getattr(ours, f"AutoModel{task}")
    with pytest.raises(InputError, match="its head was trained for other labels"):
        cls.from_pretrained(path, num_labels=7)
    for option in ({"ignore_mismatched_sizes": True}, {"new_head": True}):
        assert cls.from_pretrained(path, num_labels=7, **option).config.num_labels == 7


def no_token_types(both: Both) -> None:
    theirs, model = both("llama", "")
    ids, _ = rows()
    assert near(model(ids, token_type_ids=ids * 0)[0], model(ids)[0])
    refused(lambda: model(ids, token_type_ids=ids), "token_type_ids: ")
    assert near(theirs(ids, token_type_ids=ids)[0], theirs(ids)[0])


def a_cache_in_evaluation(both: Both) -> None:
    theirs, model = both("llama", "ForCausalLM")
    ids, _ = rows()
    for each, expected in ((theirs, True), (model, False)):
        assert (each.train()(ids).past_key_values is not None) is expected
    with torch.no_grad():
        assert model.eval()(ids).past_key_values is not None


def a_window_over_pads(both: Both) -> None:
    theirs, model = both("mistral", "ForCausalLM")
    ids = torch.randint(3, 50, (1, 9))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 1, 1, 1]])  # pads between tokens
    kept = mask[0].bool()
    places = mask.cumsum(1) - 1
    start, rest = {"position_ids": places[:, :6]}, {"position_ids": places[:, 6:]}
    with torch.no_grad():
        past = model(ids[:, :6], attention_mask=mask[:, :6], **start).past_key_values
        found = model(ids[:, 6:], attention_mask=mask, past_key_values=past, **rest).logits
        dense = model(ids[:, kept]).logits[:, -3:]
        columns = theirs(ids, attention_mask=mask, position_ids=places).logits[:, -3:]
    assert near(found, dense) and not near(columns, dense)


def another_cache(both: Both) -> None:
    _, model = both("llama", "ForCausalLM")
    cache = transformers.DynamicCache()
    refused(lambda: model(rows()[0], past_key_values=cache), "past_key_values: found DynamicCache")
    with torch.no_grad():
        assert isinstance(model(rows()[0]).past_key_values, KeyValueCache)


def items_in_batch(both: Both) -> None:
    theirs, model = both("bert", "ForMaskedLM")
    ids, _ = rows()
    plain, given = ({"labels": ids}, {"labels": ids, "num_items_in_batch": 100})
    assert near(theirs(ids, **given).loss, theirs(ids, **plain).loss)
    assert near(model(ids, **given).loss, model(ids, **plain).loss * ids.numel() / 100)


def nothing_to_drop(both: Both) -> None:
    for each in both("llama", ""):
        assert torch.equal(each.train()(rows()[0])[0], each.eval()(rows()[0])[0])


def names_of_modules(both: Both) -> None:
    for family in ("bert", "llama"):
        _, model = both(family, "")
        last = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        assert last >= {"query", "key", "value", "output"} and "q_proj" not in last
        gated = family == "llama"
        assert ("gate" in last) is gated and "input" in last


def adapters_of_peft(both: Both, tmp_path: Path) -> None:
    import peft
    from safetensors import safe_open

    _, model = both("llama", "ForCausalLM")
    settings = ours.LoRASettings(rank=2, targets=("query", "value"))
    mine = copy.deepcopy(model)
    mine.add_lora(settings, base=str(both.folder("llama", "ForCausalLM")))
    mine.save_pretrained(tmp_path / "ours")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["query", "value"], r=2)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "peft")
    found = {}
    for name in ("ours", "peft"):
        with safe_open(tmp_path / name / "adapter_model.safetensors", "pt") as file:
            found[name] = {part for key in list(file.keys()) for part in key.split(".")}
    assert "q_proj" in found["ours"] and "query" in found["peft"]


def exported(both: Both) -> None:
    _, model = both("bert", "")
    ids, mask = rows()
    program = torch.export.export(model, (ids, mask))
    outputs = program.module()(ids, mask)
    assert type(outputs) is dict and near(outputs["last_hidden_state"], model(ids, mask)[0])


def outputs_are_no_dict(both: Both) -> None:
    theirs, model = (each(rows()[0]) for each in both("bert", ""))
    assert isinstance(theirs, dict) and not isinstance(model, dict)
    assert model["last_hidden_state"] is model[0] is model.to_tuple()[0]


def unknown_entries(both: Both) -> None:
    theirs, model = both("bert", "")
    theirs.config.hidden_sizes = 3
    refused(lambda: setattr(model.config, "hidden_sizes", 3), "model.config: .*'hidden_size'")
    path = both.folder("bert", "")
    refused(lambda: ours.AutoModel.from_pretrained(path, foo=1), "model.config: ")
    assert fails(lambda: transformers.AutoModel.from_pretrained(path, foo=1))


def missing_tensors(both: Both, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    theirs, _ = both("bert", "")
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.0.output.dense.bias"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    transformers.AutoModel.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"encoder.layer.0.output.dense.bias is missing"):
        ours.AutoModel.from_pretrained(tmp_path)


def beyond_the_positions(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    theirs, model = both("llama", "")
    ids = torch.randint(3, 50, (1, 41))
    assert near(model(ids)[0], theirs(ids)[0])
    assert "found a sequence of 41 tokens; accepted: up to 40" in caplog.text
    theirs, model = both("bert", "")
    assert fails(lambda: theirs(ids))
    refused(lambda: model(ids), "input_ids: found a sequence of 41 tokens; accepted: up to 40")


def untied(both: Both) -> None:
    theirs, model = both("bert", "ForMaskedLM", tie_word_embeddings=False)
    words = model.get_input_embeddings().weight
    assert torch.equal(model.get_output_embeddings().weight, words)
    assert model.get_output_embeddings().weight is not words
    assert not near(theirs.get_output_embeddings().weight, words)


def embeddings_of_another_width(both: Both) -> None:
    theirs, model = both("bert", "")
    other = torch.nn.Embedding(50, 8)
    theirs.set_input_embeddings(other)
    refused(lambda: model.set_input_embeddings(other), "value: ")


def cache_beside_attentions(both: Both) -> None:
    theirs, model = both("llama", "ForCausalLM")
    given = {"use_cache": True, "output_attentions": True}
    with torch.no_grad():
        assert theirs(rows()[0], **given).past_key_values is not None
        refused(lambda: model(rows()[0], **given), "output_attentions: found True with a cache")


Check = Callable[..., None]
MODELS: dict[str, Check] = {
    "pad positions of `last_hidden_state`, logits, hidden states, attentions": pads_are_zeros,
    "a batch whose rows begin with pads, or have more pads than the sliding window is wide": (
        rows_that_begin_with_pads
    ),
    "ModernBERT, padded on the left, sequence classification": modernbert_pools_the_first_token,
    "DeBERTa, padded on the left, sequence classification": deberta_pools_the_first_token,
    "DeBERTa, `labels` of several columns without `problem_type`": deberta_takes_columns_for_labels,
    "`dtype`, if `from_pretrained` is called without it": dtype_of_the_call,
    "`attn_implementation`": names_of_kernels_change_nothing,
    "`device_map`": one_device,
    "`trust_remote_code=True`": remote_code,
    "`use_safetensors=False`, `safe_serialization=False`": pickled_weights,
    "`quantization_config`, `load_in_4bit`, `load_in_8bit`": quantised,
    "`num_labels` that differs from the file's head": other_labels,
    "`token_type_ids` for a family without token types": no_token_types,
    "`past_key_values` in the outputs, without `use_cache`": a_cache_in_evaluation,
    "a sliding window, for a cached text with pads between its tokens": a_window_over_pads,
    "`past_key_values=DynamicCache()`": another_cache,
    "`num_items_in_batch` of masked language models": items_in_batch,
    "`model.train()` of models whose config has no dropout": nothing_to_drop,
    "names of modules, as in PEFT's `target_modules`": names_of_modules,
    "PEFT's `save_pretrained` of a wrapped model": adapters_of_peft,
    "`torch.jit.trace`": no_traces,
    "saving adapters into the folder of their base": adapters_beside_their_base,
    "outputs under `torch.export`": exported,
    "`isinstance(outputs, dict)`": outputs_are_no_dict,
    "an unknown entry of a config": unknown_entries,
    "a tensor of the body that the file does not have": missing_tensors,
    "a sequence longer than the positions of a rotary model": beyond_the_positions,
    "`tie_word_embeddings=False` for the file of a masked language model that ties them": untied,
    "`set_input_embeddings` of another width": embeddings_of_another_width,
    "`use_cache=True` with `output_attentions=True`": cache_beside_attentions,
}


def prompts() -> dict[str, Tensor]:
    ids, mask = rows(left=True)
    return {"input_ids": ids, "attention_mask": mask}


def generate(model: Any, **settings: Any) -> Tensor:
    return model.generate(**{**prompts(), "do_sample": False, **settings})


def writers(both: Both) -> tuple[Any, Any]:
    """Both packages' Llama without an end token, so that texts have full length."""
    theirs, model = both("llama", "ForCausalLM")
    theirs.generation_config.eos_token_id = None
    model.generation_config.eos_token_id = None
    return theirs, model


def lengths(both: Both) -> None:
    theirs, model = writers(both)
    whole = {"input_ids": prompts()["input_ids"][:1], "attention_mask": None}
    assert generate(theirs, **whole).shape[1] == 7 + 20
    assert generate(model, **whole).shape[1] == 41  # the last token is never an input


def ends_at_the_positions(both: Both) -> None:
    theirs, model = writers(both)
    whole = {"input_ids": prompts()["input_ids"][:1], "attention_mask": None}
    assert generate(theirs, **whole, max_new_tokens=40).shape[1] == 47
    assert generate(model, **whole, max_new_tokens=40).shape[1] == 41


def beams_pad_with_zero(both: Both) -> None:
    theirs, model = both("llama", "ForCausalLM")
    first = generate(model, max_new_tokens=1)[:, -1]
    ends = {"num_beams": 2, "pad_token_id": 0, "max_new_tokens": 6, "early_stopping": True}
    ends["eos_token_id"] = [int(token) for token in first[:1]]
    found, expected = generate(model, **ends), generate(theirs, **ends)
    assert found.shape == expected.shape
    differ = found != expected
    assert not found[differ].any()


def draws(both: Both) -> None:
    _, model = writers(both)
    settings = {"do_sample": True, "max_new_tokens": 5}
    one, same = (generate(model, **settings, seed=3) for _ in range(2))
    other = generate(model, **settings, seed=4)
    assert torch.equal(one, same) and not torch.equal(one, other)
    alone = model.generate(prompts()["input_ids"][:1], **settings, seed=3)
    assert torch.equal(alone, one[:1])


def warned_of(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    _, model = writers(both)
    generate(model, max_new_tokens=1, temperature=0.5)
    assert "temperature has no effect without do_sample=True" in caplog.text


GIVEN: dict[str, Any] = {
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "penalty_alpha": 0.6,
    "constraints": [1],
    "force_words_ids": [[3]],
    "dola_layers": "low",
    "assistant_tokenizer": object(),
    "assistant_early_exit": 1,
    "assistant_ensemble_weight": 0.5,
    "use_mtp": True,
    "speculation_type": "x",
    "token_healing": True,
    "custom_generate": "x/y",
    "inputs_embeds": torch.zeros(1, 3, 16),
    "past_key_values": transformers.DynamicCache(),
    "encoder_outputs": (torch.zeros(1, 3, 16),),
    "watermarking_config": {"bias": 2.0},
}


def are_refused(*names: str) -> Callable[[Both], None]:
    def check(both: Both) -> None:
        _, model = writers(both)
        for name in names:
            refused(lambda n=name: generate(model, **{n: GIVEN[n]}), f"{name}: ")  # type: ignore[misc]

    return check


def drafts_of_several(both: Both) -> None:
    theirs, model = writers(both)
    settings = {"max_new_tokens": 5}
    plain = generate(model, **settings)
    drafted = {"prompt_lookup_num_tokens": 2}, {"assistant_model": model}
    assert all(torch.equal(generate(model, **settings, **each), plain) for each in drafted)
    assert fails(lambda: generate(theirs, **settings, assistant_model=theirs))


def beside_beams(both: Both) -> None:
    theirs, model = writers(both)
    beams = {"num_beams": 2, "max_new_tokens": 2}
    given = {
        "output_attentions": True,
        "output_hidden_states": True,
        "assistant_model": model,
        "guidance_scale": 2.0,
    }
    for name, value in given.items():
        dictionary = {"return_dict_in_generate": True} if "output" in name else {}
        with pytest.raises(InputError, match="beams"):
            generate(model, **beams, **dictionary, **{name: value})


def streams_beside_beams(both: Both) -> None:
    class Streamer(transformers.generation.streamers.BaseStreamer):
        def put(self, value: Tensor) -> None: ...
        def end(self) -> None: ...

    settings = {"num_beams": 2, "streamer": Streamer(), "max_new_tokens": 2}
    for each in writers(both):
        assert fails(lambda e=each: e.generate(prompts()["input_ids"][:1], **settings))  # type: ignore[misc]


def windows_cover_all(both: Both) -> None:
    _, model = both("mistral", "ForCausalLM")
    settings = {"return_dict_in_generate": True, "output_attentions": True, "max_new_tokens": 3}
    found = model.generate(prompts()["input_ids"][:1], do_sample=False, **settings)
    assert [step[0].shape[-1] for step in found.attentions] == [7, 8, 9]


def the_call_counts(both: Both) -> None:
    theirs, model = writers(both)
    for each in (theirs, model):
        each.generation_config.max_new_tokens = 3
    try:
        assert generate(model, max_length=9).shape[1] == 9
        assert generate(theirs, max_length=9).shape[1] == 10
    finally:
        model.generation_config.max_new_tokens = None


def unread_entries(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    _, model = writers(both)
    model.generation_config = {**model.generation_config, "an_entry_of_a_test": 1}
    for _ in range(2):
        generate(model, max_new_tokens=1)
    assert caplog.text.count("an_entry_of_a_test") == 1


def always_a_cache(both: Both) -> None:
    _, model = writers(both)
    plain = generate(model, max_new_tokens=3)
    for given in ({"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(generate(model, max_new_tokens=3, **given), plain)


def unknown_settings(both: Both) -> None:
    theirs, model = writers(both)
    refused(lambda: generate(model, num_beam=2), ".*num_beam.*did you mean 'num_beams'")
    assert fails(lambda: generate(theirs, num_beam=2))


def guidance_without_a_prompt(both: Both) -> None:
    theirs, model = both("t5", "ForSeq2SeqLM")
    ids = rows()[0][:1]
    for each in (theirs, model):
        assert each.generate(input_ids=ids, max_new_tokens=2).shape == (1, 3)
    refused(lambda: model.generate(ids, guidance_scale=2.0), "guidance_scale: found 2.0; accepted")
    assert fails(lambda: theirs.generate(input_ids=ids, guidance_scale=2.0))


GENERATION: dict[str, Check] = {
    "the length if no setting gives one": lengths,
    "texts beyond the model's positions": ends_at_the_positions,
    "beams with `pad_token_id=0`": beams_pad_with_zero,
    "random draws": draws,
    "`top_k`, `temperature` and others without `do_sample=True`": warned_of,
    "`num_beam_groups`, `diversity_penalty`, `penalty_alpha`, `constraints`, `force_words_ids`, "
    "`dola_layers`": are_refused(*list(GIVEN)[:6]),
    "`assistant_model`, `prompt_lookup_num_tokens` with several prompts": drafts_of_several,
    "`assistant_tokenizer`, `assistant_early_exit`, `assistant_ensemble_weight`, `use_mtp`, "
    "`speculation_type`": are_refused(*list(GIVEN)[6:11]),
    "`token_healing`, `custom_generate`": are_refused("token_healing", "custom_generate"),
    "`inputs_embeds`, `past_key_values`, `encoder_outputs`": are_refused(
        "inputs_embeds", "past_key_values", "encoder_outputs"
    ),
    "`guidance_scale` of an encoder-decoder": guidance_without_a_prompt,
    "`watermarking_config` as a dictionary": are_refused("watermarking_config"),
    "`streamer` with beams": streams_beside_beams,
    "`output_attentions`, `output_hidden_states`, `assistant_model`, `guidance_scale` with beams": (
        beside_beams
    ),
    "attentions and hidden states of a sliding window's layers": windows_cover_all,
    "`max_length` in a call, `max_new_tokens` in the file": the_call_counts,
    "entries of generation_config.json that are not supported": unread_entries,
    "`use_cache=False`, `cache_implementation`": always_a_cache,
    "unknown settings": unknown_settings,
}


def rows_of(repository: Path, title: str) -> list[str]:
    """The first cells of a section's table."""
    page = (repository / "docs/differences.md").read_text(encoding="utf-8")
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines()[3:] if line]


@pytest.mark.parametrize(("title", "table"), [("Models", MODELS), ("Generation", GENERATION)])
def test_every_row_is_held(repository: Path, title: str, table: dict[str, Check]) -> None:
    assert rows_of(repository, title) == list(table)


@pytest.mark.parametrize("row", [*MODELS, *GENERATION])
def test_a_documented_difference_is_one(
    both: Both, row: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"tmp_path": tmp_path, "caplog": caplog}
    check = {**MODELS, **GENERATION}[row]
    names = check.__code__.co_varnames[1 : check.__code__.co_argcount]
    with caplog.at_level(logging.WARNING, "trainer"):
        check(both, **{name: given[name] for name in names})
