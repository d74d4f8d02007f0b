"""Session ids of this run: container names are global to an engine, and another run may be at work on it."""

import uuid

RUN = uuid.uuid4().hex[:6]


def sid(name: str) -> str:
    """`sid("life")` is "life-3f9a1c" all through this run."""
    return f"{name}-{RUN}"


UNKNOWN_HOST = ".".join(["no-such-host" * 5] * 5)
"""Too long for DNS: it does not resolve, and no resolver is asked."""
