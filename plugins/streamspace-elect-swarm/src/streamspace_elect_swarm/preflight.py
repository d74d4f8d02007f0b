"""What keeps this host from carrying a lease, in words for an operator."""

import asyncio
import socket
from collections.abc import AsyncIterator

from streamspace_agent.election import Problem
from streamspace_agent.errors import BackendUnavailable, PreflightError
from streamspace_elect_swarm.engine import Engine, Forbidden, Missing
from streamspace_elect_swarm.record import config_name
from streamspace_elect_swarm.whoami import whoami

# Docker 17.06, the first whose configs exist: https://docs.docker.com/reference/api/engine/version-history/
MINIMUM_API = (1, 30)
OTHERS = "or choose LEADER_ELECTION_BACKEND=file or redis"


async def problems(engine: Engine, agent_id: str, container_id: str) -> AsyncIterator[Problem]:
    """The findings, the first fatal one last: what comes after it cannot be known."""
    if problem := await asyncio.to_thread(socket_problem, engine.docker_host):
        yield problem
        return
    version = await engine.api_version()
    if version < MINIMUM_API:
        yield Problem(
            f"the engine at DOCKER_HOST={engine.docker_host} speaks API {'.'.join(map(str, version))}, which knows no configs",
            f"update it to Docker 17.06 or newer, {OTHERS}",
        )
        return
    swarm = (await engine.get("/info")).get("Swarm") or {}
    state = swarm.get("LocalNodeState") or "inactive"
    if state == "inactive":
        yield Problem(
            f"LEADER_ELECTION_BACKEND=swarm, but the engine at DOCKER_HOST={engine.docker_host} is not in Swarm mode",
            f"run 'docker swarm init' or 'docker swarm join' on that host, {OTHERS}",
        )
        return
    if state != "active":
        raise BackendUnavailable(f"the Swarm node is {state} ({swarm.get('Error') or 'see docker info'})")
    if not swarm.get("ControlAvailable"):
        yield Problem(
            "LEADER_ELECTION_BACKEND=swarm needs a manager node, this one is a worker",
            "add the placement constraint node.role == manager to the service, or run 'docker node promote' for this node",
        )
        return
    try:
        await whoami(engine, container_id)
        await engine.get(f"/configs/{config_name(agent_id)}")
        history = (await engine.get("/swarm"))["Spec"]["Orchestration"].get("TaskHistoryRetentionLimit")
    except PreflightError as error:
        message, _, fix = str(error).partition(": ")
        yield Problem(message, fix)
        return
    except Missing:
        return
    except Forbidden as error:
        yield Problem(str(error), "let containers, configs, services, tasks and events pass through the socket proxy")
        return
    del history


def socket_problem(docker_host: str) -> Problem | None:
    """A missing mount or permission; a refused connection may be an engine that restarts."""
    scheme, _, path = docker_host.partition("://")
    if scheme != "unix":
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return Problem(
                f"there is no Docker socket at DOCKER_HOST={docker_host}",
                f"mount it into the service: --mount type=bind,source=/var/run/docker.sock,target={path}",
            )
        except PermissionError:
            return Problem(
                f"the Docker socket at DOCKER_HOST={docker_host} may not be opened by this user",
                "run the agent as root or with the group that owns the socket (--group-add)",
            )
        except OSError:
            return None
    return None
