"""The former place of :mod:`streamspace_agent.election.timing`, for plugins that were written for it."""

from streamspace_agent.election.timing import check, profile_of, scaled

__all__ = ["check", "profile_of", "scaled"]
