"""Text generation: continues prompts and chats, in transformers' output format."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from trainer.errors import InputError
from trainer.pipelines.text_pipeline import TextPipeline, given_entries, padded

DEFAULTS: Mapping[str, Any] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}
"""The defaults of transformers' pipeline, used if neither the call nor the model sets a value."""


class TextGenerationPipeline(TextPipeline):
    """`pipeline("text-generation", model)("Once upon a time")`."""

    task: ClassVar[str] = "text-generation"
    head: ClassVar[str] = "causal_lm"
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Continue a prompt or a chat: `[{"generated_text"}]`; for several, a list of such lists.

        A chat is a list of messages; its generated_text is the list of these messages and the
        answer. The options are those of transformers' pipeline (`return_full_text`,
        `return_tensors`, `stop_sequence`, `prefix`, `continue_final_message`, `tools`, ...) and of
        `model.generate`. As in transformers, tokens are sampled at a temperature of 0.7 by default.
        """
        return super().__call__(inputs, **options)

    def answers(
        self,
        inputs: Sequence[Any],
        *,
        return_full_text: bool = True,
        return_tensors: bool = False,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        skip_special_tokens: bool = True,
        continue_final_message: bool | None = None,
        stop_sequence: str | Sequence[str] | None = None,
        handle_long_generation: str | None = None,
        prefix: str = "",
        tools: object = None,
        documents: object = None,
        add_special_tokens: bool | None = None,
        truncation: bool | None = None,
        padding: object = None,
        tokenizer_encode_kwargs: Mapping[str, Any] | None = None,
        **settings: object,
    ) -> list[Any]:
        encode = {"add_special_tokens": add_special_tokens, "truncation": truncation}
        encode = {name: value for name, value in encode.items() if value is not None}
        encode |= tokenizer_encode_kwargs or {}
        if handle_long_generation == "hole":  # the start of a long prompt is cut off below
            encode.setdefault("truncation", False)
        chat_options = {"tools": tools, "documents": documents}
        prompts = [
            self._chat_ids(each, continue_final_message, chat_options, encode)
            if _is_chat(each)
            else self._text_ids(prefix, each, encode)
            for each in inputs
        ]
        settings = self._settings(settings, stop_sequence)
        resolved = self._resolved(settings)
        prompts = [_shortened(ids, handle_long_generation, resolved, self._room) for ids in prompts]
        written = self._written(prompts, settings)
        if return_tensors and not return_text:
            return [[{"generated_token_ids": ids} for ids in texts] for texts in written]
        decode = {"clean_up_tokenization_spaces": clean_up_tokenization_spaces}
        found = []
        for original, prompt, texts in zip(inputs, prompts, written, strict=True):
            ends = [ids[len(prompt) :] for ids in texts]
            decoded = [
                self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens, **decode)
                for ids in ends
            ]
            whole = [_whole(original, text, continue_final_message) for text in decoded]
            shown = whole if return_full_text else decoded
            found.append([{"generated_text": text} for text in shown])
        return found

    def is_one(self, inputs: object, options: Mapping[str, Any]) -> bool:
        return isinstance(inputs, str) or _is_chat(inputs)

    def _text_ids(self, prefix: str, text: object, options: Mapping[str, Any]) -> list[int]:
        whole = prefix + text if isinstance(text, str) else text
        ids = list(self.encoded(whole, **options)["input_ids"])
        if ids:
            return ids
        bos = self.model.config.bos_token_id
        if bos is None:
            raise InputError("pipeline: found an empty prompt, and the model has no bos token")
        return [bos]

    def _chat_ids(
        self,
        messages: Any,
        continues_last: bool | None,
        options: Mapping[str, Any],
        encode: Mapping[str, Any],
    ) -> list[int]:
        messages = list(messages)
        continues_last = (
            messages[-1]["role"] == "assistant" if continues_last is None else continues_last
        )
        set_options = {name: value for name, value in options.items() if value is not None}
        encode = {name: value for name, value in encode.items() if name != "add_special_tokens"}
        found = self.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=not continues_last,
            continue_final_message=continues_last,
            return_dict=True,
            **set_options,
            **encode,
        )
        return list(found["input_ids"])

    def _settings(self, call_settings: Mapping[str, Any], stop: Any) -> dict[str, Any]:
        """The settings for `generate`: the caller's settings and the defaults for all others."""
        settings = dict(call_settings)
        if stop is not None:
            strings = [stop] if isinstance(stop, str) else list(stop)
            settings |= {"stop_strings": strings, "tokenizer": self.tokenizer}
        own = given_entries(settings)
        known = {
            name
            for level in (self.model.generation_config, own, settings)
            for name in dict(level)
            if level[name] is not None
        }
        added = {
            name: value
            for name, value in self.defaults.items()
            if name not in known and not (name == "max_new_tokens" and "max_length" in known)
        }
        if not self._resolved({**added, **settings}).get("do_sample"):
            added.pop("temperature", None)
        if self.tokenizer.pad_token_id is not None and "pad_token_id" not in known:
            added["pad_token_id"] = self.tokenizer.pad_token_id
        return {**added, **settings}

    def _resolved(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a call, with those of its `generation_config` and of the model's."""
        levels = (self.model.generation_config, given_entries(settings), settings)
        return {
            name: level[name] for level in levels for name in dict(level) if level[name] is not None
        }

    def _written(
        self, prompts: Sequence[list[int]], settings: Mapping[str, Any]
    ) -> list[list[list[int]]]:
        """The token ids of the texts for each prompt, including the prompt but without pads."""
        encodings = [{"input_ids": ids} for ids in prompts]
        batch = padded(encodings, self.tokenizer.pad_token_id, self.device, left=True)
        if settings.get("stop_strings"):
            settings = {"tokenizer": self.tokenizer, **settings}
        found = self.model.generate(**batch, **settings)
        rows = getattr(found, "sequences", found).tolist()
        each, width = len(rows) // len(prompts), batch["input_ids"].shape[1]
        ends = self._end_ids(settings)
        return [
            [
                _without_pads(row[width - len(prompt) :], len(prompt), ends)
                for row in rows[number * each : (number + 1) * each]
            ]
            for number, prompt in enumerate(prompts)
        ]

    def _end_ids(self, settings: Mapping[str, Any]) -> set[int]:
        from trainer.generation.setting_checks import listed, plain_value
        from trainer.models.formats.generation_config import model_end_ids

        name = "eos_token_id"
        ends = plain_value(name, {**given_entries(settings), **settings}.get(name))
        return set(model_end_ids(self.model) if ends is None else listed(cast(int, ends)))


def _is_chat(item: object) -> bool:
    """Whether an input is a list of messages."""
    return (
        isinstance(item, (list, tuple))
        and bool(item)
        and all(isinstance(each, Mapping) and {"role", "content"} <= {*each} for each in item)
    )


def _whole(original: Any, text: str, continues_last: bool | None) -> Any:
    """Append the generated text to the prompt, or to the chat as a message."""
    if isinstance(original, str):
        return original + text
    messages, last = list(original), original[-1]
    if last["role"] == "assistant" if continues_last is None else continues_last:
        return [*messages[:-1], {"role": last["role"], "content": last["content"] + text}]
    return [*messages, {"role": "assistant", "content": text}]


def _without_pads(ids: list[int], prompt: int, ends: set[int]) -> list[int]:
    """The ids up to and including the first end token after the prompt."""
    for index in range(prompt, len(ids)):
        if ids[index] in ends:
            return ids[: index + 1]
    return ids


def _shortened(
    ids: list[int], how: str | None, settings: Mapping[str, Any], room: int
) -> list[int]:
    """With `how`="hole", cut the start so that prompt and new tokens fit in `room` tokens."""
    if how is None:
        return ids
    if how != "hole":
        raise InputError(f"pipeline: handle_long_generation: found '{how}'; accepted: hole, None")
    new = settings.get("max_new_tokens") or max(0, settings.get("max_length", room) - len(ids))
    if new >= room:
        raise InputError(f"pipeline: max_new_tokens: found {new}; accepted: below {room}")
    return ids[-(room - new) :]
