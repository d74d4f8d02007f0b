"""``docker-agent check``: finds everything that could keep an agent from working, each with its fix.

It changes nothing and does not disturb a running agent. In particular, it does not open the agent's WebSocket: the
control plane would close the running agent's and send the waiting commands here.
"""

import asyncio
import errno
import logging
import os
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from urllib.parse import urlsplit

from streamspace_agent import protocol
from streamspace_agent.addresses import is_loopback
from streamspace_agent.cli.check_control_plane import over_http
from streamspace_agent.cli.check_gateway import check_gateway
from streamspace_agent.cli.findings import Finding, Level
from streamspace_agent.config import Settings
from streamspace_agent.config_warnings import RecordingEnviron, config_warnings
from streamspace_agent.controlplane.proxy import proxy_for
from streamspace_agent.controlplane.registration import reason
from streamspace_agent.controlplane.tls import tls_context
from streamspace_agent.election import ElectionBackend, Problem, Record
from streamspace_agent.election.timing import lease_duration_warnings
from streamspace_agent.errors import AgentError, BackendUnavailable, EngineUnavailable
from streamspace_agent.health.endpoint import refusal
from streamspace_agent.health.replicas import replicas
from streamspace_agent.plugins import Plugins
from streamspace_agent.runtime import RuntimeDriver
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)

CALL_TIMEOUT = 10.0
ENGINE_TIMEOUT = 30.0
CERTIFICATE_WARNING = 14 * 86400.0


def of_error(subject: str, error: AgentError, fix: str = "") -> list[Finding]:
    return [Finding(subject, Level.FATAL, line, fix) for line in str(error).splitlines()]


def _of_problems(subject: str, problems: Iterable[Problem]) -> list[Finding]:
    return [Finding(subject, Level.FATAL if p.fatal else Level.WARNING, p.message, p.fix) for p in problems]


