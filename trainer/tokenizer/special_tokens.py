"""Special tokens: the roles that the files of all ages give them, and their registration."""

from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import AddedToken

from trainer.errors import InputError

SPECIAL_TOKENS = tuple(
    f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
EXTRA = ("additional_special_tokens", "extra_special_tokens")
"""The older and the newer name of the special tokens that have no such role."""
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def content(token: Any) -> str | None:
    """The text of a token, which stands in the files as a string or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    if token is None or isinstance(token, str):
        return token
    raise InputError(f"tokenizer_config.json: found {token!r:.40} as a token; accepted: a string")


def named_special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Special tokens under names of their own, as templates know them: `eot_token`, `image_token`.

    They stand in the config itself, in a dictionary of extra tokens, or in one of transformers 5.
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
    """Special tokens that have none of the roles: listed ones, and those under names of their own.

    Models of images and sounds have such names, as `image_token` or in a dictionary.
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
    """Have the backend never split the tokens that the config lists or calls special.

    First those of added_tokens_decoder by their ids, where the backend has them otherwise or not
    at all; then the special ones among the rest.
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
    """Raises InputError where a token did not get the id that the files give it."""
    for number, token in decoder.items():
        if (found := backend.token_to_id(content(token) or "")) != int(number):
            raise InputError(
                f"{where}: '{content(token)}' is listed as {number}, but gets {found}; "
                "accepted: ids that go on from the vocabulary's"
            )


def ids_in_front(tokenizer: Any) -> list[int]:
    """The special tokens that a tokenizer puts before a text, such as bos."""
    found = tokenizer("a", return_special_tokens_mask=True)
    count = found["special_tokens_mask"].index(0)
    return found["input_ids"][:count]


def listed_by_id(tokens: dict[str, int], special: Iterable[str | None]) -> dict[str, Any]:
    """added_tokens.json's {token: id}, which knows no flags, as an added_tokens_decoder."""
    named = set(special)
    return {
        str(number): {"content": t, "special": t in named, "normalized": t not in named}
        for t, number in tokens.items()
    }


def added_token(token: str | dict[str, Any], special: bool) -> AddedToken:
    """A token with the flags that its object has."""
    options = token if isinstance(token, dict) else {}
    chosen = {name: bool(options[name]) for name in FLAGS if name in options}
    return AddedToken(content(token), special=special, **chosen)
