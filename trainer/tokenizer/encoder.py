"""Encoder: encodes and decodes single texts and batches with the library `tokenizers`."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Unpack, overload

import tokenizers
from tokenizers import models

from trainer.errors import InputError
from trainer.tokenizer.call_options import CallOptions, EncodeOptions, refuse_unknown
from trainer.tokenizer.collating import collate
from trainer.tokenizer.encoding import BatchEncoding
from trainer.tokenizer.inputs import Inputs, read_inputs, refuse_too_long, surrogate_error
from trainer.tokenizer.languages import Languages
from trainer.tokenizer.lengths import Lengths, lengths
from trainer.tokenizer.native_calls import native_call
from trainer.tokenizer.settings_lock import settings_lock
from trainer.tokenizer.tensors import as_tensors
from trainer.tokenizer.vocabulary import Ids, plain_ids

logger = logging.getLogger("trainer")

SPACES = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""Strings from which `clean_up_tokenization_spaces` removes the spaces."""


class Encoder(Languages):
    """A tokenizer that encodes and decodes text; chats and recipes need only this interface."""

    _warned_of_length = False

    def __call__(
        self,
        text: object = None,
        text_pair: object = None,
        text_target: object = None,
        text_pair_target: object = None,
        **options: Unpack[CallOptions],
    ) -> BatchEncoding:
        """Encode one text or several, or pairs of texts if `text_pair` is given.

        A text is a string, or with `is_split_into_words` a list of words. `truncation=True`
        (longest_first) without `max_length` truncates to the model's maximum; `max_length` alone
        also truncates. `padding=True` pads to the longest text of the call. The result holds lists,
        whose lengths differ without padding, or tensors [B, L] with `return_tensors`.

        With `return_overflowing_tokens`, the truncated tokens form additional rows, each of which
        repeats `stride` tokens of the previous row, and overflow_to_sample_mapping [B] has the
        index of each row's text. With `return_num_truncated_tokens`, the truncated tokens are only
        counted. The ids of `text_target` become the column labels, or input_ids if there is no
        `text`. `CallOptions` documents all options.

        Raises InputError if an input is not a text, for an unknown option, and if `return_tensors`
        is set but rows differ in length.
        """
        refuse_unknown("tokenizer", options)
        if text is None and text_target is None:
            raise InputError("text: found NoneType; accepted: a string or a list of strings")
        longest = options.get("max_length")
        if text_target is None:
            return self._encoded(text, text_pair, longest, options)
        target_longest = options.get("max_target_length") or longest
        with self.for_targets() as marked:
            target = self._encoded(
                text_target, text_pair_target, target_longest, options, exact=marked
            )
        if text is None:
            return target
        found = self._encoded(text, text_pair, longest, options)
        found["labels"] = target["input_ids"]
        return found

    def encode(
        self,
        text: object,
        text_pair: object = None,
        add_special_tokens: bool = True,
        **options: Unpack[EncodeOptions],
    ) -> Any:
        """The input_ids that a call with these options returns."""
        found = self(text, text_pair, add_special_tokens=add_special_tokens, **options)
        return found["input_ids"]

    def tokenize(
        self,
        text: str,
        pair: str | None = None,
        add_special_tokens: bool = False,
        **options: Unpack[EncodeOptions],
    ) -> list[str]:
        """The tokens of one text or pair."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Literal["pt", "np", "tf"] | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Combine encodings of single texts into one padded batch, or pad a ragged batch.

        Columns that do not have a value for each token, such as labels, are not padded. Raises
        InputError if input_ids are missing, or if the columns of a text differ in length.
        """
        shape = lengths(self, padding, False, max_length, 0, pad_to_multiple_of, padding_side)
        masked = _or(return_attention_mask, "attention_mask" in self.model_input_names)
        columns, found = collate(encoded_inputs, shape, masked, self.model_input_names[0])
        framework = return_tensors or found
        return BatchEncoding(columns if framework is None else as_tensors(columns, framework))

    @overload
    def decode(
        self,
        token_ids: int | Sequence[int],
        skip_special_tokens: bool = ...,
        clean_up_tokenization_spaces: bool | None = ...,
    ) -> str: ...

    @overload
    def decode(
        self,
        token_ids: object,
        skip_special_tokens: bool = ...,
        clean_up_tokenization_spaces: bool | None = ...,
    ) -> Any: ...

    def decode(
        self,
        token_ids: object,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str | list[str]:
        """The text of one sequence of ids, or a list of the texts of a batch.

        Unknown ids are skipped. BPE ignores `clean_up_tokenization_spaces`, since it would change
        the text.
        """
        ids = plain_ids(token_ids)
        if ids and isinstance(ids[0], (list, tuple)):
            return self.batch_decode(ids, skip_special_tokens, clean_up_tokenization_spaces)
        return self._decode(ids, skip_special_tokens, clean_up_tokenization_spaces)

    def batch_decode(
        self,
        sequences: Iterable[Ids],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The text of each sequence of ids; a single sequence is a batch of one."""
        rows = plain_ids(sequences)
        if rows and isinstance(rows[0], int):
            rows = [rows]
        return [self._decode(r, skip_special_tokens, clean_up_tokenization_spaces) for r in rows]

    def _decode(self, ids: Any, skip_special_tokens: bool, clean_up: bool | None) -> str:
        try:
            with native_call():
                text = self.backend.decode(ids, skip_special_tokens=skip_special_tokens)
        except (OverflowError, TypeError) as error:
            raise InputError(f"ids: {error}; accepted: a list of ids of the vocabulary") from error
        except Exception as error:  # the decoder of a tokenizer.json may fail on some tokens
            raise InputError(f"tokenizer: its decoder fails: {error}") from error
        default = bool(self.config.get("clean_up_tokenization_spaces"))
        if _or(clean_up, default) and not self._is_bpe():
            for found in SPACES:
                text = text.replace(found, found.strip())
        return text

    def _encoded(
        self,
        text: object,
        text_pair: object,
        max_length: int | None,
        options: CallOptions,
        *,
        exact: bool = False,
    ) -> BatchEncoding:
        """The encoding of texts or pairs; `__call__` documents it.

        With `exact`, offsets are computed at once, since a later call may add other special tokens.
        """
        inputs = read_inputs(text, text_pair, options.get("is_split_into_words", False))
        shape = lengths(
            self,
            options.get("padding", False),
            options.get("truncation"),
            max_length,
            options.get("stride", 0),
            options.get("pad_to_multiple_of"),
            options.get("padding_side"),
        )
        overflow = options.get("return_overflowing_tokens", False)
        encode = partial(self._encode, inputs, shape, options)
        # the library's fast method returns no offsets, and wrong type ids for overflowing pairs
        exact = exact or overflow or options.get("return_offsets_mapping", False)
        rows, samples = encode(offsets=exact)
        if max_length is None and options.get("verbose", True):
            self._warn_of_length(rows)
        columns = _columns(rows, self._wanted(options))
        if overflow:
            columns["overflow_to_sample_mapping"] = samples
        tensors = options.get("return_tensors")
        if tensors is None and inputs.single and not overflow:
            columns = {n: row[0] if isinstance(row[0], list) else row for n, row in columns.items()}
        return BatchEncoding(
            columns,
            tensor_type=tensors,
            n_sequences=1 if inputs.pairs is None else 2,
            align=(lambda: rows) if exact else partial(self._aligned, encode, len(self)),
        )

    def _wanted(self, options: CallOptions) -> list[str]:
        """The names of the requested columns, except input_ids."""
        names = self.model_input_names
        wanted = {
            "token_type_ids": _or(options.get("return_token_type_ids"), "token_type_ids" in names),
            "attention_mask": _or(options.get("return_attention_mask"), "attention_mask" in names),
            "special_tokens_mask": options.get("return_special_tokens_mask"),
            "offset_mapping": options.get("return_offsets_mapping"),
            "length": options.get("return_length"),
            "num_truncated_tokens": options.get("return_num_truncated_tokens"),
        }
        return [name for name, is_wanted in wanted.items() if is_wanted]

    def _warn_of_length(self, rows: list[tokenizers.Encoding]) -> None:
        """Warn once if a row is too long for the model."""
        longest = max((len(row) for row in rows), default=0)
        if longest > self.model_max_length and not self._warned_of_length:
            self._warned_of_length = True
            text = "tokenizer: a text has %d tokens, but the model takes %d; pass truncation=True"
            logger.warning(text, longest, self.model_max_length)

    def _encode(
        self,
        inputs: Inputs,
        shape: Lengths,
        options: CallOptions,
        *,
        offsets: bool,
    ) -> tuple[list[tokenizers.Encoding], list[int]]:
        """The rows of a call, and the index of each row's text."""
        add_special_tokens = options.get("add_special_tokens", True)
        split = options.get("split_special_tokens")
        pair = inputs.pairs is not None
        special = self.num_special_tokens_to_add(pair) if add_special_tokens else 0
        refuse_too_long(inputs)
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        with settings_lock():
            shape.configure(self.backend, special)
            self.backend.encode_special_tokens = _or(split, self.split_special_tokens)
            try:
                with native_call():
                    found = encode(
                        inputs.rows(),
                        add_special_tokens=add_special_tokens,
                        is_pretokenized=inputs.split,
                    )
            except TypeError as error:
                raise surrogate_error(inputs) from error
            except Exception as error:  # the library raises plain Exceptions
                raise InputError(f"text: {error}") from error
            finally:
                # other code may use the backend directly
                self.backend.encode_special_tokens = False
        if not options.get("return_overflowing_tokens", False):
            return found, list(range(len(found)))
        parts = [[encoding, *encoding.overflowing] for encoding in found]
        samples = [sample for sample, rows in enumerate(parts) for _ in rows]
        return [row for rows in parts for row in rows], samples

    def _aligned(self, encode: Callable[..., Any], size: int) -> list[tokenizers.Encoding]:
        """Encode the texts of an earlier call again, with offsets.

        Raises InputError if the vocabulary no longer has `size` tokens.
        """
        if len(self) != size:
            raise InputError("encodings: tokens were added since the call; call once more")
        return encode(offsets=True)[0]

    def _is_bpe(self) -> bool:
        return isinstance(self.backend.model, models.BPE)


def _or(given: bool | None, default: bool) -> bool:
    return default if given is None else given


def _columns(rows: list[tokenizers.Encoding], wanted: list[str]) -> dict[str, Any]:
    """Column name -> the values of the B rows."""
    columns: dict[str, Any] = {"input_ids": [row.ids for row in rows]}
    made: dict[str, Any] = {
        "length": lambda row: len(row.ids),
        "num_truncated_tokens": lambda row: sum(len(part.ids) for part in row.overflowing),
    }
    sources = {"token_type_ids": "type_ids", "offset_mapping": "offsets"}
    for name in wanted:
        source = sources.get(name, name)
        columns[name] = [made[name](r) if name in made else getattr(r, source) for r in rows]
    return columns
