"""HubSettings: transformers' generation settings, from the model's files and a call's arguments."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any, Literal

from trainer.errors import InputError, nearest
from trainer.foreign.numbers import is_number
from trainer.generation.generative_model import GenerativeModel
from trainer.generation.setting_checks import check_structure, listed, plain_value
from trainer.generation.settings import RANGES, GenerationSettings, is_within
from trainer.models.formats.generation_config import NO_EFFECT, model_end_ids

log = logging.getLogger("trainer")

NEW_TOKENS = 128
"""The default number of tokens to generate."""
TOP_K = 50
"""transformers' default top_k."""
WITHOUT_EFFECT = frozenset({"synced_gpus", "token_type_ids", "batch_size", "trust_remote_code"})
"""Arguments of `generate` that are not settings and do not change which tokens are generated."""
REFUSED: Mapping[str, tuple[object, str]] = {
    "num_beam_groups": (1, "1 (transformers 5 has no diverse beams either)"),
    "diversity_penalty": (0.0, "0 (transformers 5 has no diverse beams either)"),
    "penalty_alpha": (0.0, "0 (transformers 5 has no contrastive search either)"),
    "dola_layers": (None, "None (transformers 5 has no contrast of layers either)"),
    "constraints": (None, "None; consider prefix_allowed_tokens_fn or bad_words_ids"),
    "force_words_ids": (None, "None; consider prefix_allowed_tokens_fn"),
    "assistant_tokenizer": (None, "None; an assistant_model with this model's own tokenizer"),
    "assistant_early_exit": (None, "None; assistant_model, or prompt_lookup_num_tokens"),
    "assistant_ensemble_weight": (None, "None: drafts never change the distribution of texts"),
    "use_mtp": (False, "False; assistant_model, or prompt_lookup_num_tokens"),
    "speculation_type": (None, "None; assistant_model, or prompt_lookup_num_tokens"),
    "token_healing": (False, "False; leave out the prompt's last token"),
    "custom_generate": (None, "None; no remote code runs"),
    "inputs_embeds": (None, "None; input_ids"),
    "past_key_values": (None, "None; the whole text as input_ids"),
    "encoder_outputs": (None, "None; input_ids"),
}
"""Unsupported setting -> the value that has no effect, and the accepted values for the error."""


