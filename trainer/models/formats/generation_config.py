"""generation_config.json: a generative model's special tokens and recommended settings."""

from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.foreign.json_values import parse_json
from trainer.models.family_model import FamilyModel
from trainer.models.model import Model

FILE = "generation_config.json"
SAMPLING = {
    **{"temperature": 1.0, "top_k": None, "top_p": 1.0, "min_p": 0.0},
    **{"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0},
}
"""Setting that affects only sampling -> the value with which it has no effect."""
ALWAYS = {
    **{"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1},
    **{"max_new_tokens": None, "min_new_tokens": 0},
}
"""Setting that affects every kind of generation -> the value with which it has no effect."""
BEAMS = {"length_penalty": 1.0, "early_stopping": False}
"""Setting that affects only beam search -> its default."""
NO_EFFECT = frozenset(
    {
        *("transformers_version", "_from_model_config", "decoder_start_token_id"),
        # how transformers computes, and what it returns
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
"""Entries that do not change the generated tokens."""
OF_DECODERS = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
"""The entries for the first and last tokens of an encoder-decoder's decoder."""
ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")


class GenerationEntries(dict[str, Any]):
    """The entries of generation_config.json, also accessible as attributes.

    The attribute of a missing entry is None, as in transformers.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value

    def to_dict(self) -> dict[str, Any]:
        """The entries that are set."""
        return dict(self)


def read_generation_config(folder: Path) -> GenerationEntries:
    """Read the file in a model's folder. Returns no entries if there is no file.

    Raises InputError if it is not a JSON object or has an invalid end token.
    """
    if folder.is_file():  # GGUF
        from trainer.interop.gguf_config import read_sampling

        return GenerationEntries(read_sampling(folder))
    file = folder / FILE
    if not file.is_file():
        return GenerationEntries()
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: found {type(found).__name__}; accepted: a JSON object")
    ids = _listed(found.get("eos_token_id"))
    if not all(type(number) is int and number >= 0 for number in ids):
        shown = repr(found["eos_token_id"])[:60]
        raise InputError(f"{file}: eos_token_id: found {shown}; accepted: ids of tokens")
    return GenerationEntries(found)


def generation_config(model: FamilyModel) -> dict[str, Any]:
    """A model's current entries: those of its file, and the special tokens of its config."""
    ids = {name: model.config.known(name) for name in (*ROLES, *OF_DECODERS)}
    own = {name: value for name, value in model.generation_config.items() if value is not None}
    entries = {name: value for name, value in (ids | own).items() if value is not None}
    ends = model_end_ids(model)
    return entries | ({"eos_token_id": ends if len(ends) > 1 else ends[0]} if ends else {})


def model_end_ids(model: Model) -> list[int]:
    """The tokens that end a text, from config.json and generation_config.json."""
    kept, config = model.generation_config.get("eos_token_id"), model.config
    return list(dict.fromkeys([*_listed(kept), *_listed(config.eos_token_id)]))


def recommended(model: Model, do_sample: bool | None = None) -> dict[str, Any]:
    """The recommended settings that have an effect, as fields of `GenerationSettings`.

    `do_sample` overrides the file's entry. The default temperature of sampling is 1, as in
    transformers.
    """
    entries = model.generation_config
    samples = bool(entries.get("do_sample")) if do_sample is None else do_sample
    beams = (entries.get("num_beams") or 1) > 1
    wanted = {**ALWAYS, **(SAMPLING if samples else {}), **(BEAMS if beams else {})}
    found = {name: entries[name] for name in wanted if entries.get(name) is not None}
    if found.get("top_k") == 0:
        del found["top_k"]
    if samples:
        found.setdefault("temperature", 1.0)
    return {n: v for n, v in found.items() if v != wanted[n] or n == "temperature"}


def unsupported_entries(model: Model) -> list[str]:
    """Entries that affect generation in transformers but not in this package."""
    known = {*SAMPLING, *ALWAYS, *ROLES, *NO_EFFECT, "do_sample"}
    return sorted(
        name
        for name, value in model.generation_config.items()
        if name not in known and value not in (None, False, 0, 1, [], {}, "")
    )


def _listed(ids: object) -> list[Any]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
