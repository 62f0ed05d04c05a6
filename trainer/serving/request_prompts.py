"""Converts requests of OpenAI's API into prompts, and refuses those beyond the model's limits."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.errors import InputError
from trainer.foreign.numbers import decimal
from trainer.generation.generative_model import GenerativeModel
from trainer.generation.prompts import PromptStyle, initial_messages
from trainer.generation.settings import SAMPLING_SETTINGS, GenerationSettings
from trainer.generation.token_choice import ChoiceSettings
from trainer.models.input_checks import max_sequence_length
from trainer.runs.serve_settings import ServeSettings
from trainer.serving.faults import CONTEXT, RequestFault
from trainer.serving.generation_worker import Prompt
from trainer.serving.openai_bodies import Chat, Completion, Generation, NamedTool
from trainer.serving.scheduler import Channel
from trainer.serving.tool_calls import ToolFormat, tool_format
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.chat import chat_text, chosen_template
from trainer.tokenizer.special_tokens import ids_in_front

ROLES = ("system", "developer", "user", "assistant", "tool")
RESERVED_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt")
"""The variables of chat templates that chat_template_kwargs must not set."""
UNSUPPORTED = ("num_beams", "num_return_sequences", "no_repeat_ngram_size") + (
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
"""The generation settings that are not supported, because texts with different settings share a
batch."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a request."""

    prompts: list[Prompt]
    texts: list[str]
    """The prompts as text, for `echo`."""
    tools: ToolFormat | None = None
    """The format of tool calls; None if the request has no tools."""
    call_start: str = ""
    """The start of a tool call at the end of the prompt, which the model must continue."""


