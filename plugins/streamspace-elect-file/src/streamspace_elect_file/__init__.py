"""Leader election through a lock file, for replicas on one host: the hook. The backend is in :mod:`.backend`."""

from collections.abc import Mapping

from streamspace_agent import hookimpl
from streamspace_agent.config import Settings
from streamspace_agent.election import ElectionBackend
from streamspace_elect_file.backend import FileBackend
from streamspace_elect_file.fencing import Fence


@hookimpl
def create_election_backend(settings: Settings, environ: Mapping[str, str]) -> ElectionBackend:
    return FileBackend(settings.lock_file, settings.agent_id, fence=Fence.of(environ, settings.docker_host))
