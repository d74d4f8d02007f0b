"""Shows who leads in the labels of the service, where people look for it. No decision is based on them.

Each update of a service, even of its labels, copies the spec to ``PreviousSpec``. Measured on Docker 20.10: one label
written after a deploy made ``docker service rollback`` keep the bad version, and one per second during a bad rolling
update defeated ``failure_action: rollback``. Hence :func:`reason_to_wait`, and one write a leadership.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from streamspace_agent.errors import RuntimeDriverError
from streamspace_elect_swarm.tasks import Task
from streamspace_engine import Engine
from streamspace_engine.errors import NotFound

log = logging.getLogger(__name__)

RETRY = 10.0
"""Seconds until a postponed write is tried again."""

_AT_REST = {"", "completed", "rollback_completed"}


def reason_to_wait(service: Mapping[str, Any]) -> str:
    """Why the service must not be updated now; "" when a write is harmless."""
    state = (service.get("UpdateStatus") or {}).get("State") or ""
    if state not in _AT_REST:
        return f"an update of the service is under way ({state})"
    previous = service.get("PreviousSpec")
    if previous and previous.get("TaskTemplate") != service["Spec"].get("TaskTemplate"):
        return "it would take the earlier version from 'docker service rollback'"
    return ""


async def show(engine: Engine, agent_id: str, task: Task, epoch: int) -> None:
    """Write once that this task leads, as soon as that is harmless. To be cancelled when the leadership ends."""
    key, logged = f"streamspace.agent.leader.{agent_id}", ""
    labels = {key: task.id, f"{key}.epoch": str(epoch)}
    while True:
        try:
            service = await engine.get(f"/services/{task.service}")
            why = reason_to_wait(service)
            if not why:
                spec = service["Spec"]
                if not labels.items() <= (spec.get("Labels") or {}).items():
                    new = {**spec, "Labels": {**(spec.get("Labels") or {}), **labels}}
                    version = {"version": service["Version"]["Index"]}
                    await engine.post(f"/services/{task.service}/update", new, version)
                return
        except NotFound:
            return
        except RuntimeDriverError as error:
            why = str(error)
        if why != logged:
            log.info("the service's labels do not name the leader yet: %s", why)
            logged = why
        await asyncio.sleep(RETRY)
