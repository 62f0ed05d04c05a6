"""Call options: the keyword arguments of a tokenizer's call, named as in transformers."""

from collections.abc import Collection, Iterable
from typing import Literal, TypedDict

from trainer.errors import InputError, nearest


class EncodeOptions(TypedDict, total=False):
    """The options of `encode` and `tokenize`."""

    padding: bool | str
    """True or "longest" pads to the longest row, "max_length" pads to `max_length`, and False, the
    default, does not pad.
    """
    truncation: bool | str | None
    """True or "longest_first", "only_first" and "only_second" truncate to `max_length`; False and
    "do_not_truncate" do not truncate. None, the default, truncates if `max_length` is given.
    """
    max_length: int | None
    """The maximum number of tokens, including special tokens; by default the tokenizer's
    `model_max_length`.
    """
    max_target_length: int | None
    """The `max_length` of `text_target`; by default `max_length`."""
    stride: int
    """The number of tokens that an overflowing row repeats from the previous row; by default 0."""
    is_split_into_words: bool
    """Whether each text is a list of words; by default False."""
    pad_to_multiple_of: int | None
    """Padded rows get a length that is a multiple of this number; by default None."""
    padding_side: str | None
    """The side on which pads are added; by default the tokenizer's `padding_side`."""
    return_tensors: Literal["pt", "np", "tf"] | None
    """Whether to return arrays [B, L] of PyTorch, NumPy or TensorFlow; by default lists."""
    return_token_type_ids: bool | None
    """Whether to return token_type_ids; by default if `model_input_names` contains them."""
    return_attention_mask: bool | None
    """Whether to return attention_mask; by default if `model_input_names` contains it."""
    return_overflowing_tokens: bool
    """Whether to return additional rows with the truncated tokens; by default False."""
    return_special_tokens_mask: bool
    """Whether to return special_tokens_mask, 1 for each special token; by default False."""
    return_offsets_mapping: bool
    """Whether to return offset_mapping, each token's characters (start, end); by default False."""
    return_length: bool
    """Whether to return length, the number of tokens of each row; by default False."""
    return_num_truncated_tokens: bool
    """Whether to return num_truncated_tokens, the number for each text; by default False."""
    split_special_tokens: bool | None
    """Whether to encode special tokens in a text as plain text; by default the tokenizer's
    `split_special_tokens`.
    """
    verbose: bool
    """Whether to warn of a text that is too long for the model; by default True."""


class CallOptions(EncodeOptions, total=False):
    """The options of a tokenizer's call."""

    add_special_tokens: bool
    """Whether to add special tokens, such as [CLS] and [SEP], around each text; by default True."""


def refuse_unknown(
    where: str, names: Iterable[str], accepted: Collection[str] = tuple(CallOptions.__annotations__)
) -> None:
    """Raise InputError for a name that is not in `accepted`; `where` begins the message."""
    for name in names:
        if name not in accepted:
            listed = ", ".join(sorted(accepted))
            raise InputError(f"{where}: found {name}; accepted: {listed}{nearest(name, accepted)}")
