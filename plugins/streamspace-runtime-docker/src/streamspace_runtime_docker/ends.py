"""Whether it was want of memory that ended a container.

The engine's flag cannot tell: it says that a process was killed so at some time, which a session survives where that was one
browser tab of many. The engine's own events say when; it keeps the last 256 of them, of all its containers.
"""

from dataclasses import replace

from streamspace_agent.errors import RuntimeDriverError
from streamspace_engine import Engine
from streamspace_engine.events import timestamp
from streamspace_runtime_docker.found import Found

KILLED = 137
BEFORE = 5.0
"""Seconds between such a kill and the end that it caused: a shell that waits for its desktop winds up first."""
NEWS = 0.5
"""Seconds that the news of an exhausted memory may come behind the news of the death that it caused."""
PATIENCE = 5.0
"""Seconds that an engine may take over its answer, which it gives ``NEWS`` after the end at the latest."""


class Ends:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, tuple[str, bool | None]] = {}

    def forget(self, session_id: str) -> None:
        self._known.pop(session_id, None)

    async def of(self, found: Found) -> Found:
        """An exited container with what is known of its end."""
        if found.exit_code != KILLED and not found.oom:
            return replace(found, oom_ended=False)
        run, known = self._known.get(found.session_id, ("", None))
        if run != found.run:
            known = await self._ask(found)
            self._known[found.session_id] = (found.run, known)
        return replace(found, oom_ended=known)

    async def _ask(self, found: Found) -> bool | None:
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