COUNTS = (
    *("num_beams", "num_return_sequences", "max_new_tokens", "max_length"),
    *("prompt_lookup_num_tokens", "max_matching_ngram_size", "num_assistant_tokens"),
)
"""Settings that are positive integers."""
SIZES = (
    *("min_new_tokens", "min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    "top_k",
)
"""Settings that are non-negative integers."""
VALUE_OF_NONE: Mapping[str, Any] = {"top_k": None, "eos_token_id": (), "max_new_tokens": None}
"""Setting -> the value that None stands for; for all others, None means the default."""
PLAIN = frozenset(
    {
        *("max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "min_p"),
        *("repetition_penalty", "seed", "pad_token_id", "bos_token_id", "eos_token_id"),
        *("tokenizer", "length_penalty", "early_stopping", "output_scores", "output_logits"),
        *("output_attentions", "output_hidden_states", "num_assistant_tokens"),
        *("num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        "max_matching_ngram_size",
    }
)
"""Settings that `Decoding` supports, and settings that only matter together with others."""


@dataclass(frozen=True)
class HubSettings:
    """The settings of `generate`, with transformers' names and meanings.

    Raises InputError for values that are invalid or contradict each other.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int = 0
    min_length: int = 0
    do_sample: bool = False
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    temperature: float = 1.0
    top_k: int | None = TOP_K
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    top_h: float | None = None
    no_repeat_ngram_size: int = 0
    encoder_repetition_penalty: float = 1.0
    encoder_no_repeat_ngram_size: int = 0
    guidance_scale: float | None = None
    negative_prompt_ids: Any = None
    negative_prompt_attention_mask: Any = None
    watermarking_config: Any = None
    """An object with `construct_processor`, such as transformers' WatermarkingConfig."""
    bad_words_ids: Sequence[Sequence[int]] = ()
    sequence_bias: Any = None
    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    decoder_start_token_id: int | Sequence[int] | None = None
    decoder_input_ids: Any = None
    """The first tokens of an encoder-decoder's decoder [B, M]."""
    decoder_attention_mask: Any = None
    stop_strings: str | Sequence[str] = ()
    max_time: float | None = None
    tokenizer: Any = None
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None
    logits_processor: Sequence[Callable[..., Any]] = ()
    stopping_criteria: Sequence[Callable[..., Any]] = ()
    streamer: Any = None
    return_dict_in_generate: bool = False
    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False
    assistant_model: GenerativeModel = None
    """A small model, of this package or of transformers, that drafts tokens."""
    prompt_lookup_num_tokens: int | None = None
    """The number of tokens that prompt lookup drafts at a time."""
    max_matching_ngram_size: int | None = None
    num_assistant_tokens: int = 20
    """The number of tokens that an assistant drafts at a time."""
    num_assistant_tokens_schedule: str = "constant"
    assistant_confidence_threshold: float | None = 0.4
    """A draft ends at the first token to which the assistant gives a lower probability than
    this."""
    seed: int | None = None
    """With a seed, sampling depends only on the seed, the row and the position, not on torch's
    generator. transformers has no such setting.
    """

    def __post_init__(self) -> None:
        for name in COUNTS:
            self._require(name, lambda v: isinstance(v, int) and v > 0, "a whole number above 0")
        for name in SIZES:
            self._require(name, lambda v: isinstance(v, int) and v >= 0, "a whole number from 0")
        self._require("temperature", lambda v: v > 0, "a number above 0")
        for name, (least, most, accepted) in RANGES.items():
            self._require(name, partial(is_within, least=least, most=most), accepted)
        for name in ("top_p", "typical_p", "top_h"):
            self._require(name, lambda v: 0 < v <= 1, "a number above 0, up to 1")
        for name in ("min_p", "epsilon_cutoff", "eta_cutoff", "assistant_confidence_threshold"):
            self._require(name, lambda v: 0 <= v <= 1, "a number from 0 to 1")
        if self.early_stopping not in (True, False, "never"):
            accepted = "True, False, 'never'"
            raise InputError(f"early_stopping: found {self.early_stopping!r}; accepted: {accepted}")
        if self.stop_strings and self.tokenizer is None:
            raise InputError("stop_strings: found some without tokenizer; accepted: both")
        watermark = self.watermarking_config
        if watermark is not None and not hasattr(watermark, "construct_processor"):
            accepted = "transformers' WatermarkingConfig, or another with construct_processor"
            raise InputError(
                f"watermarking_config: found {type(watermark).__name__}; accepted: {accepted}"
            )
        check_structure(self)
        self._check_texts_of_a_prompt()

    def _check_texts_of_a_prompt(self) -> None:
        """Raise InputError for too many texts per prompt, or settings beam search cannot use."""
        several = self.num_beams if self.num_beams > 1 else None if self.do_sample else 1
        if several is not None and self.num_return_sequences > several:
            accepted = f"up to {several} (num_beams), or do_sample=True without beams"
            found = f"found {self.num_return_sequences}"
            raise InputError(f"num_return_sequences: {found}; accepted: {accepted}")
        if self.num_beams == 1:
            return
        reason = "(beams change earlier tokens)"
        for name in ("streamer", "output_attentions", "output_hidden_states", "assistant_model"):
            if getattr(self, name) not in (None, False):
                raise InputError(f"{name}: found one; accepted: with num_beams=1 {reason}")
        for name in ("prompt_lookup_num_tokens", "guidance_scale"):
            if getattr(self, name) not in (None, 1):
                raise InputError(
                    f"{name}: found {getattr(self, name)}; accepted: with num_beams=1 {reason}"
                )

    def _require(self, name: str, holds: Callable[[Any], bool], accepted: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if not is_number(value) or not holds(value):
            raise InputError(f"{name}: found {value!r:.60}; accepted: {accepted}")

    @property
    def drafts(self) -> bool:
        """Whether assisted decoding is used."""
        return self.assistant_model is not None or self.prompt_lookup_num_tokens is not None

    def of_row(self, row: int) -> "HubSettings":
        """The settings that generate one text for the prompt `row`."""
        allowed, negative = self.prefix_allowed_tokens_fn, self.negative_prompt_ids
        mask = self.negative_prompt_attention_mask
        return replace(
            self,
            num_return_sequences=1,
            prefix_allowed_tokens_fn=allowed and (lambda _, ids: allowed(row, ids)),
            negative_prompt_ids=None if negative is None else negative[row : row + 1],
            negative_prompt_attention_mask=None if mask is None else mask[row : row + 1],
        )

    def is_plain(self, *others: str) -> bool:
        """Whether `Decoding` supports all settings that are not defaults; ignores `others`."""
        known = {*PLAIN, *others}
        changed = (each for each in fields(self) if each.name not in known)
        return all(_is_idle(getattr(self, each.name), each.default) for each in changed)

    def end_ids(self, model: GenerativeModel) -> list[int]:
        """The ids of the tokens that end a text: those of the settings, else the model's."""
        if self.eos_token_id is None:
            return model_end_ids(model)
        return listed(self.eos_token_id)


def _is_idle(value: object, default: object) -> bool:
    """Whether a value has no effect: it equals the default, or is an empty sequence."""
    if default is None or default == ():
        return value is None or (isinstance(value, Sequence) and not value)
    return bool(value == default)


def read_settings(model: GenerativeModel, given: Mapping[str, Any]) -> HubSettings:
    """The settings of a call, merged with those of the model's generation_config.json.

    The call's arguments `given` take precedence over its `generation_config`, which takes
    precedence over the file. None as an argument resets an entry to its default. Raises InputError
    for a setting of the call that is unknown, unsupported or out of range; one warning lists
    unsupported entries of the file.
    """
    call = dict(given)
    config = call.pop("generation_config", None)
    own = entries_of(config)
    merged = _supported(_set(_file_entries(model)))
    for level in (_checked(own), _checked(call)):
        _check_lengths_apart(level, merged)
        merged |= _set(level)
    for name, value in call.items():
        if value is None:
            merged.pop(name, None)
            if name in VALUE_OF_NONE:
                merged[name] = VALUE_OF_NONE[name]
    if config is None and "eos_token_id" not in call:
        merged.pop("eos_token_id", None)  # model_end_ids returns the end tokens of all files
    _warn_of_idle(call, merged)
    if merged.get("temperature") == 0 and not merged.get("do_sample"):
        del merged["temperature"]  # greedy decoding, as in vLLM and in GenerationSettings
    return HubSettings(**merged)


def _set(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are not None, as plain Python numbers and lists."""
    found = {name: plain_value(name, value) for name, value in entries.items()}
    return {name: value for name, value in found.items() if value is not None}


def _file_entries(model: GenerativeModel) -> dict[str, Any]:
    """The entries of generation_config.json, and the forced tokens of an encoder-decoder."""
    return {**forced_entries(model), **model.generation_config}


def forced_entries(model: GenerativeModel) -> dict[str, int]:
    """The forced first and last tokens of an encoder-decoder's texts, as settings."""
    if model.task != "seq2seq_lm":
        return {}
    names = {0: "forced_bos_token_id", -1: "forced_eos_token_id"}
    return {names[index]: token for index, token in model.forced_tokens.items()}


def _supported(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The supported entries of the file; a warning lists the other entries that have an effect."""
    known = {each.name for each in fields(HubSettings)}
    others = sorted(
        name
        for name, value in entries.items()
        if name not in known | NO_EFFECT and value != REFUSED.get(name, (None, ""))[0]
    )
    if others:
        _warn_once(f"generation_config.json: not supported here: {', '.join(others)}")
    return {name: value for name, value in entries.items() if name in known}


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _checked(level: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call. Raises InputError for an unknown setting, or an unsupported value."""
    known = {each.name for each in fields(HubSettings)}
    for name, value in level.items():
        if name in known:
            continue
        if name in REFUSED:
            idle, accepted = REFUSED[name]
            if value is not None and value != idle:
                raise InputError(f"{name}: found {_brief(value)}; accepted: {accepted}")
        elif name not in NO_EFFECT | WITHOUT_EFFECT:
            hint = nearest(name, known)
            raise InputError(f"generate: found the option '{name}', which is unknown{hint}")
    return {name: value for name, value in level.items() if name in known}


def _brief(value: object) -> str:
    """The value on one line, cut to 60 characters; the class name for tensors and other objects."""
    plain = isinstance(value, (bool, int, float, str, Sequence, Mapping))
    return f"{value!s:.60}".replace("\n", " ") if plain else type(value).__name__


def entries_of(config: object) -> dict[str, Any]:
    """The settings in a call's `generation_config`, keyed by transformers' names; {} for None."""
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    if isinstance(config, GenerationSettings):
        stops = {"stop_strings": config.stop} if config.stop else {}
        several = {"num_return_sequences": config.num_return_sequences, "seed": config.seed}
        # without do_sample, the model's file could turn a temperature of 0 into sampling
        drawn = {"do_sample": config.temperature > 0, "top_k": config.top_k or 0}
        return {**config.hub_options(), **drawn, **several, **stops}
    if hasattr(config, "to_dict"):
        watermark = getattr(config, "watermarking_config", None)
        return {**config.to_dict(), "watermarking_config": watermark}
    accepted = "GenerationSettings, a GenerationConfig or a dictionary"
    raise InputError(f"generation_config: found {type(config).__name__}; accepted: {accepted}")


def _check_lengths_apart(level: Mapping[str, Any], merged: dict[str, Any]) -> None:
    """Remove max_length from `merged` if `level` sets max_new_tokens, and vice versa.

    The same applies to min_length and min_new_tokens. `level` takes precedence.
    """
    for name, other in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if level.get(name) is not None and level.get(other) is None:
            merged.pop(other, None)
        if level.get(other) is not None:
            merged.pop(name, None)


def _warn_of_idle(call: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
    """Warn about the call's sampling settings if do_sample is false."""
    names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
    idle = [name for name in names if call.get(name) is not None]
    if idle and not merged.get("do_sample"):
        log.warning("generate: %s has no effect without do_sample=True", ", ".join(idle))
