"""Tokenizer: text to ids and back over `tokenizers`, in the hub's file format."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import tokenizers
import torch
from tokenizers import AddedToken, normalizers

from trainer import hub
from trainer.checkpoint import files
from trainer.errors import InputError, RowError, nearest
from trainer.tokenizer_files import BERT_OPTIONS, SPECIAL_TOKENS, UNLIMITED, content, read

TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")
PADDINGS = ("longest", "max_length", "do_not_pad")
NOT_SAVED = (
    "name_or_path",
    "tokenizer_file",
    "vocab_file",
    "special_tokens_map_file",
    "files_loaded",
    "added_tokens_decoder",
    "auto_map",
)
"""Where the tokenizer came from, what tokenizer.json says too, and code that is never run."""

Ids = int | Sequence[int] | np.ndarray | torch.Tensor


class BatchEncoding(dict[str, Any]):
    """What a tokenizer returns: input_ids, attention_mask and what else the family takes."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"{type(self).__name__} has no '{name}'; it has {', '.join(self)}")

    def to(self, device: str | int | torch.device) -> Self:
        """Move the tensors to `device`, in place."""
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                self[name] = value.to(device)
        return self


class SpecialTokenId:
    """The id of one special token; None where there is no such token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.token = name.removesuffix("_id")

    def __get__(self, tokenizer: "Tokenizer", owner: type) -> int | None:
        token = getattr(tokenizer, self.token)
        return None if token is None else tokenizer.backend.token_to_id(token)

    def __set__(self, tokenizer: "Tokenizer", number: int | None) -> None:
        setattr(tokenizer, self.token, None if number is None else tokenizer._token(number))


class Tokenizer:
    """Text to ids and back. The hub's name for it is AutoTokenizer.

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

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
        """`config` holds what tokenizer_config.json does; `Tokenizer.from_pretrained` reads it."""
        self.backend = backend
        self.config = config
        self.model_max_length: int = config["model_max_length"]
        self.model_input_names: list[str] = config["model_input_names"]
        self.padding_side: str = config.get("padding_side", "right")
        self.truncation_side: str = config.get("truncation_side", "right")
        for name in SPECIAL_TOKENS:
            setattr(self, name, content(config.get(name)))
        self._add_missing_special_tokens()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | None = None,
    ) -> Self:
        """Read tokenizer.json, or else the vocab.txt of a BERT-like family, of a model's folder.

        Raises InputError where there is neither, or where a file is not what its name says.
        """
        folder = hub.find(
            str(path),
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            what="tokenizer",
        )
        return cls(*read(folder))

    def __call__(
        self,
        text: str | Iterable[str],
        text_pair: str | Iterable[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
    ) -> BatchEncoding:
        """Ids of one text or of several, of pairs where `text_pair` is given.

        `truncation=True` (longest_first) without `max_length` cuts to the model's maximum;
        `max_length` alone cuts too; `padding=True` pads to the longest text of the call. Lists are
        ragged without padding; with `return_tensors` they are [B, L] arrays. Raises InputError for
        what is no text, and where the result cannot have the shape that was asked for.
        """
        texts = _texts("text", text)
        pairs = None if text_pair is None else _texts("text_pair", text_pair)
        padding, truncation = self._strategies(padding, truncation, max_length)
        limit = self.model_max_length if max_length is None else max_length
        special = self.backend.num_special_tokens_to_add(pairs is not None)
        self._set_truncation(truncation, limit, special if add_special_tokens else 0)
        encodings = self._encode(texts, pairs, add_special_tokens)
        columns = {"input_ids": [encoding.ids for encoding in encodings]}
        if "token_type_ids" in self.model_input_names:
            columns["token_type_ids"] = [encoding.type_ids for encoding in encodings]
        columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
        if padding != "do_not_pad":
            self._pad(columns, limit if padding == "max_length" else 0)
        if return_tensors is not None:
            return BatchEncoding(_tensors(columns, return_tensors))
        if isinstance(text, str):
            return BatchEncoding({name: row for name, (row,) in columns.items()})
        return BatchEncoding(columns)

    def decode(self, ids: Ids, skip_special_tokens: bool = False) -> str:
        """The text of one sequence of ids."""
        try:
            return self.backend.decode(_ids(ids), skip_special_tokens=skip_special_tokens)
        except (OverflowError, TypeError) as error:
            raise InputError(f"ids: {error}; accepted: a list of ids of the vocabulary") from error

    def batch_decode(self, rows: Iterable[Ids], skip_special_tokens: bool = False) -> list[str]:
        """The text of each sequence of ids."""
        return [self.decode(ids, skip_special_tokens) for ids in rows]

    def convert_ids_to_tokens(self, ids: Ids) -> str | list[str]:
        """The token of one id, or of each; raises InputError for an id out of the vocabulary."""
        if isinstance(ids, int):
            return self._token(ids)
        return [self._token(number) for number in _ids(ids)]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | None | list[int | None]:
        """The id of one token, or of each; an unknown token has unk_token's id."""
        if isinstance(tokens, str):
            found = self.backend.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]  # type: ignore[misc]

    @property
    def vocab_size(self) -> int:
        """Tokens of the model's own vocabulary, without those added later."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        """Tokens in all: how many rows an embedding table must have."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
        folder = Path(directory)
        files.write_bytes(folder / "tokenizer.json", self._serialized().encode())
        config = self._saved_config()
        files.write_json(folder / "tokenizer_config.json", config)
        special = {name: config[name] for name in SPECIAL_TOKENS if config.get(name)}
        files.write_json(folder / "special_tokens_map.json", special)

    def fingerprint(self) -> str:
        """A digest of all that decides which ids a text gets."""
        config = json.dumps(self._saved_config(), sort_keys=True)
        return hashlib.sha256(f"{self._serialized()}\n{config}".encode()).hexdigest()

    def _strategies(
        self, padding: bool | str, truncation: bool | str | None, max_length: int | None
    ) -> tuple[str, str]:
        """The names of both strategies, checked."""
        if truncation is None:
            truncation = max_length is not None and padding is False
        if isinstance(truncation, bool):
            truncation = "longest_first" if truncation else "do_not_truncate"
        if isinstance(padding, bool):
            padding = "longest" if padding else "do_not_pad"
        _accept("truncation", truncation, TRUNCATIONS)
        _accept("padding", padding, PADDINGS)
        unlimited = max_length is None and self.model_max_length >= UNLIMITED
        if unlimited and padding == "max_length":
            raise InputError("padding: 'max_length' without max_length, and the files name none")
        if padding != "do_not_pad" and self.pad_token_id is None:
            raise InputError("padding: the vocabulary has no pad_token; set tokenizer.pad_token")
        return padding, "do_not_truncate" if unlimited else truncation

    def _set_truncation(self, truncation: str, limit: int, special: int) -> None:
        """Have the backend cut to `limit` tokens, `special` special ones among them."""
        if truncation == "do_not_truncate":
            self.backend.no_truncation()
            return
        # The backend would not cut at all where the special tokens alone are too many.
        if limit < max(1, special):
            raise InputError(
                f"max_length: found {limit}; accepted: {max(1, special)} or more, "
                f"of which {special} are special tokens"
            )
        self.backend.enable_truncation(limit, strategy=truncation, direction=self.truncation_side)

    def _encode(
        self, texts: list[str], pairs: list[str] | None, add_special_tokens: bool
    ) -> list[tokenizers.Encoding]:
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(f"text_pair: found {len(pairs)} texts for the {len(texts)} of text")
        inputs: Any = texts if pairs is None else list(zip(texts, pairs, strict=True))
        try:
            return self.backend.encode_batch_fast(inputs, add_special_tokens=add_special_tokens)
        except TypeError as error:
            raise _surrogate_error(texts, pairs or []) from error
        except Exception as error:  # the library raises nothing narrower
            raise InputError(f"text: {error}") from error

    def _pad(self, columns: dict[str, list[list[int]]], at_least: int) -> None:
        """Make all rows as long as the longest, and no shorter than `at_least`."""
        length = max([at_least, *map(len, columns["input_ids"])])
        for name, rows in columns.items():
            value = self.pad_token_id if name == "input_ids" else 0
            assert value is not None
            pads = ([value] * (length - len(row)) for row in rows)
            pairs = zip(rows, pads, strict=True)
            left = self.padding_side == "left"
            columns[name] = [pad + row if left else row + pad for row, pad in pairs]

    def _token(self, number: int) -> str:
        token = self.backend.id_to_token(number) if number >= 0 else None
        if token is None:
            raise InputError(f"ids: found {number}; accepted: 0 to {len(self) - 1}")
        return token

    def _add_missing_special_tokens(self) -> None:
        """Have the backend never split a token that the files call special."""
        decoder = self.config.get("added_tokens_decoder") or {}
        listed = [decoder[number] for number in sorted(decoder, key=int)]
        named = [token for name in SPECIAL_TOKENS if (token := self.config.get(name))]
        named += self.config.get("additional_special_tokens") or []
        special = {content(token) for token in named}
        special |= {content(token) for token in listed if token.get("special")}
        known = {token.content for token in self.backend.get_added_tokens_decoder().values()}
        for token in [*listed, *named]:
            if (text := content(token)) not in known:
                self.backend.add_tokens([_added_token(token, special=text in special)])

    def _serialized(self) -> str:
        self.backend.no_truncation()
        return self.backend.to_str(pretty=True)

    def _saved_config(self) -> dict[str, Any]:
        """tokenizer_config.json as it is now, for readers that trust it above tokenizer.json."""
        config = {name: value for name, value in self.config.items() if name not in NOT_SAVED}
        for name in SPECIAL_TOKENS:
            if content(config.get(name)) != getattr(self, name):
                config[name] = getattr(self, name)
        normalizer = self.backend.normalizer
        if isinstance(normalizer, normalizers.BertNormalizer):
            config |= {ours: getattr(normalizer, theirs) for ours, theirs in BERT_OPTIONS.items()}
        config["model_max_length"] = self.model_max_length
        config["model_input_names"] = self.model_input_names
        config["padding_side"] = self.padding_side
        config["truncation_side"] = self.truncation_side
        return config


