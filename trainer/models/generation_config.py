"""generation_config.json: special tokens of a model that writes, and what its makers recommend."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError
from trainer.foreign_json import parse_json

if TYPE_CHECKING:
    from trainer.models.pretrained import PretrainedModel

FILE = "generation_config.json"
DRAWN = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "min_p": 0.0}
"""Settings that only draws obey, with what changes nothing."""
ALWAYS = {"repetition_penalty": 1.0, "max_new_tokens": None}
"""Settings that every generation obeys."""
NO_EFFECT = frozenset(
    {
        *("transformers_version", "_from_model_config", "decoder_start_token_id"),
        # how transformers computes and what it returns
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "use_mtp"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("return_dict_in_generate", "compile_config", "disable_compile", "low_memory"),
        *("continuous_batching_config", "prefill_chunk_size", "is_assistant"),
        *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_early_exit"),
        *("assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind"),
        *("assistant_ensemble_weight", "speculation_type", "prompt_lookup_num_tokens"),
        *("max_matching_ngram_size", "early_stopping", "length_penalty", "chat_format"),
    }
)
"""Entries that do not change which tokens a plain generation gives."""
ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_generation_config(folder: Path) -> dict[str, Any]:
    """What the file in a model's folder says; nothing where there is none.

    Raises InputError if it is no JSON object or names an end that is no token.
    """
    if folder.is_file():  # GGUF
        from trainer.interop.gguf_config import read_sampling

        return read_sampling(folder)
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: found {type(found).__name__}; accepted: a JSON object")
    ids = _listed(found.get("eos_token_id"))
    if not all(type(number) is int and number >= 0 for number in ids):
        found_here = repr(found["eos_token_id"])[:60]
        raise InputError(f"{file}: eos_token_id: found {found_here}; accepted: ids of tokens")
    return found


def generation_config(model: "PretrainedModel") -> dict[str, Any]:
    """What the file says of a model as it is: what was read, and the config's special tokens."""
    ids = {name: getattr(model.config, name) for name in ROLES}
    own = {name: value for name, value in model.generation_config.items() if value is not None}
    entries = {name: value for name, value in (ids | own).items() if value is not None}
    ends = model_end_ids(model)
    return entries | ({"eos_token_id": ends if len(ends) > 1 else ends[0]} if ends else {})


def model_end_ids(model: "PretrainedModel") -> list[int]:
    """The tokens that end a text, as config.json and generation_config.json say."""
    kept, config = model.generation_config.get("eos_token_id"), model.config
    return list(dict.fromkeys([*_listed(kept), *_listed(config.eos_token_id)]))


def recommended(model: "PretrainedModel", do_sample: bool | None = None) -> dict[str, Any]:
    """What the makers recommend, by the names of `GenerationSettings`; what changes nothing is out.

    `do_sample` goes above theirs: whether tokens are drawn, at a temperature of 1 unless they say
    another, which transformers takes for granted too.
    """
    entries = model.generation_config
    drawn = bool(entries.get("do_sample")) if do_sample is None else do_sample
    wanted = {**ALWAYS, **(DRAWN if drawn else {})}
    found = {name: entries[name] for name in wanted if entries.get(name) is not None}
    if found.get("top_k") == 0:
        del found["top_k"]
    if drawn:
        found.setdefault("temperature", 1.0)
    return {n: v for n, v in found.items() if v != wanted[n] or n == "temperature"}


def not_followed(model: "PretrainedModel") -> list[str]:
    """Entries that would change a generation in transformers, and do not here."""
    known = {*DRAWN, *ALWAYS, *ROLES, *NO_EFFECT, "do_sample"}
    return sorted(
        name
        for name, value in model.generation_config.items()
        if name not in known and value not in (None, False, 0, 1, [], {}, "")
    )


def _listed(ids: Any) -> list[Any]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
