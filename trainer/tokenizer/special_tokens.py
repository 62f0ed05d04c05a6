"""Special tokens: reads them from old and new configs, and adds them to the backend."""

from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import AddedToken

from trainer.errors import InputError

SPECIAL_TOKENS = tuple(
    f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
EXTRA = ("additional_special_tokens", "extra_special_tokens")
"""The old and the new name of the list of special tokens that have no role."""
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def content(token: object) -> str | None:
    """The text of a config's token: a string or an object with `content`; None if unset.

    Raises InputError for any other value.
    """
    if isinstance(token, dict):
        token = token.get("content")
    if token is None or isinstance(token, str):
        return token
    raise InputError(f"tokenizer_config.json: found {token!r:.40} as a token; accepted: a string")


def named_special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Name -> special token, for names such as `eot_token` that are not in SPECIAL_TOKENS.

    They are entries of the config, or of a dictionary of extra tokens. Templates may use them.
    """
    found = {
        name: token
        for name, token in config.items()
        if name.endswith("_token") and name not in SPECIAL_TOKENS
    }
    for name in (*EXTRA, "model_specific_special_tokens"):
        if isinstance(tokens := config.get(name), dict):
            found |= tokens
    texts = {n: content(t) for n, t in found.items() if isinstance(t, (str, dict))}
    return {name: text for name, text in texts.items() if text}


def other_special_tokens(config: dict[str, Any]) -> list[Any]:
    """All special tokens that have none of the roles in SPECIAL_TOKENS.

    Some have names in the config, for example in models for images and audio.
    """
    named = [
        token
        for name, token in config.items()
        if name.endswith("_token") and name not in SPECIAL_TOKENS
    ]
    lists: list[Any] = []
    for name in (*EXTRA, "model_specific_special_tokens"):
        tokens = config.get(name) or []
        lists += tokens.values() if isinstance(tokens, dict) else tokens
    tokens = [token for token in named if isinstance(token, (str, dict))] + lists
    return list({content(token): token for token in tokens}.values())


def register(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
    """Add the added and special tokens of the config to the backend.

    First come the tokens of added_tokens_decoder, by id, unless the backend has them with the same
    flags. Then come the remaining special tokens.
    """
    special = [token for name in SPECIAL_TOKENS if (token := config.get(name))]
    named = {content(token) for token in special}
    special += other_special_tokens(config)
    decoder = config.get("added_tokens_decoder") or {}
    listed = [
        added_token(token, bool(token.get("special")) or content(token) in named)
        for _, token in sorted(decoder.items(), key=lambda item: int(item[0]))
    ]
    known = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    new = [token for token in listed if repr(token) not in known]
    seen = {token.content for token in backend.get_added_tokens_decoder().values()}
    seen |= {token.content for token in new}
    for token in special:
        if (text := content(token)) and text not in seen:
            new.append(added_token(token, special=True))
            seen.add(text)
    backend.add_tokens(new)


def check_ids(backend: tokenizers.Tokenizer, decoder: dict[str, Any], where: str) -> None:
    """Raise InputError if a token has another id in the backend than in the files."""
    for number, token in decoder.items():
        if (found := backend.token_to_id(content(token) or "")) != int(number):
            raise InputError(
                f"{where}: '{content(token)}' is listed as {number}, but gets {found}; "
                "accepted: ids that continue those of the vocabulary"
            )


def ids_in_front(tokenizer: Any) -> list[int]:
    """The ids of the special tokens, such as bos, that a tokenizer adds before a text."""
    row = tokenizer.sample_row()
    mask = row.special_tokens_mask
    return list(row.ids[: mask.index(0) if 0 in mask else 0])


def listed_by_id(tokens: dict[str, int], special: Iterable[str | None]) -> dict[str, Any]:
    """The entries {token: id} of added_tokens.json in the form of an added_tokens_decoder."""
    named = set(special)
    return {
        str(number): {"content": t, "special": t in named, "normalized": t not in named}
        for t, number in tokens.items()
    }


def added_token(token: str | dict[str, Any], special: bool) -> AddedToken:
    """An AddedToken with the flags of the token's config entry."""
    options = token if isinstance(token, dict) else {}
    chosen = {name: bool(options[name]) for name in FLAGS if name in options}
    return AddedToken(content(token), special=special, **chosen)
