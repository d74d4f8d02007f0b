"""Finds the session that a request is for by its Host header."""

from dataclasses import dataclass
from http import HTTPStatus

from streamspace_agent.gateway import DOMAIN, GatewayContext
from streamspace_agent.runtime import ReadyCheck, Session, SessionState

_SUFFIX = f".{DOMAIN}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of the gateway's own; ``text`` is one sentence for the person who asked."""

    status: HTTPStatus
    text: str


def session_id(host: str) -> str:
    """The part before the domain, exactly as it was asked for; "" for a name outside the domain."""
    name, colon, port = host.rpartition(":")
    if not colon:
        name, port = host, ""
    name = name.removesuffix(".")
    if not name.lower().endswith(_SUFFIX) or (port and not (port.isascii() and port.isdigit())):
        return ""
    return name[: -len(_SUFFIX)]


def find(host: str, context: GatewayContext) -> Session | Refusal:
    """The session, if its web desktop can be asked now."""
    wanted = session_id(host)
    if not wanted:
        return Refusal(
            HTTPStatus.NOT_FOUND, f"the name {_shortened(host)!r} is not SESSION{_SUFFIX}: it names no session"
        )
    session = context.sessions.get(wanted)
    if session is None:
        if wanted in context.busy():
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the session is starting: try again in a moment")
        if not context.adopted():
            text = "the agent has just begun to lead and does not know its sessions yet: try again in a moment"
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text)
        return Refusal(HTTPStatus.NOT_FOUND, f"no session {_shortened(wanted)!r} runs on this agent")
    return _refusal(session, busy=wanted in context.busy()) or session


def _refusal(session: Session, *, busy: bool) -> Refusal | None:
    if session.state is SessionState.RUNNING:
        if session.ready_check is ReadyCheck.HTTP and session.port:
            return None
        return Refusal(HTTPStatus.NOT_FOUND, "the session has no web desktop: nothing in it speaks HTTP")
    if session.state is SessionState.HIBERNATED:
        text = "the session is waking up: try again in a moment" if busy else "the session is hibernated: wake it first"
    elif session.state is SessionState.PENDING or busy:
        text = "the session is starting: try again in a moment"
    else:
        text = f"the session does not run: it is {session.state}"
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text)


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."