def _accept(argument: str, found: str, accepted: Sequence[str]) -> None:
    if found not in accepted:
        hint = nearest(str(found), accepted)
        raise InputError(f"{argument}: found {found!r}; accepted: {', '.join(accepted)}{hint}")


def _texts(argument: str, given: Any) -> list[str]:
    """One text or several as a list; raises RowError for the first that is no string."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, (bytes, dict)) or not isinstance(given, Iterable):
        found = type(given).__name__
        raise InputError(f"{argument}: found {found}; accepted: a string or a list of strings")
    texts = list(given)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            found = f"{text!r:.40} ({type(text).__name__})"
            raise RowError(row, f"{argument}[{row}]: found {found}; accepted: a string")
    return texts


def _surrogate_error(texts: list[str], pairs: list[str]) -> InputError:
    """Names the string with half a surrogate pair, the only kind that the backend refuses."""
    for argument, rows in (("text", texts), ("text_pair", pairs)):
        for row, text in enumerate(rows):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                return RowError(row, f"{argument}[{row}]: {error}; accepted: valid Unicode")
    raise AssertionError("the tokenizer refused valid strings")


def _ids(ids: Ids) -> list[int]:
    if isinstance(ids, int):
        return [ids]
    return ids.tolist() if isinstance(ids, (np.ndarray, torch.Tensor)) else list(ids)


def _tensors(columns: dict[str, list[list[int]]], kind: str) -> dict[str, Any]:
    """[B, L] arrays of 64-bit integers."""
    _accept("return_tensors", kind, ("pt", "np"))
    if len({len(row) for row in columns["input_ids"]}) > 1:
        raise InputError(
            "return_tensors: the texts have unequal numbers of tokens; accepted: with padding=True"
        )
    arrays = {name: np.array(rows, dtype=np.int64) for name, rows in columns.items()}
    if kind == "np":
        return arrays
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _added_token(token: str | dict[str, Any], special: bool) -> AddedToken:
    options = token if isinstance(token, dict) else {}
    known = ("lstrip", "rstrip", "single_word", "normalized")
    chosen = {name: options[name] for name in known if name in options}
    return AddedToken(content(token), special=special, **chosen)
