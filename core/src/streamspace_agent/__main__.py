"""``python -m streamspace_agent``."""

from streamspace_agent.cli.main import main

main()
