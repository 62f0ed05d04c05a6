"""The answers of OpenAI's API, as complete objects or as streams of server-sent events."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from trainer.generation.token_choice import Chosen
from trainer.serving.generation_worker import Piece
from trainer.serving.request_prompts import Prompts
from trainer.serving.tool_calls import ToolCall, ToolReader
from trainer.tokenizer.token_bytes import TokenBytes

END = "data: [DONE]\n\n"


def event(value: Mapping[str, Any]) -> str:
    """Encode an object as a server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


@dataclass
class Reply(ABC):
    """The answer to one request, which is built from the pieces of its generated texts."""

    model: str
    request: Prompts
    bytes_of: TokenBytes
    number: int
    """The number of texts to generate for the request."""
    logprobs: bool = False
    """Whether the answer contains log-probabilities."""
    created: int = field(default_factory=lambda: int(time.time()))
    counts: dict[int, int] = field(default_factory=dict)
    """Index of a text -> number of its generated tokens."""

    kind = ""
    prefix = ""

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{uuid4().hex}"

    @abstractmethod
    def choices(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        """The choices of a complete answer, one for each text; `pieces` are sorted by text."""

    @abstractmethod
    def deltas(self, piece: Piece) -> list[dict[str, Any]]:
        """The choices that a stream sends for a piece; each choice becomes a chunk."""

    def first_deltas(self) -> list[dict[str, Any]]:
        """The choices that a stream sends before the first piece."""
        return []

    def envelope(self, choices: list[dict[str, Any]], chunk: bool = False) -> dict[str, Any]:
        """The response object, or with `chunk` the chunk of a stream, with these choices."""
        kind = f"{self.kind}.chunk" if chunk and self.kind.startswith("chat") else self.kind
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def usage(self) -> dict[str, int]:
        """The usage object: the numbers of tokens in the request and in its answer."""
        read = sum(len(prompt.ids) for prompt in self.request.prompts)
        new = sum(self.counts.values())
        return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the pieces of all texts as soon as they are generated, until all texts end."""
        channel, ended = self.request.prompts[0].channel, 0
        while ended < self.number:
            piece = await channel.get()
            assert isinstance(piece, Piece)
            self.counts[piece.index] = piece.count
            ended += piece.finish_reason is not None
            yield piece

    async def whole(self) -> dict[str, Any]:
        """The answer to a request that does not ask for a stream."""
        found = [piece async for piece in self.pieces()]
        choices = self.choices(sorted(found, key=lambda piece: piece.index))
        return {**self.envelope(choices), "usage": self.usage()}

    async def stream(self, with_usage: bool) -> AsyncIterator[str]:
        """Yield the events of a streamed answer."""
        extra = {"usage": None} if with_usage else {}
        for choice in self.first_deltas():
            yield event({**self.envelope([choice], chunk=True), **extra})
        async for piece in self.pieces():
            for choice in self.deltas(piece):
                yield event({**self.envelope([choice], chunk=True), **extra})
        if with_usage:
            yield event({**self.envelope([], chunk=True), "usage": self.usage()})
        yield END

    def token_text(self, token: int) -> str:
        """A token as text; bytes that are not a whole character become replacement characters."""
        return self.bytes_of(token).decode("utf-8", errors="replace")


@dataclass
class CompletionReply(Reply):
    """The answer of /v1/completions."""

    echo: bool = False
    """Whether the texts begin with their prompts."""

    kind = "text_completion"
    prefix = "cmpl"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._offsets: dict[int, int] = {}

    def choices(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        return [self._choice(piece) for piece in pieces]

    def deltas(self, piece: Piece) -> list[dict[str, Any]]:
        return [self._choice(piece)]

    def _choice(self, piece: Piece) -> dict[str, Any]:
        text, tokens = piece.text, piece.tokens
        if self.echo and piece.index not in self._offsets:
            text = self._prompt_of(piece.index) + text
            tokens = [*(piece.prompt_scores or ()), *tokens]
        start = self._offsets.setdefault(piece.index, 0)
        found = self._scores(tokens, start) if self.logprobs else None
        self._offsets[piece.index] = start + sum(len(self.token_text(t.token)) for t in tokens)
        return {
            "index": piece.index,
            "text": text,
            "logprobs": found,
            "finish_reason": piece.finish_reason,
        }

    def _prompt_of(self, index: int) -> str:
        return self.request.texts[index * len(self.request.texts) // self.number]

    def _scores(self, tokens: Sequence[Chosen], offset: int) -> dict[str, Any]:
        texts, offsets = [self.token_text(each.token) for each in tokens], []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        best = [
            {self.token_text(each.token): each.logprob}
            | {self.token_text(token): value for token, value in reversed(each.alternatives)}
            if each.logprob is not None
            else None
            for each in tokens
        ]
        values = [each.logprob for each in tokens]
        return {
            "tokens": texts,
            "token_logprobs": values,
            "top_logprobs": best,
            "text_offset": offsets,
        }


@dataclass
class ChatReply(Reply):
    """The answer of /v1/chat/completions."""

    max_calls: int | None = None
    """The maximum number of tool calls to report for each text; None if there is no maximum."""

    kind = "chat.completion"
    prefix = "chatcmpl"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._readers: dict[int, ToolReader] = {}
        self._calls: dict[int, int] = {}
        if self.request.tools is not None:
            for index in range(self.number):
                self._readers[index] = ToolReader(self.request.tools, self.request.call_start)

    def choices(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        return [self._choice(piece) for piece in pieces]

    def _choice(self, piece: Piece) -> dict[str, Any]:
        parts = self._parts(piece)
        content = "".join(part for part in parts if isinstance(part, str))
        calls = [part.openai for part in parts if isinstance(part, ToolCall)]
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        return {
            "index": piece.index,
            "message": message,
            "logprobs": self._scores(piece.tokens),
            "finish_reason": self._reason(piece),
        }

    def first_deltas(self) -> list[dict[str, Any]]:
        first = {"role": "assistant", "content": ""}
        return [self._delta(index, first) for index in range(self.number)]

    def deltas(self, piece: Piece) -> list[dict[str, Any]]:
        found = []
        for part in self._parts(piece):
            if isinstance(part, str):
                found.append(self._delta(piece.index, {"content": part}))
                continue
            index = self._calls.get(piece.index, 0)
            self._calls[piece.index] = index + 1
            call = {"index": index, **part.openai}
            found.append(self._delta(piece.index, {"tool_calls": [call]}))
        if piece.finish_reason is not None:
            found.append({**self._delta(piece.index, {}), "finish_reason": self._reason(piece)})
        if piece.tokens:
            found = found or [self._delta(piece.index, {"content": ""})]
            found[0]["logprobs"] = self._scores(piece.tokens)
        return found

    def _delta(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _parts(self, piece: Piece) -> list[str | ToolCall]:
        """Split a piece into texts and tool calls."""
        reader, last = self._readers.get(piece.index), piece.finish_reason is not None
        if reader is None:
            return [piece.text] if piece.text else []
        kept: list[str | ToolCall] = []
        for part in reader.add(piece.text, last):
            calls = sum(isinstance(each, ToolCall) for each in kept)
            calls += self._calls.get(piece.index, 0)
            if isinstance(part, str) or self.max_calls is None or calls < self.max_calls:
                kept.append(part)
        return kept

    def _reason(self, piece: Piece) -> str | None:
        reader = self._readers.get(piece.index)
        has_calls = reader is not None and reader.found_any
        return "tool_calls" if has_calls and piece.finish_reason == "stop" else piece.finish_reason

    def _scores(self, tokens: Sequence[Chosen]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        entries = [
            {
                **self._score(each.token, each.logprob),
                "top_logprobs": [self._score(*pair) for pair in each.alternatives],
            }
            for each in tokens
        ]
        return {"content": entries, "refusal": None}

    def _score(self, token: int, logprob: float | None) -> dict[str, Any]:
        found = self.bytes_of(token)
        text = found.decode("utf-8", errors="replace")
        return {"token": text, "logprob": logprob, "bytes": list(found)}
