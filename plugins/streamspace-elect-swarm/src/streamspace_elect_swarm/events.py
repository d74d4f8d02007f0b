"""The engine's events about one config, read on a thread of their own."""

import asyncio
import json
import logging
import threading
from contextlib import suppress
from typing import Any

import requests
from docker.types.daemon import CancellableStream

from streamspace_agent.backoff import Backoff
from streamspace_agent.errors import BackendUnavailable
from streamspace_elect_swarm.engine import Engine
from streamspace_elect_swarm.errors import Conflict, Missing

log = logging.getLogger(__name__)

SILENCE = 15.0
"""Seconds without an event after which the stream is opened anew: a leader renews more often, so it may be dead."""


class Events:
    """``count`` rises when the config may have changed. For one event loop, the one that starts it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.count = 0
        self._engine = engine
        self._name = name
        self._filters = json.dumps({"type": ["config"], "config": [name]})
        self._rang = asyncio.Event()
        self._closing = threading.Event()
        self._response: requests.Response | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Idempotent."""
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._read, name="elect-swarm-events", daemon=True)
            self._thread.start()

    async def wait(self, timeout: float) -> None:
        """Return when the next event has come, or after ``timeout`` seconds."""
        self._rang.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._rang.wait()

    async def close(self) -> None:
        self._closing.set()
        self._shut()
        if self._thread:
            await asyncio.to_thread(self._thread.join, 5.0)

    def _read(self) -> None:
        backoff = Backoff(base=0.2, cap=5.0, healthy_after=5.0)
        while not self._closing.is_set():
            began = self._loop.time()
            try:
                self._stream()
            except (BackendUnavailable, Missing, Conflict, requests.RequestException, OSError, ValueError) as error:
                log.debug("the engine's events ended: %s", error)
            except AttributeError:  # the SDK's way to say that the stream was closed under its reader
                pass
            backoff.worked_for(self._loop.time() - began)
            self._closing.wait(backoff.delay())

    def _stream(self) -> None:
        response = self._engine.open_events(self._filters, SILENCE)
        self._response = response
        if self._closing.is_set():
            self._shut()
        self._ring()  # what happened before is not told again
        with response:
            for line in response.iter_lines():
                if line and json.loads(line).get("Type") == "config":
                    self._ring()

    def _ring(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._heard)

    def _heard(self) -> None:
        self.count += 1
        self._rang.set()

    def _shut(self) -> None:
        """Wake the blocked reader as the SDK does: by shutting the socket down under it."""
        response: Any = self._response
        if response is not None:
            with suppress(OSError, AttributeError):
                CancellableStream(iter(()), response).close()
