"""The four hooks that a plugin can implement.

Hooks are synchronous and only make objects; everything asynchronous is done by those objects. A plugin is a module
that an entry point in the hook's group names; the core imports only the chosen plugins.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

from streamspace_agent.commands import Register
from streamspace_agent.config import Settings

if TYPE_CHECKING:
    from streamspace_agent.election import ElectionBackend
    from streamspace_agent.gateway import Gateway
    from streamspace_agent.runtime import RuntimeDriver

hookspec = pluggy.HookspecMarker("streamspace_agent")


@hookspec(firstresult=True)
def create_election_backend(settings: Settings, environ: Mapping[str, str]) -> "ElectionBackend":  # type: ignore[empty-body]
    """Make the election backend. Entry-point group ``streamspace_agent.election``.

    Called once at start, before anything is connected, in the plugin whose entry-point name equals
    ``LEADER_ELECTION_BACKEND``. ``environ`` is the process's environment, for the plugin's own settings. Must not
    connect or block. Raise :exc:`~streamspace_agent.errors.ConfigError` with all wrong settings at once.
    """


@hookspec(firstresult=True)
def create_runtime_driver(settings: Settings, environ: Mapping[str, str]) -> "RuntimeDriver":  # type: ignore[empty-body]
    """Make the runtime driver. Entry-point group ``streamspace_agent.runtime``.

    Called once at start in the plugin whose entry-point name equals ``RUNTIME_DRIVER``, with the same rules as
    :func:`create_election_backend`. Import heavy client libraries at the driver's first call: a standby may never need
    them.
    """


@hookspec(firstresult=True)
def create_gateway(settings: Settings, environ: Mapping[str, str]) -> "Gateway":  # type: ignore[empty-body]
    """Make the web gateway. Entry-point group ``streamspace_agent.gateway``.

    Called once at start if ``WEB_GATEWAY`` is set, in the plugin whose entry-point name is ``gateway``, with the same
    rules as :func:`create_election_backend`. The gateway listens and connects only while this replica leads. Import
    what it needs for that at the time: a standby may never need it.
    """


@hookspec
def register_commands(register: Register) -> None:
    """Register handlers for actions of the control plane. Entry-point group ``streamspace_agent.commands``.

    Called once at start in every installed plugin of the group; the agent registers its own session commands the same
    way. Two handlers for one action are an error that names both.
    """
