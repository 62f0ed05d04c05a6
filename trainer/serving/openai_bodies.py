"""The request bodies of OpenAI's API, with the additional settings of vLLM."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Alternatives = Annotated[int, Field(ge=0, le=20)]
Count = Annotated[int, Field(ge=1, le=2**31)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Stop = Annotated[str, Field(max_length=1000)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Strings = Annotated[list[str], Field(fail_fast=True)]
Tokens = Annotated[list[Token], Field(fail_fast=True)]
Prompts = str | Strings | Tokens | Annotated[list[Tokens], Field(fail_fast=True)]
"""With fail_fast, only the first wrong element of a list is reported, which is fast for huge lists.
"""
MOST_BIASES = 1024


def _limit_biases(biases: object) -> object:
    """Refuse too many entries before pydantic checks each entry."""
    if isinstance(biases, dict) and len(biases) > MOST_BIASES:
        raise PydanticCustomError("too_long", f"up to {MOST_BIASES:,} tokens")  # type: ignore[misc]
    return biases


Biases = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_limit_biases)
]


class Body(BaseModel):
    """A JSON object without unknown entries and without conversions of types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """Options for the content of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted without effect: no padding is added."""


class ResponseFormat(Body):
    """The required format of the answer."""

    type: Literal["text"]


class Generation(Body):
    """The fields that completions and chats have in common."""

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=1024)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Biases | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def limit(self) -> int | None:
        """The maximum number of tokens to generate, if the request has one."""
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """The number of alternatives to report with each token; None: no log-probabilities."""
        return None


class Completion(Generation):
    """The body of /v1/completions."""

    prompt: Prompts
    echo: bool | None = None
    logprobs: Alternatives | None = None
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def alternatives(self) -> int | None:
        return self.logprobs


class Function(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[\w.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name of a function."""

    name: str


class NamedTool(Body):
    """The tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction


class Chat(Generation):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None
    """vLLM's clients send false together with continue_final_message; it must be its opposite."""
    metadata: dict[str, str] | None = None
    """This field and the following ones are accepted, but have no effect."""
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class Embedding(Body):
    """The body of /v1/embeddings."""

    input: Prompts
    model: str | None = None
    dimensions: Count | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
