"""Pulling images: one pull per image however many sessions wait for it, progress in bytes, a limit on standing still."""

import asyncio
import re
from collections.abc import Callable, Collection

from streamspace_agent.errors import CommandFailed
from streamspace_agent.faults import Faults
from streamspace_agent.runtime import Progress, Report
from streamspace_agent.units import format_bytes, format_seconds
from streamspace_engine import Engine
from streamspace_engine.errors import EngineError, NotFound, Silent
from streamspace_runtime_docker.layers import Layers
from streamspace_runtime_docker.references import allowed, checked, private

UNPACKING = 1800.0
"""Seconds that an engine may be silent over a layer that it verifies or unpacks: many gigabytes on a slow disk."""
_ASKING = "asking the registry"


class Pull:
    """One pull under way, and those who wait for it."""

    def __init__(
        self,
        image: str,
        engine: Engine,
        turns: asyncio.Semaphore,
        stall_timeout: float,
        faults: Faults,
        allowed: Collection[str],
        others: Callable[[], Collection["Pull"]],
    ) -> None:
        """``others`` tells the pulls under way, this one among them: they share the engine's slots."""
        self.image = image
        self.moved = 0.0
        """When this pull last showed progress, by the loop's clock; 0 before its turn."""
        self.layers = Layers()
        self._others = others
        self._allowed = allowed
        self.reports: list[Report] = []
        self.progress = Progress("pulling", detail="waits for other pulls" if turns.locked() else _ASKING)
        self._engine = engine
        self._turns = turns
        self._stall_timeout = stall_timeout
        self._faults = faults
        self.task = asyncio.create_task(self._run(), name=f"pull {image}")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._turns:  # a pull that waits for its turn has not stalled
                self._show(Progress("pulling", detail=_ASKING))
                self.layers = Layers(containerd=await self._engine.has_containerd_store())
                self.moved = loop.time()
                await self._watched(asyncio.create_task(self._read(), name=f"read of {self.image}"))
        except (TimeoutError, Silent):
            raise self._stalled() from None
        except EngineError as error:
            raise await self._explain(error.text) from error

    async def _watched(self, reading: "asyncio.Task[None]") -> None:
        """Read to the end, or to the moment when the pull has stalled: TimeoutError."""
        loop = asyncio.get_running_loop()
        try:
            while not reading.done():
                left = self.moved + self._patience() - loop.time()
                if left <= 0:
                    if not self._waits_rightly(loop.time()):
                        raise TimeoutError
                    if outage := await self._engine.outage():
                        raise outage
                    left = min(1.0, self._stall_timeout)
                await asyncio.wait({reading}, timeout=left)
            reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _patience(self) -> float:
        """Seconds in which a pull that is fetched must show progress.

        Where it is told in blocks, all layers under way share the line, of whatever image: one block in the time is
        enough, and it is another layer's for as many times as there are layers.
        """
        if not self.layers.containerd:
            return self._stall_timeout
        together = sum(other.layers.fetching() for other in self._others())
        return min(self._stall_timeout * max(1, together), max(self._stall_timeout, UNPACKING))

    def _stalled(self) -> CommandFailed:
        waited, got, total = self._patience(), format_bytes(self.progress.current), self.progress.total
        each = (
            f", {format_seconds(self._stall_timeout)} for each layer under way" if waited > self._stall_timeout else ""
        )
        return CommandFailed(
            "pull_stalled",
            f"pulling {self.image} made no progress for {format_seconds(waited)} (PULL_STALL_TIMEOUT{each}), "
            f"{got}{f' of {format_bytes(total)}' if total else ''} so far",
        )

    def _waits_rightly(self, now: float) -> bool:
        """Silent, and yet not stalled: the engine works on what it has of this image, or fetches for another pull."""
        if self.layers.busy():
            return now - self.moved < UNPACKING
        last = max((other.moved for other in self._others() if other is not self), default=0.0)
        return self.layers.queued() and now - last < self._stall_timeout

    async def _explain(self, text: str) -> CommandFailed:
        """What an address says that need not be a registry is passed on only where the operator has named it as one."""
        registry = checked(self.image).registry
        trusted = any(entry.startswith(f"{registry}/") for entry in self._allowed)
        return explain(self.image, text, quoted=trusted or not await private(registry))

    async def _read(self) -> None:
        from streamspace_engine.credentials import parse_image, registry_header  # noqa: PLC0415  # loads the SDK

        repository, tag = parse_image(self.image)
        headers = await asyncio.to_thread(registry_header, self.image, self._engine.environ)
        async with self._engine.stream(
            "POST",
            "/images/create",
            {"fromImage": repository, "tag": tag},
            headers=headers,
            # The clock above is first: it knows what silence means.
            silence=max(UNPACKING, self._stall_timeout) + 5,
        ) as lines:
            async for line in lines:
                if error := line.get("error"):
                    raise await self._explain(str((line.get("errorDetail") or {}).get("message") or error))
                if self.layers.take(line):
                    self.moved = asyncio.get_running_loop().time()
                    self._show(self.layers.progress())

    def _show(self, progress: Progress) -> None:
        self.progress = progress
        for report in self.reports:
            report(progress)
        if progress.current:
            self._faults.point("docker.mid_pull")


