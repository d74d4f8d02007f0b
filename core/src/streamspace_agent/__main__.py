"""``python -m streamspace_agent``."""

from streamspace_agent.cli import main

main()
