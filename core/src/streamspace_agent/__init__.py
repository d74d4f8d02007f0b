"""StreamSpace Agent: runs people's desktops on a Docker host for a control plane that decides."""

from importlib.metadata import version

import pluggy

hookimpl = pluggy.HookimplMarker("streamspace_agent")
"""Marks a plugin's implementation of a hook of :mod:`streamspace_agent.plugins.hookspecs`."""

__version__ = version("streamspace-agent")
__all__ = ["__version__", "hookimpl"]
