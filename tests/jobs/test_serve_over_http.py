"""The serve job over real connections: OpenAI's client, many requests, rude clients, its end."""

import asyncio
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from tests.jobs.serving import CALL, service_in, write_calling, write_chatty
from trainer import AutoModelForCausalLM, AutoTokenizer
from trainer.generation.prompts import format_prompts
from trainer.generation.settings import GenerationSettings
from trainer.generation.text import generate
from trainer.serving.app import application
from trainer.serving.server import Server, listening_socket, url_of

KEY = "a-key-of-nobody"
LONG = "model.config={max_position_embeddings: 20000}"
PATIENCE = 50
"""Seconds until a server or a client counts as hanging. The default of serve.client_timeout is
longer, so a test fails if its own, shorter limit has no effect."""
WORDS = ["what", "a happy day", "for a function", "don't", "f(x)"]


@dataclass
class Served:
    """A server in a thread of this process."""

    url: str
    server: Server

    @property
    def address(self) -> tuple[str, int]:
        """Its host and its port."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def running(self) -> float:
        """The texts in work."""
        return self.metric("tempering_texts_running")

    def metric(self, name: str) -> float:
        """A value of /metrics; 0 if it is missing."""
        text = httpx2.get(f"{self.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
        found = (line.split()[-1] for line in text.splitlines() if line.startswith(name))
        return float(next(found, 0))

    def given_up(self, cause: str) -> float:
        """How many requests ended early for this cause."""
        return self.metric(f'tempering_given_up_total{{cause="{cause}"}}')


@contextmanager
def served(folder: Path, *options: str) -> Iterator[Served]:
    """The model of a folder on a free port."""
    run, service = service_in(folder, "serve.port=0", *options)
    started = threading.Event()
    with listening_socket(run.serve) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # soon full
        server = Server(application(service, run.serve, KEY), run.serve, started.set)
        thread = threading.Thread(target=server.run, args=([bound],))
        service.scheduler.start()
        thread.start()
        try:
            assert started.wait(PATIENCE)
            yield Served(url_of(bound), server)
        finally:
            server.should_exit = True
            thread.join()
            service.scheduler.stop()


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chatty(tmp_path_factory.mktemp("chatty"))


def expected(folder: Path, words: list[str]) -> list[str]:
    """What job=generate writes to each of the words as a chat."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return generate(
        model, tokenizer, format_prompts(tokenizer, words), GenerationSettings(max_new_tokens=24)
    )


@pytest.mark.slow
def test_openais_client_and_200_requests_at_a_time(chatty: Path) -> None:
    texts = dict(zip(WORDS, expected(chatty, WORDS), strict=True))

    async def ask(client: AsyncOpenAI, number: int) -> tuple[str, str]:
        word = WORDS[number % len(WORDS)]
        body: Any = {"model": "m", "messages": [{"role": "user", "content": word}]}
        if number % 2:
            answer = await client.chat.completions.create(**body, max_tokens=24)
            return word, answer.choices[0].message.content or ""
        text = ""
        async for chunk in await client.chat.completions.create(**body, max_tokens=24, stream=True):
            text += chunk.choices[0].delta.content or ""
        return word, text

    async def ask_all(url: str) -> list[tuple[str, str]]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(200)))

    with served(chatty) as here:
        answers = asyncio.run(ask_all(here.url))
        assert [text for _, text in answers] == [texts[word] for word, _ in answers]
        client = OpenAI(base_url=f"{here.url}/v1", api_key=KEY, max_retries=0)
        assert [model.id for model in client.models.list()] == ["m"]
        scored = client.completions.create(model="m", prompt="a", max_tokens=3, logprobs=2)
        scores = scored.choices[0].logprobs
        assert scores is not None and len(scores.tokens or ()) == 3
        with pytest.raises(BadRequestError, match="context|accepted: 1 to 400 tokens"):
            client.completions.create(model="m", prompt="day " * 500)
        metrics = httpx2.get(f"{here.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
        one = next(line for line in metrics.splitlines() if 'per_call_bucket{le="16.0"}' in line)
        all_calls = next(line for line in metrics.splitlines() if "texts_per_call_count" in line)
        assert float(one.split()[1]) < float(all_calls.split()[1])  # many texts in one call


@pytest.mark.slow
def test_openais_client_calls_tools(tmp_path: Path) -> None:
    with served(write_calling(tmp_path)) as here:
        client = OpenAI(base_url=f"{here.url}/v1", api_key=KEY, max_retries=0)
        body: Any = {
            "model": "m",
            "messages": [{"role": "user", "content": "hot?"}],
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}],
        }
        calls = client.chat.completions.create(**body).choices[0].message.tool_calls
        assert calls is not None and json.loads(CALL[1])["name"] == calls[0].function.name
        with client.chat.completions.stream(**body) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion().choices[0]
        assert final.finish_reason == "tool_calls"
        assert final.message.tool_calls[0].function.arguments == '{"city": "Oslo"}'


