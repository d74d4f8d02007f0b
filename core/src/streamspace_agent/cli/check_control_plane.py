"""The part of ``docker-agent check`` that asks the control plane over HTTP: API key, WebSocket path and clock."""

import base64
import json
import os
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import urllib3

from streamspace_agent.cli.findings import Finding, Level
from streamspace_agent.config import Settings
from streamspace_agent.controlplane import connection, registration
from streamspace_agent.controlplane.http_reply import Reply, read
from streamspace_agent.controlplane.keys import HEADER, Keys
from streamspace_agent.controlplane.proxy import proxy_for
from streamspace_agent.controlplane.registration import CALL_TIMEOUT, http_client, reason
from streamspace_agent.election.role import Role
from streamspace_agent.health.replicas import replicas
from streamspace_agent.logs import hide, redact
from streamspace_agent.units import format_seconds

MAX_SKEW = 30.0
"""Seconds by which this host's clock may differ from the control plane's: beyond, certificates and logs suffer."""
IN_USE = "in use by the agent that runs here and is connected"


def over_http(settings: Settings, context: ssl.SSLContext | None) -> list[Finding]:
    """Check the API key, the WebSocket path and the clock.

    The key is tried with a registration that lacks its required ``platform``: the control plane checks the key first
    and then refuses the rest, so nothing is registered. :func:`_key` verifies that order with a second, wrong key:
    without that, a control plane that checks the body first would seem to accept every key.
    """
    found: list[Finding] = []
    running = [r.document for r in replicas(settings.agent_dir) if r.document]
    with http_client(settings, context) as http:
        keys = Keys(settings, hide)
        try:
            first = _post(http, settings, keys.headers())
            found.append(_clock(first))
            if any(document.get("link", {}).get("connected") for document in running):
                return [*found, Finding("key", Level.OK, IN_USE), Finding("websocket", Level.OK, IN_USE)]
            found += _unconnected(running)
            if stranger := _stranger(settings, first):
                return [*found, stranger]  # its other answers would prove nothing
            found.append(_key(settings, keys, first, partial(_post, http, settings)))
            found.append(_websocket(http, settings, keys))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            fix = "check CONTROL_PLANE_URL, and what lies between (proxy, firewall)"
            if proxy_for(settings):
                fix = "check user and password in HTTPS_PROXY, and that the proxy lets CONTROL_PLANE_URL through"
            found.append(Finding("control plane", Level.FATAL, f"no HTTP answer: {reason(error)}", fix))
    return found


def _unconnected(running: Iterable[Mapping[str, Any]]) -> Iterable[Finding]:
    """Why the leader that runs here is not connected; it may be waiting for an approval, for example."""
    for document in running:
        if document.get("role") == Role.LEADER and (error := document.get("link", {}).get("last_error")):
            yield Finding("control plane", Level.WARNING, f"the agent that runs here has no connection: {error}")


def _post(http: urllib3.PoolManager, settings: Settings, headers: Mapping[str, str]) -> Reply:
    body = json.dumps({"agentId": settings.agent_id}).encode()
    headers = {"Content-Type": "application/json", **headers}
    url = settings.http_url + registration.PATH
    return read(http.request("POST", url, body=body, headers=headers, preload_content=False), CALL_TIMEOUT)


def _stranger(settings: Settings, first: Reply) -> Finding | None:
    """A finding if something else answers instead of the control plane, whose own refusals are JSON with a reason."""
    url = settings.http_url + registration.PATH
    if first.by_control_plane or first.redirect(url, registration.PATH):
        return None
    message = f"POST {url} is not answered by the control plane: HTTP {first.status}{_said(first)}"
    if first.status in {429, 502, 503, 504}:
        fix = "make sure that the control plane behind that proxy runs, and check again"
        return Finding("control plane", Level.WARNING, message, fix)
    fix = "check CONTROL_PLANE_URL, which must be the control plane's base URL, and the proxy in front of it"
    return Finding("control plane", Level.FATAL, message, fix)