async def check(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[list[Finding]]:
    """Check everything, in the order in which an operator would fix it. Yields the findings of each step."""
    plugins = Plugins()
    driver = backend = None
    own_environ = RecordingEnviron(environ)
    try:
        driver = plugins.runtime_driver(settings, own_environ)
        yield [Finding("plugins", Level.OK, f"RUNTIME_DRIVER={settings.runtime_driver} is loaded")]
    except AgentError as error:
        yield of_error("plugins", error)
    try:
        if settings.enable_ha:
            backend = plugins.election_backend(settings, own_environ)
            loaded = f"LEADER_ELECTION_BACKEND={settings.leader_election_backend} is loaded"
            yield [Finding("plugins", Level.OK, loaded)]
        if settings.web_gateway:
            plugins.gateway(settings, own_environ)
    except AgentError as error:
        yield of_error("plugins", error)
    try:
        yield [Finding("plugins", Level.OK, f"commands: {', '.join(plugins.commands().actions)}")]
    except AgentError as error:
        yield of_error("plugins", error)
    yield [Finding("settings", Level.WARNING, text) for text in config_warnings(settings, environ, own_environ.names)]
    yield _state_dir(settings)
    yield _health(settings)
    if driver:
        yield await _engine(driver)
    yield await _control_plane(settings)
    yield await _election(settings, backend)
    yield await check_gateway(settings)


def _state_dir(settings: Settings) -> list[Finding]:
    folder = settings.agent_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        fix = f"let the agent's user write there, or set STATE_DIR to a folder on a local disk (user id {os.getuid()})"
        return [Finding("state", Level.FATAL, f"STATE_DIR: cannot write in {folder}: {error.strerror}", fix)]
    return [Finding("state", Level.OK, f"STATE_DIR: {settings.agent_dir} can be written")]


def _health(settings: Settings) -> list[Finding]:
    if not settings.health_address or (error := refusal(settings.health_address)) is None:
        return []
    message = f"HEALTH_ADDRESS={settings.health_address}: cannot listen there: {_text(error).lower()}"
    if error.errno != errno.EADDRINUSE:
        return [Finding("health", Level.FATAL, message, "set HEALTH_ADDRESS to an address of this host")]
    if any(r.document and r.document.get("health_address") for r in replicas(settings.agent_dir)):
        return [Finding("health", Level.OK, f"HEALTH_ADDRESS={settings.health_address} is in use, by what runs here")]
    fix = "set HEALTH_ADDRESS to a free port, or to a range, such as 127.0.0.1:9100-9109"
    level = Level.WARNING if settings.enable_ha else Level.FATAL  # replicas wait for it, an agent alone ends
    return [Finding("health", level, message, fix)]


async def _engine(driver: RuntimeDriver) -> list[Finding]:
    fix = "start the engine, check DOCKER_HOST, and that the agent's user may open the socket"
    try:
        async with asyncio.timeout(ENGINE_TIMEOUT):
            problems = await driver.check()
            facts = {} if any(p.fatal for p in problems) else await driver.describe()
    except (EngineUnavailable, OSError) as error:
        text = _own_words(error)
        return [Finding("engine", Level.FATAL, f"the engine does not answer: {text}", fix)]
    except Exception as error:
        log.debug("the driver failed", exc_info=True)
        return [Finding("engine", Level.FATAL, f"the driver failed: {type(error).__name__}: {reason(error)}", fix)]
    finally:
        await driver.aclose()
    return _of_problems("engine", problems) or [Finding("engine", Level.OK, _in_words(facts) or "answers")]


def _own_words(error: Exception) -> str:
    """The text of a plugin's own error, which names the variable; else the cause."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    own = " ".join(str(error).split()) if isinstance(error, AgentError) else ""
    return protocol.cut(own, 300) or reason(error)


def _in_words(facts: Mapping[str, str]) -> str:
    """What a driver says of its engine, for people: ``Docker 28.2.2, API 1.50, overlay2, Debian GNU/Linux 12``."""
    spoken = {"engine": f"{{}} {facts.get('engineVersion', '')}", "engineVersion": "", "apiVersion": "API {}"}
    spoken |= {"storageDriver": "{}", "operatingSystem": "{}", "architecture": "{}", "cgroupVersion": "cgroup v{}"}
    spoken["sessionsIsolated"] = ""  # if they are not isolated, that is a finding of its own
    parts = (spoken.get(name, f"{name} {{}}").format(value).strip() for name, value in facts.items() if value)
    text = ", ".join(part for part in parts if part)
    return text[:1].upper() + text[1:]


async def _control_plane(settings: Settings) -> list[Finding]:
    """Check DNS, TCP, TLS and HTTP, each only if the one before it works.

    With a proxy, DNS and TCP are checked for the proxy, which alone is reached from here; TLS is checked with HTTP.
    """
    subject = "control plane"
    try:
        proxy = proxy_for(settings)
    except AgentError as error:
        return of_error(subject, error)
    url = urlsplit(proxy or settings.http_url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    variable = "HTTPS_PROXY" if proxy else "CONTROL_PLANE_URL"
    found: list[Finding] = []
    try:
        async with asyncio.timeout(CALL_TIMEOUT):
            addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        fix = f"check the host name in {variable} and this host's resolver"
        return [Finding(subject, Level.FATAL, f"cannot resolve {host}: {_text(error)}", fix)]
    try:
        await _greet(host, port, None)
    except OSError as error:
        runs = "the proxy" if proxy else "the control plane"
        fix = f"check host and port in {variable}, firewalls, and that {runs} runs"
        names = ", ".join(sorted({str(address[4][0]) for address in addresses}))
        return [Finding(subject, Level.FATAL, f"cannot connect to {host}:{port} ({names}): {_text(error)}", fix)]
    found.append(Finding(subject, Level.OK, f"{'the proxy ' if proxy else ''}{host}:{port} accepts connections"))
    try:
        if proxy:
            return [*found, *await asyncio.to_thread(over_http, settings, tls_context(settings))]
        context = tls_context(settings)
        if context:
            found.append(_certificate(await _greet(host, port, context)))
        elif not is_loopback(host):
            message = "CONTROL_PLANE_URL is not encrypted: the API key and people's screens can be read on the way"
            found.append(Finding(subject, Level.WARNING, message, "use wss://"))
    except AgentError as error:
        return [*found, *of_error(subject, error)]
    except ssl.SSLCertVerificationError as error:
        return [*found, _bad_certificate(host, error)]
    except OSError as error:
        fix = "check that CONTROL_PLANE_URL's port speaks TLS, and TLS_CERT_FILE where it asks for a client certificate"
        if await _speaks_plain_http(host, port):
            message = f"no TLS with {host}:{port}: the port speaks plain HTTP"
            return [*found, Finding(subject, Level.FATAL, message, "use ws:// in CONTROL_PLANE_URL, or its TLS port")]
        return [*found, Finding(subject, Level.FATAL, f"no TLS with {host}:{port}: {_text(error)}", fix)]
    return [*found, *await asyncio.to_thread(over_http, settings, context)]


async def _greet(host: str, port: int, context: ssl.SSLContext | None) -> Mapping[str, object]:
    """Connect, complete the TLS handshake and disconnect. Returns the server's certificate."""
    async with asyncio.timeout(CALL_TIMEOUT):
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    certificate: Mapping[str, object] = writer.get_extra_info("peercert") or {}
    writer.transport.abort()
    return certificate


async def _speaks_plain_http(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CALL_TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                return await reader.readexactly(5) == b"HTTP/"
            finally:
                writer.transport.abort()
    except (OSError, EOFError):
        return False


def _certificate(certificate: Mapping[str, object]) -> Finding:
    left = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()
    if left < CERTIFICATE_WARNING:
        message = f"the control plane's certificate expires in {format_seconds(left)}"
        return Finding("control plane", Level.WARNING, message, "have it renewed")
    return Finding("control plane", Level.OK, f"its certificate is trusted, and valid for {left / 86400:.0f} more days")


def _bad_certificate(host: str, error: ssl.SSLCertVerificationError) -> Finding:
    text = error.verify_message
    if "expired" in text or "not yet valid" in text:
        fix = "have the control plane's certificate renewed; check this host's clock"
    elif "mismatch" in text.lower() or "not valid for" in text:
        fix = f"use a host name that is in the certificate in CONTROL_PLANE_URL, or have {host} added to it"
    else:
        fix = "set TLS_CA_FILE to the CA bundle that signed the control plane's certificate"
    return Finding("control plane", Level.FATAL, f"the certificate of {host} is not trusted: {text}", fix)


async def _election(settings: Settings, backend: ElectionBackend | None) -> list[Finding]:
    if not settings.enable_ha:
        return [Finding("election", Level.OK, "off: ENABLE_HA is false, this agent runs alone")]
    if backend is None:
        return []
    try:
        async with asyncio.timeout(CALL_TIMEOUT):
            problems = [*lease_duration_warnings(settings, backend.timing), *await backend.preflight()]
            fatal = any(problem.fatal for problem in problems)
            record = None if fatal else await backend.observe()
    except (BackendUnavailable, OSError) as error:
        text = _own_words(error)
        fix = f"check the store of LEADER_ELECTION_BACKEND={settings.leader_election_backend} and the way to it"
        return [Finding("election", Level.FATAL, f"the election store does not answer: {text}", fix)]
    except AgentError as error:
        return of_error("election", error)
    except Exception as error:
        log.debug("the election backend failed", exc_info=True)
        return [Finding("election", Level.FATAL, f"the backend failed: {type(error).__name__}: {reason(error)}")]
    finally:
        await backend.aclose()
    found = _of_problems("election", problems)
    return found if fatal else [*found, _leader(settings, record)]


def _leader(settings: Settings, record: Record | None) -> Finding:
    """Who leads; fatal if that is a replica on this host that does not answer."""
    if record is None or record.released:
        return Finding("election", Level.OK, "the store answers; nobody leads now")
    for replica in replicas(settings.agent_dir):
        if replica.document is None and replica.called(record.holder):
            message = f"the leader {record.holder}, epoch {record.epoch}, runs on this host and {replica.error}"
            fix = "resume it (docker unpause, kill -CONT) or kill it; FENCE_FROZEN_LEADER=true does so by itself (file)"
            return Finding("election", Level.FATAL, message, fix)
    since = f" since {record.since}" if record.since else ""
    return Finding("election", Level.OK, f"the store answers; {record.holder} leads in epoch {record.epoch}{since}")


def _text(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):  # its number is no system error's
        return (error.reason or str(error)).replace("_", " ").lower()
    # Resolver errors are negative and carry a text; asyncio's "Connect call failed" hides the system's.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else (error.strerror or str(error))
