"""A host that systemd runs: a container with a real systemd as its first process, on the machine's network and
engine."""

import asyncio
import io
import os
import shlex
import tarfile
import uuid
from pathlib import Path

import docker

from lab.until import until_sync

UNITS = Path(__file__).resolve().parents[3] / "deployments/systemd"
DEPLOYMENTS_THERE = "/srv/checkout/deployments"
"""The checkout's folder deployments/ on such a host."""


class HostError(Exception):
    pass


class SystemdHost:
    def __init__(self, docker_host: str, image: str, label: str) -> None:
        self._client = docker.DockerClient(base_url=docker_host)
        socket = docker_host.removeprefix("unix://")
        # --privileged would do too, where the machine has every capability to give
        self._container = self._client.containers.run(
            image,
            detach=True,
            tty=True,
            labels={"streamspace.agent": label},
            network_mode="host",
            cap_add=["ALL"],
            cap_drop=["SYS_RESOURCE"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            cgroupns="host",
            tmpfs={"/run": "", "/tmp": ""},
            volumes={
                "/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "rw"},
                socket: {"bind": "/run/docker.sock", "mode": "rw"},
            },
        )
        try:
            self.wait_for("systemctl is-system-running", {"running", "degraded"})
            self.run(f"groupmod --non-unique --gid {os.stat(socket).st_gid} docker")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.remove(force=True, v=True)
        self._client.close()

    def run(self, command: str) -> str:
        """The output of a shell command that must succeed."""
        code, out = self.ask(command)
        if code:
            raise HostError(f"{command}: exit code {code}\n{out}")
        return out

    async def do(self, command: str) -> str:
        """The same while the control plane, which lives in the test's own loop, goes on answering."""
        return await asyncio.to_thread(self.run, command)

    def ask(self, command: str) -> tuple[int, str]:
        """The exit code and the output, which is kept there until it has been read: beside other work it was empty
        twice, though the command had written something. Why is not known."""
        said, end = f"/tmp/said-{uuid.uuid4().hex}", "\n-- end"
        tell = f"cat {said}; printf '{end}'"
        code, out = self._container.exec_run(
            ["sh", "-c", f'sh -c "$0" >{said} 2>&1; code=$?; {tell}; exit $code', command]
        )
        for _ in range(10):
            if out.endswith(end.encode()):
                return code, out.decode().removesuffix(end)
            out = self._container.exec_run(["sh", "-c", tell]).output
        raise HostError(f"the engine told no output of {command}, {code}")

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self.run(f"mkdir -p {shlex.quote(str(Path(path).parent))}")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
        self._container.put_archive("/", buffer.getvalue())

    def put_folder(self, source: Path, target: str) -> None:
        for path in sorted(source.iterdir()):
            self.put(f"{target}/{path.name}", path.read_bytes())

    def wait_for(self, command: str, wanted: set[str], timeout: float = 60.0) -> str:
        def said() -> str:
            found = self.ask(command)[1].strip()
            return found if found in wanted else ""

        return str(until_sync(said, f"{command} to say one of {wanted}", timeout=timeout, every=0.1))

    def show(self, unit: str, what: str) -> str:
        return self.run(f"systemctl show --value -p {what} {unit}").strip()

    def journal(self, unit: str) -> str:
        return self.run(f"journalctl -u {unit} --no-pager -o cat")
