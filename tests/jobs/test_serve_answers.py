"""The serve job with models that do not generate: the routes of text-embeddings-inference."""

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.multi_task import MultiTask
from recipes.multiple_choice import MultipleChoice
from recipes.sequence_classification import SequenceClassification
from recipes.token_classification import TokenClassification
from tests.jobs.serving import client_of, service_in, write_chatty
from tests.unit.pipelines.test_of_recipes import saved
from tests.unit.text_runs import CLASSES, TAGS
from trainer import AutoTokenizer
from trainer.models.of_task import model_class
from trainer.serving.example_request import curl_line, example_request

TEXTS = ["a happy day", "what an awful, cruel day it was " * 9, "lovely"]


def with_head(tiny: Path, folder: Path, task: str, **config: Any) -> Path:
    """The tiny BERT with a random head for a task."""
    torch.manual_seed(3)
    model_class(task).from_pretrained(tiny, **config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def predicted(ask: Callable[..., Any], *arguments: str) -> list[dict[str, Any]]:
    """The answers of job=predict."""
    answer = ask("job=predict", *arguments)
    assert answer.code == 0, answer.err
    return [json.loads(line) for line in answer.out.splitlines()]


@pytest.fixture(scope="module")
def embedder(tiny: Path) -> Iterator[Any]:
    prompts = "recipe.prompts={query: 'query: '}"
    options = ("recipe=sentence_embedding", "recipe.max_length=64", "serve.max_inputs=5", prompts)
    with client_of(tiny, *options) as client:
        yield client


def distance(found: Any, expected: Any) -> float:
    """The largest between two vectors of length 1, whose rounding depends on the batch and CPU."""
    return float(np.linalg.norm(np.array(found) - np.array(expected), axis=1).max())


def test_embeddings_are_those_of_job_predict(
    ask: Callable[..., Any], embedder: Any, tiny: Path
) -> None:
    recipe = ("recipe=sentence_embedding", "recipe.max_length=64", f"model.path={tiny}")
    answers = predicted(ask, *recipe, f"input.text={json.dumps(TEXTS)}")
    expected = np.array([answer["embedding"] for answer in answers])
    found = embedder.post("/embed", json={"inputs": TEXTS}).json()
    assert distance(found, expected) < 1e-5
    alone = embedder.post("/embed", json={"inputs": TEXTS[0]}).json()
    assert distance(alone, expected[:1]) < 1e-5
    short = np.array(embedder.post("/embed", json={"inputs": TEXTS, "dimensions": 8}).json())
    cut = expected[:, :8] / np.linalg.norm(expected[:, :8], axis=1, keepdims=True)
    assert distance(short, cut) < 1e-5
    asked = embedder.post("/embed", json={"inputs": "a day", "prompt_name": "query"}).json()
    assert asked == embedder.post("/embed", json={"inputs": "query: a day"}).json()
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}
    cosines = embedder.post("/similarity", json=body).json()
    assert cosines == pytest.approx((expected[1:] @ expected[0]).tolist(), abs=1e-5)


def metric(client: Any, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name))


def read_tokens(client: Any) -> float:
    return metric(client, "tempering_read_tokens_t")


def calls_of_the_model(client: Any) -> float:
    return metric(client, "tempering_texts_per_call_count")


def test_openais_embeddings(embedder: Any) -> None:
    before = read_tokens(embedder)
    vectors = embedder.post("/embed", json={"inputs": TEXTS}).json()
    read = read_tokens(embedder) - before
    body = {"input": TEXTS, "model": "m"}
    plain = embedder.post("/v1/embeddings", json=body).json()
    assert plain["usage"]["prompt_tokens"] == read == read_tokens(embedder) - before - read
    assert [each["embedding"] for each in plain["data"]] == vectors
    assert [each["index"] for each in plain["data"]] == [0, 1, 2]
    assert plain["usage"]["total_tokens"] == read > 60
    coded = embedder.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    read = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in coded["data"]]
    assert np.array_equal(np.array(read), np.array(vectors, dtype=np.float32))
    refused = embedder.post("/v1/embeddings", json={**body, "input": [[1, 2]]})
    assert refused.status_code == 400 and "token ids" in refused.json()["error"]["message"]


