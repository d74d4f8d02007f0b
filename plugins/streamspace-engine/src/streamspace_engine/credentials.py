"""The credentials of an image's registry, from the Docker configuration: ``docker login`` and its credential helpers.

This module imports the docker SDK, which knows their formats. Its calls block: helpers are processes.
"""

from collections.abc import Mapping

from docker import auth
from docker.errors import DockerException
from docker.utils import parse_repository_tag

from streamspace_agent.errors import RuntimeDriverError


def parse_image(image: str) -> tuple[str, str]:
    """Repository and tag (or digest) of a reference; an untagged one means ``latest``, not every tag there is."""
    repository, tag = parse_repository_tag(image)
    return repository, tag or "latest"


def registry_header(image: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The header with the credentials of the image's registry, read anew each time; {} where there are none."""
    folder = environ.get("DOCKER_CONFIG", "")
    path = f"{folder}/config.json" if folder else None
    try:
        registry, _ = auth.resolve_repository_name(parse_image(image)[0])
        found = auth.load_config(path, credstore_env=dict(environ)).resolve_authconfig(registry)
    except (DockerException, OSError, ValueError) as error:
        # The error's own text may quote what a credential helper printed.
        raise RuntimeDriverError(
            f"the registry credentials in the Docker configuration cannot be read ({type(error).__name__}): "
            "check config.json and its credential helper"
        ) from None
    return {"X-Registry-Auth": auth.encode_header(found).decode()} if found else {}
