"""The Docker runtime driver: the hook. Importing it does not load the docker SDK."""

from collections.abc import Mapping

from streamspace_agent import hookimpl
from streamspace_agent.config import Settings
from streamspace_agent.runtime import RuntimeDriver
from streamspace_runtime_docker.driver import DockerDriver
from streamspace_runtime_docker.settings import load


@hookimpl
def create_runtime_driver(settings: Settings, environ: Mapping[str, str]) -> RuntimeDriver:
    return DockerDriver(settings, load(settings, environ), environ)
