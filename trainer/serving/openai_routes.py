"""The routes of OpenAI's API for generation: chats and completions."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from trainer.serving.faults import RequestFault
from trainer.serving.generation_worker import GenerationWorker
from trainer.serving.openai_answers import ChatReply, CompletionReply, Reply
from trainer.serving.openai_bodies import Chat, Completion, Generation
from trainer.serving.request_prompts import PromptBuilder
from trainer.serving.scheduler import Channel, Scheduler
from trainer.serving.tokenizer_thread import TokenizerThread
from trainer.serving.waiting import answer_of, channel_of, deadline_of, stream_of
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.token_bytes import TokenBytes


class GenerationRoutes:
    """The routes of a model that generates text."""

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        prompt_builder: PromptBuilder,
        scheduler: Scheduler,
        worker: GenerationWorker,
    ) -> None:
        self._name = name
        self._prompts = prompt_builder
        self._bytes_of = TokenBytes(tokenizer)
        self._scheduler = scheduler
        self._max_cache_tokens = worker.max_cache_tokens
        self._thread = TokenizerThread()

    @property
    def router(self) -> APIRouter:
        """The routes for chats and completions."""
        found = APIRouter()
        found.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        found.add_api_route("/v1/completions", self.completion, methods=["POST"])
        return found

    async def completion(self, body: Completion, request: Request) -> Response:
        """Answer with continuations of prompts."""
        check_model(body.model, self._name)
        channel = channel_of(request)
        prompts = await self._thread.run(
            lambda: self._prompts.completion(body, channel, self._max_cache_tokens), request
        )
        number = len(prompts.prompts) * (body.n or 1)
        reply = CompletionReply(
            self._name, prompts, self._bytes_of, number,
            logprobs=body.logprobs is not None, echo=bool(body.echo),
        )  # fmt: skip
        return await self._answered(reply, body, channel, request)

    async def chat(self, body: Chat, request: Request) -> Response:
        """Answer with the next message of a conversation."""
        check_model(body.model, self._name)
        channel = channel_of(request)
        prompts = await self._thread.run(
            lambda: self._prompts.chat(body, channel, self._max_cache_tokens), request
        )
        max_calls = 1 if body.parallel_tool_calls is False else None
        reply = ChatReply(
            self._name, prompts, self._bytes_of, body.n or 1,
            logprobs=bool(body.logprobs), max_calls=max_calls,
        )  # fmt: skip
        return await self._answered(reply, body, channel, request)

    async def _answered(
        self, reply: Reply, body: Generation, channel: Channel, request: Request
    ) -> Response:
        self._scheduler.submit(reply.request.prompts)
        if not body.stream:
            found = await answer_of(reply.whole(), channel, request)
            return JSONResponse(found)
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        events = stream_of(reply.stream(with_usage), channel, deadline_of(request))
        return StreamingResponse(events, media_type="text/event-stream")


def check_model(requested: str | None, name: str) -> None:
    """Raise RequestFault if a request names a model other than `name`."""
    if requested not in (None, "", name):
        message = f"model: found {requested!r:.80}; accepted: {name}"
        raise RequestFault(404, message, "model", "model_not_found")
