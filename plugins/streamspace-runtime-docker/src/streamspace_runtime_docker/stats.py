"""CPU, memory and network traffic of a running session."""

import time
from collections.abc import Mapping
from typing import Any

from streamspace_engine import Engine
from streamspace_engine.errors import EngineError
from streamspace_runtime_docker.containers.config import container_name, valid_id


class Stats:
    """Keeps the last CPU reading of each session, since the engine reports a sum, not a rate."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last: dict[str, tuple[str, int, int]] = {}

    def forget(self, session_id: str) -> None:
        self._last.pop(session_id, None)

    async def received(self, session_id: str) -> int | None:
        """Bytes received on all networks since the container's start; None if it has none, or does not run."""
        networks = (await self._ask(session_id)).get("networks") or {}
        return sum(int(network.get("rx_bytes", 0)) for network in networks.values()) if networks else None

    async def read(self, session_id: str) -> tuple[float, int] | None:
        """Cores and bytes of memory in use; None if the session does not run. The first reading shows no cores."""
        body = await self._ask(session_id)
        if not body:
            self.forget(session_id)
            return None
        used, memory = (body.get("cpu_stats") or {}).get("cpu_usage") or {}, body.get("memory_stats") or {}
        if "usage" not in memory or not used.get("total_usage"):
            return None  # it does not run
        now, total, container = time.monotonic_ns(), int(used["total_usage"]), str(body.get("id", ""))
        before = self._last.get(session_id)
        self._last[session_id] = (container, now, total)
        cores = 0.0
        if before and before[0] == container and now > before[1]:
            cores = max(0.0, (total - before[2]) / (now - before[1]))
        detail = memory.get("stats") or {}
        # Without the page cache that the kernel drops first; cgroup v1 and v2 name it differently.
        cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
        return cores, max(0, int(memory["usage"]) - int(cache))

    async def _ask(self, session_id: str) -> Mapping[str, Any]:
        """The engine's answer; {} if there is no such container, or the engine refuses."""
        if not valid_id(session_id):
            return {}
        path = f"/containers/{container_name(session_id)}/stats"
        try:
            body: Mapping[str, Any] = await self._engine.get(path, {"stream": False, "one-shot": True})
        except EngineError:
            return {}
        return body