class PromptBuilder:
    """Converts the bodies of requests into prompts with one model's tokenizer and settings."""

    def __init__(
        self,
        model: GenerativeModel,
        tokenizer: Tokenizer,
        end_ids: Sequence[int],
        style: PromptStyle,
        defaults: GenerationSettings,
        settings: ServeSettings,
    ) -> None:
        """`defaults` apply to settings that a request omits.

        Raises InputError if `defaults` use one of the UNSUPPORTED settings.
        """
        for name in UNSUPPORTED:
            if (value := getattr(defaults, name)) != getattr(GenerationSettings(), name):
                found = f"found {value!r} with job=serve"
                raise InputError(
                    f"generation.{name}: {found}; accepted: the default, or job=generate"
                )
        positions = max_sequence_length(model.config)
        self.max_length = min(settings.max_length or positions, positions)
        self._size = model.config.vocab_size
        self._tokenizer = tokenizer
        self._end_ids = frozenset(end_ids)
        self._style = style
        self._defaults = defaults
        self._settings = settings

    def completion(self, body: Completion, channel: Channel, max_cache_tokens: int) -> Prompts:
        """The prompts of a completion."""
        prompt_field = body.prompt
        is_one_of_ids = bool(prompt_field) and isinstance(prompt_field[0], int)
        several = isinstance(prompt_field, list) and not is_one_of_ids
        prompts: list[Any] = list(prompt_field) if several else [prompt_field]
        self._check_number(len(prompts) * (body.n or 1), "prompt")
        ids = [self._ids(prompt) for prompt in prompts]
        texts = [
            prompt if isinstance(prompt, str) else self._tokenizer.decode(list(prompt))
            for prompt in prompts
        ]
        scored = body.logprobs if body.echo else None
        made = self._prompts(ids, body, channel, max_cache_tokens, prompt_logprobs=scored)
        return Prompts(made, texts)

    def chat(self, body: Chat, channel: Channel, max_cache_tokens: int) -> Prompts:
        """The prompt for a chat."""
        if body.top_logprobs is not None and not body.logprobs:
            raise _wrong("top_logprobs", f"{body.top_logprobs} without logprobs", "logprobs=true")
        self._check_number(body.n or 1, "n")
        template = self._template(bool(body.tools))
        format, call_start = self._tools_of(body, template)
        text = self._chat_text(body, template, with_tools=format is not None) + call_start
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        shown = format is not None
        prompts = self._prompts([ids], body, channel, max_cache_tokens, shows_special=shown)
        return Prompts(prompts, [text], format, call_start)

    def _prompts(
        self,
        ids: Sequence[Sequence[int]],
        body: Generation,
        channel: Channel,
        max_cache_tokens: int,
        *,
        prompt_logprobs: int | None = None,
        shows_special: bool = False,
    ) -> list[Prompt]:
        count, found = body.n or 1, []
        if count > (most := self._settings.max_running_texts):
            raise _wrong("n", str(count), f"up to {most}, serve.max_running_texts")
        ends = frozenset() if body.ignore_eos else self._end_ids
        seed = secrets.randbits(63) if body.seed is None else body.seed
        for index, each in enumerate(ids):
            settings = self._choices(body, len(each), seed)
            texts = [replace(settings, number=index * count + number) for number in range(count)]
            prompt = Prompt(
                channel, each, texts, ends, index * count,
                bool(body.stream), shows_special, prompt_logprobs,
            )  # fmt: skip
            if count * prompt.reach > max_cache_tokens:
                found_tokens = f"{count} texts of up to {prompt.reach} tokens"
                raise _wrong(
                    "max_tokens",
                    found_tokens,
                    f"up to {max_cache_tokens} tokens in all texts of a request",
                    CONTEXT,
                )
            found.append(prompt)
        return found

    def _choices(self, body: Generation, length: int, seed: int) -> ChoiceSettings:
        """The settings for a prompt's texts. Raises RequestFault for a prompt that is too long."""
        new = self._new_tokens(body, length)
        least = self._defaults.min_new_tokens if body.min_tokens is None else body.min_tokens
        if least > new and body.min_tokens is not None:
            raise _wrong("min_tokens", str(least), f"up to max_tokens, {new}")
        changes = {
            "max_new_tokens": new,
            "min_new_tokens": min(least, new),
            **self._sampling_settings(body),
        }
        if body.stop is not None:
            changes["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
        changes["seed"] = self._defaults.seed if body.seed is None and self._is_seeded else seed
        try:
            generation = replace(self._defaults, **changes)
        except InputError as error:
            raise RequestFault(400, str(error).removeprefix("generation.")) from None
        return ChoiceSettings(
            generation,
            frequency_penalty=body.frequency_penalty or 0.0,
            presence_penalty=body.presence_penalty or 0.0,
            logit_bias=self._biases(body.logit_bias or {}),
            logprobs=body.alternatives,
        )

    def _new_tokens(self, body: Generation, length: int) -> int:
        """The maximum number of tokens to generate after a prompt of this length."""
        if not 0 < length <= self.max_length:
            param = "messages" if isinstance(body, Chat) else "prompt"
            raise _wrong(param, f"{length} tokens", f"1 to {self.max_length} tokens", CONTEXT)
        room = self.max_length - length + 1  # the model never reads the last token
        if body.limit is None:
            return min(self._defaults.max_new_tokens, room)
        if body.limit > room:
            found = f"{body.limit} after a prompt of {length} tokens"
            limit = f"up to {room}, since prompt and answer may have {self.max_length + 1} in all"
            raise _wrong("max_tokens", found, limit, CONTEXT)
        return body.limit

    def _sampling_settings(self, body: Generation) -> dict[str, Any]:
        """The sampling settings in the body, such as the temperature."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        found = {name: value for name in names if (value := getattr(body, name)) is not None}
        if found.get("top_k", 1) < 1:  # as in vLLM, this allows all tokens
            found["top_k"] = None
        if found.get("temperature", self._defaults.temperature) == 0:
            found |= {name: getattr(GenerationSettings(), name) for name in SAMPLING_SETTINGS}
        return found

    @property
    def _is_seeded(self) -> bool:
        """Whether the server has a seed for requests that have none."""
        return self._defaults.seed != GenerationSettings().seed

    def _biases(self, biases: Mapping[str, float]) -> dict[int, float]:
        found = {}
        for token, bias in biases.items():
            number = decimal(token) if token.isascii() else None
            if number is None or number >= self._size:
                raise _wrong("logit_bias", f"the token {token:.20}", f"0 to {self._size - 1}")
            found[number] = bias
        return found

    def _check_number(self, count: int, param: str) -> None:
        if not 0 < count <= self._settings.max_inputs:
            raise _wrong(param, f"{count} texts", f"1 to {self._settings.max_inputs}")

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The ids of a completion's prompt; a text gets the tokenizer's special tokens in front."""
        if isinstance(prompt, str):
            ids = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
            return [*ids_in_front(self._tokenizer), *ids]
        if prompt and max(prompt) >= self._size:
            raise _wrong("prompt", f"the token {max(prompt)}", f"0 to {self._size - 1}")
        return list(prompt)

    def _template(self, with_tools: bool) -> str:
        """The chat template. Raises RequestFault for a model without a chat template."""
        if self._style.chat is False or (
            self._tokenizer.chat_template is None and self._style.chat == "auto"
        ):
            found = "the model was trained without a chat template"
            raise RequestFault(400, f"{found}; accepted: /v1/completions", code="no_chat_template")
        return chosen_template(self._tokenizer, None, [{}] if with_tools else None)

    def _chat_text(self, body: Chat, template: str, with_tools: bool) -> str:
        messages = [_message(each, n, template) for n, each in enumerate(body.messages)]
        if messages[0]["role"] not in ("system", "developer"):
            messages = [*initial_messages(self._style.system), *messages]
        if messages[-1]["role"] == "assistant" and not body.continue_final_message:
            accepted = "accepted: another role, or continue_final_message=true"
            raise RequestFault(400, f"messages: the last one is an answer; {accepted}", "messages")
        if body.add_generation_prompt is body.continue_final_message:
            accepted = f"{not body.continue_final_message}, the opposite of continue_final_message"
            found = str(body.add_generation_prompt).lower()
            raise _wrong("add_generation_prompt", found, accepted.lower())
        variables = body.chat_template_kwargs or {}
        if reserved := [name for name in RESERVED_VARIABLES if name in variables]:
            raise _wrong(
                "chat_template_kwargs", reserved[0], "other variables of the chat template"
            )
        tools = [each.model_dump(exclude_none=True) for each in body.tools or ()]
        try:
            (text,) = chat_text(
                self._tokenizer,
                [messages],
                tools=tools if with_tools else None,
                add_generation_prompt=not body.continue_final_message,
                continue_final_message=body.continue_final_message,
                variables=variables,
                today=self._style.date,
            )
        except InputError as error:
            raise RequestFault(400, str(error), "messages") from None
        except RecursionError:
            raise _wrong("messages", "too many levels", "fewer nested objects") from None
        return text

    def _tools_of(self, body: Chat, template: str) -> tuple[ToolFormat | None, str]:
        """The format of tool calls, and the start of a call that the request forces."""
        choice = body.tool_choice
        if not body.tools:
            if choice not in (None, "none", "auto"):
                raise _wrong("tool_choice", "a choice without tools", "none")
            return None, ""
        if choice == "none":
            return None, ""
        format = tool_format(template, self._settings.tools)
        if choice == "required":
            return format, format.forced
        if isinstance(choice, NamedTool):
            names = [tool.function.name for tool in body.tools]
            if choice.function.name not in names:
                raise _wrong("tool_choice", choice.function.name, ", ".join(names))
            return format, format.forced_name.replace("NAME", choice.function.name)
        return format, ""


def _message(message: Mapping[str, Any], number: int, template: str) -> dict[str, Any]:
    """Convert a message to the form that templates expect.

    The content becomes a single text, and the arguments of tool calls become objects.
    """
    where, role = f"messages[{number}]", message.get("role")
    if role not in ROLES:
        raise _wrong(f"{where}.role", f"{role!r:.40}", ", ".join(ROLES))
    if role == "developer" and "developer" not in template:
        role = "system"
    found = {**message, "role": role}
    calls = message.get("tool_calls")
    if calls is not None:
        found["tool_calls"] = [_call(each, f"{where}.tool_calls") for each in _listed(calls, where)]
    if message.get("content") is not None:
        found["content"] = _content(message["content"], f"{where}.content")
    elif role != "assistant":
        raise _wrong(f"{where}.content", "nothing", "a text")
    else:
        found["content"] = found.get("content") or ""
    return found


def _content(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for part in _listed(content, where):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise _wrong(where, f"{kind!r:.40}", "a text, or parts of the type text")
        if not isinstance(part.get("text"), str):
            raise _wrong(where, f"{part.get('text')!r:.40}", "a text")
        texts.append(part["text"])
    return "\n".join(texts)


def _call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise _wrong(where, f"{call!r:.40}", '{"type": "function", "function": {...}}')
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise _wrong(f"{where}.arguments", f"{arguments:.40}", "JSON") from None
    return {**call, "function": {**function, "arguments": arguments}}


def _listed(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(where, f"{value!r:.40}", "a list")
    return value


def _wrong(param: str, found: str, accepted: str, code: str | None = None) -> RequestFault:
    return RequestFault(400, f"{param}: found {found}; accepted: {accepted}", param, code)
