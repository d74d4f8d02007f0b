"""Election through a Docker Swarm: the hook. Nothing heavy is imported before it is called."""

from collections.abc import Mapping

from streamspace_agent import hookimpl
from streamspace_agent.config import Settings
from streamspace_agent.election import ElectionBackend


@hookimpl
def create_election_backend(settings: Settings, environ: Mapping[str, str]) -> ElectionBackend:
    from streamspace_agent.election.identity import container_id  # noqa: PLC0415
    from streamspace_elect_swarm.backend import SwarmBackend  # noqa: PLC0415

    return SwarmBackend.from_settings(settings, environ, container_id())
