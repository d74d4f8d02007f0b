"""The commands of deployments/README.md, for the tests to run. What is handed out is noted: each module of RUN_BY ends
with a test that demands all its lines, and tests/docs that every line has its module, or in NOT_RUN its reason."""

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "deployments"
TEXT = (FOLDER / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)

RUN_BY = {
    "test_image": r"^(make image|docker build) ?",
    "test_systemd": r"systemctl|journalctl|systemd|credstore|docker-agent\.env|/usr/local/bin/docker-agent|"
    r"^sudo (docker-agent|mkdir) |^(cp|cat|getent) ",
    "test_swarm_removal": (
        r"^docker (stack|secret|config) rm streamspace|^while "
        r"|label=streamspace.agent=docker-agent-prod|agent-state "
    ),
    "test_hosts": r"iptables|^BRIDGE=|^docker (service (rollback|scale \S+=2))",
    "test_swarm": r"^docker (swarm|stack|service|secret|config) |^docker exec .*swarm.service.name",
    "test_secrets": r"redis-url|^redis-cli |--force-recreate|=5$",
    "test_compose": (
        r"^(docker-compose|cd compose|install|sudo install|for |sleep |done|docker "
        r"(stop|exec|ps|network|volume) )"
    ),
}
"""The module that has to run a line is the first whose pattern is in it."""

NOT_RUN = {
    r"^export ": "an example's values: the tests export their own",
    r"^(sudo )?vi ": "an editor: the tests write into the file",
    r"^make binary": "the units' tests install what lab.binary makes, which is all that it does",
}

handed_out: set[str] = set()


def lines(text: str = "\n".join(BLOCKS)) -> list[str]:
    """Every command line, without its comment."""
    found = (re.sub(r"\s{2,}#.*", "", line).strip() for line in text.splitlines())
    return [line for line in found if line and not line.startswith("#")]


def block(part: str) -> str:
    """The first block of shell commands that holds `part`."""
    found = next(text for text in BLOCKS if part in text)
    handed_out.update(lines(found))
    return found


def command(*parts: str) -> str:
    """The first command line that holds all `parts`."""
    found = next(line for line in lines() if all(part in line for part in parts))
    handed_out.add(found)
    return found


def example(name: str) -> str:
    """The text of the file that the README shows under that name, in its first line."""
    (found,) = re.findall(rf"^```\w+\n(# {re.escape(name)}\n.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def without_exports(text: str) -> str:
    """The commands alone: the values of the examples are replaced by those that the test exports itself."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("export "))


def run_by(line: str) -> str | None:
    """The module that has to run it; None where NOT_RUN says why none does."""
    if any(re.search(pattern, line) for pattern in NOT_RUN):
        return None
    return next((module for module, pattern in RUN_BY.items() if re.search(pattern, line)), "none")


def left_out(module: str) -> list[str]:
    """What the tests of a module should have run and did not; `module` is its __name__."""
    name = module.rpartition(".")[2]
    return [line for line in lines() if run_by(line) == name and line not in handed_out]
