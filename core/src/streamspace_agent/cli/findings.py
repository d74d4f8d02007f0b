"""The findings of ``docker-agent check``."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FATAL = "FATAL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result: ``subject`` is what was checked; ``fix`` is "" if nothing has to be done."""

    subject: str
    level: Level
    message: str
    fix: str = ""
