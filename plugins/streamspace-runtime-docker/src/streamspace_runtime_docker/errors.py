"""What an engine answers other than success."""

from streamspace_agent.errors import EngineUnavailable, RuntimeDriverError


class EngineError(RuntimeDriverError):
    """The engine refused a call: its HTTP status and its own words."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(f"the engine refused with {status}: {text}")


class NotFound(EngineError):
    pass


class Conflict(EngineError):
    """A name is taken, or the object is in no state for the call."""


class Unreachable(EngineUnavailable):
    """No engine answers: ``message`` says why, ``fix`` what an operator changes."""

    def __init__(self, message: str, fix: str) -> None:
        self.message = message
        self.fix = fix
        super().__init__(f"{message}: {fix}")


class Silent(EngineUnavailable):
    """A stream brought nothing for as long as it was allowed to: the engine may have nothing to say."""
