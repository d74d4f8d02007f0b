"""The exit codes, and how the reason for an exit is shown."""

import logging

import click

from streamspace_agent import logs

EXIT_CODES = (
    ("0", "success; run: stopped on request"),
    ("1", "not healthy, or an error while running; check: a finding is fatal, whichever code run would end with"),
    ("2", "a setting, a plugin or the host is wrong; starting again does not help"),
    ("3", "the control plane refused this agent for good"),
    ("4", "status: no agent runs on this host"),
    ("75", "run: the process ended itself because work went on after its lease was over; start it again"),
    ("130", "stopped at once by Ctrl-C or a second signal"),
    ("143", "stopped by SIGTERM before the agent was running"),
)
FAULT = "this is a bug in the agent: please report it with its traceback"


def complain(message: str) -> None:
    """Print an error to stderr, for people."""
    for line in logs.redact(message).splitlines():
        click.echo(f"docker-agent: {line}", err=True)


def log_end(message: str, code: int, error: Exception | None = None) -> None:
    """Log an error for programs that read the log: one ERROR for each line, with the exit code as a field."""
    with logs.bind(exit_code=code):
        for line in message.splitlines():
            logging.getLogger("docker-agent").error("%s", line, exc_info=error)
