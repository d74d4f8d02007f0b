"""Finds out whether lack of memory ended a container.

The engine's flag does not tell: it is set when any process was killed for lack of memory, and a session survives the
loss of one browser tab. The engine's events tell when that was; it keeps the last 256 of all its containers.
"""

from dataclasses import replace

from streamspace_agent.errors import RuntimeDriverError
from streamspace_engine import Engine
from streamspace_engine.events import timestamp
from streamspace_runtime_docker.containers.info import ContainerInfo

KILLED = 137
BEFORE = 5.0
"""Seconds from such a kill to the end that it caused: a shell may still clean up after its desktop."""
NEWS = 0.5
"""Seconds by which the event of exhausted memory may come after the event of the end that it caused."""
PATIENCE = 5.0
"""Seconds without an answer after which the cause counts as unknown."""


class OutOfMemory:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, tuple[str, bool | None]] = {}

    def forget(self, session_id: str) -> None:
        self._known.pop(session_id, None)

    async def explain(self, found: ContainerInfo) -> ContainerInfo:
        """An exited container with ``oom_ended`` filled in."""
        if found.exit_code != KILLED and not found.oom:
            return replace(found, oom_ended=False)
        run, known = self._known.get(found.session_id, ("", None))
        if run != found.run:
            known = await self._ask(found)
            self._known[found.session_id] = (found.run, known)
        return replace(found, oom_ended=known)

    async def _ask(self, found: ContainerInfo) -> bool | None:
        ended = timestamp(found.finished_at)
        if not ended:
            return None
        params = {
            "since": f"{ended - BEFORE:.6f}",
            "until": f"{ended + NEWS:.6f}",
            "filters": {"type": ["container"], "container": [found.id], "event": ["oom", "die"]},
        }
        seen = set()
        try:
            async with self._engine.stream("GET", "/events", params, silence=PATIENCE) as lines:
                async for line in lines:
                    seen.add(line.get("Action"))
        except RuntimeDriverError:
            return None
        return True if "oom" in seen else False if "die" in seen else None
