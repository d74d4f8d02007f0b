"""The Swarm stack: how the tests deploy it, and what its replicas say of themselves."""

import asyncio
import json

from docker.errors import APIError

from lab.until import until
from tests.integration.deployments import readme

SERVICE = "streamspace-agent_docker-agent"
# The stack's own waits, made short; nothing else differs from what is deployed. Each question for a replica's health
# starts a process: one a second for each of three keeps a processor busy.
QUICK = """
version: "3.9"
services:
  docker-agent:
    healthcheck: {interval: 2s}
    deploy:
      restart_policy: {delay: 1s}
      update_config: {delay: 0s, monitor: 2s}
      rollback_config: {delay: 0s, monitor: 2s}
"""


async def deploy(run, folder, key, line=""):
    """By the documented commands, which `run` runs; the key and what makes it quick lie in `folder`."""
    (folder / "key").write_text(key)
    (folder / "quick.yaml").write_text(QUICK)
    await run(readme.command("docker secret create", "KEYFILE").replace("KEYFILE", f"{folder}/key"))
    # No registry has the test's image, so it is not asked for.
    stack = f" --resolve-image never -c {folder}/quick.yaml streamspace-agent"
    await run((line or readme.command("docker stack deploy")).replace(" streamspace-agent", stack))


async def found(look, what, timeout=90.0):
    """What `look` finds, once it finds something; managers that elect their own leader do not answer meanwhile."""
    return await until(lambda: asyncio.to_thread(look), what, timeout=timeout, tolerate=(APIError,))


def containers(client):
    """The stack's running containers on that engine."""
    only = {"label": f"com.docker.swarm.service.name={SERVICE}"}
    return client.containers.list(filters=only, ignore_removed=True)


def leaders(client):
    """The replicas on that engine that say they lead with a connection: (instance, epoch)."""
    found = set()
    for container in containers(client):
        try:
            code, (out, _) = container.exec_run(["docker-agent", "status", "--json"], demux=True)
        except APIError:
            continue  # it ended meanwhile, or is paused
        if code == 0 and out:
            documents = [d for d in json.loads(out) if d.get("role") == "leader" and d["link"]["connected"]]
            found |= {(document["instance"], document["epoch"]) for document in documents}
    return found


def container_of(client, instance):
    return client.containers.get(instance.split("-")[-2])


def service(manager):
    return manager.services.get(SERVICE)


def image(manager):
    """Of the tasks that the service is to have."""
    return service(manager).attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]


def update_state(manager):
    return service(manager).attrs.get("UpdateStatus", {}).get("State")


def running(manager):
    """The node of each task that runs and is to run."""
    tasks = service(manager).tasks(filters={"desired-state": "running"})
    return [task["NodeID"] for task in tasks if task["Status"]["State"] == "running"]
