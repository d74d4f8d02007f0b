"""What an engine's answer can mean beside a result.

* :exc:`Missing`: there is no such object
* :exc:`Conflict`: the object exists already, or is not at the version we know
* :exc:`Forbidden`: a call that something between us and the engine, such as a socket proxy, does not let pass
* :exc:`Hopeless`: waiting does not make this host or this store fit for an election
"""

from streamspace_agent.election import Problem
from streamspace_agent.errors import BackendUnavailable, PreflightError


class Missing(Exception):
    pass


class Conflict(Exception):
    pass


class Forbidden(BackendUnavailable):
    pass


class Hopeless(PreflightError):
    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}: {fix}")
        self.problem = Problem(message, fix)
