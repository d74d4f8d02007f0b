"""What pytest loads by itself (entry point ``pytest11``) wherever the agent is installed: two names and one fixture.

The kit's modules are imported only by those who use them. pytest then shows the values in their failed assertions, as it
does for a test's own.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from streamspace_agent.testing.commands import CommandKit

pytest.register_assert_rewrite(
    "streamspace_agent.testing.bench",
    "streamspace_agent.testing.commands",
    "streamspace_agent.testing.election",
    "streamspace_agent.testing.looks",
    "streamspace_agent.testing.loops",
    "streamspace_agent.testing.outages",
    "streamspace_agent.testing.promptness",
    "streamspace_agent.testing.races",
    "streamspace_agent.testing.refusals",
    "streamspace_agent.testing.runtime",
    "streamspace_agent.testing.speech",
    "streamspace_agent.testing.suite",
)


@pytest.fixture
def command_kit() -> "type[CommandKit]":
    """Makes a :class:`~streamspace_agent.testing.commands.CommandKit` of a plugin: ``command_kit(my_plugin)``."""
    from streamspace_agent.testing.commands import CommandKit  # noqa: PLC0415 - who does not ask for it pays nothing

    return CommandKit
