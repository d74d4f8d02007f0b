"""The agent as an operator runs it: a process of its own, settings in variables, its log in a file."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

COMMAND = Path(sys.executable).with_name("docker-agent")


class AgentProcess:
    """One replica. `await start()` returns as soon as the process exists; wait for what you need at the control
    plane."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.variables = variables
        self.log_file = folder / "agent.log"
        self.process: asyncio.subprocess.Process | None = None
        self.prefix: tuple[str, ...] = ()
        """A command that runs the agent, as setpriv does."""

    async def start(self, **more: str) -> "AgentProcess":
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.prefix,
                COMMAND,
                "run",
                env={**_plain_environment(), **self.variables, **more},
                stdout=log,
                stderr=log,
            )
        return self

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def wait(self, timeout: float = 30) -> int:
        """The exit code; negative for the signal that killed it."""
        return await asyncio.wait_for(self.process.wait(), timeout)

    async def terminate(self, timeout: float = 60) -> int:
        self.signal(signal.SIGTERM)
        return await self.wait(timeout)

    async def kill(self) -> None:
        """However it stands: nothing of it runs afterwards."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def ask(self, *arguments: str) -> tuple[int, dict]:
        """A command of the command line with --json, with the same settings: its exit code and answer."""
        process = await asyncio.create_subprocess_exec(
            *self.prefix,
            COMMAND,
            *arguments,
            "--json",
            env={**_plain_environment(), **self.variables},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert out, err.decode()
        return process.returncode, json.loads(out)


def _plain_environment() -> dict[str, str]:
    passed = ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_CONFIG")
    return {name: os.environ[name] for name in passed if name in os.environ}
