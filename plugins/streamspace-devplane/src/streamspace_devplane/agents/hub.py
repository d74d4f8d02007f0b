"""The hub of all messages: agents' links, commands to agents, and what agents report."""

import asyncio
import json
import math
import time
import uuid
from functools import cached_property

from streamspace_devplane.agents import envelopes
from streamspace_devplane.agents.envelopes import Envelope
from streamspace_devplane.agents.faults import CloseSecond
from streamspace_devplane.agents.link import Link
from streamspace_devplane.agents.state import State
from streamspace_devplane.agents.viewers import Relay
from streamspace_devplane.agents.viewers.deployed import DeployedRelay
from streamspace_devplane.agents.viewers.repaired import RepairedRelay
from streamspace_devplane.store import Row


class Hub(State):
    """The running control plane, without its HTTP side."""

    _sent_at = -math.inf

    @cached_property
    def relay(self) -> Relay:
        return DeployedRelay(self) if self.settings.relay == "deployed" else RepairedRelay(self)

    # Commands

    def command(self, agent_id: str, action: str, payload: Row, *, command_id: str | None = None) -> str:
        """Send a command. If its agent is not connected, it fails at once, or waits (`keep_commands`)."""
        command_id = command_id or f"cmd-{uuid.uuid4()}"
        self.store.add_command(command_id, agent_id, action, payload)
        self.dispatch(agent_id)
        return command_id

    def dispatch(self, agent_id: str | None = None) -> None:
        """Send or refuse the pending commands, of one agent or of all."""
        for row in self.store.pending(agent_id):
            link = self.links.get(row["agentId"])
            if link is None or link.closing:
                if not self.settings.keep_commands:
                    self.store.refuse(row["commandId"], "agent is not connected")
            elif not link.takes_more:
                self.store.refuse(row["commandId"], f"agent {row['agentId']} send buffer is full")
            else:
                command = {"commandId": row["commandId"], "action": row["action"], "payload": row["payload"]}
                link.send("command", command)
                self._sent(row["commandId"])

    def _sent(self, command_id: str) -> None:
        self.store.mark_sent(command_id)
        before, self._sent_at = self._sent_at, time.monotonic()
        if self._sent_at - before < self.settings.late_sent_by and self.dice.random() < self.settings.late_sent:
            asyncio.get_running_loop().call_later(self.settings.late_sent_by, self._sent_late, command_id)

    def _sent_late(self, command_id: str) -> None:
        if not self.stopping.is_set():
            self.counters["sentLate"] += 1
            self.store.mark_sent(command_id)

    # Links

    async def serve(self, link: Link) -> None:
        """Serve a link from its handshake to its end."""
        agent_id = link.agent_id
        first = self.links.get(agent_id)
        self.relay.opened(link)
        self.links[agent_id] = link
        self.connections[agent_id] += 1
        if first:
            first.close("replaced by a newer connection")
            self._maybe_close_second(link)
        self.store.log(agent_id, "plane", "connected", {"replaced": first is not None})
        self.store.change("UPDATE agents SET status = 'online' WHERE agent_id = ?", agent_id)
        if self.settings.keep_commands:
            self.dispatch(agent_id)
        try:
            await link.run()
        finally:
            self.relay.closed(link)
            if self.links.get(agent_id) is link:
                del self.links[agent_id]
                self.left[agent_id] = time.time()
                status = "stale" if link.closing == "stale" else "offline"
                self.store.change("UPDATE agents SET status = ? WHERE agent_id = ?", status, agent_id)
            self.store.log(agent_id, "plane", "disconnected", {"reason": link.closing or "the agent left"})

    def _maybe_close_second(self, link: Link) -> None:
        switch = self.faults.close_second or (
            CloseSecond(probability=1, seconds=0.01) if self.settings.close_second else None
        )
        if switch and self.dice.random() < switch.probability:
            asyncio.get_running_loop().call_later(switch.seconds, link.close, "closed by the cleanup of the first")

    def apply_faults(self) -> None:
        """Apply the switches that act on open links."""
        if self.stopping.is_set():
            return
        if self.faults.blackhole and self.listening.is_set():
            self.listening.clear()
            for link in self.links.values():
                link.wire.stop_reading()
        elif not self.faults.blackhole and not self.listening.is_set():
            self.listening.set()
            for link in self.links.values():
                link.wire.read_again()
        cut = self.faults.cut
        if cut and not cut.after:
            self.faults.cut = None
            for agent_id, link in list(self.links.items()):
                if cut.agent_id in (None, agent_id):
                    link.cut()

    # Messages

    def sent(self, link: Link, kind: str, payload: Row) -> None:
        if kind != "vnc_data" or self.settings.log_vnc_data:
            self.store.log(link.agent_id, "to_agent", kind, envelopes.shown(kind, payload))

    def unreadable(self, link: Link, reason: str, text: str | bytes) -> None:
        self.counters[reason] += 1
        start = text[:200] if isinstance(text, str) else text[:200].decode(errors="replace")
        self.store.log(link.agent_id, "from_agent", "unreadable", {"reason": reason, "text": start})

    def receive(self, link: Link, envelope: Envelope) -> None:
        kind, _, payload = envelope
        if kind == "vnc_data":
            self._count_data(link, payload)
        else:
            self.store.log(link.agent_id, "from_agent", kind, payload)
        match kind:
            case "heartbeat":
                self._heartbeat(link, payload)
            case "ack" | "complete" | "failed":
                self._progress(kind, payload)
            case "status":
                self._status(link, payload)
            case "vnc_ready" | "vnc_data" | "vnc_error":
                self.relay.receive(link, kind, payload)

    def _count_data(self, link: Link, payload: Row) -> None:
        data = payload.get("data")
        self.counters["vncMessages"] += 1
        if isinstance(data, str | bytes):
            self.counters["vncBase64Bytes"] += len(data) if isinstance(data, str) else envelopes.base64_length(data)
        if self.settings.log_vnc_data:
            self.store.log(link.agent_id, "from_agent", "vnc_data", envelopes.shown("vnc_data", payload))

    def _heartbeat(self, link: Link, payload: Row) -> None:
        link.last_heartbeat = time.monotonic()
        status = payload.get("status")
        active = payload.get("activeSessions")
        self.store.change(
            "UPDATE agents SET status = 'online', told_status = ?, active_sessions = ?,"
            " capacity = COALESCE(?, capacity), heartbeat_at = ? WHERE agent_id = ?",
            status if isinstance(status, str) else None,
            active if isinstance(active, int) else 0,
            json.dumps(payload["capacity"]) if isinstance(payload.get("capacity"), dict) else None,
            time.time(), link.agent_id,
        )  # fmt: skip

    def _progress(self, kind: str, payload: Row) -> None:
        state = "completed" if kind == "complete" else kind
        if not self.store.mark(str(payload.get("commandId")), state, payload.get("error"), payload.get("result")):
            self.counters["unknownCommand"] += 1

    def _status(self, link: Link, payload: Row) -> None:
        session_id, state = payload.get("sessionId"), payload.get("state")
        metadata = payload.get("platformMetadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        pod = metadata.get("podName")
        viewable = payload.get("vncReady") and payload.get("vncPort")
        if state not in envelopes.SESSION_STATES:
            self.counters["unknownState"] += 1
            return
        now = time.time()
        known = self.store.change(
            "UPDATE sessions SET state = ?, vnc_ready = ?, vnc_port = COALESCE(?, vnc_port), platform_metadata = ?,"
            " pod_name = ?, url = ?, statuses = statuses + 1, status_at = ?, last_activity = ? WHERE session_id = ?",
            state, bool(payload.get("vncReady")), payload.get("vncPort"), json.dumps(metadata),
            pod if isinstance(pod, str) else "",
            f"/api/v1/sessions/{session_id}/vnc" if viewable else "", now, now, session_id,
        )  # fmt: skip
        if not known:
            self.counters["unknownSession"] += 1
        if isinstance(session_id, str):
            self.relay.status(link, session_id, state)
