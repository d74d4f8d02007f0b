"""The Swarm task that this process is, told by the engine and not by a hostname."""

from dataclasses import dataclass

from streamspace_elect_swarm.errors import Hopeless
from streamspace_engine import Engine
from streamspace_engine.errors import NotFound

FIX = (
    "deploy the agent with 'docker stack deploy' or 'docker service create', "
    "or choose LEADER_ELECTION_BACKEND=file or redis"
)


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    service: str


async def whoami(engine: Engine, container_id: str) -> Task:
    """Raises Hopeless where this process is no Swarm task, an error of the engine where it does not answer."""
    if not container_id:
        raise Hopeless("LEADER_ELECTION_BACKEND=swarm needs a Swarm service, but this process is in no container", FIX)
    short = container_id[:12]
    try:
        labels = (await engine.get(f"/containers/{container_id}/json"))["Config"].get("Labels") or {}
        return Task(labels["com.docker.swarm.task.id"], labels["com.docker.swarm.service.id"])
    except NotFound:
        raise Hopeless(
            f"the engine at DOCKER_HOST={engine.docker_host} does not run this container ({short})",
            "mount the socket of the host that runs it",
        ) from None
    except KeyError:
        raise Hopeless(
            f"LEADER_ELECTION_BACKEND=swarm needs a Swarm service, but container {short} is no task of one", FIX
        ) from None
