"""Every error of a call to an engine, and the one mapping from HTTP statuses.

* :exc:`~streamspace_agent.errors.RuntimeDriverError`

  * :exc:`EngineError`: the engine refused the call

    * :exc:`NotFound`: there is no such object
    * :exc:`Conflict`: the object exists already, has changed, or is in no state for the call
    * :exc:`Forbidden`: the caller may not, for instance because of a socket proxy

  * :exc:`~streamspace_agent.errors.EngineUnavailable`: no usable answer; what the call did is unknown

    * :exc:`Unreachable`: no engine answers
    * :exc:`Silent`: a stream sent nothing for too long
"""

import re

from streamspace_agent.errors import EngineUnavailable, RuntimeDriverError

MAX_TEXT = 4000
"""Characters of an engine's message that are kept: a registry, or a session, may have written most of them."""


class EngineError(RuntimeDriverError):
    """``status`` is the HTTP status, ``text`` the engine's message on one line."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(f"the engine refused with {status}: {text}")


class NotFound(EngineError):
    pass


class Conflict(EngineError):
    pass


class Forbidden(EngineError):
    pass


class Unreachable(EngineUnavailable):
    """``message`` says why no engine answers, ``fix`` what to change; ``lasting``: it does not go away by itself."""

    def __init__(self, message: str, fix: str, *, lasting: bool = False) -> None:
        self.message = message
        self.fix = fix
        self.lasting = lasting
        super().__init__(f"{message}: {fix}")


class Silent(EngineUnavailable):
    """A stream sent nothing for ``silence`` seconds: the engine has nothing to tell, or the connection is dead."""


_BY_STATUS = {401: Forbidden, 403: Forbidden, 404: NotFound, 409: Conflict}


def refusal(status: int, text: str, docker_host: str) -> RuntimeDriverError:
    """The error for an answer with a status of 400 or more."""
    text = " ".join(text[:MAX_TEXT].split())
    if status == 503:
        return EngineUnavailable(f"the engine at {docker_host} is not ready: {text}")
    # Podman answers 500 for a name that is taken, swarmkit (store.ErrSequenceConflict) for a lost race for a version.
    if re.search(r"already (in use|used|exists)|update out of sequence", text):
        status = 409
    if status == 404 and "page not found" in text:  # the engine does not know the call; the object may exist
        return EngineError(status, text)
    return _BY_STATUS.get(status, EngineError)(status, text)
