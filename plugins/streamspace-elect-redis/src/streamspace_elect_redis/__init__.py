"""Leader election through Redis: the hook. The backend is in :mod:`.backend`."""

from collections.abc import Mapping

from streamspace_agent import hookimpl
from streamspace_agent.config import Settings
from streamspace_agent.election import ElectionBackend


@hookimpl
def create_election_backend(settings: Settings, environ: Mapping[str, str]) -> ElectionBackend:
    """See :func:`streamspace_agent.plugins.hookspecs.create_election_backend`."""
    # Importing redis takes 0.1 s, which only its users should pay.
    from streamspace_elect_redis.backend import RedisBackend  # noqa: PLC0415

    return RedisBackend.from_settings(settings, environ)
