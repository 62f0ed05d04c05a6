"""Tokenizer: text to ids and back over `tokenizers`, in the hub's file format."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import tokenizers
from tokenizers import AddedToken, models

from trainer import hub
from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.tokenizer import layouts
from trainer.tokenizer.chat_encoding import apply_template
from trainer.tokenizer.collating import collate
from trainer.tokenizer.encoding import BatchEncoding
from trainer.tokenizer.folder import read
from trainer.tokenizer.inputs import Inputs, read_inputs, refuse_too_long, surrogate_error
from trainer.tokenizer.lengths import Lengths, lengths
from trainer.tokenizer.special_tokens import SPECIAL_TOKENS, content
from trainer.tokenizer.tensors import as_tensors
from trainer.tokenizer.training import retrained
from trainer.tokenizer.untrained import Kind, untrained
from trainer.tokenizer.vocabulary import Ids, Vocabulary, plain_ids

NOT_SAVED = (
    "name_or_path",
    "tokenizer_file",
    "vocab_file",
    "special_tokens_map_file",
    "files_loaded",
    "added_tokens_decoder",
    "add_bos_token",
    "add_eos_token",
    "auto_map",
)
"""Where the tokenizer came from, what tokenizer.json says too, and code that is never run."""
SPACES = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""What `clean_up_tokenization_spaces` takes the spaces out of."""


