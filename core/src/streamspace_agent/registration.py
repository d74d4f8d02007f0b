"""Registering with the control plane over HTTP, and the agent's own API key.

First contact may be made with a shared bootstrap key; an administrator may have to approve; the control plane may then hand out
a key of the agent's own, which is kept in ``STATE_DIR`` (mode 0600) and used from then on.
"""

import asyncio
import json
import logging
import os
import random
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from streamspace_agent import protocol
from streamspace_agent.backoff import Backoff
from streamspace_agent.config import Settings
from streamspace_agent.errors import ConfigError, Refused

log = logging.getLogger(__name__)

PATH = "/api/v1/agents/register"
KEY_HEADER = "X-Agent-API-Key"
APPROVAL_POLL = 30.0  # protocol, section 1: ask again every 30 s
CALL_TIMEOUT = 10.0
AGAIN = "trying again until it works"


class Keys:
    """Which API key to use: the agent's own once it has one, else the configured one.

    The agent's own is kept in a file that replicas on one host share: any of them may be the one to be given it.
    """

    def __init__(self, settings: Settings, hide: Callable[[str], None]) -> None:
        self._path = settings.agent_dir / "api-key"
        self._configured = settings.agent_api_key.get_secret_value() if settings.agent_api_key else ""
        self._hide = hide
        self._refused = ""
        self._own = self._read()
        for key in (self._configured, self._own):
            if key:
                hide(key)

    @property
    def current(self) -> str:
        return self._own or self._configured

    def headers(self) -> dict[str, str]:
        return {KEY_HEADER: self.current} if self.current else {}

    def keep(self, key: str) -> None:
        """Use this key from now on, and after a restart."""
        self._hide(key)
        if key == self.current:
            return
        self._own, self._refused = key, self._read()  # what lies there may stay, where nothing can be written
        try:
            write_private(self._path, key)
            log.info("the control plane gave this agent a key of its own: kept in %s", self._path)
        except OSError as error:
            log.warning(
                "STATE_DIR: cannot keep the agent's own key in %s (%s): it is used until the process ends",
                self._path,
                error,
            )

    def look(self) -> bool:
        """Take a key that another replica was given meanwhile. True when there is one."""
        kept = self._read()
        if kept in {"", self._own, self._refused}:
            return False
        self._hide(kept)
        self._own = kept
        return True

    def fall_back(self) -> bool:
        """Give up a kept key that was refused. True when another one is left to try."""
        if self.look():
            return True
        if not self._own or not self._configured or self._own == self._configured:
            return False
        log.warning("the key kept in %s was refused: trying the configured key", self._path)
        self._own, self._refused = "", self._own
        return True

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


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


def proxy_for(settings: Settings) -> str:
    """The environment's proxy on the way to the control plane, "" for none; only TLS goes through one. Raises ConfigError."""
    parts = urlsplit(settings.http_url)
    proxy = getproxies().get("https", "") if parts.scheme == "https" else ""
    if not proxy or proxy_bypass(parts.netloc):
        return ""
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.lower().startswith(("http://", "https://")) or not urlsplit(proxy).hostname:
        kind = proxy.partition("://")[0]
        raise ConfigError(
            [f"HTTPS_PROXY: a proxy of the kind {kind}:// cannot be used; write http://[USER:PASSWORD@]HOST:PORT"]
        )
    return proxy


def http_client(settings: Settings, context: ssl.SSLContext | None) -> urllib3.PoolManager:
    """A client for the control plane; it goes through the same proxy as the WebSocket."""
    timeout = urllib3.Timeout(total=CALL_TIMEOUT)
    proxy = proxy_for(settings)
    if not proxy:
        return urllib3.PoolManager(ssl_context=context, retries=False, timeout=timeout, maxsize=1)
    # urllib3 does not take a user and a password from the proxy's URL.
    user = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
    return urllib3.ProxyManager(
        proxy, proxy_headers=headers, ssl_context=context, retries=False, timeout=timeout, maxsize=1
    )


