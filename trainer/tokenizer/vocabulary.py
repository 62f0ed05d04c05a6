"""Vocabulary: the tokens of a tokenizer, their ids, the roles of special ones, and new ones."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import AddedToken

from trainer.errors import InputError, nearest
from trainer.tokenizer.special_tokens import (
    EXTRA,
    SPECIAL_TOKENS,
    content,
    named_special_tokens,
    other_special_tokens,
)

Ids = int | Sequence[int] | np.ndarray | torch.Tensor


class SpecialTokenId:
    """The id of one special token; None where there is no such token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.token = name.removesuffix("_id")

    def __get__(self, vocabulary: "Vocabulary", owner: type) -> int | None:
        token = getattr(vocabulary, self.token)
        return None if token is None else vocabulary.backend.token_to_id(token)

    def __set__(self, vocabulary: "Vocabulary", number: int | None) -> None:
        setattr(vocabulary, self.token, None if number is None else vocabulary._token(number))


class Vocabulary:
    """Tokens and ids of a backend.

    A special token such as `pad_token` is None where the vocabulary has none, and may be set to
    any token of the vocabulary.
    """

    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    sep_token: str | None
    pad_token: str | None
    cls_token: str | None
    mask_token: str | None
    bos_token_id = SpecialTokenId()
    eos_token_id = SpecialTokenId()
    unk_token_id = SpecialTokenId()
    sep_token_id = SpecialTokenId()
    pad_token_id = SpecialTokenId()
    cls_token_id = SpecialTokenId()
    mask_token_id = SpecialTokenId()
    additional_special_tokens: list[str]
    """Special tokens without one of these roles."""
    chat_template: str | dict[str, str] | None
    """How messages become text, in Jinja; several templates by name."""

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
        self.backend = backend
        self.config = config
        self.model_max_length: int = config["model_max_length"]
        self.model_input_names: list[str] = config["model_input_names"]
        self.padding_side: str = config.get("padding_side") or "right"
        self.truncation_side: str = config.get("truncation_side") or "right"
        for name in SPECIAL_TOKENS:
            setattr(self, name, content(config.get(name)))
        self.additional_special_tokens = [
            token for item in other_special_tokens(config) if (token := content(item))
        ]
        self.chat_template = config.get("chat_template")

    @property
    def vocab_size(self) -> int:
        """Tokens of the model's own vocabulary, without those added later."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        """Tokens in all: how many rows an embedding table must have."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return self.backend.get_vocab(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        """The tokens that are looked for before a text is split, with their ids, by id."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: number for number, token in sorted(added.items())}

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Special tokens by role, and those under names of their own."""
        roles = {name: getattr(self, name) for name in SPECIAL_TOKENS}
        found = {name: token for name, token in roles.items() if token is not None}
        return found | self.named_special_tokens

    @property
    def named_special_tokens(self) -> dict[str, str]:
        """Special tokens under names that only this tokenizer has, such as `eot_token`."""
        return named_special_tokens(self.config)

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token, once."""
        named = self.special_tokens_map.values()
        return list(dict.fromkeys([*named, *self.additional_special_tokens]))

    @property
    def all_special_ids(self) -> list[int | None]:
        """The ids of `all_special_tokens`."""
        return [self._id(token) for token in self.all_special_tokens]

    @property
    def extra_special_tokens(self) -> list[str]:
        """The newer name of `additional_special_tokens`."""
        return self.additional_special_tokens

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Sequence[str]) -> None:
        self.additional_special_tokens = list(tokens)

    def add_tokens(
        self,
        new_tokens: str | AddedToken | Sequence[str | AddedToken],
        special_tokens: bool = False,
    ) -> int:
        """Have these tokens never split; returns how many of them were not so before.

        Those that the vocabulary does not have take the next ids: resize the model's embeddings to
        `len(tokenizer)`.
        """
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else list(new_tokens)
        for place, token in enumerate(tokens):
            _check_token(f"new_tokens[{place}]", token)
        add = self.backend.add_special_tokens if special_tokens else self.backend.add_tokens
        return add(tokens)

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Give tokens a role: {"pad_token": "[PAD]", "additional_special_tokens": ["<x>"]}.

        The list replaces the one there is, or else extends it. Returns as `add_tokens` does.
        """
        added: list[str | AddedToken] = []
        for role, value in special_tokens_dict.items():
            if role in SPECIAL_TOKENS:
                _check_token(role, value)
                setattr(self, role, str(value))
                added.append(value)
            elif role in EXTRA and not isinstance(value, str):
                for place, token in enumerate(value):
                    _check_token(f"{role}[{place}]", token)
                kept = [] if replace_extra_special_tokens else self.additional_special_tokens
                self.additional_special_tokens = list(dict.fromkeys([*kept, *map(str, value)]))
                added += value
            else:
                accepted = [*SPECIAL_TOKENS, *EXTRA]
                hint = nearest(role, accepted)
                raise InputError(
                    f"special_tokens_dict: found {role}: {value!r:.40}; accepted: a token for "
                    f"{', '.join(SPECIAL_TOKENS)}, a list for {' or '.join(EXTRA)}{hint}"
                )
        return self.add_tokens(added, special_tokens=True)

    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> str | list[str]:
        """The token of one id, or of each; raises InputError for an id out of the vocabulary."""
        if isinstance(ids, int):
            return self._token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._token(number) for number in plain_ids(ids) if number not in skipped]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | None | list[int | None]:
        """The id of one token, or of each; an unknown token has unk_token's id."""
        return self._id(tokens) if isinstance(tokens, str) else [self._id(t) for t in tokens]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that tokens make."""
        decoder = self.backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens around one text, or around and between the two of a pair."""
        return self.backend.num_special_tokens_to_add(pair)

    def _id(self, token: str) -> int | None:
        found = self.backend.token_to_id(token)
        return self.unk_token_id if found is None else found

    def _token(self, number: int) -> str:
        token = self.backend.id_to_token(number) if number >= 0 else None
        if token is None:
            raise InputError(f"ids: found {number}; accepted: 0 to {len(self) - 1}")
        return token


def plain_ids(ids: Any) -> Any:
    """Ids out of an array or a sequence, as Python's numbers; nested where they are nested."""
    if isinstance(ids, (int, np.integer)):
        return [int(ids)]
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InputError(f"ids: found {ids!r:.40}; accepted: ids of the vocabulary")
    if hasattr(ids, "numpy"):
        ids = ids.cpu().numpy() if isinstance(ids, torch.Tensor) else ids.numpy()
    if isinstance(ids, np.ndarray):
        return ids.reshape(-1).tolist() if ids.ndim == 0 else ids.tolist()
    return [row if isinstance(row, int) else _plain_row(row) for row in ids]


def _plain_row(row: Any) -> Any:
    if isinstance(row, (np.integer, torch.Tensor)) and not getattr(row, "ndim", 0):
        return int(row)
    return plain_ids(row)


def _check_token(where: str, token: Any) -> None:
    if not isinstance(token, (str, AddedToken)) or not str(token):
        raise InputError(f"{where}: found {token!r:.40}; accepted: a token, as text or AddedToken")
