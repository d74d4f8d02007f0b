"""The former place of :mod:`streamspace_agent.runtime.readiness`, for plugins that were written for it."""

from streamspace_agent.runtime.readiness import wait_ready

__all__ = ["wait_ready"]
