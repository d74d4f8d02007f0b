"""The files that a TLS connection to the control plane rests on. They are renewed on disk, and loaded again at the next connection."""

import logging
import ssl
from collections.abc import Iterable
from pathlib import Path

from streamspace_agent.config import Settings
from streamspace_agent.errors import ConfigError

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int, int] | None


def stamp(path: Path) -> Stamp:
    """Changes when another file stands there, something else in it, or others may read it; None for no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Trust:
    """Whom this agent trusts, and what it shows of itself. Files that cannot be used leave those loaded before in place."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError."""
        self._settings = settings
        self._files = {
            name: path
            for name, path in (
                ("TLS_CA_FILE", settings.tls_ca_file),
                ("TLS_CERT_FILE", settings.tls_cert_file),
                ("TLS_KEY_FILE", settings.tls_key_file),
            )
            if path
        }
        self._stamps = self._look()
        self._context = tls_context(settings)

    def _look(self) -> dict[str, Stamp]:
        return {name: stamp(path) for name, path in self._files.items()}

    def context(self) -> ssl.SSLContext | None:
        """For the next connection; None for one without TLS."""
        stamps = self._look()
        if self._context is not None and stamps != self._stamps:
            changed = ", ".join(name for name in stamps if stamps[name] != self._stamps[name])
            self._stamps = stamps
            try:
                self._context = tls_context(self._settings)
                log.info("%s: changed on disk, loaded again", changed)
            except ConfigError as error:
                log.warning("%s; what was loaded before is used on", error)
        return self._context


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context for the control plane, or None for a plain connection. Raises ConfigError."""
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
    """TLS 1.3 tells of a refused client certificate only after the handshake: by hanging up, or by an alert. "" where it is something else."""
    if not settings.tls_cert_file:
        return ""
    if any(isinstance(cause, EOFError | ConnectionResetError) or _alert(cause) for cause in causes(error)):
        return "; was TLS_CERT_FILE refused? Check that it has not expired, and that its CN is AGENT_ID"
    return ""


def _alert(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLError) and "alert" in str(error).lower()


def causes(error: BaseException) -> Iterable[BaseException]:
    """The error and what is wrapped in it, from the outside in: urllib3 and asyncio wrap it in several layers."""
    for _ in range(10):
        yield error
        inner = [error.__cause__, getattr(error, "reason", None), *error.args]
        found = next((cause for cause in inner if isinstance(cause, BaseException)), None)
        if found is None:
            return
        error = found
