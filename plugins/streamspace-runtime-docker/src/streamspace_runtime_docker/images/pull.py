"""Pulls one image for all sessions that wait for it: progress in bytes, and a limit on the time without any."""

import asyncio
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from streamspace_agent.errors import CommandFailed
from streamspace_agent.faults import Faults
from streamspace_agent.runtime import Progress, Report
from streamspace_agent.units import format_bytes, format_seconds
from streamspace_engine import Engine
from streamspace_engine.errors import EngineError, Silent
from streamspace_runtime_docker.images.progress import PullProgress
from streamspace_runtime_docker.images.references import checked, private

UNPACKING = 1800.0
"""Seconds for which an engine may be silent while it verifies or unpacks a layer: many gigabytes on a slow disk."""
_ASKING = "asking the registry"


@dataclass(eq=False)
class Pull:
    """A pull under way, and the reports of those who wait for it."""

    image: str
    engine: Engine
    slots: asyncio.Semaphore
    stall_timeout: float
    faults: Faults
    allowed: Collection[str]
    others: Callable[[], Collection["Pull"]]
    """Returns all pulls under way, this one included: they share the engine's slots."""
    moved: float = 0.0
    """When this pull last showed progress, by the loop's clock; 0 before it began."""
    layers: PullProgress = field(default_factory=PullProgress)
    reports: list[Report] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.progress = Progress("pulling", detail="waits for other pulls" if self.slots.locked() else _ASKING)
        self.task = asyncio.create_task(self._run(), name=f"pull {self.image}")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self.slots:  # a pull that waits for one has not stalled
                self._show(Progress("pulling", detail=_ASKING))
                self.layers = PullProgress(containerd=await self.engine.has_containerd_store())
                self.moved = loop.time()
                await self._watched(asyncio.create_task(self._read(), name=f"read of {self.image}"))
        except (TimeoutError, Silent):
            raise self._stalled() from None
        except EngineError as error:
            raise await self._explain(error.text) from error

    async def _watched(self, reading: "asyncio.Task[None]") -> None:
        """Wait for the pull's end; raise TimeoutError once it has stalled."""
        loop = asyncio.get_running_loop()
        try:
            while not reading.done():
                left = self.moved + self._patience() - loop.time()
                if left <= 0:
                    if not self._waits(loop.time()):
                        raise TimeoutError
                    if outage := await self.engine.outage():
                        raise outage
                    left = min(1.0, self.stall_timeout)
                await asyncio.wait({reading}, timeout=left)
            reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _patience(self) -> float:
        """Seconds within which a pull must show progress.

        With containerd's store progress comes in blocks, and the layers of all pulls share the bandwidth. So
        PULL_STALL_TIMEOUT counts once for each layer under way: each may be the last to complete its block.
        """
        if not self.layers.containerd:
            return self.stall_timeout
        together = sum(other.layers.fetching() for other in self.others())
        return min(self.stall_timeout * max(1, together), max(self.stall_timeout, UNPACKING))

    def _stalled(self) -> CommandFailed:
        waited, got, total = self._patience(), format_bytes(self.progress.current), self.progress.total
        each = f", {format_seconds(self.stall_timeout)} for each layer under way" if waited > self.stall_timeout else ""
        return CommandFailed(
            "pull_stalled",
            f"pulling {self.image} made no progress for {format_seconds(waited)} (PULL_STALL_TIMEOUT{each}), "
            f"{got}{f' of {format_bytes(total)}' if total else ''} so far",
        )

    def _waits(self, now: float) -> bool:
        """Silent but not stalled: the engine unpacks layers of this image, or fetches those of another pull."""
        if self.layers.busy():
            return now - self.moved < UNPACKING
        last = max((other.moved for other in self.others() if other is not self), default=0.0)
        return self.layers.queued() and now - last < self.stall_timeout

    async def _explain(self, text: str) -> CommandFailed:
        """Quote the answer of a private address only if ALLOWED_IMAGES names it: it need not be a registry."""
        registry = checked(self.image).registry
        trusted = any(entry.startswith(f"{registry}/") for entry in self.allowed)
        return explain(self.image, text, quoted=trusted or not await private(registry))

    async def _read(self) -> None:
        from streamspace_engine.credentials import parse_image, registry_header  # noqa: PLC0415  # loads the SDK

        repository, tag = parse_image(self.image)
        headers = await asyncio.to_thread(registry_header, self.image, self.engine.environ)
        async with self.engine.stream(
            "POST",
            "/images/create",
            {"fromImage": repository, "tag": tag},
            headers=headers,
            # Longer than the stall detection above, which knows what silence means.
            silence=max(UNPACKING, self.stall_timeout) + 5,
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
            self.faults.point("docker.mid_pull")


_LOG_IN = "log in with `docker login` for the user the agent runs as, or set DOCKER_CONFIG"
# Messages of engines and registries, in order of precedence, in Docker's and Podman's wording.
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
        r"no basic auth|unauthorized|authentication required|forbidden|access (to the resource is )?denied|denied:",
        "pull_denied",
        f"the registry refuses these credentials, or the image does not exist there: {_LOG_IN}",
    ),
    (
        r"no matching manifest|does not match the specified platform",
        "image_not_found",
        "the image does not exist for this host's architecture",
    ),
    (
        (
            r"dial tcp|no such host|connection refused|connection reset|i/o timeout|timeout|unreachable|\bEOF\b|"
            r"x509|certificate|: tls:|server misbehaving|pinging container registry|server gave HTTP response"
        ),
        "registry_unreachable",
        "the engine cannot reach the registry",
    ),
    (r"no such image|not found", "image_not_found", "the registry has no such image or tag"),
)


READ = 4000
"""Characters of the engine's message that are searched: a registry may have written some of them."""


def explain(image: str, text: str, *, quoted: bool = True) -> CommandFailed:
    """The failure of a pull, with what to do. The engine's message follows if it may be ``quoted``.

    Without the part that shows the body of an answer, which need not be a registry's.
    """
    text = " ".join(text[:READ].split())
    shown = text.partition(" response body")[0][:500]
    for pattern, code, words in _EXPLANATIONS:
        if re.search(pattern, text, re.IGNORECASE):
            return CommandFailed(code, f"cannot pull {image}: {words}{f' ({shown})' if quoted else ''}")
    return CommandFailed("pull_failed", f"cannot pull {image}: {shown if quoted else 'the registry refuses it'}")
