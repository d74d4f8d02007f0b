"""The names that commands give to sessions and volumes."""

import re
from collections.abc import Mapping
from typing import Any

from streamspace_agent.errors import CommandFailed

USABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""What an engine takes in a container's or volume's name; ".." cannot pass since "/" does not."""


def session_id(payload: Mapping[str, Any]) -> str:
    """The command's session id. Raises CommandFailed when it is missing or an engine could not use it as a name."""
    value = payload.get("sessionId")
    if value is None or value == "":
        raise CommandFailed("missing_session_id", "the command has no sessionId")
    text = str(value)
    if not isinstance(value, str | int) or isinstance(value, bool) or not USABLE.fullmatch(text):
        raise CommandFailed(
            "invalid_session_id",
            f"sessionId {text[:60]!r} cannot be a container's name: "
            "use 1 to 100 letters, digits, dots, dashes and underscores, beginning with a letter or digit",
        )
    return text
