"""What pytest loads by itself (entry point ``pytest11``) wherever the agent is installed.

It makes pytest show the values in the kit's failed assertions, as in a test's own, and adds one fixture. It imports
none of the kit's other modules.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from streamspace_agent.testing.commands import CommandKit

pytest.register_assert_rewrite(
    "streamspace_agent.testing.commands",
    "streamspace_agent.testing.election",
    "streamspace_agent.testing.runtime",
    "streamspace_agent.testing.suite",
)


@pytest.fixture
def command_kit() -> "type[CommandKit]":
    """``command_kit(my_plugin)`` makes a :class:`~streamspace_agent.testing.commands.CommandKit`."""
    from streamspace_agent.testing.commands import CommandKit  # noqa: PLC0415 - only tests that use it pay for it

    return CommandKit
