"""A Compose project, driven by the documented commands."""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import docker

from lab.until import until
from tests.integration.deployments import readme

FOLDER = Path(__file__).resolve().parents[3] / "deployments/compose"
SERVICE = "docker-agent"


class CommandFailed(Exception):
    pass


async def call(*command, environ=None, cwd=None, timeout=120):
    """Standard output of a command that must succeed; its errors too when it does not."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, cwd=cwd, stdout=pipe, stderr=pipe, start_new_session=True
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode:
        raise CommandFailed(f"{' '.join(command)}: exit code {process.returncode}\n{out.decode()}{err.decode()}")
    return out.decode()


class Compose:
    """`command` is what runs Compose: v1's own, as it stands in the README, or v2's."""

    def __init__(
        self, file: str, project: str, environ: Mapping[str, str], command: Sequence[str] = ("docker-compose",)
    ) -> None:
        self.command = command
        self.file = file
        self.project = project
        self.environ = dict(environ, COMPOSE_PROJECT_NAME=project)
        self._client = docker.DockerClient(base_url=environ["DOCKER_HOST"])

    async def __call__(self, *arguments, timeout=120):
        """`docker-compose -f FILE ARGUMENTS...` in deployments/compose, as documented."""
        return await call(*self.command, "-f", self.file, *arguments, environ=self.environ, cwd=FOLDER, timeout=timeout)

    async def up(self):
        """The README's own lines, with this test's values exported."""
        return await self.documented(readme.without_exports(readme.block(f"-f {self.file} up")))

    async def documented(self, commands, folder=readme.FOLDER, environ=None):
        """Commands of the README, run in `folder`; those into a container do without its terminal."""
        commands = re.sub(r"\bdocker-compose(?= )", " ".join(self.command), commands)
        commands = commands.replace(".yaml exec ", ".yaml exec -T ").replace("docker-agent-1", self.environ["AGENT_ID"])
        return await call("sh", "-ec", commands, environ=environ or self.environ, cwd=folder, timeout=180)

    async def answer(self, *parts):
        """What the README's command with these parts about this file prints."""
        return await self.documented(f"cd compose\n{readme.command(f'-f {self.file}', *parts)}")

    async def down(self):
        needed = {"AGENT_ID": "any", "CONTROL_PLANE_URL": "ws://any"}  # else even `down` is refused
        for name, value in needed.items():
            self.environ[name] = self.environ.get(name) or value
        await self("down", "--volumes", "--timeout", "20")
        self.close()

    def close(self):
        self._client.close()

    def containers(self, service=SERVICE):
        label = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        return self._client.containers.list(all=True, filters={"label": label}, ignore_removed=True)

    def leftovers(self):
        with contextlib.closing(docker.APIClient(base_url=self.environ["DOCKER_HOST"])) as client:
            return [entry for listed in _made(client, self.project) for entry in listed]

    async def status(self):
        """What `docker-agent status` shows in any replica: a document for each."""
        return await asyncio.to_thread(self._status)

    def _status(self):
        for container in self.containers():
            if container.status == "running":
                # The user streamspace, or root who becomes it: the command takes care of that.
                code, (out, err) = container.exec_run(["docker-agent", "status", "--json"], demux=True)
                if out and code in {0, 1}:
                    return json.loads(out)
                assert code in {4, 126, 128, 137, 1}, (code, out, err)
        return []

    async def roles(self, *wanted, timeout=30):
        """Wait until the replicas have these, in the order of the alphabet."""

        async def had():
            return sorted(document.get("role", "") for document in await self.status()) == list(wanted)

        await until(had, self.logs, timeout=timeout, every=0.1)

    async def leader(self, besides="", timeout=30):
        """The container of the only replica that leads and is connected, once there is one."""

        async def leading():
            found = [d for d in await self.status() if d.get("role") == "leader" and d["link"]["connected"]]
            return [d["instance"] for d in found if d["instance"] != besides]

        (instance,) = await until(leading, self.logs, timeout=timeout, every=0.1)
        containers = await asyncio.to_thread(self.containers)
        return instance, next(c for c in containers if c.id[:12] in instance)

    def logs(self):
        return "\n".join(c.name + "\n" + c.logs().decode(errors="replace") for c in self.containers())


def _made(client, project):
    """The project's containers, volumes and networks, as the engine lists them."""
    only = {"label": f"com.docker.compose.project={project}"}
    volumes = client.volumes(filters=only)["Volumes"] or []
    return client.containers(all=True, filters=only), volumes, client.networks(filters=only)


def remove_project(host, project):
    """Remove all that a Compose project has made; the names of what there was."""
    with contextlib.closing(docker.APIClient(base_url=host)) as client:
        containers, volumes, networks = _made(client, project)
        for container in containers:
            client.remove_container(container["Id"], force=True, v=True)
        for volume in volumes:
            client.remove_volume(volume["Name"])
        for network in networks:
            client.remove_network(network["Id"])
    return [entry.get("Name") or entry["Names"][0] for entry in (*containers, *volumes, *networks)]
