"""The election's own error; those of the engine are in :mod:`streamspace_engine.errors`."""

from streamspace_agent.election import Problem
from streamspace_agent.errors import PreflightError


class Hopeless(PreflightError):
    """The host or the store cannot be used for an election, and waiting does not change that."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}: {fix}")
        self.problem = Problem(message, fix)