def raw(served_at: Served, body: str, headers: str = "", small: bool = False) -> socket.socket:
    """A connection on which a chat was asked for."""
    found = socket.socket()
    if small:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.connect(served_at.address)
    found.settimeout(PATIENCE)
    length = headers or f"Content-Length: {len(body)}\r\n"
    found.sendall(
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\n{length}\r\n{body}".encode()
    )
    return found


def until(holds: Any) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_rude_clients_disturb_nobody(chatty: Path) -> None:
    endless = json.dumps({"prompt": "a", "max_tokens": 19000, "ignore_eos": True, "stream": True})
    whole = json.dumps({"prompt": "a", "max_tokens": 19000, "ignore_eos": True})
    limits = ("serve.client_timeout=1", "serve.max_cache_tokens=500000", "serve.max_requests=4")
    with served(chatty, LONG, *limits) as here:
        for body in (endless, whole):  # they leave
            connection = raw(here, body)
            if body is endless:
                assert b"200 OK" in connection.recv(200)
            until(lambda: here.running() == 1)
            connection.close()
            until(lambda: here.running() == 0)
        waiting = raw(here, '{"prompt"', "Content-Length: 100\r\n")  # never sends the rest
        assert b" 408 " in waiting.recv(200)
        huge = raw(here, "{", "Content-Length: 99999999999\r\n")
        assert b" 413 " in huge.recv(200)
        chunked = raw(here, "5\r\nhello\r\nzz\r\n", "Transfer-Encoding: chunked\r\n")
        assert b" 400 " in chunked.recv(200)
        many = json.dumps({**json.loads(endless), "logprobs": 20, "n": 6, "temperature": 1.0})
        deaf = raw(here, many, small=True)  # never reads
        client = OpenAI(base_url=f"{here.url}/v1", api_key=KEY, max_retries=0)
        assert client.completions.create(model="m", prompt="a", max_tokens=5).usage
        gc.disable()  # texts are given up before the garbage of their stream is collected
        try:
            until(lambda: here.given_up("slow_client") == 1)
            until(lambda: here.running() == 0)
        finally:
            gc.enable()
        crowd = [raw(here, whole) for _ in range(4)]  # nothing is sent that they could not read
        until(lambda: here.running() == 4)
        refused = raw(here, whole).recv(400)
        assert b" 429 " in refused and b"retry-after: 1" in refused.lower()
        for each in (*crowd, deaf, waiting, huge, chunked):
            each.close()
        until(lambda: here.running() == 0)


def drip(connection: socket.socket, part: bytes) -> None:
    """Send the same part again and again, until the server closes the connection."""
    end = time.monotonic() + PATIENCE
    connection.settimeout(0.2)
    while time.monotonic() < end:
        try:
            connection.sendall(part)
            if not connection.recv(100):
                return
        except TimeoutError:
            continue
        except OSError:
            return
    raise AssertionError("the connection is still open")


