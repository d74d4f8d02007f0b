"""Wakes a waiter when the lease is released or taken, by a subscription that reconnects."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from streamspace_agent.backoff import Backoff
from streamspace_elect_redis.connection import close

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
"""Seconds between tries to subscribe. Without a subscription a waiter only notices a change later."""


class Listener:
    """Subscribes at the first wait, on a connection of its own."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, AbstractConnection]], channel: str) -> None:
        self._connect = connect
        self._channel = channel
        self._heard = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, timeout: float) -> None:
        """Return at the next message (or one since the last wait), at the latest after ``timeout`` seconds."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._heard.wait()
        self._heard.clear()

    async def _listen(self) -> None:
        backoff = Backoff(base=FIRST_PAUSE, cap=LONGEST_PAUSE, least=0.5)
        while True:
            try:
                connection = await self._connect()
                try:
                    await connection.send_command("SUBSCRIBE", self._channel)
                    while await connection.read_response():
                        backoff.failures = 0
                        self._heard.set()
                finally:
                    await close(connection)
            except (RedisError, OSError) as error:
                log.debug("no wake-ups from redis: %s", " ".join(str(error).split()))
            await asyncio.sleep(backoff.delay())

    async def aclose(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
