"""Registers this agent with the control plane over HTTP.

The first registration may use a shared bootstrap key. An administrator may have to approve the agent, and the control
plane may then issue a key of its own. A refusal is final only if the control plane itself sends it, and only for an
agent that it has never accepted.
"""

import asyncio
import hashlib
import json
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from streamspace_agent import protocol
from streamspace_agent.backoff import Backoff
from streamspace_agent.config import Settings
from streamspace_agent.controlplane.http_reply import Reply, read
from streamspace_agent.controlplane.keys import Keys
from streamspace_agent.controlplane.proxy import proxy_for
from streamspace_agent.controlplane.tls import Trust, causes, certificate_hint
from streamspace_agent.errors import Refused
from streamspace_agent.private import write_private

if TYPE_CHECKING:
    import urllib3

log = logging.getLogger(__name__)

PATH = "/api/v1/agents/register"
APPROVAL_POLL = 30.0
"""Seconds until an agent that waits for approval asks again, give or take a fifth; doubled each time. Each request
makes the agent look online."""
MAX_APPROVAL_POLL = 300.0
REFUSED_PAUSE = 60.0
"""Seconds between two attempts of an agent that was accepted before and is refused now."""
LOUD_EVERY = 300.0
"""Seconds after which a lasting refusal is logged again."""
CALL_TIMEOUT = 10.0
AGAIN = "trying again until it works"

VOLATILE = frozenset({"leader", "epoch"})
"""Metadata that change with each takeover; status messages carry the epoch as well."""
MAX_RECORD = 4096


def http_client(settings: Settings, context: ssl.SSLContext | None) -> "urllib3.PoolManager":
    """An HTTP client for the control plane, through the same proxy as the WebSocket."""
    import urllib3  # noqa: PLC0415 - 20 ms, which an agent that is registered already never needs

    timeout = urllib3.Timeout(CALL_TIMEOUT)
    options: dict[str, Any] = {"ssl_context": context, "retries": False, "timeout": timeout, "maxsize": 1}
    if not (proxy := proxy_for(settings)):
        return urllib3.PoolManager(**options)
    # urllib3 does not take a user and a password from the proxy's URL.
    user = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **options)


