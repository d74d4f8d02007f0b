"""Who leads, in the labels of the service, where people look for it. For people only: no decision is based on it.

An engine copies the spec to ``PreviousSpec`` on every update of a service, one of labels included. Measured on Docker
20.10: one label written after a deploy made ``docker service rollback`` keep the bad version, and one a second during a
bad rolling update defeated ``failure_action: rollback``. Hence the rules of :func:`hindrance`, and one write a tenure.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from streamspace_agent.errors import RuntimeDriverError
from streamspace_elect_swarm.whoami import Task
from streamspace_engine import Engine
from streamspace_engine.errors import NotFound

log = logging.getLogger(__name__)

RETRY = 10.0
"""Seconds until a hindered write is tried again."""

_AT_REST = {"", "completed", "rollback_completed"}


def hindrance(service: Mapping[str, Any]) -> str:
    """Why the service must not be touched now; "" when a write harms nobody."""
    state = (service.get("UpdateStatus") or {}).get("State") or ""
    if state not in _AT_REST:
        return f"an update of the service is under way ({state})"
    previous = service.get("PreviousSpec")
    if previous and previous.get("TaskTemplate") != service["Spec"].get("TaskTemplate"):
        return "it would take the earlier version from 'docker service rollback'"
    return ""


async def show(engine: Engine, agent_id: str, task: Task, epoch: int) -> None:
    """Write once that this task leads, as soon as that harms nobody. To be cancelled when the tenure ends."""
    key, told = f"streamspace.agent.leader.{agent_id}", ""
    labels = {key: task.id, f"{key}.epoch": str(epoch)}
    while True:
        try:
            service = await engine.get(f"/services/{task.service}")
            why = hindrance(service)
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
        if why != told:
            log.info("the service's labels do not name the leader yet: %s", why)
            told = why
        await asyncio.sleep(RETRY)
