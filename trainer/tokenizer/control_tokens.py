"""Control tokens: encodes tokens such as <|im_end|> in a chat's messages as plain text."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from trainer.errors import InputError
from trainer.tokenizer.encoder import Encoder
from trainer.tokenizer.vocabulary import Vocabulary

START, END = "\U0010fdd0", "\U0010fdd1"
"""Marks around control tokens in messages. They are private-use characters.

If a message contains such characters, they are removed first.
"""


def control_tokens(tokenizer: Vocabulary, template: str) -> tuple[str, ...]:
    """The tokens that only a template may write.

    These are the special tokens and some added tokens: those in the list `chat_control_tokens` of
    tokenizer_config.json or, without this list, those that the template contains.
    """
    listed = tokenizer.config.get("chat_control_tokens")
    added = tokenizer.backend.get_added_tokens_decoder().values()
    return tuple(
        token.content
        for token in added
        if token.special
        or (
            token.content in listed
            if listed is not None
            else token.content in template and not token.content.isspace()
        )
    )


def marked(value: object, tokens: tuple[str, ...]) -> Any:
    """A value with marks around control tokens in all its nested texts; keys are unchanged."""
    if isinstance(value, str):
        return _pattern(tokens).sub(rf"{START}\g<0>{END}", re.sub(f"[{START}{END}]", "", value))
    if isinstance(value, Mapping):
        return {key: marked(each, tokens) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [marked(each, tokens) for each in value]
    return value


def encoded(tokenizer: Encoder, text: str) -> list[int]:
    """The ids of a rendered chat, with marked control tokens encoded as plain text.

    If the template has separated a mark from its token, the mark is dropped, and the texts before
    and after it are encoded separately. Raises InputError if the tokenizer encodes the plain text
    of a control token as the control token.
    """
    tokens = _pattern(tuple(tokenizer.get_added_vocab())).pattern
    first, *pieces = re.split(f"{START}({tokens}){END}|[{START}{END}]", text)
    ids = tokenizer.encode(first, add_special_tokens=False)
    for index, piece in enumerate(pieces):
        if not piece:
            continue
        if index % 2:
            ids += _after_newline(tokenizer, piece, _as_tokens)
            continue
        plain = _after_newline(tokenizer, piece, _as_text)
        if tokenizer.backend.token_to_id(piece) in plain:
            raise InputError(
                f"sanitize_control_tokens: the tokenizer makes {piece!r} of plain text; accepted: "
                "messages without it"
            )
        ids += plain
    return ids


@lru_cache(maxsize=16)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern that matches any of the tokens, longest first, or nothing without tokens."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _after_newline(tokenizer: Encoder, piece: str, encode: Any) -> list[int]:
    """The ids of a text that follows another text.

    It is encoded after a newline, since SentencePiece would add a space before the first text.
    """
    newline = encode(tokenizer, "\n")
    ids = encode(tokenizer, f"\n{piece}")
    return ids[len(newline) :] if ids[: len(newline)] == newline else encode(tokenizer, piece)


def _as_tokens(tokenizer: Encoder, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _as_text(tokenizer: Encoder, text: str) -> list[int]:
    """The ids of a text in which added tokens are not recognized."""
    backend = tokenizer.backend
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = [text]
    if backend.pre_tokenizer is not None:
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for piece in pieces for token in backend.model.tokenize(piece)]
