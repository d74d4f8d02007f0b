"""Every exception that the agent defines, with the exit code that it ends the process with.

* :exc:`AgentError` (1): shown to people as one line

  * :exc:`ConfigError` (2): a setting is missing or wrong
  * :exc:`PluginError` (2): the chosen plugin is missing, installed twice, of another version or broken
  * :exc:`PreflightError` (2): the store or the host cannot do what was asked, and waiting does not help
  * :exc:`Refused` (3): the control plane refused this agent for good (rejected, unknown key)
  * :exc:`JournalError`: the journal cannot be used
  * :exc:`ElectionError`

    * :exc:`LeaseLost`: the store answered that the lease is no longer ours
    * :exc:`BackendUnavailable`: the store gave no usable answer, so the outcome is unknown

  * :exc:`RuntimeDriverError`

    * :exc:`EngineUnavailable`: the container engine does not answer; try again later
    * :exc:`SessionNotFound`: the engine holds no such session

  * :exc:`CommandFailed`: a command failed; the control plane is told, the agent goes on

The rest is raised and handled inside the core, and never ends the process:

* :exc:`LinkDown`: there is no connection to the control plane
* :exc:`ServerUnreachable`: a session's server cannot be reached
* :exc:`ServerRefused` (ConnectionError): a session's server runs and refuses the connection
* :exc:`OpaqueStream`: a viewer's bytes can no longer be understood
* :exc:`TooDeep` (ValueError): a JSON text is nested too deeply
* :exc:`TooLarge` (ValueError): a message exceeds the control plane's limit
* :exc:`Injected`: raised by a fault point of a test
* :exc:`Overlap` (AssertionError): a simulated election broke its promise

Work that goes on after its lease ended raises nothing: it ends the process with :data:`EXIT_LEADERSHIP` (75).
"""

from collections.abc import Sequence

EXIT_LEADERSHIP = 75
"""The process ended itself without cleaning up, because its work went on after its lease was over: start it again
(EX_TEMPFAIL of sysexits(3)).
"""


class AgentError(Exception):
    """The base of all errors that are shown to people: as one line, never as a traceback."""

    exit_code = 1


class ConfigError(AgentError):
    """One or more settings are wrong. ``problems`` and the message hold one line for each."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class PluginError(AgentError):
    """A chosen plugin cannot be loaded or used."""

    exit_code = 2


class PreflightError(AgentError):
    """The store or the host cannot do what the settings ask for, and trying again will not help."""

    exit_code = 2


class Refused(AgentError):
    """The control plane refused this agent for good."""

    exit_code = 3


class JournalError(AgentError):
    """The journal cannot be used: disk full, read-only, no permission. The message names the cause and the fix."""


class ElectionError(AgentError):
    """The base of what an election backend raises."""


class LeaseLost(ElectionError):
    """The store answered, and the lease is not ours any more. Stop acting now."""


class BackendUnavailable(ElectionError):
    """The store gave no answer that can be trusted. The lease may or may not be ours."""


class RuntimeDriverError(AgentError):
    """The base of what a runtime driver raises about its engine."""


class EngineUnavailable(RuntimeDriverError):
    """The engine cannot be reached. It is unknown whether the call had an effect."""


class SessionNotFound(RuntimeDriverError):
    """The engine holds no session of this id."""


class CommandFailed(AgentError):
    """A command ends as ``failed``. The text reaches an administrator as ``code: message``.

    ``code`` is a stable word for machines (``insufficient_memory``, ``image_not_found``): lower-case letters, digits
    and underscores. ``message`` is a sentence for people, with numbers where there are any.

    The core itself acts on one code: ``not_running``, from a driver's ``connect``, says that the session does not run,
    rather than that it does not answer. All other codes are passed on unchanged. Use these codes for these causes:

    * ``invalid_template``, ``invalid_port``, ``invalid_quantity``, ``invalid_environment``: the payload is wrong
    * ``image_not_found``, ``invalid_image``, ``pull_failed``, ``pull_stalled``, ``pull_rate_limited``,
      ``registry_unreachable``: the image cannot be had
    * ``create_failed``, ``network_failed``, ``volume_failed``, ``start_failed``: the engine refused
    * ``not_ready``: the session runs and cannot be used
    * ``session_ended``: it ended before it could be used
    * ``session_taken``: it belongs to another agent
    * ``cannot_pause``: the engine cannot pause it
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


class LinkDown(Exception):
    """There is no connection to the control plane now."""


class ServerUnreachable(Exception):
    """A session's server cannot be reached or refuses; the message says why."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        """``refused``: the server runs, but accepts no connection now."""
        super().__init__(why)
        self.refused = refused


class ServerRefused(ConnectionError):
    """A session's server runs, but accepts no connection now."""


class OpaqueStream(Exception):
    """The rest of a viewer's stream cannot be understood: it is encrypted, or uses an unknown extension."""


class TooDeep(ValueError):
    """A JSON text has more nested objects and arrays than are accepted."""


class TooLarge(ValueError):
    """A message is longer than a frame may be (``protocol.MAX_FRAME``)."""


class Injected(Exception):
    """What a fault point raises for the action ``raise``; see :mod:`streamspace_agent.faults`."""


class Overlap(AssertionError):
    """Two simulated leaders acted at the same time, or epochs did not rise; see :mod:`streamspace_agent.testing`."""
