"""StreamSpace Agent: runs desktop sessions on a Docker host for a control plane."""

import pluggy

hookimpl = pluggy.HookimplMarker("streamspace_agent")
"""Marks a function as a plugin's implementation of a hook of :mod:`streamspace_agent.plugins.hookspecs`."""

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl"]
