"""The Swarm task that this process is, told by the engine and not by a hostname."""

from dataclasses import dataclass

from streamspace_agent.errors import PreflightError
from streamspace_elect_swarm.engine import Engine, Missing

FIX = "deploy the agent with 'docker stack deploy' or 'docker service create', or choose LEADER_ELECTION_BACKEND=file or redis"


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    service: str


async def whoami(engine: Engine, container_id: str) -> Task:
    """Raises PreflightError where this process is no Swarm task, BackendUnavailable where the engine does not answer."""
    if not container_id:
        raise PreflightError(f"LEADER_ELECTION_BACKEND=swarm needs a Swarm service, this is no container: {FIX}")
    try:
        labels = (await engine.get(f"/containers/{container_id}/json"))["Config"].get("Labels") or {}
    except Missing:
        raise PreflightError(
            f"the engine at DOCKER_HOST={engine.docker_host} does not run this container ({container_id[:12]}): "
            "mount the socket of this very host into the service"
        ) from None
    try:
        return Task(labels["com.docker.swarm.task.id"], labels["com.docker.swarm.service.id"])
    except KeyError:
        raise PreflightError(
            f"LEADER_ELECTION_BACKEND=swarm needs a Swarm service, container {container_id[:12]} is no task of one: {FIX}"
        ) from None
