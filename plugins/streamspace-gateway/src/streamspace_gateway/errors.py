"""Why an answer of a session's server cannot be passed on whole."""


class Undecodable(ValueError):
    """It has an encoding that was not asked for and cannot be undone."""


class BrokenOff(Exception):
    """The session's server broke off; ``began`` says whether a part of its answer has been passed on."""

    def __init__(self, cause: Exception, *, began: bool) -> None:
        super().__init__(str(cause) or type(cause).__name__)
        self.began = began
