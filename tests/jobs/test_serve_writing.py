"""The serve job with a model that generates: OpenAI's routes in this process, and attacks."""

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.serving import CALL, client_of, write_calling, write_chatty
from trainer import AutoModelForCausalLM, AutoTokenizer
from trainer.generation.prompts import format_prompts
from trainer.generation.settings import GenerationSettings
from trainer.generation.text import generate

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "what a day"}]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chatty(tmp_path_factory.mktemp("chatty"))


@pytest.fixture(scope="module")
def client(chatty: Path) -> Iterator[Any]:
    with client_of(chatty, "generation.max_new_tokens=20", "serve.max_inputs=6") as client:
        yield client


@pytest.fixture(scope="module")
def written(chatty: Path) -> Callable[..., list[str]]:
    """The texts of job=generate."""
    model = AutoModelForCausalLM.from_pretrained(chatty)
    tokenizer = AutoTokenizer.from_pretrained(chatty)

    def call(prompts: list[Any], chat: bool = False, **settings: Any) -> list[str]:
        how = GenerationSettings(**{"max_new_tokens": 20, **settings})
        asked = format_prompts(tokenizer, prompts) if chat else prompts
        return generate(model, tokenizer, asked, how)

    return call


def streamed(client: Any, path: str, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which ends like OpenAI's."""
    with client.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line for line in answer.iter_lines() if line]
    assert events[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in events)
    return [json.loads(line.removeprefix("data: ")) for line in events[:-1]]


def test_answers_are_those_of_job_generate_whatever_else_is_asked(
    client: Any, written: Callable[..., list[str]]
) -> None:
    """Greedy and seeded, whole and streamed, chats and completions, many at a time."""
    words = ["what", "for " * 30, "f(x) = [1, 2]"]
    drawn = {"temperature": 0.9, "top_p": 0.8, "seed": 5}
    bodies = [{}, drawn, {"stop": ["a", "f"]}, {"max_tokens": 3}]
    options = [{}, drawn, {"stop": ["a", "f"]}, {"max_new_tokens": 3}]

    def ask(case: tuple[str, int]) -> tuple[str, str, str]:
        word, number = case
        messages = [{"role": "user", "content": word}]
        one = client.post(COMPLETION, json={"prompt": word, **bodies[number]}).json()
        chunks = streamed(client, COMPLETION, prompt=word, **bodies[number])
        chat = client.post(CHAT, json={"messages": messages, **bodies[number]}).json()
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        return one["choices"][0]["text"], text, chat["choices"][0]["message"]["content"]

    cases = [(word, number) for word in words for number in range(4)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, cases))
    for (word, number), (one, text, chat) in zip(cases, answers, strict=True):
        (expected,) = written([word], **options[number])
        assert one == text == expected
        assert [chat] == written([word], chat=True, **options[number])


def test_several_prompts_and_several_texts(client: Any, written: Callable[..., list[str]]) -> None:
    drawn = {"temperature": 1.0, "seed": 3}
    body = {"prompt": ["a happy", "day"], "n": 3, **drawn}
    answer = client.post(COMPLETION, json=body).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    expected = written(["a happy", "day"], num_return_sequences=3, **drawn)
    assert [choice["text"] for choice in answer["choices"]] == expected
    texts = [""] * 6
    for chunk in streamed(client, COMPLETION, **body):
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == expected
    ids = client.post(COMPLETION, json={"prompt": [[5, 6, 7], [8]], "max_tokens": 2}).json()
    assert ids["usage"] == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
    unseeded = {client.post(COMPLETION, json={"prompt": "a", "temperature": 9}).text for _ in "ab"}
    assert len(unseeded) == 2