class Registrar:
    """Registers this agent until it is accepted. One object per process."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        trust: Trust,
        rng: random.Random,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._trust = trust
        self._keys = keys
        self._rng = rng
        self._sleep = sleep
        self._record = RegistrationRecord(settings)
        self._approval = self._approval_polls()
        proxy_for(settings)  # raises ConfigError now, not at the first registration
        self._context: ssl.SSLContext | None = None
        self._http: urllib3.PoolManager | None = None

    @property
    def known(self) -> bool:
        return self._record.known

    async def refresh(self, capacity: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Register again if these facts differ from those registered last, as :meth:`register` does."""
        if not self._record.holds(self.body(capacity, metadata)):
            await self.register(capacity, metadata)

    async def register(
        self,
        capacity: Mapping[str, Any],
        metadata: Mapping[str, Any],
        on_problem: Callable[[str], None] = lambda _problem: None,
    ) -> None:
        """Return once the control plane has accepted this agent. Temporary failures are retried without end.

        ``on_problem`` is called at each failed attempt with the reason. Raises :exc:`Refused` if an administrator
        rejected the agent, or if the control plane itself refuses an agent that it has never accepted.
        """
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 - as in http_client

        body = self.body(capacity, metadata)
        self._keys.look()
        backoff = Backoff(rng=self._rng)
        logged, logged_at = "", 0.0
        while True:
            try:
                reply = await asyncio.to_thread(self._post, json.dumps(body).encode())
            except (HTTPError, OSError, ValueError) as error:
                hint = certificate_hint(self._settings, error)
                delay, problem = backoff.delay(), f"{reason(error)}{hint}; {AGAIN}"
                level = logging.WARNING
            else:
                if reply.status in {200, 201} and reply.body.keys() & {"agentId", "agent"}:
                    self._accepted(body, reply.body)
                    return
                delay, problem, level = self._next_try(reply, backoff)
            on_problem(problem)
            now = time.monotonic()
            if problem != logged or (level >= logging.ERROR and now - logged_at >= LOUD_EVERY):
                log.log(level, "cannot register at CONTROL_PLANE_URL=%s: %s", self._settings.control_plane_url, problem)
                logged, logged_at = problem, now
            await self._sleep(delay)

    def _approval_polls(self) -> Backoff:
        return Backoff(base=1.2 * APPROVAL_POLL, cap=1.2 * MAX_APPROVAL_POLL, least=0.8 / 1.2, rng=self._rng)

    def body(self, capacity: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "agentId": self._settings.agent_id,
            "platform": self._settings.platform,
            "region": self._settings.region,
            "capacity": dict(capacity),
            "metadata": dict(metadata),
        }

    def _post(self, body: bytes) -> Reply:
        context = self._trust.context()
        if self._http is None or context is not self._context:
            self._context, self._http = context, http_client(self._settings, context)
        headers = {"Content-Type": "application/json", **self._keys.headers()}
        url = self._settings.http_url + PATH
        return read(self._http.request("POST", url, body=body, headers=headers, preload_content=False), CALL_TIMEOUT)

    def _accepted(self, body: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        self._approval = self._approval_polls()
        nested = answer.get("agent")
        for part in (nested if isinstance(nested, dict) else {}, answer):
            key = part.get("apiKey")
            if isinstance(key, str) and key:
                self._keys.keep(key)
                break
        self._record.keep(body)

    def _next_try(self, reply: Reply, backoff: Backoff) -> tuple[float, str, int]:
        """Seconds until the next attempt, the reason and its log level. Raises Refused."""
        agent_id, answer = self._settings.agent_id, reply.refusal(self._settings.http_url + PATH, PATH)
        if reply.status == 202 and reply.body.get("approvalStatus") == "pending":
            waits = f"waits for an administrator's approval of {agent_id}"
            every = f"asks again every {APPROVAL_POLL:.0f} s, later every {MAX_APPROVAL_POLL / 60:.0f} min"
            return self._approval.delay(), f"{waits}; {every}", logging.WARNING
        if reply.status == 429 or reply.status >= 500:
            return max(backoff.delay(), reply.wait), f"{answer}; {AGAIN}", logging.WARNING
        if not reply.by_control_plane:  # what a proxy answers says nothing about this agent
            address = f"POST {self._settings.http_url}{PATH}"
            check = "check CONTROL_PLANE_URL and the proxy in front of it"
            problem = f"{address} is not answered by the control plane: {answer}; {check}; {AGAIN}"
            return backoff.delay(), problem, logging.ERROR
        if reply.body.get("approvalStatus") == "rejected":
            fix = "ask them to approve it, or use another AGENT_ID"
            raise Refused(f"an administrator rejected agent {agent_id}: {fix}")
        problem = f"the control plane refused the registration of {agent_id}: {answer}"
        if reply.status in {401, 403, 404}:
            if self._keys.fall_back():
                return 0.0, f"the kept key was refused; {AGAIN}", logging.WARNING
            problem = key_refused(self._settings, reply.status, reply.message, has_key=bool(self._keys.current))
        if not self.known:
            raise Refused(problem)
        # It was accepted before: an outage or a restored database is likelier than an intended removal.
        pause = REFUSED_PAUSE * self._rng.uniform(0.8, 1.2)
        return pause, f"{problem}; it was accepted before, so it goes on asking", logging.ERROR


class RegistrationRecord:
    """Records in ``STATE_DIR`` that the control plane has accepted this agent, and the facts that were registered.

    An accepted agent connects without registering again, unless the connection is refused or the facts have changed:
    the deployed control plane shows a registering agent as online before it is connected, and fails commands sent in
    between. The replicas of one host share the record. One for another ``CONTROL_PLANE_URL`` is ignored.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.agent_dir / "registered"
        self._url = settings.control_plane_url
        self._facts = ""
        self._known = False
        self._warned = False

    @property
    def known(self) -> bool:
        """Whether the control plane has accepted this agent before."""
        self._look()
        return self._known

    def holds(self, registration: Mapping[str, Any]) -> bool:
        """Whether these facts were registered last."""
        self._look()
        return self._known and self._facts == fingerprint(registration)

    def keep(self, registration: Mapping[str, Any]) -> None:
        """Record an accepted registration."""
        self._known, self._facts = True, fingerprint(registration)
        record = {"controlPlane": self._url, "facts": self._facts}
        try:
            write_private(self._path, json.dumps(record))
        except OSError as error:
            if not self._warned:
                log.warning("STATE_DIR: cannot record in %s that this agent is registered: %s", self._path, error)
            self._warned = True

    def _look(self) -> None:
        """Read the file again, since another replica may have registered. If it is unreadable, nothing changes."""
        try:
            with self._path.open("rb") as file:
                record = json.loads(file.read(MAX_RECORD))
        except (OSError, ValueError, RecursionError):
            return
        if isinstance(record, dict) and record.get("controlPlane") == self._url:
            self._known, self._facts = True, str(record.get("facts"))


def fingerprint(registration: Mapping[str, Any]) -> str:
    """A hash of a registration, without the metadata that change with each takeover."""
    facts = {name: value for name, value in registration.get("metadata", {}).items() if name not in VOLATILE}
    text = json.dumps({**registration, "metadata": facts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def key_refused(settings: Settings, status: int, message: str, *, has_key: bool) -> str:
    """The message for a refused key. A 404 may mean an unknown key, or that no control plane answers at this URL."""
    cause = "AGENT_API_KEY was not accepted"
    if not has_key:
        cause = "AGENT_API_KEY is not set and no client certificate was accepted"
    answer, check = f"HTTP {status}", "check the key, and that it belongs to this AGENT_ID"
    if status == 404:
        cause = f"CONTROL_PLANE_URL is wrong, or {cause}"
        answer = f"HTTP 404 to POST {settings.http_url}{PATH}"
        check = "check CONTROL_PLANE_URL first, then the key, and that it belongs to this AGENT_ID"
    return f"{cause} for agent {settings.agent_id}: {answer}{message and ': ' + message}; {check}"


def reason(error: BaseException) -> str:
    """The innermost cause of an error in one line; urllib3 and asyncio wrap it in several layers."""
    proxy = ""
    for cause in causes(error):
        if type(cause).__name__ == "ProxyError":  # urllib3's or websockets'
            proxy = "HTTPS_PROXY: "
        error = cause
    if isinstance(error, ssl.SSLCertVerificationError):
        problem = f"the control plane's certificate is not trusted: {error.verify_message}"
        return f"{problem}; TLS_CA_FILE must name the CA that signed it"
    text = " ".join(str(error).split()) or type(error).__name__
    return protocol.cut(proxy + text, 300)