def _key(settings: Settings, keys: Keys, first: Reply, post: Callable[[Mapping[str, str]], Reply]) -> Finding:
    said = _said(first)
    url = settings.http_url + registration.PATH
    if first.redirect(url, registration.PATH):
        fix = "set CONTROL_PLANE_URL to the control plane's own URL: redirects are not followed, to keep the key safe"
        return Finding("key", Level.FATAL, f"{url}: {first.refusal(url, registration.PATH)}", fix)
    if first.status in {401, 403, 404}:  # 404: an unknown agent with a key that is no bootstrap key
        said = said.removeprefix(": ")
        message = registration.key_refused(settings, first.status, said, has_key=bool(keys.current))
        return Finding("key", Level.FATAL, message, "set AGENT_API_KEY or AGENT_API_KEY_FILE to this agent's key")
    if first.status == 429 or first.status >= 500:
        return Finding("key", Level.WARNING, f"cannot tell: HTTP {first.status}{said}", "try again later")
    if not keys.current:
        return Finding("key", Level.OK, "accepted without an API key (client certificate)")
    wrong = post({HEADER: "0" * 64})
    if wrong.status in {401, 403, 404}:
        return Finding("key", Level.OK, "the control plane accepts the API key")
    message = f"cannot tell without registering: HTTP {first.status} to this key, HTTP {wrong.status} to a wrong one"
    return Finding("key", Level.WARNING, message, "start the agent: it says at once when the key is refused")


def _websocket(http: urllib3.PoolManager, settings: Settings, keys: Keys) -> Finding:
    """Ask for a WebSocket without an agent id: either the control plane refuses it, or something in front stops it."""
    headers = {
        **keys.headers(),
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    answer = http.request("GET", settings.http_url + connection.PATH, headers=headers, preload_content=False)
    if answer.status == 101:
        answer.close()
        return Finding("websocket", Level.OK, f"the control plane itself answers at {connection.PATH} (HTTP 101)")
    reply = read(answer, CALL_TIMEOUT)
    said = _said(reply)
    if reply.redirect(settings.http_url + connection.PATH, connection.PATH):
        message = f"{connection.PATH}: {reply.refusal(settings.http_url + connection.PATH, connection.PATH)}"
        return Finding("websocket", Level.FATAL, message, "set CONTROL_PLANE_URL to the control plane's own URL")
    fix = "let the proxy in front of the control plane pass WebSocket upgrades (Upgrade and Connection headers)"
    if answer.status in {426, 502, 503, 504} or "upgrade" in said.lower() or answer.status in range(200, 400):
        return Finding("websocket", Level.FATAL, f"{connection.PATH} does not upgrade: HTTP {answer.status}{said}", fix)
    if "json" in answer.headers.get("Content-Type", ""):
        message = f"the control plane itself answers at {connection.PATH} (HTTP {answer.status})"
        return Finding("websocket", Level.OK, message)
    return Finding(
        "websocket", Level.WARNING, f"{connection.PATH}: HTTP {answer.status}{said}, from a proxy perhaps", fix
    )


def _clock(answer: Reply) -> Finding:
    try:
        skew = time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return Finding("clock", Level.OK, "not compared: the control plane sends no time")
    if abs(skew) > MAX_SKEW:
        off = f"{format_seconds(abs(skew))} {'ahead of' if skew > 0 else 'behind'}"
        message = f"this host's clock is {off} the control plane's"
        return Finding("clock", Level.WARNING, message, "synchronise both (chrony, systemd-timesyncd)")
    return Finding("clock", Level.OK, f"within {MAX_SKEW:.0f} s of the control plane's")


def _said(answer: Reply) -> str:
    """The reason of a refusal on one line, after a colon; "" if there is none."""
    text = answer.message
    if not text and answer.text.lstrip().startswith("<"):
        text = "an HTML page"  # whose source tells people nothing
    text = text or redact(" ".join(answer.text[:1000].split()))[:200]
    return text and f": {text}"
