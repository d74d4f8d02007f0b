"""A Compose project, driven by the documented commands."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import docker

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
        with suppress(ProcessLookupError):
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
        self._client.close()

    def containers(self, service=SERVICE):
        label = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        return self._client.containers.list(all=True, filters={"label": label}, ignore_removed=True)

    def leftovers(self):
        only = {"label": f"com.docker.compose.project={self.project}"}
        client = docker.APIClient(base_url=self.environ["DOCKER_HOST"])
        try:
            return [
                *client.containers(all=True, filters=only),
                *(client.volumes(filters=only)["Volumes"] or []),
                *client.networks(filters=only),
            ]
        finally:
            client.close()

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
        deadline = time.monotonic() + timeout
        while sorted(document.get("role", "") for document in await self.status()) != list(wanted):
            assert time.monotonic() < deadline, self.logs()
            await asyncio.sleep(0.1)

    async def leader(self, besides="", timeout=30):
        """The container of the only replica that leads and is connected, once there is one."""
        deadline = time.monotonic() + timeout
        while True:
            found = [d for d in await self.status() if d.get("role") == "leader" and d["link"]["connected"]]
            found = [d for d in found if d["instance"] != besides]
            if found:
                (one,) = found
                containers = await asyncio.to_thread(self.containers)
                return one["instance"], next(c for c in containers if c.id[:12] in one["instance"])
            assert time.monotonic() < deadline, self.logs()
            await asyncio.sleep(0.1)

    def logs(self):
        return "\n".join(c.name + "\n" + c.logs().decode(errors="replace") for c in self.containers())