class Tokenizer(Vocabulary):
    """Text to ids and back. The hub's name for it is AutoTokenizer."""

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        use_fast: bool = True,
        **options: Any,
    ) -> Self:
        """Read tokenizer.json, or else the vocabulary of a BERT, RoBERTa or GPT-2, of a folder.

        `options` go above what its configs say: model_max_length, padding_side, add_prefix_space,
        pad_token, ... Raises InputError where there is no tokenizer, where a file is not what its
        name says, and for an unknown option; `use_fast` can only be True.
        """
        if not use_fast:
            raise InputError("use_fast: found False; accepted: True, there are no others here")
        folder = hub.find(
            str(path),
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            what="tokenizer",
        )
        return cls(*read(folder, options))

    @classmethod
    def train(
        cls,
        iterator: Iterable[str | Sequence[str]],
        *,
        vocab_size: int,
        kind: Kind,
        special_tokens: Sequence[str] = (),
    ) -> Self:
        """Learn a vocabulary of at most `vocab_size` from texts, or from lists of them.

        wordpiece is arranged as BERT's (uncased), bpe as RoBERTa's, unigram as XLM-RoBERTa's, and
        gpt2, which is byte-level BPE too, puts nothing around a text. The special tokens of that
        layout are added to those given, which have the first ids. The same texts give the same
        tokenizer, whatever the process and its threads.
        """
        backend, config = untrained(kind, special_tokens)
        return cls(retrained(backend, iterator, vocab_size), config)

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str | Sequence[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[str | AddedToken] | None = None,
    ) -> Self:
        """A tokenizer of this one's kind and options, with a vocabulary learnt from other texts.

        Its special tokens are this one's and the new ones. `length` is taken for the hub's
        callers; nothing is shown that would need it.
        """
        config = dict(self._saved_config())
        extra = [*self.additional_special_tokens, *map(str, new_special_tokens or [])]
        config["additional_special_tokens"] = list(dict.fromkeys(extra))
        return type(self)(
            retrained(self.backend, text_iterator, vocab_size, new_special_tokens or ()), config
        )

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Literal["pt", "np", "tf"] | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        return_num_truncated_tokens: bool = False,
    ) -> BatchEncoding:
        """Ids of one text or of several, of pairs where `text_pair` is given.

        A text is a string, or with `is_split_into_words` a list of words. `truncation=True`
        (longest_first) without `max_length` cuts to the model's maximum; `max_length` alone cuts
        too; `padding=True` pads to the longest text of the call. Lists are ragged without padding;
        with `return_tensors` they are [B, L] arrays. With `return_overflowing_tokens` what is cut
        off makes further rows, each repeating `stride` tokens of the one before, and
        overflow_to_sample_mapping [B] says whose they are; num_truncated_tokens [B] only counts
        them. Raises InputError for what is no text,
        and where the result cannot have the shape that was asked for.
        """
        inputs = read_inputs(text, text_pair, is_split_into_words)
        shape = lengths(
            self, padding, truncation, max_length, stride, pad_to_multiple_of, padding_side
        )
        encode = partial(self._encode, inputs, shape, add_special_tokens, return_overflowing_tokens)
        # The fast way gives no offsets, and wrong token_type_ids to the overflow of pairs.
        exact = return_offsets_mapping or return_overflowing_tokens
        rows, samples = encode(offsets=exact)
        names = self.model_input_names
        wanted = {
            "token_type_ids": _or(return_token_type_ids, "token_type_ids" in names),
            "attention_mask": _or(return_attention_mask, "attention_mask" in names),
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
            "num_truncated_tokens": return_num_truncated_tokens,
        }
        columns = _columns(rows, [name for name, asked in wanted.items() if asked])
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = samples
        if return_tensors is not None:
            columns = as_tensors(columns, return_tensors)
        elif inputs.single and not return_overflowing_tokens:
            columns = {n: row[0] if isinstance(row[0], list) else row for n, row in columns.items()}
        return BatchEncoding(
            columns, (lambda: rows) if exact else partial(self._aligned, encode, len(self))
        )

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """The input_ids alone of what a call with these options returns."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of one text or pair."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool = False,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: Literal["pt", "np", "tf"] | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> Any:
        """Messages, [{"role": "user", "content": "..."}, ...], as the model learnt to read them.

        `conversation` is one list of messages or several. The template is `chat_template` (Jinja,
        or the name of one of the tokenizer's), else the tokenizer's own, else ChatML, which is
        said. `add_generation_prompt` opens the assistant's turn; `continue_final_message` leaves
        the last one open (its content, or the field named). Returns ids as a call with
        `tokenizer_kwargs` does, without `return_dict` the input_ids alone, without `tokenize` the
        text. `return_assistant_tokens_mask` adds assistant_masks, 1 for each token that the
        template puts in {% generation %} blocks. With `sanitize_control_tokens` a control token
        that a message contains is encoded as plain text. The template runs in a process of its
        own, bounded in time and memory; `variables` are its further variables. Raises InputError
        naming its line.
        """
        return apply_template(
            self,
            conversation,
            rendering={
                "tools": tools,
                "documents": documents,
                "chat_template": chat_template,
                "add_generation_prompt": add_generation_prompt,
                "continue_final_message": continue_final_message,
                "variables": variables,
                "sanitized": sanitize_control_tokens,
            },
            encoding={"padding": padding, "truncation": truncation, "max_length": max_length},
            tokenizer_kwargs=tokenizer_kwargs or {},
            return_tensors=return_tensors,
            returned=(tokenize, return_dict, return_assistant_tokens_mask),
        )

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Literal["pt", "np", "tf"] | None = None,
    ) -> BatchEncoding:
        """Encodings of single texts as one batch, or a ragged batch as an even one.

        What is not padded (labels) is only put side by side. Raises InputError where there are no
        input_ids, and where values differ in number.
        """
        shape = lengths(self, padding, False, max_length, 0, pad_to_multiple_of, padding_side)
        masked = _or(return_attention_mask, "attention_mask" in self.model_input_names)
        columns, found = collate(encoded_inputs, shape, masked)
        framework = return_tensors or found
        return BatchEncoding(columns if framework is None else as_tensors(columns, framework))

    def decode(
        self,
        token_ids: Ids,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """The text of one sequence of ids; ids beyond the vocabulary stand for nothing.

        Byte-level BPE needs no cleaning up of spaces, which would change the text.
        """
        ids = plain_ids(token_ids)
        try:
            text = self.backend.decode(ids, skip_special_tokens=skip_special_tokens)
        except (OverflowError, TypeError) as error:
            raise InputError(f"ids: {error}; accepted: a list of ids of the vocabulary") from error
        default = bool(self.config.get("clean_up_tokenization_spaces"))
        if _or(clean_up_tokenization_spaces, default) and not self._is_bpe():
            for found in SPACES:
                text = text.replace(found, found.strip())
        return text

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
        return [self.decode(r, skip_special_tokens, clean_up_tokenization_spaces) for r in rows]

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
        folder = Path(save_directory)
        files.make_folder(folder)
        files.write_bytes(folder / "tokenizer.json", self._serialized().encode())
        config = self._saved_config()
        files.write_json(folder / "tokenizer_config.json", config)
        names = (*SPECIAL_TOKENS, "additional_special_tokens")
        special = {name: config[name] for name in names if config.get(name)}
        files.write_json(folder / "special_tokens_map.json", special)

    def fingerprint(self) -> str:
        """A digest of all that decides which ids a text gets."""
        config = json.dumps(self._saved_config(), sort_keys=True)
        return hashlib.sha256(f"{self._serialized()}\n{config}".encode()).hexdigest()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(tokens={len(self)}, model_max_length={self.model_max_length}, "
            f"model_input_names={self.model_input_names}, special_tokens={self.special_tokens_map})"
        )

    def _encode(
        self,
        inputs: Inputs,
        shape: Lengths,
        add_special_tokens: bool,
        overflow: bool,
        *,
        offsets: bool,
    ) -> tuple[list[tokenizers.Encoding], list[int]]:
        """The rows of a call, and the number of the text that each comes from."""
        pair = inputs.pairs is not None
        special = self.num_special_tokens_to_add(pair) if add_special_tokens else 0
        shape.configure(self.backend, special)
        refuse_too_long(inputs)
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        try:
            found = encode(
                inputs.rows(), add_special_tokens=add_special_tokens, is_pretokenized=inputs.split
            )
        except TypeError as error:
            raise surrogate_error(inputs) from error
        except BaseException as error:
            # The library raises plain Exceptions, and panics are not even that.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise InputError(f"text: {error}") from error
        if not overflow:
            return found, list(range(len(found)))
        parts = [[encoding, *encoding.overflowing] for encoding in found]
        samples = [sample for sample, rows in enumerate(parts) for _ in rows]
        return [row for rows in parts for row in rows], samples

    def _aligned(self, encode: Callable[..., Any], size: int) -> list[tokenizers.Encoding]:
        """The rows of an earlier call once more, with offsets."""
        if len(self) != size:
            raise InputError("encodings: tokens were added since the call; call once more")
        return encode(offsets=True)[0]

    def _is_bpe(self) -> bool:
        return isinstance(self.backend.model, models.BPE)

    def _serialized(self) -> str:
        self.backend.no_truncation()
        self.backend.no_padding()
        return self.backend.to_str(pretty=True)

    def _saved_config(self) -> dict[str, Any]:
        """tokenizer_config.json as it is now, for readers that trust it above tokenizer.json."""
        config = {name: value for name, value in self.config.items() if name not in NOT_SAVED}
        for name in SPECIAL_TOKENS:
            if content(config.pop(name, None)) or getattr(self, name):
                config[name] = getattr(self, name)
        if not isinstance(config.get("extra_special_tokens"), dict):
            config.pop("extra_special_tokens", None)
        config["additional_special_tokens"] = self.additional_special_tokens
        config |= layouts.options(self.backend)
        config.pop("chat_template", None)
        if self.chat_template is not None:
            several = isinstance(self.chat_template, dict)
            config["chat_template"] = _listed(self.chat_template) if several else self.chat_template
        config["model_max_length"] = self.model_max_length
        config["model_input_names"] = self.model_input_names
        config["padding_side"] = self.padding_side
        config["truncation_side"] = self.truncation_side
        return config


def _listed(templates: Any) -> list[dict[str, str]]:
    """Several chat templates as tokenizer_config.json has them."""
    return [{"name": name, "template": template} for name, template in templates.items()]


def _or(asked: bool | None, default: bool) -> bool:
    return default if asked is None else asked


def _columns(rows: list[tokenizers.Encoding], wanted: list[str]) -> dict[str, Any]:
    """The numbers of rows by name, each [B] lists of L."""
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
