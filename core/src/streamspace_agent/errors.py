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

Work that goes on after its lease ended raises nothing: it ends the process with :data:`EXIT_LEADERSHIP` (75).
"""

from collections.abc import Sequence

EXIT_LEADERSHIP = 75
"""The process ended itself without cleaning up, because its work went on after its lease was over: start it again
(EX_TEMPFAIL of sysexits(3)).
"""

COMMAND_CODES = (
    ("invalid_payload", "the command's payload has a wrong form"),
    ("malformed_message", "the message that held the command cannot be read"),
    ("unknown_action", "no installed plugin handles the command's action"),
    ("missing_session_id", "the command names no session"),
    ("missing_template", "the start names no template"),
    ("invalid_session_id", "the session id cannot be used as a container's name"),
    ("invalid_session", "the session id cannot be used as a container's name on this engine"),
    ("invalid_template", "the template is wrong: its form, a port, a volume or the image's name"),
    ("invalid_port", "a port is no number from 1 to 65535"),
    ("invalid_quantity", "CPU or memory cannot be read or is out of range"),
    ("invalid_duration", "a duration cannot be read"),
    ("invalid_environment", "an environment variable cannot be set"),
    ("max_sessions", "the agent runs as many sessions as MAX_SESSIONS allows"),
    ("insufficient_cpu", "the session needs more CPU than is left of MAX_CPU"),
    ("insufficient_memory", "the session needs more memory than is left of MAX_MEMORY"),
    ("busy", "too many commands are waiting already"),
    ("session_not_found", "the engine holds no such session of this agent"),
    ("session_taken", "another agent or user has the session's container or volume"),
    ("not_running", "the session does not run, so it cannot be hibernated or viewed"),
    ("session_ended", "the session's process ended before the session could be used"),
    ("out_of_memory", "the session's process was killed because the session reached its memory limit"),
    ("not_ready", "the session runs, but spoke neither VNC nor HTTP within READY_TIMEOUT"),
    ("image_not_allowed", "ALLOWED_IMAGES does not list the image"),
    ("invalid_image", "the image's name is not an image reference"),
    ("image_not_found", "the registry has no such image or tag, or none for this architecture"),
    ("pull_denied", "the registry refuses the credentials"),
    ("pull_rate_limited", "the registry allows no more pulls for now"),
    ("registry_unreachable", "the engine cannot reach the registry"),
    ("pull_stalled", "the pull made no progress for PULL_STALL_TIMEOUT"),
    ("pull_failed", "the pull failed for another reason"),
    ("disk_full", "the engine's disk is full"),
    ("network_failed", "the engine cannot make or use the sessions' network"),
    ("volume_failed", "the engine cannot make or use a volume"),
    ("volume_taken", "the volume belongs to another agent or user"),
    ("create_failed", "the engine refuses to create the container"),
    ("start_failed", "the engine refuses to start the container"),
    ("cannot_pause", "the engine cannot pause the session (HIBERNATE_MODE=pause)"),
    ("engine_unavailable", "the container engine does not answer"),
    ("engine_error", "the container engine answered with an error"),
    ("agent_shutdown", "the agent was shut down before the command was finished"),
    ("journal_unavailable", "the command cannot be kept, because the disk of STATE_DIR is full or cannot be written"),
    ("journal_unreadable", "what the journal holds of the command cannot be read"),
    ("result_too_large", "the result is larger than a message may be"),
    ("internal_error", "a fault of the agent; its log has the traceback"),
)
"""The codes that failed commands are reported with, and what each means; see :exc:`CommandFailed`."""


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
    """A chosen plugin is missing, installed twice, of another version or broken."""

    exit_code = 2


class PreflightError(AgentError):
    """The store or the host cannot do what the settings ask for, and trying again will not help."""

    exit_code = 2


class Refused(AgentError):
    """The control plane refused this agent for good: its key is unknown, or the agent was rejected."""

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

    Use a code of :data:`COMMAND_CODES` where one fits. The core itself acts on one of them: ``not_running``, raised by
    a driver's ``connect``, means that the session does not run, rather than that it does not answer. All other codes
    are passed on unchanged.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


def why(error: OSError) -> str:
    """The system's reason, as part of a message."""
    return (error.strerror or str(error)).lower()


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
