"""Counts of commands that ended, for the metrics and the status."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True)
class Counters:
    """Over the process's life, across leaderships."""

    commands: dict[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, actions: Iterable[str]) -> Self:
        """Start every series at zero: Prometheus counts no increase where a series begins."""
        return cls({(action, answer): 0 for action in actions for answer in ("complete", "failed")})

    def ended(self, action: str, answer: str) -> None:
        """Count a command by its action and answer (``complete`` or ``failed``)."""
        key = (action, answer)
        self.commands[key] = self.commands.get(key, 0) + 1

    def by_action(self) -> dict[str, dict[str, int]]:
        """Commands that ended, by action and then ``completed`` or ``failed``. May be called from any thread."""
        table: dict[str, dict[str, int]] = {}
        for (action, answer), count in list(self.commands.items()):
            table.setdefault(action, {})["completed" if answer == "complete" else "failed"] = count
        return table