def test_log_probabilities_and_usage(client: Any) -> None:
    body = {"messages": HELLO, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}
    whole = client.post(CHAT, json=body).json()
    entries = whole["choices"][0]["logprobs"]["content"]
    assert len(entries) == 6 == whole["usage"]["completion_tokens"]
    for entry in entries:
        best = entry["top_logprobs"]
        assert len(best) == 2 and best[0]["logprob"] >= best[1]["logprob"]
        assert (entry["bytes"], entry["logprob"]) == (best[0]["bytes"], best[0]["logprob"])
        assert bytes(entry["bytes"]).decode(errors="replace") == entry["token"]
    chunks = streamed(client, CHAT, **body, stream_options={"include_usage": True})
    found = [c["choices"][0]["logprobs"] for c in chunks if c["choices"]]
    assert [entry for each in found if each for entry in each["content"]] == entries
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    echoed = {"prompt": "a happy", "echo": True, "logprobs": 1, "max_tokens": 2}
    choice = client.post(COMPLETION, json=echoed).json()["choices"][0]
    scores = choice["logprobs"]
    assert choice["text"].startswith("a happy") and scores["text_offset"][:2] == [0, 1]
    assert scores["tokens"][:2] == ["a", " happy"] and len(scores["tokens"]) == 4
    assert scores["token_logprobs"][0] is None is scores["top_logprobs"][0]
    assert all(value < 0 for value in scores["token_logprobs"][1:])


