"""Handles each message from the control plane: passes it to the part that it is for, or refuses it."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streamspace_agent import logs, protocol
from streamspace_agent.commands.answers import Answers
from streamspace_agent.commands.dispatcher import Dispatcher
from streamspace_agent.errors import CommandFailed, JournalError, LeaseLost
from streamspace_agent.protocol import Message
from streamspace_agent.tunnel.tunnels import Tunnels

log = logging.getLogger(__name__)

NOT_BASE64 = "?"


@dataclass(eq=False)
class Inbox:
    """The messages of one leadership."""

    _dispatcher: Dispatcher
    _answers: Answers
    _tunnels: Tunnels
    _send: Callable[[str, Mapping[str, Any]], Awaitable[bool]]
    """Sends a message now or drops it."""
    _on_shutdown: Callable[[str], None]
    """Called with the control plane's reason."""

    async def received(self, message: protocol.Message | protocol.Malformed) -> None:
        if isinstance(message, protocol.Malformed):
            log.warning("dropped a malformed message: %s: %s", message.reason, logs.redact(message.text)[:300])
            await self._refuse(message.command_id, f"malformed_message: {message.reason}")
            if message.session_id:  # part of this viewer's stream is lost: the viewer is closed
                await self._tunnels.data({"sessionId": message.session_id, "data": NOT_BASE64})
        elif message.type == "vnc_data":
            await self._tunnels.data(message.payload)
        elif message.type == "vnc_close":
            self._tunnels.closed(message.payload)
        elif message.type == "command":
            await self._command(message.payload)
        elif message.type == "ping":
            stamp = message.payload.get("timestamp")
            usable = isinstance(stamp, str) and len(stamp) <= 100
            await self._send("pong", {"timestamp": stamp if usable else protocol.timestamp()})
        elif message.type == "shutdown":
            self._on_shutdown(protocol.cut(str(message.payload.get("reason", "")), 200))
        else:
            log.debug("ignored a message of type %s", protocol.cut(message.type, 60))

    async def _command(self, payload: Mapping[str, Any]) -> None:
        try:
            self._dispatcher.receive(payload)
        except LeaseLost:
            raise
        except JournalError as error:
            log.error("refused a command: %s", error)  # noqa: TRY400 - the cause is known
            problem = f"journal_unavailable: {error}"
        except CommandFailed as error:
            problem = str(error)
        except Exception as error:  # no message, however odd, may cost the connection
            log.exception("refused a command")
            problem = f"internal_error: {type(error).__name__}; the agent's log has more"
        else:
            return
        await self._refuse(protocol.usable_id(payload.get("commandId")), problem)

    async def _refuse(self, command_id: str, problem: str) -> None:
        """Answer what never became a command; over this connection only if the journal cannot keep the answer."""
        if not command_id:
            return
        answer = Message("failed", protocol.failed(command_id, problem))
        try:
            self._answers.refused(command_id, answer)
        except JournalError:
            await self._send(answer.type, answer.payload)
