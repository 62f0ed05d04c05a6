"""Chat encoding: the implementation of `Tokenizer.apply_chat_template`."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.errors import InputError, nearest
from trainer.tokenizer.call_options import CallOptions
from trainer.tokenizer.chat import rendered_chats
from trainer.tokenizer.control_tokens import encoded
from trainer.tokenizer.encoder import Encoder
from trainer.tokenizer.encoding import BatchEncoding
from trainer.tokenizer.lengths import lengths
from trainer.tokenizer.templates import Rendering
from trainer.tokenizer.tool_schemas import tool_schemas

OWN = ("padding", "truncation", "max_length", "return_tensors", "add_special_tokens")
"""Options of a tokenizer's call that `tokenizer_kwargs` must not contain, since they are parameters
of `apply_chat_template` or have a fixed value.
"""


def apply_template(
    tokenizer: Encoder,
    conversation: Sequence[Any],
    *,
    rendering: Mapping[str, Any],
    encoding: Mapping[str, Any],
    tokenizer_kwargs: Mapping[str, Any],
    return_tensors: object,
    returned: tuple[bool, bool, bool],
) -> Any:
    """Render and encode a conversation, as `Tokenizer.apply_chat_template` documents.

    `rendering` has the options of `rendered_chats`, and `encoding` has those of a tokenizer's call.
    `returned` is (tokenize, return_dict, return_assistant_tokens_mask).
    """
    _check_options(tokenizer, rendering, tokenizer_kwargs, returned)
    tokenize, as_dict, masks_wanted = returned
    if isinstance(conversation, Mapping) or not hasattr(conversation, "__getitem__"):
        found_type = type(conversation).__name__
        raise InputError(f"messages: found {found_type}; accepted: a list of messages")
    one = len(conversation) > 0 and isinstance(conversation[0], Mapping)
    given = [conversation] if one or not len(conversation) else conversation
    chats = rendered_chats(
        tokenizer, given, **{**rendering, "tools": tool_schemas(rendering["tools"])}
    )
    if not tokenize:
        return chats[0].text if one else [chat.text for chat in chats]
    encode = _sanitized_chats if rendering["sanitized"] else _encoded_chats
    options = {**encoding, **tokenizer_kwargs}
    found = encode(tokenizer, chats, one, masks_wanted, return_tensors, options)
    return found if as_dict else found["input_ids"]


def _check_options(
    tokenizer: Encoder,
    rendering: Mapping[str, Any],
    tokenizer_kwargs: Mapping[str, Any],
    returned: tuple[bool, bool, bool],
) -> None:
    """Raise InputError for options that contradict each other or are in the wrong argument."""
    variables, sanitized = rendering["variables"], rendering["sanitized"]
    continued = rendering["continue_final_message"]
    tokenize, as_dict, masks_wanted = returned
    if masks_wanted and (not (tokenize and as_dict) or continued):
        found = "continue_final_message" if continued else "tokenize=False or return_dict=False"
        raise InputError(f"return_assistant_tokens_mask: found with {found}; accepted: without")
    if sanitized and (not tokenize or masks_wanted):
        found = "return_assistant_tokens_mask" if masks_wanted else "tokenize=False"
        raise InputError(f"sanitize_control_tokens: found with {found}; accepted: without")
    known = set(CallOptions.__annotations__) - set(OWN)
    for name in tokenizer_kwargs:
        if name not in known:
            accepted = f"{', '.join(sorted(known))}{nearest(name, known)}"
            raise InputError(f"tokenizer_kwargs: found '{name}'; accepted: {accepted}")
    for name in variables:
        if name in known or name == "add_special_tokens":
            accepted = f"tokenizer_kwargs={{'{name}': ...}}"
            if name == "add_special_tokens":
                accepted = "without it, since the template writes the special tokens"
            raise InputError(f"apply_chat_template: found '{name}'; accepted: {accepted}")


def _encoded_chats(
    tokenizer: Encoder,
    chats: Sequence[Rendering],
    one: bool,
    masks_wanted: bool,
    return_tensors: Any,
    options: Mapping[str, Any],
) -> BatchEncoding:
    """Encode rendered chats, with assistant_masks if `masks_wanted`.

    With `one`, there is a single chat, whose lists have no batch axis.
    """
    texts = [chat.text for chat in chats]
    single = one and return_tensors is None
    found = tokenizer(
        texts[0] if single else texts,
        add_special_tokens=False,  # the template writes the special tokens
        return_tensors=None if masks_wanted else return_tensors,
        **options,
    )
    if not masks_wanted:
        return found
    rows = [found["input_ids"]] if single else found["input_ids"]
    masks = [_mask(found, row, chat, len(rows[row])) for row, chat in enumerate(chats)]
    columns = {**found, "assistant_masks": masks[0] if single else masks}
    return BatchEncoding(
        columns, tensor_type=return_tensors, n_sequences=1, align=lambda: found.encodings
    )


def _sanitized_chats(
    tokenizer: Encoder,
    chats: Sequence[Rendering],
    one: bool,
    masks_wanted: bool,
    return_tensors: Any,
    options: Mapping[str, Any],
) -> BatchEncoding:
    """Encode rendered chats; control tokens inside of messages become plain text."""
    assert not masks_wanted
    if more := [name for name in options if name not in OWN]:
        found = ", ".join(more)
        raise InputError(f"tokenizer_kwargs: found {found} with sanitize_control_tokens")
    padding, max_length = options["padding"], options["max_length"]
    shape = lengths(tokenizer, padding, options["truncation"], max_length)
    rows = [encoded(tokenizer, chat.text) for chat in chats]
    if shape.truncation != "do_not_truncate":
        shape.check_room(special=0)
        left, limit = shape.truncation_side == "left", shape.limit
        rows = [row[-limit:] if left else row[:limit] for row in rows]
    inputs = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    if padding or return_tensors is not None:
        batch = tokenizer.pad(
            inputs, padding or False, max_length=max_length, return_tensors=return_tensors
        )
    else:
        names = ("input_ids", "attention_mask")
        batch = BatchEncoding({name: [row[name] for row in inputs] for name in names})
    if one and return_tensors is None:
        batch = BatchEncoding({name: column[0] for name, column in batch.items()})
    return batch


def _mask(found: BatchEncoding, row: int, chat: Rendering, length: int) -> list[int]:
    """The assistant mask of a row [L]: 1 for each token inside of a {% generation %} block."""
    mask = [0] * length
    for start, stop in chat.generated:
        first = found.char_to_token(row, start)
        if first is None:  # the block was cut off by truncation
            break
        last = found.char_to_token(row, stop - 1)
        end = length if last is None else last + 1
        mask[first:end] = [1] * (end - first)
    return mask
