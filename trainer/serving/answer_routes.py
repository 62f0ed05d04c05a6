"""Routes for models that do not generate text: the APIs for embeddings, ranking and labels."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trainer.config.program import version
from trainer.runs.serve_settings import ServeSettings
from trainer.serving.embedding_bodies import (
    Embed,
    Predict,
    Rerank,
    Rows,
    Similarity,
    SimilarityParameters,
    Truncation,
)
from trainer.serving.faults import RequestFault
from trainer.serving.openai_bodies import Embedding
from trainer.serving.openai_routes import check_model
from trainer.serving.row_pipelines import RowPipelines
from trainer.serving.row_sizes import refuse_too_long, refuse_too_many_tokens, refuse_too_much_text
from trainer.serving.row_worker import Answer, Question, Row
from trainer.serving.scheduler import Scheduler
from trainer.serving.tokenizer_thread import TokenizerThread
from trainer.serving.waiting import answer_of, channel_of
from trainer.tokenizer import Tokenizer

MAX_SHOWN = 10
"""The maximum number of prompt names that an error message lists."""


class AnswerRoutes:
    """The routes of one model that computes an answer for each row."""

    def __init__(
        self,
        name: str,
        pipelines: RowPipelines,
        tokenizer: Tokenizer | None,
        scheduler: Scheduler,
        settings: ServeSettings,
        pair: str | None = None,
    ) -> None:
        """`pair` is the column for second texts, if the model reads pairs as well as single texts.

        The thread of the model must not use `tokenizer` too, since each call changes the
        tokenizer's options.
        """
        self._pair = pair
        self._name = name
        self._recipe = pipelines.recipe
        self._pipelines = pipelines
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._settings = settings
        self._thread = TokenizerThread()

    @property
    def kind(self) -> str:
        """The kind of model: embedding, reranker, classifier, tagger, or answers for all others."""
        recipe, task = self._recipe, self._recipe.head.task
        if recipe.for_search("query") is not None:
            return "embedding"
        if task == "sequence_classification" and not recipe.roles:
            pairs = len(recipe.text_columns) == 2
            return "reranker" if recipe.compares == "rankings" and pairs else "classifier"
        return "tagger" if task.startswith("token_classification") else "answers"

    @property
    def router(self) -> APIRouter:
        """The routes for the model's kind."""
        by_kind: dict[str, dict[str, Callable[..., Any]]] = {
            "embedding": {
                "/embed": self.embed,
                "/v1/embeddings": self.embedding,
                "/similarity": self.similarity,
            },
            "reranker": {"/rerank": self.rerank},
            "classifier": {"/predict": self.predict},
            "tagger": {"/predict": self.predict},
            "answers": {},
        }
        found = APIRouter()
        for path, call in {**by_kind[self.kind], "/answers": self.answers}.items():
            found.add_api_route(path, call, methods=["POST"])
        return found

    def info(self, dtype: str) -> dict[str, object]:
        """The body of /info, in the form of text-embeddings-inference."""
        recipe = self._recipe
        labels = recipe.head.config.get("id2label", {})
        of_kind: dict[str, object] = {"embedding": {"pooling": getattr(recipe, "pooling", None)}}
        if self.kind != "embedding":
            id2label = {str(number): label for number, label in dict(labels).items()}
            label2id = {label: int(number) for number, label in id2label.items()}
            of_kind = {self.kind: {"id2label": id2label, "label2id": label2id}}
        return {
            "model_id": self._name,
            "model_dtype": dtype.removeprefix("torch."),
            "model_type": of_kind,
            "max_concurrent_requests": self._settings.max_requests,
            "max_input_length": recipe.max_tokens,
            "max_client_batch_size": self._settings.max_inputs,
            "auto_truncate": True,
            "version": version(),
        }

    async def embed(self, body: Embed, request: Request) -> Response:
        """Answer with a vector for each text."""
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        if not body.normalize and self._option("normalize"):
            raise RequestFault(
                422,
                "normalize: found false, but the model always normalizes; accepted: true",
            )
        options = self._prompt_options(body.prompt_name)
        vectors = await self._vectors(texts, body, request, options)
        return JSONResponse(_shaped(vectors, body.dimensions, body.normalize))

    async def embedding(self, body: Embedding, request: Request) -> Response:
        """Answer with a vector for each text, in the form of OpenAI's API."""
        check_model(body.model, self._name)
        inputs = body.input if isinstance(body.input, list) else [body.input]
        if not all(isinstance(text, str) for text in inputs):
            found = "token ids, which may be from another tokenizer"
            raise RequestFault(400, f"input: found {found}; accepted: texts", "input")
        texts = cast(list[str], inputs)
        vectors = await self._vectors(texts, Truncation(), request, {})
        count = await self._thread.run(lambda: self._count(texts), request)
        is_base64 = body.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": n, "embedding": _base64(v) if is_base64 else v}
            for n, v in enumerate(_shaped(vectors, body.dimensions, self._option("normalize")))
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": self._name, "usage": usage})

    async def similarity(self, body: Similarity, request: Request) -> Response:
        """Answer with the cosine similarity of a sentence to each of the other sentences."""
        options = body.parameters or SimilarityParameters()
        texts = [body.inputs.source_sentence, *body.inputs.sentences]
        prompts = self._prompt_options(options.prompt_name)
        found = np.array(await self._vectors(texts, options, request, prompts))
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return JSONResponse((found[1:] @ found[0]).tolist())

    async def rerank(self, body: Rerank, request: Request) -> Response:
        """Answer with the texts' indices and scores for the query, the highest score first."""
        names = self._recipe.text_columns
        rows = [dict(zip(names, (body.query, text), strict=True)) for text in body.texts]
        answers = await self._answers(rows, body, request, {"activation": "none"})
        scores = [float(answer["score"]) for answer in answers]
        if not body.raw_scores:
            scores = [1 / (1 + math.exp(-max(-700.0, score))) for score in scores]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return JSONResponse(
            [
                {"index": index, "score": scores[index]}
                | ({"text": body.texts[index]} if body.return_text else {})
                for index in order
            ]
        )

    async def predict(self, body: Predict, request: Request) -> Response:
        """Answer with the labels and scores of texts or pairs, or with the entities in texts."""
        if body.raw_scores:
            raise RequestFault(422, "raw_scores: found true; accepted: false, or /answers")
        is_single, inputs = _inputs_of(body.inputs)
        names, options = self._recipe.text_columns, {}
        if self._pair is not None and len(names) == 1 and all(len(t) == 2 for t in inputs):
            names, options = (*names, self._pair), {"text_pair": self._pair}
        for index, texts in enumerate(inputs):
            if len(texts) != len(names):
                found = f"inputs[{index}]: found {len(texts)} texts"
                several = '[["a"], ["b"]]' if len(names) == 1 else '[["a", "b"], ["c", "d"]]'
                accepted = f"accepted: {len(names)}, or for several inputs a list each: {several}"
                raise RequestFault(422, f"{found}; {accepted}")
        rows = [dict(zip(names, texts, strict=True)) for texts in inputs]
        windows = self.kind == "tagger"
        answers = await self._answers(rows, body, request, options, counted=windows)
        labels = [_labels_of(answer) for answer in answers]
        return JSONResponse(labels[0] if is_single else labels)

    async def answers(self, body: Rows, request: Request) -> Response:
        """Answer with the predictions for rows of any task, in the format of job=predict."""
        names = self._recipe.text_columns
        for index, row in enumerate(body.rows):
            if missing := [name for name in self._recipe.needed_columns if name not in row]:
                accepted = ", ".join(names)
                raise RequestFault(
                    422, f"rows[{index}]: has no '{missing[0]}'; accepted: {accepted}"
                )
        return JSONResponse(await self._answers(body.rows, Truncation(), request, {}, counted=True))

    async def _vectors(
        self,
        texts: Sequence[str],
        truncation: Truncation,
        request: Request,
        options: Mapping[str, object],
    ) -> list[list[float]]:
        (name,) = self._recipe.text_columns
        answers = await self._answers(
            [{name: text} for text in texts], truncation, request, options
        )
        return [answer["embedding"] for answer in answers]

    async def _answers(
        self,
        rows: Sequence[Row],
        truncation: Truncation,
        request: Request,
        options: Mapping[str, object],
        counted: bool = False,
    ) -> list[Answer]:
        """The recipe's answers to rows; `options` replace options of the recipe.

        With `counted`, the tokens are counted first, because a row may become many sequences.
        """
        if not 0 < len(rows) <= self._settings.max_inputs:
            most = self._settings.max_inputs
            raise RequestFault(413, f"inputs: found {len(rows)} texts; accepted: 1 to {most}")
        columns = self._pipelines.recipe_with(options).text_columns
        refuse_too_much_text(rows, columns, self._settings.max_body_bytes)
        if truncation.truncate is False or counted:
            await self._thread.run(lambda: self._check(rows, truncation, options, counted), request)
        channel = channel_of(request)
        answer_rows = self._pipelines.function_with(options)
        self._scheduler.submit([Question(channel, rows, answer_rows)])
        return cast(list[Answer], await answer_of(channel.get(), channel, request))

    def _check(
        self,
        rows: Sequence[Row],
        truncation: Truncation,
        options: Mapping[str, object],
        counted: bool,
    ) -> None:
        """Raise RequestFault for rows that are too long."""
        recipe = self._pipelines.recipe_with(options)
        if self._tokenizer is None:
            return
        if counted and recipe.max_tokens is not None:
            most = self._settings.max_inputs * recipe.max_tokens
            refuse_too_many_tokens(rows, recipe, self._tokenizer, most)
        if truncation.truncate is False:
            refuse_too_long(rows, recipe, self._tokenizer)

    def _count(self, texts: Sequence[str]) -> int:
        """The number of tokens that the model reads for texts, for OpenAI's usage object."""
        (name,) = self._recipe.text_columns
        tokenizer = self._tokenizer
        return 0 if tokenizer is None else self._recipe.num_read_tokens({name: texts}, tokenizer)

    def _option(self, name: str) -> bool:
        """Whether an option of the recipe is on."""
        return bool(getattr(self._recipe, name, False))

    def _prompt_options(self, name: str | None) -> dict[str, object]:
        """The option of the recipe that selects the prompt with this name."""
        known = getattr(self._recipe, "prompts", {})
        if name is not None and name not in known:
            accepted = ", ".join(list(known)[:MAX_SHOWN]) or "none"
            raise RequestFault(422, f"prompt_name: found {name:.40}; accepted: {accepted}")
        return {} if name is None else {"prompt": name}


