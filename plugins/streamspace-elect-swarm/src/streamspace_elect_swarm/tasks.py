"""The Swarm tasks of replicas: which one this process is, and whether another one has provably ended."""

from dataclasses import dataclass

from streamspace_elect_swarm.errors import Hopeless
from streamspace_elect_swarm.record import TaskRecord
from streamspace_engine import Engine

FIX = (
    "deploy the agent with 'docker stack deploy' or 'docker service create', "
    "or choose LEADER_ELECTION_BACKEND=file or redis"
)

ENDED = frozenset({"complete", "shutdown", "failed"})
"""States that only the engine which ran the container reports, after its process is gone.

Not ``rejected``: the Swarm's leader sets it on tasks that still run, when their node stops meeting the service's
constraints (swarmkit, constraint enforcer). Not ``orphaned``, a node that is down, a missing task or any desired state:
they say what the leader does not see, or wants."""


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    service: str


async def own_task(engine: Engine, container_id: str) -> Task:
    """The task of this process, by the engine's labels of its container. Raises Hopeless if it is no Swarm task."""
    if not container_id:
        raise Hopeless("LEADER_ELECTION_BACKEND=swarm needs a Swarm service, but this process is in no container", FIX)
    short = container_id[:12]
    body = await engine.find(f"/containers/{container_id}/json")
    if body is None:
        raise Hopeless(
            f"the engine at DOCKER_HOST={engine.docker_host} does not run this container ({short})",
            "mount the socket of the host that runs it",
        )
    labels = body["Config"].get("Labels") or {}
    try:
        return Task(labels["com.docker.swarm.task.id"], labels["com.docker.swarm.service.id"])
    except KeyError:
        raise Hopeless(
            f"LEADER_ELECTION_BACKEND=swarm needs a Swarm service, but container {short} is no task of one", FIX
        ) from None


async def has_ended(engine: Engine, record: TaskRecord) -> bool:
    """Is the holder's process proved to be gone?"""
    if not record.task:
        return False
    status = (await engine.find(f"/tasks/{record.task}") or {}).get("Status") or {}
    ran = (status.get("ContainerStatus") or {}).get("ContainerID")
    return status.get("State") in ENDED and ran == record.container_id
