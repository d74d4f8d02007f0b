"""Checks whether this host can hold a lease of the Swarm, for an operator."""

from streamspace_agent.election import Problem
from streamspace_agent.errors import BackendUnavailable
from streamspace_elect_swarm.errors import Hopeless
from streamspace_elect_swarm.record import TaskRecord, config_name
from streamspace_elect_swarm.tasks import own_task
from streamspace_engine import Engine
from streamspace_engine.errors import Forbidden, Unreachable

# Docker 17.06, the first whose configs exist: https://docs.docker.com/reference/api/engine/version-history/
MINIMUM_API = (1, 30)
OTHERS = "or choose LEADER_ELECTION_BACKEND=file or redis"


async def problems(engine: Engine, agent_id: str, container_id: str) -> list[Problem]:
    """The first fatal problem, or all warnings. Raises for what may go away by itself."""
    try:
        await _check_manager(engine)
        await own_task(engine, container_id)
        if config := await engine.find(f"/configs/{config_name(agent_id)}"):
            TaskRecord.parse(config, agent_id)
        return await _warnings(engine)
    except Hopeless as error:
        return [error.problem]
    except Unreachable as error:
        if error.lasting:
            return [Problem(error.message, error.fix)]
        raise
    except Forbidden as error:
        fix = "let containers, configs, services, tasks, swarm, info and events pass through the socket proxy"
        return [Problem(str(error), fix)]


async def _check_manager(engine: Engine) -> None:
    version = await engine.api_version()
    if version < MINIMUM_API:
        speaks = ".".join(map(str, version))
        raise Hopeless(
            f"the engine at DOCKER_HOST={engine.docker_host} speaks API {speaks}, which knows no configs",
            f"update it to Docker 17.06 or newer, {OTHERS}",
        )
    swarm = (await engine.get("/info")).get("Swarm") or {}
    state = swarm.get("LocalNodeState") or "inactive"
    if state == "inactive":
        raise Hopeless(
            f"LEADER_ELECTION_BACKEND=swarm, but the engine at DOCKER_HOST={engine.docker_host} is not in Swarm mode",
            f"run 'docker swarm init' or 'docker swarm join' on that host, {OTHERS}",
        )
    if state != "active":  # pending, locked, error
        raise BackendUnavailable(f"the Swarm node is {state}: {swarm.get('Error') or 'see docker info'}")
    if not swarm.get("ControlAvailable"):
        raise Hopeless(
            "LEADER_ELECTION_BACKEND=swarm needs a manager node, this one is a worker",
            "add the placement constraint node.role == manager to the service, or promote the node",
        )


async def _warnings(engine: Engine) -> list[Problem]:
    swarm = await engine.get("/swarm")
    if swarm["Spec"]["Orchestration"].get("TaskHistoryRetentionLimit") != 0:
        return []
    return [
        Problem(
            "the Swarm keeps no task history, so a leader's death cannot be proved and its whole lease is waited out",
            "docker swarm update --task-history-limit 5",
            fatal=False,
        )
    ]
