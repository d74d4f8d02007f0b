"""The commands of deployments/README.md, for the tests to run: what they run cannot go stale there."""

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "deployments"
TEXT = (FOLDER / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def block(part: str) -> str:
    """The first block of shell commands that holds `part`."""
    return next(text for text in BLOCKS if part in text)


def commands(part: str) -> list[str]:
    """Every command line that holds `part`, without its comment."""
    lines = (re.sub(r"\s{2,}#.*", "", line).strip() for text in BLOCKS for line in text.splitlines())
    return [line for line in lines if part in line and not line.startswith("#")]


def command(part: str) -> str:
    return commands(part)[0]


def without_exports(text: str) -> str:
    """The commands alone: the values of the examples are replaced by those that the test exports itself."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("export "))
