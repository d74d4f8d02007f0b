"""Every error the agent raises on purpose, each with the exit code it ends the process with.

* :exc:`AgentError`

  * :exc:`ConfigError` (2): a setting is missing or wrong
  * :exc:`PluginError` (2): the chosen plugin is missing, doubled, of another version or broken
  * :exc:`PreflightError` (2): the store or the host cannot do what was asked, for a reason that time does not heal
  * :exc:`Refused` (3): the control plane said no for good (rejected, unknown key)
  * :exc:`ElectionError`

    * :exc:`LeaseLost`: the store says that somebody else leads: no
    * :exc:`BackendUnavailable`: the store did not answer in time: cannot tell

  * :exc:`RuntimeDriverError`

    * :exc:`EngineUnavailable`: the container engine does not answer; worth another try
    * :exc:`SessionNotFound`: the engine holds no such session

  * :exc:`CommandFailed`: a command's outcome for the control plane, not a fault of the agent

One exit code belongs to no error, since nothing is raised any more: :data:`EXIT_LEADERSHIP` (75).
"""

from collections.abc import Sequence

EXIT_LEADERSHIP = 75
"""The process ended itself, without cleaning up, because its work went on after its lease was over. sysexits(3) EX_TEMPFAIL:
start it again."""


class AgentError(Exception):
    """Base of all; shown as one line, never as a traceback."""

    exit_code = 1


class ConfigError(AgentError):
    """One or several settings are wrong; the message holds a line for each."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class PluginError(AgentError):
    exit_code = 2


class PreflightError(AgentError):
    exit_code = 2


class Refused(AgentError):
    exit_code = 3


class ElectionError(AgentError):
    pass


class LeaseLost(ElectionError):
    """The store answered, and the lease is not ours any more. Stop acting now."""


class BackendUnavailable(ElectionError):
    """The store gave no answer that can be trusted. The lease may or may not be ours."""


class RuntimeDriverError(AgentError):
    pass


class EngineUnavailable(RuntimeDriverError):
    """The engine cannot be reached. Nothing is known about the call's effect."""


class SessionNotFound(RuntimeDriverError):
    pass


class CommandFailed(AgentError):
    """A command ends as ``failed``; the text reaches an administrator as ``code: message``.

    ``code`` is a stable word for machines (``insufficient_memory``, ``image_not_found``): small letters, digits and underscores. The
    message is a sentence for people, with numbers where there are any.

    The core itself understands one code: ``not_running``, from a driver's ``connect``, which tells a session that does not run
    from one that does not answer. All others are passed on as they are. Codes in use, best used for
    the same things: ``invalid_template``, ``invalid_port``, ``invalid_quantity``, ``invalid_environment`` (the payload is wrong);
    ``image_not_found``, ``invalid_image``, ``pull_failed``, ``pull_stalled``, ``pull_rate_limited``, ``registry_unreachable``;
    ``create_failed``, ``network_failed``, ``volume_failed``, ``start_failed`` (the engine refused);
    ``not_ready`` (it runs and cannot be used), ``session_ended`` (it ended before it could be used), ``session_taken`` (another
    agent's), ``cannot_pause``.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")