class Registrar:
    """Registers this agent until it is accepted. One object a process."""

    def __init__(self, settings: Settings, keys: Keys, context: ssl.SSLContext | None, rng: random.Random) -> None:
        self._settings = settings
        self._keys = keys
        self._rng = rng
        self.on_problem: Callable[[str], None] = lambda _problem: None
        """Called with what keeps this agent from being accepted, at each try."""
        self._http = http_client(settings, context)

    async def register(self, capacity: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Return once the control plane has accepted this agent. Retries without end what may heal.

        Raises :exc:`Refused` for what does not: rejected, or a key that is bad or unknown.
        """
        body = json.dumps(
            {
                "agentId": self._settings.agent_id,
                "platform": self._settings.platform,
                "region": self._settings.region,
                "capacity": dict(capacity),
                "metadata": dict(metadata),
            }
        ).encode()
        self._keys.look()
        backoff = Backoff(rng=self._rng)
        complaint = ""
        while True:
            try:
                response = await asyncio.to_thread(self._post, body)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                delay, problem = backoff.delay(), f"{reason(error)}; {AGAIN}"
            else:
                answer = _object(response.data)
                if response.status in {200, 201}:
                    self._accepted(answer)
                    return
                delay, problem = self._next_try(response, answer, backoff)
            self.on_problem(problem)
            if problem != complaint:  # once, not at every try
                log.warning("cannot register at CONTROL_PLANE_URL=%s: %s", self._settings.control_plane_url, problem)
                complaint = problem
            await asyncio.sleep(delay)

    def _post(self, body: bytes) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": "application/json", **self._keys.headers()}
        return self._http.request("POST", self._settings.http_url + PATH, body=body, headers=headers)

    def _accepted(self, answer: Mapping[str, Any]) -> None:
        nested = answer.get("agent")
        for part in (nested if isinstance(nested, dict) else {}, answer):
            key = part.get("apiKey")
            if isinstance(key, str) and key:
                self._keys.keep(key)
                return

    def _next_try(
        self, response: urllib3.BaseHTTPResponse, answer: Mapping[str, Any], backoff: Backoff
    ) -> tuple[float, str]:
        """Seconds until the next try and the reason for it, or Refused."""
        said = str(answer.get("error") or answer.get("message") or "").strip()[:300]
        approval = answer.get("approvalStatus")
        if response.status == 202:
            waits = f"waits for an administrator's approval of {self._settings.agent_id}"
            return APPROVAL_POLL * self._rng.uniform(0.8, 1.2), f"{waits}; asks again every {APPROVAL_POLL:.0f} s"
        if response.status == 429 or response.status >= 500:
            wait = max(backoff.delay(), retry_after(response.headers) or 0.0)
            return wait, f"HTTP {response.status}{said and ': ' + said}; {AGAIN}"
        if response.status in {401, 403, 404}:
            if approval == "rejected":
                raise Refused(
                    f"an administrator rejected agent {self._settings.agent_id}: ask them to approve it, or use another AGENT_ID"
                )
            if self._keys.fall_back():
                return 0.0, f"the kept key was refused; {AGAIN}"
            raise Refused(key_refused(self._settings, response.status, said, has_key=bool(self._keys.current)))
        raise Refused(
            f"the control plane refused the registration of {self._settings.agent_id}: HTTP {response.status}{said and ': ' + said}"
        )


def key_refused(settings: Settings, status: int, said: str, *, has_key: bool) -> str:
    """Also for a 404, which may come from a control plane that does not know the key, or from what is no control plane."""
    cause = (
        "AGENT_API_KEY was not accepted"
        if has_key
        else "AGENT_API_KEY is not set and no client certificate was accepted"
    )
    answer, check = f"HTTP {status}", "check the key, and that it belongs to this AGENT_ID"
    if status == 404:
        cause = f"CONTROL_PLANE_URL is wrong, or {cause}"
        answer, check = (
            f"HTTP 404 to POST {settings.http_url}{PATH}",
            f"check CONTROL_PLANE_URL first, then {check[6:]}",
        )
    return f"{cause} for agent {settings.agent_id}: {answer}{said and ': ' + said}; {check}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header in its numeric form, at most an hour."""
    value = headers.get("Retry-After", "")
    return min(3600.0, float(value)) if value.isdigit() else None


def reason(error: BaseException) -> str:
    """The innermost cause in a few words: urllib3 and asyncio wrap it in several layers."""
    proxy = ""
    for _ in range(10):
        if type(error).__name__ == "ProxyError":  # urllib3's or websockets'
            proxy = "HTTPS_PROXY: "
        inner = [error.__cause__, getattr(error, "reason", None), *error.args]
        error = next((cause for cause in inner if isinstance(cause, BaseException)), error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the control plane's certificate is not trusted: {error.verify_message}; TLS_CA_FILE must name the CA that signed it"
    text = " ".join(str(error).split()) or type(error).__name__
    return protocol.cut(proxy + text, 300)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
