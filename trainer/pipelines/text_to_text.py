"""Text to text: summarizes, translates or rewrites texts, as transformers 4 does."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from trainer.errors import InputError, nearest
from trainer.pipelines.text_pipeline import TextPipeline, given_entries, padded

DEFAULTS: Mapping[str, Any] = {"max_new_tokens": 256, "num_beams": 4}
"""The defaults of transformers 4, used if neither the call nor the model sets a value."""


class Text2TextGenerationPipeline(TextPipeline):
    """`pipeline("text2text-generation", model)("question: ...")`."""

    task: ClassVar[str] = "text2text-generation"
    head: ClassVar[str] = "seq2seq_lm"
    name: ClassVar[str] = "generated"

    def __init__(self, *arguments: Any, requested_task: str | None = None, **options: Any) -> None:
        """Apply the entry for `requested_task` in the config's task_specific_params."""
        super().__init__(*arguments, **options)
        task_params = getattr(self.model.config, "task_specific_params", None) or {}
        self.specific: dict[str, Any] = dict(task_params.get(requested_task or self.task) or {})
        own = getattr(self.recipe, "source_prefix", None)
        self.prefix = own or self.specific.pop("prefix", None) or ""
        """The prefix for every text, from the recipe or from the config's entry for the task."""

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Rewrite texts: `[{"generated_text"}]` for one text, a list of such dicts for several.

        The key is summary_text for summaries and translation_text for translations. If
        num_return_sequences is greater than 1, each of several texts gets a list of dicts. The
        options are those of `model.generate`, `return_tensors` (return ids in place of text),
        `clean_up_tokenization_spaces`, `truncation` and, for translations, `src_lang` and
        `tgt_lang`.
        """
        found = super().__call__(inputs, **options)
        if isinstance(inputs, list) and all(len(each) == 1 for each in found):
            return [each[0] for each in found]
        return found

    def answers(
        self,
        inputs: Sequence[Any],
        *,
        return_tensors: bool = False,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        truncation: object = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **settings: object,
    ) -> list[Any]:
        encode = {} if truncation is None else {"truncation": truncation}
        if src_lang is not None:
            self.tokenizer.src_lang = src_lang  # type: ignore[attr-defined]
        if tgt_lang is not None:
            settings["forced_bos_token_id"] = self._language_id(tgt_lang)
        encodings = [
            self.encoded(self.prefix + text if isinstance(text, str) else text, **encode)
            for text in inputs
        ]
        batch = padded(encodings, self.tokenizer.pad_token_id, self.device)
        batch.pop("token_type_ids", None)
        settings = self._settings(settings)
        if settings.get("stop_strings"):
            settings = {"tokenizer": self.tokenizer, **settings}
        rows = self.model.generate(**batch, **settings)
        rows = getattr(rows, "sequences", rows).tolist()
        each = len(rows) // len(inputs)
        if return_tensors and not return_text:
            found = [{f"{self.name}_token_ids": ids} for ids in rows]
        else:
            clean = {"clean_up_tokenization_spaces": clean_up_tokenization_spaces}
            texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True, **clean)
            found = [{f"{self.name}_text": text} for text in texts]
        return [found[first : first + each] for first in range(0, len(found), each)]

    def _language_id(self, code: object) -> int:
        """The id of a language code. Raises InputError for a code without a token."""
        number = self.tokenizer.backend.token_to_id(code) if isinstance(code, str) else None
        if number is None:
            hint = nearest(str(code), list(self.tokenizer.get_added_vocab()))
            raise InputError(f"pipeline: tgt_lang: found {code!r:.40}; accepted: a token{hint}")
        return number

    def _settings(self, call_settings: Mapping[str, Any]) -> dict[str, Any]:
        called = {**given_entries(call_settings), **call_settings}
        given = {name for name, value in called.items() if value is not None}
        specific = {name: value for name, value in self.specific.items() if name not in given}
        own = {**self.model.generation_config, **specific}
        known = given | {name for name, value in own.items() if value is not None}
        added = {
            name: value
            for name, value in DEFAULTS.items()
            if name not in known and not (name == "max_new_tokens" and "max_length" in known)
        }
        return {**added, **specific, **call_settings}


class SummarizationPipeline(Text2TextGenerationPipeline):
    """`pipeline("summarization", model)("A long text.")`."""

    task: ClassVar[str] = "summarization"
    name: ClassVar[str] = "summary"


class TranslationPipeline(Text2TextGenerationPipeline):
    """`pipeline("translation_en_to_de", model)("A text.")`."""

    task: ClassVar[str] = "translation"
    name: ClassVar[str] = "translation"