@pytest.mark.slow
def test_slow_clients_take_no_place_and_are_disconnected(chatty: Path) -> None:
    """Those that send their request byte by byte, and those that do not read their answer."""
    short = {"prompt": "a", "max_tokens": 5}
    limits = ("serve.client_timeout=1.5", "serve.max_requests=2", "serve.max_cache_tokens=200000")
    with served(chatty, LONG, *limits) as here, ThreadPoolExecutor(9) as pool:
        bodies = [raw(here, '{"prompt"', "Content-Length: 99999\r\n") for _ in range(4)]
        heads = [socket.create_connection(here.address) for _ in range(2)]
        again = raw(here, json.dumps(short))
        assert b" 200 " in again.recv(65536)  # and then the head of another request
        dripping = [pool.submit(drip, each, b" ") for each in bodies]
        dripping += [pool.submit(drip, each, b"GET /") for each in (*heads, again)]
        client = OpenAI(base_url=f"{here.url}/v1", api_key=KEY, max_retries=0)
        assert client.completions.create(model="m", prompt="a", max_tokens=5).usage
        for each in dripping:
            each.result()
        long = {"prompt": "a", "max_tokens": 19000, "ignore_eos": True, "stream": True}
        many = {**long, "logprobs": 20, "n": 6, "temperature": 1.0}
        deaf = raw(here, json.dumps(many), small=True)
        until(lambda: here.given_up("slow_client") == 1)
        client.close()
        until(lambda: not here.server.server_state.connections)
        deaf.close()


@pytest.mark.slow
def test_clients_that_leave_are_counted_as_such(chatty: Path) -> None:
    long = {"prompt": "a", "max_tokens": 19000, "ignore_eos": True}
    with served(chatty, LONG, "serve.max_cache_tokens=200000") as here:
        raw(here, '{"prompt"', "Content-Length: 100\r\n").close()
        until(lambda: here.given_up("client_left") == 1)
        for number, body in enumerate((long, {**long, "stream": True}), 2):
            connection = raw(here, json.dumps(body))
            until(lambda: here.running() == 1)
            connection.close()
            until(lambda: here.given_up("client_left") == number)  # noqa: B023
        counted = 'tempering_requests_total{route="/v1/completions",status="499"}'
        assert here.metric(counted) == 2
        assert here.metric('tempering_requests_total{route="unknown",status="499"}') == 1
        assert not here.metric('tempering_requests_total{route="/v1/completions",status="400"}')


@pytest.mark.slow
def test_a_signal_ends_it_after_the_answers(chatty: Path, repository: Path, tmp_path: Path) -> None:
    """What takes longer than the time to drain is cut off; the exit code is that of the signal."""
    arguments = ["job=serve", f"model.path={chatty}", "serve.port=0", "serve.name=m", LONG]
    process = subprocess.Popen(
        [sys.executable, repository / "launch.py", *arguments, "serve.drain_timeout=5"],
        env={**os.environ, "TEMPERING_API_KEY": KEY},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("serving m at http://127.0.0.1:")
    example = process.stdout.readline().removeprefix("try it: ")
    environment = {**os.environ, "TEMPERING_API_KEY": KEY}
    assert example.startswith("curl ")
    if shutil.which("curl"):
        command = ["sh", "-c", f"{example.strip()} --fail --silent --noproxy '*'"]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert answer.returncode == 0 and json.loads(answer.stdout)["choices"], answer
    assert process.stdout.readline() == "press Ctrl-C to stop\n"
    here = Served(line.split()[3], None)  # type: ignore[arg-type]
    short = json.dumps({"prompt": "a", "max_tokens": 60, "ignore_eos": True, "stream": True})
    long = json.dumps({"prompt": "a", "max_tokens": 19000, "ignore_eos": True, "stream": True})
    finishing, endless = raw(here, short), raw(here, long)
    found = finishing.recv(100)
    assert endless.recv(100)
    process.send_signal(signal.SIGTERM)
    while more := finishing.recv(65536):
        found += more
    assert b"data: [DONE]" in found
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert err == "stopped by SIGTERM: 1 request cut off\n"
    assert KEY not in line + out + err and not list(tmp_path.iterdir())