def test_wrong_requests_are_refused_in_one_line(embedder: Any) -> None:
    for path, body, status, message in (
        ("/embed", {"inputs": []}, 413, "found 0 texts"),
        ("/embed", {"inputs": ["a"] * 6}, 413, "accepted: 1 to 5"),
        ("/embed", {"inputs": 5}, 400, "inputs: found 5"),
        ("/embed", {"inputs": "\ud800"}, 422, "surrogates not allowed"),
        ("/embed", {"inputs": "a", "truncation_direction": "left"}, 400, "found 'left'"),
        (
            "/embed",
            {"inputs": TEXTS, "truncate": False},
            413,
            "inputs[1]: found more than 64 tokens",
        ),
        ("/embed", {"inputs": "a", "normalize": False}, 422, "normalize: found false"),
        ("/embed", {"inputs": "a", "prompt_name": "x"}, 422, "accepted: query"),
        ("/embed", {"inputs": "a", "dimensions": 999}, 422, "accepted: 1 to 32"),
        ("/embed", {"inputs": "a", "input": "a"}, 400, "did you mean 'inputs'?"),
        ("/answers", {"rows": [{"txt": "a"}]}, 422, "rows[0]: has no 'text'"),
        ("/answers", {"rows": [{"text": None}]}, 422, "text"),
        ("/answers", {"rows": [{"text": ["a"]}]}, 422, "text"),
        ("/rerank", {"query": "a", "texts": ["b"]}, 404, "no such route for this model"),
    ):
        text = json.dumps(body)
        answer = embedder.post(path, content=text, headers={"content-type": "application/json"})
        found = answer.json()
        assert answer.status_code == status, found
        assert message in found["error"] and "\n" not in found["error"], found
        assert found["error_type"] in ("Validation", "Backend")
    rows = [{"rows": [{"text": value}]} for value in ({"a": 1}, 10**40, True, "a day", [[1]], "")]
    with ThreadPoolExecutor(6) as pool:  # those that are wrong do not disturb the others
        found = list(pool.map(lambda body: embedder.post("/answers", json=body), rows))
    assert [each.status_code == 200 for each in found][3:4] == [True], [each.text for each in found]
    assert all(each.status_code in (200, 422) for each in found), [each.text for each in found]
    fitting = {"inputs": "day " * 62, "truncate": False}
    assert embedder.post("/embed", json=fitting).status_code == 200
    prompted = embedder.post("/embed", json={**fitting, "prompt_name": "query"})
    assert prompted.status_code == 413  # the prompt's tokens count
    info = embedder.get("/info").json()
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (info["max_input_length"], info["max_client_batch_size"]) == (64, 5)


