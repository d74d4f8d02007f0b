"""The SDK's way over a Unix socket, mended. Imports the SDK."""

import socket
import threading
from typing import Any

from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        """As the SDK's, which leaves the socket open when the engine is away."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self.unix_socket)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:
        timeout: Any = self.timeout  # the pool has wrapped it, which the connection takes as well
        return _Connection(self.base_url, self.socket_path, timeout)


class SocketAdapter(UnixHTTPAdapter):
    """The SDK's adapter keeps a pool for each URL, 25 of them: no connection is ever used twice, and a pool may be
    closed under a call. One pool for the one socket instead.
    """

    def __init__(self, path: str, timeout: int, connections: int) -> None:
        self._pool: _Pool | None = None
        self._lock = threading.Lock()
        super().__init__(f"http+unix://{path}", timeout, max_pool_size=connections)

    def get_connection(self, url: Any, proxies: Any = None) -> _Pool:
        del proxies
        with self._lock:
            if self._pool is None:
                self._pool = _Pool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
            return self._pool

    def close(self) -> None:
        super().close()
        with self._lock:
            if self._pool is not None:
                self._pool.close()
                self._pool = None
