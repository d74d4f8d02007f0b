"""Which images the engine has; one that it has is never pulled again, whatever its tag (``latest`` included)."""

import asyncio
from collections.abc import Collection

from streamspace_agent.errors import CommandFailed
from streamspace_agent.faults import Faults
from streamspace_agent.runtime import Report
from streamspace_engine import Engine
from streamspace_engine.errors import EngineError
from streamspace_runtime_docker.images.pull import Pull, explain
from streamspace_runtime_docker.images.references import allowed, checked


class ImageStore:
    def __init__(
        self, engine: Engine, concurrency: int, stall_timeout: float, faults: Faults, allowed: Collection[str]
    ) -> None:
        self._engine = engine
        self._allowed = allowed
        self._slots = asyncio.Semaphore(concurrency)
        self._stall_timeout = stall_timeout
        self._faults = faults
        self._known: set[str] = set()
        self._pulls: dict[str, Pull] = {}

    def forget(self, image: str) -> None:
        """The engine said that an image is gone."""
        self._known.discard(image)

    async def ensure(self, image: str, report: Report) -> None:
        """Return once the engine has the image. Raises CommandFailed."""
        if not allowed(checked(image), self._allowed):
            raise CommandFailed(
                "image_not_allowed", f"sessions may not use {image}: ALLOWED_IMAGES is {', '.join(self._allowed)}"
            )
        if image in self._known:
            return
        if not await self._present(image):
            await self._pull(image, report)
            if not await self._present(image):
                raise CommandFailed("pull_failed", f"pulling {image} ended, but the engine does not have it")
        self._known.add(image)

    async def _present(self, image: str) -> bool:
        try:
            return await self._engine.find(f"/images/{image}/json") is not None
        except EngineError as error:
            raise explain(image, error.text) from error

    async def _pull(self, image: str, report: Report) -> None:
        pull = self._pulls.get(image)
        if pull is None:
            pull = self._pulls[image] = Pull(
                image, self._engine, self._slots, self._stall_timeout, self._faults, self._allowed, self._pulls.values
            )
        pull.reports.append(report)
        report(pull.progress)
        try:
            await asyncio.shield(pull.task)
        finally:
            pull.reports.remove(report)
            if not pull.reports or pull.task.done():
                pull.task.cancel()
                if self._pulls.get(image) is pull:
                    del self._pulls[image]