def test_a_classifiers_labels(ask: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    names = {0: "bad", 1: "good"}
    folder = with_head(tiny, tmp_path / "classifier", "sequence_classification", id2label=names)
    answers = predicted(ask, f"model.path={folder}", f"input.text={json.dumps(TEXTS)}")
    with client_of(folder) as client:
        nested = client.post("/predict", json={"inputs": [[text] for text in TEXTS]}).json()
        for found, answer in zip(nested, answers, strict=True):
            assert [each["label"] for each in found][0] == answer["label"]
            scores = {each["label"]: each["score"] for each in found}
            assert scores == pytest.approx(answer["probabilities"], abs=1e-6)
        assert client.post("/predict", json={"inputs": TEXTS[0]}).json() == nested[0]
        pair = client.post("/predict", json={"inputs": ["a", "b"]}).json()
        asked = (f"model.path={folder}", "input.text=a", "input.text_pair=b")
        (answer,) = predicted(ask, *asked, "recipe.text_pair=text_pair")
        scores = {each["label"]: each["score"] for each in pair}
        assert scores == pytest.approx(answer["probabilities"], abs=1e-6)
        three = client.post("/predict", json={"inputs": ["a", "b", "c"]})
        assert three.status_code == 422 and "found 3 texts; accepted: 1" in three.text
        rows = client.post("/answers", json={"rows": [{"text": TEXTS[0]}]}).json()
        assert rows[0]["label"] == answers[0]["label"]
        labels = client.get("/info").json()["model_type"]["classifier"]["id2label"]
        assert sorted(labels.values()) == ["bad", "good"]


def test_a_rerankers_order_and_a_taggers_entities(
    ask: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    folder = with_head(tiny, tmp_path / "ranker", "sequence_classification", num_labels=1)
    options = (f"model.path={folder}", "recipe=reranking")
    documents = json.dumps(TEXTS)
    given = (f"input.text={json.dumps(['q'] * 3)}", f"input.text_pair={documents}")
    scores = [answer["score"] for answer in predicted(ask, *options, *given)]
    with client_of(folder, "recipe=reranking") as client:
        body = {"query": "q", "texts": TEXTS, "return_text": True}
        found = client.post("/rerank", json=body).json()
        raw = client.post("/rerank", json={**body, "raw_scores": True}).json()
    order = [each["index"] for each in found]
    assert order == sorted(range(3), key=lambda n: -scores[n]) == [each["index"] for each in raw]
    assert [each["score"] for each in found] == pytest.approx([scores[n] for n in order], abs=1e-6)
    logits = np.array([each["score"] for each in raw])
    assert 1 / (1 + np.exp(-logits)) == pytest.approx([scores[n] for n in order], abs=1e-6)
    assert [each["text"] for each in found] == [TEXTS[n] for n in order]

    names = {0: "O", 1: "B-per", 2: "I-per"}
    tagger = with_head(tiny, tmp_path / "tagger", "token_classification", id2label=names)
    answers = predicted(ask, f"model.path={tagger}", f"input.text={json.dumps(TEXTS)}")
    with client_of(tagger) as client:
        groups = client.post("/predict", json={"inputs": [[text] for text in TEXTS]}).json()
    for group, answer in zip(groups, answers, strict=True):
        spans = [(each["entity_group"], each["start"], each["end"], each["word"]) for each in group]
        expected = [(e["label"], e["start"], e["end"], e["text"]) for e in answer["entities"]]
        assert spans == expected
    assert any(groups)


def test_work_beyond_the_limits_is_refused_before_it_is_done(tiny: Path, tmp_path: Path) -> None:
    """A text that is read with each of many others, and a context of many windows."""
    limits = ("serve.max_inputs=4", "serve.max_body_bytes=20000", "recipe.max_length=32")

    def refused(client: Any, path: str, body: dict[str, Any], message: str) -> None:
        before = calls_of_the_model(client)
        answer = client.post(path, json=body)
        assert answer.status_code == 413 and message in answer.text, answer.text
        assert calls_of_the_model(client) == before

    ranker = with_head(tiny, tmp_path / "ranker", "sequence_classification", num_labels=1)
    with client_of(ranker, "recipe=reranking", *limits) as client:
        many = {"query": "long " * 1100, "texts": ["a", "b", "c", "d"]}
        refused(client, "/rerank", many, "found 22,004 characters")
        rows = [{"text": "long " * 100, "text_pair": [f"{n}" for n in range(50)]}]
        refused(client, "/answers", {"rows": rows}, "found 25,090 characters")
        rows = [{"text": "q", "text_pair": [f"a {n}" for n in range(40)]}]
        refused(client, "/answers", {"rows": rows}, "found more than 128 tokens")
        assert calls_of_the_model(client) == 0
        assert client.post("/rerank", json={**many, "query": "q"}).status_code == 200
        assert calls_of_the_model(client) == 1
    chooser = with_head(tiny, tmp_path / "chooser", "multiple_choice")
    with client_of(chooser, "recipe=multiple_choice", *limits) as client:
        rows = [{"text": "q", "choices": [f"a {n}" for n in range(40)]}]
        refused(client, "/answers", {"rows": rows}, "found more than 128 tokens")
        deep: Any = "a"
        for _ in range(900):
            deep = [deep]
        nested = client.post("/answers", json={"rows": [{"text": "q", "choices": deep}]})
        assert nested.status_code == 422 and "too many levels" in nested.text
        unread = {"note": "x" * 3000, "more": ["a", "b"]}
        short = {"rows": [{"text": "q", "choices": ["a", "b"], **unread}] * 4}
        assert client.post("/answers", json=short).status_code == 200
    tasks = MultiTask({"pick": MultipleChoice(max_length=32)}, task_column="kind")
    with client_of(saved(tmp_path / "tasks", tasks), *limits[:2]) as client:
        rows = [{"kind": "pick", "text": "q", "choices": [f"a {n}" for n in range(40)]}]
        refused(client, "/answers", {"rows": rows}, "found more than 128 tokens")
        for row, fault in (({"kind": "x"}, "accepted: pick"), ({"text": "q"}, "has no 'kind'")):
            answer = client.post("/answers", json={"rows": [row]})
            assert answer.status_code == 422 and fault in answer.text
    reader = with_head(tiny, tmp_path / "reader", "question_answering")
    with client_of(reader, "recipe=question_answering", "recipe.stride=8", *limits) as client:
        rows = [{"question": "why " * 20, "context": "so " * 5000}]  # a window for each token
        refused(client, "/answers", {"rows": rows}, "found more than 128 tokens")


def test_rows_of_more_than_two_texts_cannot_be_typed(
    ask: Callable[..., Any], tmp_path: Path
) -> None:
    folder = saved(tmp_path / "model", MultipleChoice(choices=["a", "b"]))
    answer = ask("job=predict", f"model.path={folder}", "input.text=x", "input.text_pair=y")
    found = "MultipleChoice reads the columns text, a, b"
    assert answer.code == 2 and f"input.text: {found}; accepted: input.file" in answer.err


def test_the_example_request_works_for_every_kind_of_model(tiny: Path, tmp_path: Path) -> None:
    classifier = with_head(tiny, tmp_path / "a", "sequence_classification", num_labels=2)
    choosing = {"pick": MultipleChoice()}
    others = {"tags": TokenClassification(**TAGS), "mood": SequenceClassification(**CLASSES)}
    for folder, path, *options in (
        (tiny, "/embed", "recipe=sentence_embedding"),
        (classifier, "/predict"),
        (classifier, "/answers", "recipe.text_pair=text_pair"),
        (with_head(tiny, tmp_path / "b", "sequence_classification", num_labels=1), "/rerank")
        + ("recipe=reranking",),
        (with_head(tiny, tmp_path / "c", "token_classification", num_labels=3), "/predict"),
        (with_head(tiny, tmp_path / "d", "question_answering"), "/answers"),
        (write_chatty(tmp_path / "e"), "/v1/completions"),
        (with_head(tiny, tmp_path / "f", "multiple_choice"), "/answers", "recipe=multiple_choice"),
        (saved(tmp_path / "g", MultipleChoice(start="s", choices=["a", "b", "c"])), "/answers"),
        (saved(tmp_path / "h", MultiTask({**choosing, **others}, task_column="kind")), "/answers"),
        (saved(tmp_path / "i", MultiTask({**others, **choosing})), "/answers"),
        (saved(tmp_path / "j", MultiTask({**others, **choosing}, task="pick")), "/answers"),
    ):
        run, service = service_in(folder, *options)
        assert run.recipe is not None
        paths = {each.path for each in service.router.routes}  # type: ignore[attr-defined]
        found, body = example_request(paths, "m", run.recipe)
        assert found == path
        with client_of(folder, *options) as client:
            answer = client.post(path, json=body)
            assert answer.status_code == 200, answer.text
    line = curl_line("http://127.0.0.1:1", ["/embed"], "m", run.recipe, "KEY")
    assert line.startswith("curl http://127.0.0.1:1/embed -H ") and 'Bearer $KEY"' in line
