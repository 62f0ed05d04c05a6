"""Control tokens in chats: those that a message contains are encoded as the text they look like."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError

if TYPE_CHECKING:
    from trainer.tokenizer import Tokenizer

START, END = "\U0010fdd0", "\U0010fdd1"
"""Around a control token that a message contains: private-use characters, removed from messages."""


def control_tokens(tokenizer: "Tokenizer", template: str) -> tuple[str, ...]:
    """The tokens that only a template may write: special ones, and added ones that it names.

    `chat_control_tokens` of tokenizer_config.json replaces the latter.
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


def marked(value: Any, tokens: tuple[str, ...]) -> Any:
    """`value` with marks around each control token in its texts, at any depth; keys stay."""
    if isinstance(value, str):
        return _pattern(tokens).sub(rf"{START}\g<0>{END}", re.sub(f"[{START}{END}]", "", value))
    if isinstance(value, Mapping):
        return {key: marked(each, tokens) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [marked(each, tokens) for each in value]
    return value


def encoded(tokenizer: "Tokenizer", text: str) -> list[int]:
    """The ids of a rendered chat: a marked control token as plain text, without its marks.

    A mark that a template has separated from its token is dropped, and still keeps the texts on its
    two sides apart. Raises InputError where the plain text of a token gives that very token.
    """
    tokens = _pattern(tuple(tokenizer.get_added_vocab())).pattern
    first, *pieces = re.split(f"{START}({tokens}){END}|[{START}{END}]", text)
    ids = tokenizer.encode(first, add_special_tokens=False)
    for place, piece in enumerate(pieces):
        if not piece:
            continue
        if place % 2:
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
    """Any of the tokens, the longest first; nothing where there are none."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _after_newline(tokenizer: "Tokenizer", piece: str, encode: Any) -> list[int]:
    """The ids of a text that is not the first: SentencePiece puts a space before a first one."""
    newline = encode(tokenizer, "\n")
    ids = encode(tokenizer, f"\n{piece}")
    return ids[len(newline) :] if ids[: len(newline)] == newline else encode(tokenizer, piece)


def _as_tokens(tokenizer: "Tokenizer", text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _as_text(tokenizer: "Tokenizer", text: str) -> list[int]:
    """The ids that the vocabulary gives, without looking for added tokens."""
    backend = tokenizer.backend
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = [text]
    if backend.pre_tokenizer is not None:
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for piece in pieces for token in backend.model.tokenize(piece)]
