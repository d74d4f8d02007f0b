"""How the process ends: its exit codes, and the words that say why."""

import logging

import click

from streamspace_agent import logs

EXIT_CODES = (
    ("0", "all is well; run: stopped on request"),
    ("1", "not well, or an error while running; check: anything that is fatal, whatever run would end with"),
    ("2", "a setting, a plugin or the host is wrong; starting again will not help"),
    ("3", "the control plane refused this agent for good"),
    ("4", "status: no agent runs here"),
    ("75", "run: work went on after its lease was over, so the process ended itself; start it again"),
    ("130", "ended at once by Ctrl-C or a second signal"),
    ("143", "ended by SIGTERM before it ran"),
)
FAULT = "this is a fault of the agent: please report it with its traceback"


def complain(message: str) -> None:
    """Tell people."""
    for line in logs.redact(message).splitlines():
        click.echo(f"docker-agent: {line}", err=True)


def log_end(message: str, code: int, error: Exception | None = None) -> None:
    """Tell programs that read the log: an ERROR for each line, with the exit code as a field."""
    with logs.bind(exit_code=code):
        for line in message.splitlines():
            logging.getLogger("docker-agent").error("%s", line, exc_info=error)
