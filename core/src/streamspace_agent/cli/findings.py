"""What ``docker-agent check`` finds."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FATAL = "FATAL"


@dataclass(frozen=True, slots=True)
class Finding:
    """``subject`` is what was looked at; ``fix`` is "" where nothing is to be done."""

    subject: str
    level: Level
    message: str
    fix: str = ""