ATTACKS: list[tuple[str, Any, int, str]] = [
    (COMPLETION, '{"prompt": ', 400, "body: not JSON"),
    (COMPLETION, "", 400, "missing"),
    (COMPLETION, "[1]", 400, "body: found [1]"),
    (COMPLETION, '{"prompt": "a", "seed": NaN}', 400, "seed: found nan"),
    (COMPLETION, '{"prompt": "\\ud800"}', 400, "valid Unicode"),
    (COMPLETION, '{"prompt": ' + "[" * 100_000, 400, "body"),
    (COMPLETION, {"prompt": "a", "stop": "a" * 1001}, 400, "stop: found"),
    (COMPLETION, {"prompt": "a", "max_tokens": -1}, 400, "max_tokens: found -1"),
    (COMPLETION, {"prompt": "a", "max_tokens": "5"}, 400, "max_tokens: found '5'"),
    (COMPLETION, {"prompt": "a", "max_tokens": 401}, 400, "max_tokens: found 401"),
    (COMPLETION, {"prompt": "a", "max_token": 4}, 400, "did you mean 'max_tokens'?"),
    (COMPLETION, {"prompt": "a", "temperature": -0.1}, 400, "temperature: found -0.1"),
    (COMPLETION, {"prompt": "a", "top_p": 0}, 400, "top_p: found 0"),
    (
        COMPLETION,
        {"prompt": "a", "repetition_penalty": 1e-300},
        400,
        "repetition_penalty: found 1e-300; accepted: a number from 0.000001 to 1,000,000",
    ),
    (COMPLETION, {"prompt": "a", "repetition_penalty": 1e300}, 400, "found 1e+300; accepted: a"),
    (COMPLETION, {"prompt": "a", "n": 7, "temperature": 1}, 400, "found 7 texts"),
    (COMPLETION, {"prompt": ["a"] * 7}, 400, "found 7 texts; accepted: 1 to 6"),
    (COMPLETION, {"prompt": []}, 400, "found 0 texts"),
    (COMPLETION, {"prompt": ""}, 400, "found 0 tokens"),
    (COMPLETION, {"prompt": [5, 99999]}, 400, "the token 99999"),
    (COMPLETION, {"prompt": [-1]}, 400, "prompt: found [-1]"),
    (COMPLETION, {"prompt": [True]}, 400, "prompt"),
    (COMPLETION, {"prompt": "day " * 500}, 400, "accepted: 1 to 400 tokens"),
    (COMPLETION, {"prompt": "a", "logprobs": 21}, 400, "logprobs: found 21"),
    (COMPLETION, {"prompt": "a", "logit_bias": {"9999": 1}}, 400, "the token 9999"),
    (COMPLETION, {"prompt": "a", "logit_bias": {"x": 1}}, 400, "the token x"),
    (COMPLETION, {"prompt": "a", "logit_bias": {"9" * 5000: 1}}, 400, "the token 9999"),
    (COMPLETION, {"prompt": "a", "logit_bias": {str(n): "x" for n in range(9999)}}, 400, "1,024"),
    (COMPLETION, {"prompt": "a", "stop": [""]}, 400, "stop: found ['']"),
    (COMPLETION, {"prompt": "a", "suffix": "b"}, 400, "suffix: found 'b'"),
    (COMPLETION, {"prompt": "a", "min_tokens": 30}, 400, "min_tokens: found 30"),
    (COMPLETION, {"prompt": "a", "model": "gpt-4"}, 404, "accepted: m"),
    (CHAT, {"messages": []}, 400, "messages: found []"),
    (CHAT, {"messages": ["hi"]}, 400, "messages.0: found 'hi'"),
    (CHAT, {"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role: found 'king'"),
    (CHAT, {"messages": [{"role": "user"}]}, 400, "messages[0].content: found nothing"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content: found 5"),
    (CHAT, {"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, 400, "is an answer"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400,
        "found 'image_url'",
    ),
    (CHAT, {"messages": HELLO, "top_logprobs": 2}, 400, "without logprobs"),
    (CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}}, 400, "response_format"),
    (CHAT, {"messages": HELLO, "tool_choice": "required"}, 400, "without tools"),
    (CHAT, {"messages": HELLO, "functions": []}, 400, "functions: unknown"),
    (CHAT, {"messages": HELLO, "chat_template_kwargs": {"x": 1}}, 400, "found x"),
    (CHAT, {"messages": HELLO, "chat_template_kwargs": {"tools": [1]}}, 400, "found tools"),
]


def test_what_is_wrong_is_refused_in_one_line(client: Any) -> None:
    for path, body, status, message in ATTACKS:
        text = body if isinstance(body, str) else json.dumps(body)
        headers = {"content-type": "application/json"}
        answer = client.post(path, content=text, headers=headers)
        error = answer.json()["error"]
        assert answer.status_code == status, (body, answer.text)
        assert message in error["message"] and "\n" not in error["message"], (body, error)
        assert error.keys() == {"message", "type", "param", "code"}
    long = client.post(CHAT, json={"messages": [{"role": "user", "content": "day " * 500}]})
    assert long.json()["error"]["code"] == "context_length_exceeded"
    for depth in (900, 990, 5000):
        nested = "[" * depth + "]" * depth
        text = f'{{"messages": [{{"role": "user", "content": "a", "x": {nested}}}]}}'
        answer = client.post(CHAT, content=text, headers=headers)
        assert answer.status_code == 400 or (depth < 1000 and answer.status_code == 200)
    plain = client.post(COMPLETION, content="{}", headers={"content-type": "text/plain"})
    assert plain.status_code == 415
    assert client.get("/v1/nothing").status_code == 404
    assert client.get(CHAT).status_code == 405 and client.get(CHAT).headers["allow"] == "POST"
    coded = client.post(CHAT, content="{}", headers={**headers, "content-encoding": "gzip"})
    assert coded.status_code == 415 and "content-encoding: found gzip" in coded.text
    assert client.post(CHAT, json={"messages": HELLO, "max_tokens": 1}).status_code == 200


def test_content_in_parts_and_roles_that_templates_lack(client: Any) -> None:
    parts = [{"type": "text", "text": "what"}, {"type": "text", "text": "a day"}]
    bodies = [
        [{"role": "developer", "content": "b"}, {"role": "user", "content": parts}],
        [{"role": "system", "content": "b"}, {"role": "user", "content": "what\na day"}],
    ]
    answers = [client.post(CHAT, json={"messages": each}).json()["choices"] for each in bodies]
    assert answers[0] == answers[1]
    begun = [*HELLO, {"role": "assistant", "content": "a hap"}]
    going_on = {"messages": begun, "continue_final_message": True, "max_tokens": 1}
    going_on["add_generation_prompt"] = False  # as vLLM requires
    assert client.post(CHAT, json=going_on).json()["usage"]["prompt_tokens"] > 20


def test_what_the_server_says_of_itself(client: Any) -> None:
    assert client.get("/health").text == "ok" and client.head("/health").status_code == 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {CHAT, COMPLETION, "/health"} <= client.get("/openapi.json").json()["paths"].keys()
    assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["m"]
    assert client.get("/v1/models/m").json()["object"] == "model"
    assert client.get("/v1/models/other").status_code == 404
    assert client.get("/info").json()["max_input_length"] == 400
    client.post(COMPLETION, json={"prompt": "a", "max_tokens": 3})
    client.get("/any/path/at/all")
    metrics = client.get("/metrics").text
    for line in (
        'tempering_requests_total{route="/v1/completions",status="200"}',
        'tempering_requests_total{route="unknown",status="404"}',
        "tempering_generated_tokens_total",
        "tempering_first_token_seconds_bucket",
        "tempering_texts_running 0.0",
    ):
        assert line in metrics
    assert "/any/path" not in metrics


def test_limits_and_the_key(chatty: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = "a-key-of-nobody"
    limits = ("serve.max_body_bytes=500", "serve.max_cache_tokens=50", "serve.max_length=60")
    with client_of(chatty, *limits, key=key) as client:
        assert client.get("/health").status_code == 200
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": key}):
            refused = client.post(COMPLETION, json={"prompt": "a"}, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        client.headers["authorization"] = f"Bearer {key}"
        for body, status, message in (
            ({"prompt": "a", "max_tokens": 40}, 200, ""),
            ({"prompt": "a", "max_tokens": 50}, 400, "accepted: up to 50 tokens in all texts"),
            ({"prompt": "a", "max_tokens": 61}, 400, "may have 61 in all"),
            ({"prompt": "a" * 600}, 413, "larger than 500 bytes"),
        ):
            answer = client.post(COMPLETION, json=body)
            assert answer.status_code == status and message in answer.text
        parts = iter([b'{"prompt": "', b"a" * 600, b'"}'])
        headers = {"content-type": "application/json"}
        assert client.post(COMPLETION, content=parts, headers=headers).status_code == 413
    assert key not in caplog.text


def test_what_takes_too_long_is_given_up(chatty: Path) -> None:
    body = {"prompt": "a", "max_tokens": 390, "ignore_eos": True}
    with client_of(chatty, "serve.request_timeout=0.005") as client:
        late = client.post(COMPLETION, json=body)
        assert late.status_code == 504 and "not answered within 0.005 s" in late.text
        with client.stream("POST", COMPLETION, json={**body, "stream": True}) as answer:
            *_, last = [line for line in answer.iter_lines() if line]
        assert "not answered within" in json.loads(last.removeprefix("data: "))["error"]["message"]
        end = time.monotonic() + 120
        while "tempering_texts_running 0.0" not in client.get("/metrics").text:
            assert time.monotonic() < end


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with client_of(write_calling(tmp_path_factory.mktemp("calling"))) as client:
        yield client


def test_tool_calls_whole_and_streamed(calling: Any) -> None:
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    body = {"messages": HELLO, "tools": [{"type": "function", "function": function}]}
    arguments = '{"city": "Oslo"}'
    choice = calling.post(CHAT, json=body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": arguments}
    deltas = [chunk["choices"][0] for chunk in streamed(calling, CHAT, **body)]
    calls = [call for each in deltas for call in each["delta"].get("tool_calls", [])]
    assert [(each["index"], each["function"]) for each in calls] == [(0, call["function"])]
    assert not any(each["delta"].get("content") for each in deltas)
    assert deltas[-1]["finish_reason"] == "tool_calls"
    for unread in ({"tool_choice": "none"}, {"tools": []}):
        message = calling.post(CHAT, json={**body, **unread}).json()["choices"][0]["message"]
        assert message == {"role": "assistant", "content": "".join(CALL)}
    answered = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "cold"},
    ]
    assert calling.post(CHAT, json={**body, "messages": answered}).status_code == 200
    other = {"type": "function", "function": {"name": "other"}}
    refused = calling.post(CHAT, json={**body, "tool_choice": other})
    assert "tool_choice: found other; accepted: weather" in refused.text
    named = {**other, "function": {"name": "weather"}}
    assert calling.post(CHAT, json={**body, "tool_choice": named}).status_code == 200


def test_what_cannot_be_served_is_refused_before_a_port_is_taken(
    refused: Callable[..., str], chatty: Path
) -> None:
    model = f"model.path={chatty}"
    assert "serve.port: found 70000" in refused("job=serve", model, "serve.port=70000")
    assert "serve.max_requests: found 0" in refused("job=serve", model, "serve.max_requests=0")
    assert "input.text: job=serve" in refused("job=serve", model, "input.text=a")
    assert "launch.num_processes" in refused("job=serve", model, "launch.num_processes=2")
    beams = ("generation.num_beams=2", "serve.port=0")
    assert "generation.num_beams: found 2" in refused("job=serve", model, *beams)
