"""The certificates of a TLS connection to the control plane. Files that change on disk are loaded again."""

import logging
import ssl
from collections.abc import Iterable
from pathlib import Path

from streamspace_agent.config import Settings
from streamspace_agent.errors import ConfigError

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int, int] | None


def stamp(path: Path) -> Stamp:
    """A value that changes with the file, its content or its permissions; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Trust:
    """The CA and client certificate for the control plane. If a changed file is unusable, the old ones stay in use."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError."""
        self._settings = settings
        files = {"TLS_CA_FILE": settings.tls_ca_file, "TLS_CERT_FILE": settings.tls_cert_file}
        files["TLS_KEY_FILE"] = settings.tls_key_file
        self._files = {name: path for name, path in files.items() if path}
        self._stamps = self._look()
        self._context = tls_context(settings)

    def _look(self) -> dict[str, Stamp]:
        return {name: stamp(path) for name, path in self._files.items()}

    def context(self) -> ssl.SSLContext | None:
        """The context for the next connection; None without TLS."""
        stamps = self._look()
        if self._context is not None and stamps != self._stamps:
            changed = ", ".join(name for name in stamps if stamps[name] != self._stamps[name])
            self._stamps = stamps
            try:
                self._context = tls_context(self._settings)
                log.info("%s: changed on disk, loaded again", changed)
            except ConfigError as error:
                log.warning("%s; the files loaded before stay in use", error)
        return self._context


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """A TLS context for the control plane; None without TLS. Raises ConfigError."""
    if not settings.http_url.startswith("https"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError([f"TLS_CA_FILE: {settings.tls_ca_file} cannot be used: {error}"]) from None
    if settings.tls_cert_file and settings.tls_key_file:
        try:
            context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError([f"TLS_CERT_FILE, TLS_KEY_FILE: cannot be used together: {error}"]) from None
    return context


def certificate_hint(settings: Settings, error: BaseException) -> str:
    """A hint for an error that may mean a refused client certificate, else "".

    In TLS 1.3 the server refuses it only after the handshake, by an alert or by closing the connection.
    """
    if not settings.tls_cert_file:
        return ""
    if any(isinstance(cause, EOFError | ConnectionResetError) or _alert(cause) for cause in causes(error)):
        return "; was TLS_CERT_FILE refused? Check that it has not expired, and that its CN is AGENT_ID"
    return ""


def _alert(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLError) and "alert" in str(error).lower()


def causes(error: BaseException) -> Iterable[BaseException]:
    """The error and its causes, outermost first; urllib3 and asyncio wrap an error in several layers."""
    for _ in range(10):
        yield error
        inner = [error.__cause__, getattr(error, "reason", None), *error.args]
        found = next((cause for cause in inner if isinstance(cause, BaseException)), None)
        if found is None:
            return
        error = found
