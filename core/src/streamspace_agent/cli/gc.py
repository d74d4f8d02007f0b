"""``docker-agent gc``: finds and removes what carries this agent's labels and belongs to no session."""

from collections.abc import Mapping
from contextlib import aclosing

from streamspace_agent.config import Settings
from streamspace_agent.journal import sessions_with_open_commands
from streamspace_agent.plugins import Plugins
from streamspace_agent.runtime import Leftover, RuntimeDriver
from streamspace_agent.units import format_seconds


async def _find(driver: RuntimeDriver, settings: Settings) -> list[Leftover]:
    """The leftovers that may be removed. Whatever belongs to an existing session or to an open command is kept."""
    known = {session.session_id for session in await driver.sessions()}
    known |= sessions_with_open_commands(settings.agent_dir / "journal.db")
    return await driver.leftovers(frozenset(known))


async def listing(settings: Settings, environ: Mapping[str, str]) -> list[Leftover]:
    async with aclosing(Plugins().runtime_driver(settings, environ)) as driver:
        return await _find(driver, settings)


async def remove(settings: Settings, environ: Mapping[str, str], listed: list[Leftover]) -> list[Leftover]:
    """Remove those of the listed leftovers that still are leftovers. Returns what was removed."""
    async with aclosing(Plugins().runtime_driver(settings, environ)) as driver:
        agreed = {(leftover.kind, leftover.name) for leftover in listed}
        removed = [leftover for leftover in await _find(driver, settings) if (leftover.kind, leftover.name) in agreed]
        for leftover in removed:
            await driver.remove(leftover)
        return removed


def line(leftover: Leftover) -> str:
    """A leftover as one line: ``container streamspace-x (2 h 5 min old): reason``."""
    age = f" ({format_seconds(leftover.age)} old)" if leftover.age else ""
    return f"{leftover.kind} {leftover.name}{age}: {leftover.reason}"
