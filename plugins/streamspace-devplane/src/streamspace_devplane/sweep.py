"""The control plane's own look after sessions that are stuck, once a minute."""

import json
import time
from typing import TYPE_CHECKING

from streamspace_devplane.store import Row

if TYPE_CHECKING:
    from streamspace_devplane.hub import Hub


def sweep(hub: "Hub") -> None:
    """Of an agent that is connected, a stop is sent again and a start only told of; of one long gone, both are given up."""
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
            _give_up(hub, row)
        hub.store.log(row["agentId"], "plane", "stuck_session", {"sessionId": row["sessionId"], "state": row["state"]})


def _give_up(hub: "Hub", row: Row) -> None:
    told = {**row["platformMetadata"], "reason": "agent_unavailable"}
    hub.store.change(
        "UPDATE sessions SET state = ?, platform_metadata = ? WHERE session_id = ?",
        "failed" if row["state"] == "pending" else "terminated", json.dumps(told), row["sessionId"],
    )  # fmt: skip
