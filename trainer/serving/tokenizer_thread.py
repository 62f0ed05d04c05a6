"""TokenizerThread: runs tokenizer calls in a thread, so that they do not block the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import Request

from trainer.serving.waiting import in_time

T = TypeVar("T")


class TokenizerThread:
    """Runs one tokenizer call at a time, because each call may change the tokenizer's options."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "tokenizer")

    async def run(self, call: Callable[[], T], request: Request) -> T:
        """The result of a call for a request. Raises the same errors as `in_time`."""
        found = asyncio.get_running_loop().run_in_executor(self._pool, call)
        return await in_time(found, request)