class Images:
    """Which images the engine has. One that is there is never pulled again, whatever its tag (``latest`` included)."""

    def __init__(
        self, engine: Engine, concurrency: int, stall_timeout: float, faults: Faults, allowed: Collection[str]
    ) -> None:
        self._engine = engine
        self._allowed = allowed
        self._turns = asyncio.Semaphore(concurrency)
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
            await self._engine.get(f"/images/{image}/json")
        except NotFound:
            return False
        except EngineError as error:
            raise explain(image, error.text) from error
        return True

    async def _pull(self, image: str, report: Report) -> None:
        pull = self._pulls.get(image)
        if pull is None:
            pull = self._pulls[image] = Pull(
                image,
                self._engine,
                self._turns,
                self._stall_timeout,
                self._faults,
                self._allowed,
                self._pulls.values,
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


# What engines and registries say, in the order in which it is looked for: Docker's and Podman's wording.
_EXPLANATIONS = (
    (r"no space left", "disk_full", "the engine's disk is full"),
    (
        r"toomanyrequests|too many requests|rate limit|(?:HTTP|status(?: code)?:?|error:|:) 429\b",
        "pull_rate_limited",
        "the registry allows no more pulls for now",
    ),
    (
        r"manifest unknown|manifest for .* not found|name unknown",
        "image_not_found",
        "the registry has no such image or tag",
    ),
    (r"invalid reference|not a valid repository|invalid tag", "invalid_image", "this is no image reference"),
    (
        r"no basic auth|unauthorized|authentication required|access denied|access to the resource is denied|forbidden|denied:",
        "pull_denied",
        "the registry refuses these credentials, or the image does not exist there: log in with `docker login` for the user the agent runs as, or set DOCKER_CONFIG",
    ),
    (
        r"no matching manifest|does not match the specified platform",
        "image_not_found",
        "the image does not exist for this host's architecture",
    ),
    (
        r"dial tcp|no such host|connection refused|i/o timeout|timeout|x509|certificate|server misbehaving|unreachable|connection reset|\bEOF\b|pinging container registry|server gave HTTP response|: tls:",
        "registry_unreachable",
        "the engine cannot reach the registry",
    ),
    (r"no such image|not found", "image_not_found", "the registry has no such image or tag"),
)


READ = 4000
"""Characters of the engine's words that are looked at: a registry may have written some of them."""


def explain(image: str, text: str, *, quoted: bool = True) -> CommandFailed:
    """A pull's failure in words that tell what to do; the engine's own words follow where they may be ``quoted``, without what
    it shows of an answer that was none of a registry's.
    """
    text = " ".join(text[:READ].split())
    shown = text.partition(" response body")[0][:500]
    for pattern, code, words in _EXPLANATIONS:
        if re.search(pattern, text, re.IGNORECASE):
            return CommandFailed(code, f"cannot pull {image}: {words}{f' ({shown})' if quoted else ''}")
    return CommandFailed("pull_failed", f"cannot pull {image}: {shown if quoted else 'the registry refuses it'}")
