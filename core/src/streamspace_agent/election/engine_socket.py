"""Three calls to the container engine on its Unix socket, for elections on one host.

The core has to install and elect without any other distribution, and these calls may block. So they do not use
streamspace-engine, through which plugins reach an engine.
"""

import http
import http.client
import json
import socket
from typing import Any


class EngineSocket:
    """One engine. Each call blocks on its own connection. Raises OSError, HTTPException or ValueError if it fails."""

    def __init__(self, docker_host: str, timeout: float) -> None:
        """``docker_host`` as in DOCKER_HOST; ``timeout`` seconds for each step of a call."""
        path = docker_host.removeprefix("unix://")
        self._path = path if path != docker_host and path.startswith("/") else ""
        self._timeout = timeout

    @property
    def usable(self) -> bool:
        """Is it a Unix socket? An engine on TCP may be another host's."""
        return bool(self._path)

    def inspect(self, container: str) -> dict[str, Any] | None:
        """The ``State`` of a container; None if there is no such container."""
        found = self._call("GET", f"/containers/{container}/json")
        state = found.get("State") if isinstance(found, dict) else None
        return state if isinstance(state, dict) else None

    def process_states(self, container: str) -> list[str]:
        """The states of a running container's processes, as ps(1) shows them: ``S``, ``R``, ``T`` for stopped, ..."""
        found = self._call("GET", f"/containers/{container}/top?ps_args=-eo%20pid,stat")
        rows = found.get("Processes") if isinstance(found, dict) else None
        return [str(row[-1]) for row in rows or [] if row]

    def kill(self, container: str) -> bool:
        """Send SIGKILL to the container's main process, paused or not; False if it did not run any more."""
        return self._call("POST", f"/containers/{container}/kill?signal=KILL") is not None

    def _call(self, method: str, path: str) -> Any:
        """The JSON of the answer, {} if it is empty; None for any error status."""
        connection = _UnixConnection(self._path, self._timeout)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
            if response.status >= http.HTTPStatus.BAD_REQUEST:
                return None
            return json.loads(body) if body else {}
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
