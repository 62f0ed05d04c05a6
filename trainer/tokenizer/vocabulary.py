"""Vocabulary: the tokens of a tokenizer with their ids, and its special and added tokens."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import AddedToken

from trainer.errors import InputError, nearest
from trainer.tokenizer.native_calls import Panic, native_call
from trainer.tokenizer.settings_lock import settings_lock
from trainer.tokenizer.special_tokens import (
    EXTRA,
    SPECIAL_TOKENS,
    content,
    named_special_tokens,
    other_special_tokens,
)

Ids = int | Sequence[int] | np.ndarray | torch.Tensor


class SpecialTokenId:
    """A descriptor for the id of a special token; None if there is no such token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.token = name.removesuffix("_id")

    def __get__(self, vocabulary: "Vocabulary", owner: type) -> int | None:
        token = getattr(vocabulary, self.token)
        return None if token is None else vocabulary.backend.token_to_id(token)

    def __set__(self, vocabulary: "Vocabulary", number: int | None) -> None:
        setattr(vocabulary, self.token, None if number is None else vocabulary._token(number))


class Vocabulary:
    """The tokens and ids of a backend.

    A special token such as `pad_token` is None if it is not defined. It can be set to any token of
    the vocabulary.
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
    """Special tokens that have none of the roles above."""
    chat_template: str | dict[str, str] | None
    """The Jinja template that formats messages, or several templates by name."""

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
        self.backend = backend
        self.config = config
        self.model_max_length: int = config["model_max_length"]
        self.model_input_names: list[str] = config["model_input_names"]
        self.padding_side: str = config.get("padding_side") or "right"
        self.truncation_side: str = config.get("truncation_side") or "right"
        self.split_special_tokens: bool = bool(config.get("split_special_tokens"))
        self.pad_token_type_id: int = config.get("pad_token_type_id") or 0
        self.name_or_path = ""
        for name in SPECIAL_TOKENS:
            setattr(self, name, content(config.get(name)))
        self.additional_special_tokens = [
            token for item in other_special_tokens(config) if (token := content(item))
        ]
        self.chat_template = config.get("chat_template")
        self._special_texts: dict[int, str] | None = None

    @property
    def vocab_size(self) -> int:
        """The number of tokens without added tokens."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        """The number of tokens including added tokens: the rows that an embedding table needs."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """All tokens with their ids."""
        return self.backend.get_vocab(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        """The added tokens, which are never split, with their ids, in the order of the ids."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: number for number, token in sorted(added.items())}

    @property
    def special_texts(self) -> Mapping[int, str]:
        """The id of a special token -> the text of the token."""
        if self._special_texts is None:
            added = self.backend.get_added_tokens_decoder().items()
            self._special_texts = {n: token.content for n, token in added if token.special}
        return self._special_texts

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Name -> special token, for roles such as `pad_token` and names such as `eot_token`."""
        roles = {name: getattr(self, name) for name in SPECIAL_TOKENS}
        found = {name: token for name, token in roles.items() if token is not None}
        return found | self.named_special_tokens

    @property
    def named_special_tokens(self) -> dict[str, str]:
        """Name -> special token, for names such as `eot_token` that are not roles."""
        return named_special_tokens(self.config)

    @property
    def all_special_tokens(self) -> list[str]:
        """All special tokens, without duplicates."""
        named = self.special_tokens_map.values()
        return list(dict.fromkeys([*named, *self.additional_special_tokens]))

    @property
    def all_special_ids(self) -> list[int | None]:
        """The ids of `all_special_tokens`."""
        return [self._id(token) for token in self.all_special_tokens]

    @property
    def extra_special_tokens(self) -> list[str]:
        """`additional_special_tokens`, under its newer name in transformers."""
        return self.additional_special_tokens

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Sequence[str]) -> None:
        self.additional_special_tokens = list(tokens)

    @property
    def extra_special_tokens_ids(self) -> list[int | None]:
        """The ids of `additional_special_tokens`."""
        return [self._id(token) for token in self.additional_special_tokens]

    @extra_special_tokens_ids.setter
    def extra_special_tokens_ids(self, ids: Sequence[int]) -> None:
        self.additional_special_tokens = [self._token(number) for number in ids]

    additional_special_tokens_ids = extra_special_tokens_ids

    def add_tokens(
        self,
        new_tokens: str | AddedToken | Sequence[str | AddedToken],
        special_tokens: bool = False,
    ) -> int:
        """Add tokens that are never split; returns the number of new tokens.

        Tokens that are not in the vocabulary get the next ids. Resize the model's embeddings to
        `len(tokenizer)` afterwards.
        """
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else list(new_tokens)
        for place, token in enumerate(tokens):
            _check_token(f"new_tokens[{place}]", token)
        add = self.backend.add_special_tokens if special_tokens else self.backend.add_tokens
        self._special_texts = None
        return add(tokens)

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Set special tokens: {"pad_token": "[PAD]", "additional_special_tokens": ["<x>"]}.

        The list replaces the current list, or extends it if `replace_extra_special_tokens` is
        false. Returns the number of new tokens.
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
        """The token of an id, or a list of tokens. Raises InputError for an unknown id."""
        if isinstance(ids, int):
            return self._token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._token(number) for number in plain_ids(ids) if number not in skipped]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | None | list[int | None]:
        """The id of a token, or a list of ids; unknown tokens have the id of unk_token."""
        return self._id(tokens) if isinstance(tokens, str) else [self._id(t) for t in tokens]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of a list of tokens."""
        decoder = self.backend.decoder
        if decoder is None:
            return " ".join(tokens)
        try:
            with native_call():
                return decoder.decode(list(tokens))
        except Panic as error:
            raise InputError(f"tokenizer: its decoder fails: {error}") from error

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """The number of special tokens that are added to a text, or to a pair of texts."""
        return self.backend.num_special_tokens_to_add(pair)

    def sample_row(self, pair: bool = False) -> tokenizers.Encoding:
        """Encode a short text, or a pair of texts, with the special tokens that every row gets.

        The text is "a" or, if "a" yields no tokens, the first token that does. The truncation and
        padding that the backend keeps from earlier calls are removed.
        """
        with settings_lock():
            self.backend.no_truncation()
            self.backend.no_padding()
            text = next(filter(self._has_tokens, self._sample_texts()), "a")
            return self.backend.encode(text, text if pair else None)

    def _has_tokens(self, text: str) -> bool:
        return bool(self.backend.encode(text, add_special_tokens=False).ids)

    def _sample_texts(self) -> Iterator[str]:
        yield "a"
        yield from self.get_vocab()

    def _id(self, token: str) -> int | None:
        found = self.backend.token_to_id(token)
        return self.unk_token_id if found is None else found

    def _token(self, number: int) -> str:
        token = self.backend.id_to_token(number) if number >= 0 else None
        if token is None:
            raise InputError(f"ids: found {number}; accepted: 0 to {len(self) - 1}")
        return token


def plain_ids(ids: object) -> Any:
    """The ids of an array, a tensor or a sequence as Python integers, with the same nesting."""
    if isinstance(ids, (int, np.integer)):
        return [int(ids)]
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InputError(f"ids: found {ids!r:.40}; accepted: ids of the vocabulary")
    if hasattr(ids, "numpy"):
        ids = ids.cpu().numpy() if isinstance(ids, torch.Tensor) else ids.numpy()
    if isinstance(ids, np.ndarray):
        return ids.reshape(-1).tolist() if ids.ndim == 0 else ids.tolist()
    return [row if isinstance(row, int) else _plain_row(row) for row in ids]


def _plain_row(row: object) -> object:
    if isinstance(row, (np.integer, torch.Tensor)) and not getattr(row, "ndim", 0):
        return int(row)
    return plain_ids(row)


def _check_token(where: str, token: object) -> None:
    if not isinstance(token, (str, AddedToken)) or not str(token):
        raise InputError(f"{where}: found {token!r:.40}; accepted: a token, as text or AddedToken")
