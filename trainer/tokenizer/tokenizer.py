"""Tokenizer: reads, trains and saves tokenizers in the hub's format, and applies chat templates."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, Unpack

from tokenizers import AddedToken

from trainer import hub
from trainer.checkpoint import files
from trainer.pushing.saved_files import SavedOptions, push_saved
from trainer.stores.url import local_folder
from trainer.tokenizer import layouts
from trainer.tokenizer.chat import chosen_template
from trainer.tokenizer.chat_encoding import apply_template
from trainer.tokenizer.empty_tokenizer import Kind, empty_tokenizer
from trainer.tokenizer.encoder import Encoder
from trainer.tokenizer.folder import read
from trainer.tokenizer.saved_options import (
    check_load_options,
    check_save_options,
    save_templates,
)
from trainer.tokenizer.settings_lock import settings_lock
from trainer.tokenizer.special_tokens import SPECIAL_TOKENS, content
from trainer.tokenizer.tool_schemas import Tool
from trainer.tokenizer.training import renamed, retrained

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
"""Entries of tokenizer_config.json that are not saved.

They are paths, values that tokenizer.json also stores, or names of remote code.
"""

ENDS = ("add_bos_token", "add_eos_token")
"""Options that are not saved in the config, since tokenizer.json stores their effect."""
LANGUAGES = ("src_lang", "tgt_lang")
"""Options that change the special tokens around texts."""


class Tokenizer(Encoder):
    """A tokenizer with the interface of the hub's AutoTokenizer."""

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        subfolder: str = "",
        **options: object,
    ) -> Self:
        """Load a tokenizer from a folder, a hub id or a pkg:// path.

        Reads tokenizer.json or, without it, the vocabulary files of families such as BERT, RoBERTa,
        GPT-2 and T5. `options` override entries of the configs, such as model_max_length,
        padding_side, add_prefix_space and pad_token. Other arguments of transformers are applied,
        ignored with a warning, or refused (`trainer/tokenizer/saved_options.py`). Raises InputError
        if there is no tokenizer, if a file is malformed, and for an unknown option.
        """
        options = check_load_options(options)
        folder = hub.find(
            str(path),
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            what="tokenizer",
            weights=None,
            templates=True,
            subfolder=subfolder,
        )
        ends = {name: options.pop(name) for name in ENDS if name in options}
        languages = {name: options.pop(name) for name in LANGUAGES if options.get(name)}
        tokenizer = cls(*read(folder, options))
        tokenizer.name_or_path = str(path)
        for name, value in ends.items():
            setattr(tokenizer, name, bool(value))
        for name, code in languages.items():
            setattr(tokenizer, name, code)
        return tokenizer

    @classmethod
    def train(
        cls,
        iterator: Iterable[str | Sequence[str]],
        *,
        vocab_size: int,
        kind: Kind,
        special_tokens: Sequence[str] = (),
    ) -> Self:
        """Train a tokenizer with at most `vocab_size` tokens on texts, or on lists of texts.

        `kind` selects the algorithm and the special tokens: wordpiece is like BERT (uncased), bpe
        like RoBERTa, and unigram like XLM-RoBERTa; gpt2 is byte-level BPE that adds no special
        tokens to a text. `special_tokens` get the first ids, followed by the special tokens of the
        kind. The same texts give the same tokenizer in every process and with any number of
        threads.
        """
        backend, config = empty_tokenizer(kind, special_tokens)
        return cls(retrained(backend, iterator, vocab_size), config)

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str | Sequence[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[str | AddedToken] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
    ) -> Self:
        """Train a tokenizer of the same kind, with the same options, on other texts.

        The new tokenizer has the special tokens of this one, renamed by `special_tokens_map`, and
        `new_special_tokens`. `length` is ignored; transformers has this argument.
        """
        names, config = dict(special_tokens_map or {}), dict(self._saved_config())
        extra = [*self.additional_special_tokens, *map(str, new_special_tokens or [])]
        config["additional_special_tokens"] = list(dict.fromkeys(names.get(t, t) for t in extra))
        for role in SPECIAL_TOKENS:
            if config.get(role) in names:
                config[role] = names[config[role]]
        template = renamed(self.backend, names) if names else self.backend
        return type(self)(
            retrained(template, text_iterator, vocab_size, new_special_tokens or ()), config
        )

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Sequence[Tool] | None = None,
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
        **variables: object,
    ) -> Any:
        """Format messages, [{"role": "user", "content": "..."}, ...], with a chat template.

        `conversation` is one list of messages or several. The template is `chat_template` (Jinja,
        or the name of one of the tokenizer's templates), else the tokenizer's own, else ChatML with
        a warning. `variables` are passed to the template; a variable that the template does not
        read is refused. `tools` are JSON schemas, or functions with type hints and a docstring.
        `add_generation_prompt` appends the start of an assistant message. `continue_final_message`
        leaves the last message open, so that the model continues its content or the named field.

        Returns the text if `tokenize` is false, only the input_ids if `return_dict` is false, and
        otherwise a BatchEncoding, like a call with `tokenizer_kwargs`.
        `return_assistant_tokens_mask` adds assistant_masks, which are 1 for tokens in
        {% generation %} blocks. With `sanitize_control_tokens`, control tokens in messages are
        encoded as plain text. The template runs in a separate process with limits on time and
        memory. Raises InputError; if the template fails, the error names the line.
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

    def get_chat_template(
        self, chat_template: str | None = None, tools: Sequence[Tool] | None = None
    ) -> str:
        """The template that `apply_chat_template` uses for these arguments."""
        return chosen_template(self, chat_template, tools)

    def save_pretrained(
        self,
        save_directory: str | Path,
        filename_prefix: str | None = None,
        save_jinja_files: bool = True,
        **options: object,
    ) -> tuple[str, ...]:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

        The chat template is written to chat_template.jinja, and named templates are written to
        additional_chat_templates. If `save_jinja_files` is false, all templates are written to
        tokenizer_config.json. Returns the paths of the files. Raises InputError for an argument of
        transformers that is not supported.
        """
        if not check_save_options(filename_prefix, options):
            return ()
        folder = local_folder(save_directory)
        files.make_folder(folder)
        files.write_bytes(folder / "tokenizer.json", self._serialized().encode())
        config = self._saved_config()
        if save_jinja_files:
            config.pop("chat_template", None)
        templates = save_templates(folder, self.chat_template if save_jinja_files else None)
        files.write_json(folder / "tokenizer_config.json", config)
        names = (*SPECIAL_TOKENS, "additional_special_tokens")
        special = {name: config[name] for name in names if config.get(name)}
        files.write_json(folder / "special_tokens_map.json", special)
        written = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
        return tuple(str(path) for path in (*(folder / name for name in written), *templates))

    def push_to_hub(self, repo_id: str, **options: Unpack[SavedOptions]) -> str:
        """Send the files that `save_pretrained` writes to a repository on the hub.

        The options are those of `trainer.pushing.saved_files.push_saved`: commit_message, private
        (true by default), token, revision and replace. Returns the URL of the commit.
        """
        return push_saved(self.save_pretrained, repo_id, **options)

    def fingerprint(self) -> str:
        """A digest of all files and options that determine the ids of a text."""
        config = json.dumps(self._saved_config(), sort_keys=True)
        return hashlib.sha256(f"{self._serialized()}\n{config}".encode()).hexdigest()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(tokens={len(self)}, model_max_length={self.model_max_length}, "
            f"model_input_names={self.model_input_names}, special_tokens={self.special_tokens_map})"
        )

    def _serialized(self) -> str:
        with settings_lock():
            self.backend.no_truncation()
            self.backend.no_padding()
            return self.backend.to_str(pretty=True)

    def _saved_config(self) -> dict[str, Any]:
        """The entries of tokenizer_config.json with their current values.

        Some programs prefer these entries to those of tokenizer.json.
        """
        config = {name: value for name, value in self.config.items() if name not in NOT_SAVED}
        for name in SPECIAL_TOKENS:
            if content(config.pop(name, None)) or getattr(self, name):
                config[name] = getattr(self, name)
        if not isinstance(config.get("extra_special_tokens"), dict):
            config.pop("extra_special_tokens", None)
        config["additional_special_tokens"] = self.additional_special_tokens
        if self.split_special_tokens or "split_special_tokens" in config:
            config["split_special_tokens"] = self.split_special_tokens
        if self.pad_token_type_id or "pad_token_type_id" in config:
            config["pad_token_type_id"] = self.pad_token_type_id
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
    """Several chat templates, in the format of tokenizer_config.json."""
    return [{"name": name, "template": template} for name, template in templates.items()]
