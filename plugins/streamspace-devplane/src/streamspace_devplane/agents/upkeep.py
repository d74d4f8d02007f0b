"""Periodic work: closes stale links, deals with stuck sessions, and ends fault switches whose time is over."""

import asyncio
import json
import time

from streamspace_devplane.agents.hub import Hub


async def upkeep(hub: Hub) -> None:
    """Runs as long as the control plane does."""
    settings = hub.settings
    last_stale = last_sweep = time.monotonic()
    hub.dispatch()
    _sweep(hub)
    while True:
        await asyncio.sleep(min(0.05, settings.stale_check))
        now = time.monotonic()
        hub.faults.expire()
        hub.apply_faults()
        if now - last_stale >= settings.stale_check:
            last_stale = now
            for link in list(hub.links.values()):
                if now - link.last_heartbeat > settings.stale_after:
                    link.close("stale")
        if now - last_sweep >= settings.sweep_interval:
            last_sweep = now
            _sweep(hub)


def _sweep(hub: Hub) -> None:
    """Deal with stuck sessions.

    Where the agent is connected, a stop is sent again, and a start is only logged. Where the agent has been gone for
    long, the control plane ends the session by itself.
    """
    now = time.time()
    rows = hub.store.rows(
        "SELECT * FROM sessions WHERE state IN ('pending', 'terminating') AND status_at < ? ORDER BY status_at",
        now - hub.settings.stuck_after,
    )
    for row in rows:
        connected = row["agentId"] in hub.links
        if connected and row["state"] == "terminating":
            hub.command(row["agentId"], "stop_session", {"sessionId": row["sessionId"], "deletePVC": False})
        elif not connected and row["statusAt"] < now - hub.settings.gone_after:
            hub.store.change(
                "UPDATE sessions SET state = ?, platform_metadata = ? WHERE session_id = ?",
                "failed" if row["state"] == "pending" else "terminated",
                json.dumps({**row["platformMetadata"], "reason": "agent_unavailable"}),
                row["sessionId"],
            )
        hub.store.log(row["agentId"], "plane", "stuck_session", {"sessionId": row["sessionId"], "state": row["state"]})
