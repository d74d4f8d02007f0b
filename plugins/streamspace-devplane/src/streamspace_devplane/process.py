"""A control plane in its own process, for benchmarks and for tests that kill it."""

import asyncio
import contextlib
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from streamspace_devplane.client import PlaneClient
from streamspace_devplane.settings import Settings

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


class DevPlaneProcess(PlaneClient):
    """As `DevPlane`, but run as `streamspace-devplane serve`, with its files in `state_dir`."""

    def __init__(self, state_dir: Path | str, port: int = 0, *, settings: Settings | None = None) -> None:
        super().__init__()
        self.state_dir = Path(state_dir)
        self.port = port
        self.settings = settings or Settings()
        self.bootstrap_key_file = self.state_dir / "bootstrap.key"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        changed = {name: value for name, value in asdict(self.settings).items() if value != getattr(Settings(), name)}
        options = [f"--set={name}={json.dumps(value)}" for name, value in changed.items()]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "streamspace_devplane", "serve", "--json", "--exit-with-stdin",
            "--state-dir", str(self.state_dir), "--port", str(self.port), *options,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), START_TIMEOUT)
            self.url = json.loads(line)["url"]
        except BaseException:
            await self.stop(abruptly=True)
            raise
        self.port = int(self.url.rpartition(":")[2])

    async def stop(self, *, abruptly: bool = False) -> None:
        """Send SIGTERM, or SIGKILL if `abruptly` or if it does not end in time."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            process.send_signal(signal.SIGKILL if abruptly else signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
            except TimeoutError:
                process.kill()
        await process.wait()
