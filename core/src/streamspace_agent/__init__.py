"""StreamSpace Agent: runs desktop sessions on a Docker host for a control plane."""

from importlib.metadata import version

import pluggy

hookimpl = pluggy.HookimplMarker("streamspace_agent")
"""Marks a function as a plugin's implementation of a hook of :mod:`streamspace_agent.plugins.hookspecs`."""

__version__ = version("streamspace-agent")
__all__ = ["__version__", "hookimpl"]