def _inputs_of(inputs: str | list[str] | list[list[str]]) -> tuple[bool, list[list[str]]]:
    """Whether the request has a single input, and the texts of each input."""
    if isinstance(inputs, str):
        return True, [[inputs]]
    if inputs and isinstance(inputs[0], str):
        return True, [cast(list[str], inputs)]
    return False, cast(list[list[str]], inputs)


def _labels_of(answer: Answer) -> list[dict[str, object]]:
    """Convert an answer of a classifier or a tagger to the form of the hub's APIs."""
    if "entities" in answer:
        return [
            {
                "entity_group": each["label"],
                "score": each.get("score"),
                "word": each.get("text"),
                "start": each["start"],
                "end": each["end"],
            }
            for each in answer["entities"]
        ]
    if "tags" in answer:
        return [{"label": tag} for tag in answer["tags"]]
    if "probabilities" in answer:
        pairs = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
        return [{"label": label, "score": score} for label, score in pairs]
    return [{"label": "LABEL_0", "score": answer.get("value", answer.get("score"))}]


def _shaped(
    vectors: Sequence[Sequence[float]], dimensions: int | None, normalize: bool
) -> list[list[float]]:
    """Cut vectors to their first `dimensions` entries; with `normalize`, scale to unit length."""
    found = np.array(vectors, dtype=np.float32)
    if dimensions is not None:
        if dimensions > found.shape[1]:
            most = found.shape[1]
            raise RequestFault(422, f"dimensions: found {dimensions}; accepted: 1 to {most}")
        found = found[:, :dimensions]
    if normalize and (dimensions is not None or not _is_unit(found)):
        found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return cast(list[list[float]], found.tolist())


def _is_unit(vectors: np.ndarray) -> bool:
    return bool(np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5))


def _base64(vector: Sequence[float]) -> str:
    """Encode a vector as little-endian float32 in base64, the format of OpenAI's clients."""
    return base64.b64encode(np.array(vector, dtype="<f4").tobytes()).decode("ascii")
