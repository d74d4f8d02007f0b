"""Death certificates: what the Swarm can prove about the process that holds the lease."""

from streamspace_elect_swarm.record import TaskRecord
from streamspace_engine import Engine
from streamspace_engine.errors import NotFound

PROOF = frozenset({"complete", "shutdown", "failed"})
"""States that only the engine which ran the container reports, after its process is gone.

Not ``rejected``: the Swarm's leader writes that itself, onto tasks that still run, when their node stops meeting the
service's constraints (swarmkit, constraint enforcer). Not ``orphaned``, a node that is down, a missing task or any
desired state: they say what the leader does not see, or wants."""


async def is_dead(engine: Engine, record: TaskRecord) -> bool | None:
    """True when the holder's process is proved gone, None when nothing is proved."""
    if not record.task:
        return None
    try:
        status = (await engine.get(f"/tasks/{record.task}")).get("Status") or {}
    except NotFound:
        return None
    ran = (status.get("ContainerStatus") or {}).get("ContainerID")
    return True if status.get("State") in PROOF and ran == record.container_id else None
