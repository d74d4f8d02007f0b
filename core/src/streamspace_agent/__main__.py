"""The entry point: ``docker-agent`` and ``python -m streamspace_agent``."""

import os
import sys

from streamspace_agent.cli import healthcheck


def main() -> None:
    if (answer := healthcheck.quick(sys.argv[1:], os.environ)) is not None:
        sys.stdout.write(f"{answer}\n")
        return
    from streamspace_agent.cli import main as commands  # noqa: PLC0415 - what a quick answer does without

    commands.main()


if __name__ == "__main__":
    main()
