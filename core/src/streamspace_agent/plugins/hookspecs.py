"""The four hooks a plugin can implement.

Hooks are synchronous and only make objects; everything asynchronous lives on those objects. A plugin is a module
named by an entry point in the group given below; the core imports the chosen plugin and no other.
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
    ``LEADER_ELECTION_BACKEND``. ``environ`` holds the process's environment, for settings of the plugin's own.
    Must not connect or block. Raise :exc:`~streamspace_agent.errors.ConfigError` with every wrong setting at once.
    """


@hookspec(firstresult=True)
def create_runtime_driver(settings: Settings, environ: Mapping[str, str]) -> "RuntimeDriver":  # type: ignore[empty-body]
    """Make the runtime driver. Entry-point group ``streamspace_agent.runtime``.

    Called once at start in the plugin whose entry-point name equals ``RUNTIME_DRIVER``. The same rules as for
    :func:`create_election_backend`; heavy client libraries are best imported at the driver's first call, since a
    standby may never need them.
    """


@hookspec(firstresult=True)
def create_gateway(settings: Settings, environ: Mapping[str, str]) -> "Gateway":  # type: ignore[empty-body]
    """Make the web gateway. Entry-point group ``streamspace_agent.gateway``.

    Called once at start where ``WEB_GATEWAY`` is set, in the plugin whose entry-point name is ``gateway``. The same rules as for
    :func:`create_election_backend`; it listens and connects only while this replica leads, and what it needs for that is best
    imported then: a standby may never need it.
    """


@hookspec
def register_commands(register: Register) -> None:
    """Register handlers for control-plane actions. Entry-point group ``streamspace_agent.commands``.

    Called once at start in every installed plugin of the group; the agent's own session commands are registered
    this way too. Two handlers for one action are an error that names both.
    """
