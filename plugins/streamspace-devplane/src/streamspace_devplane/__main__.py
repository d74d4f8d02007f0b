"""`python -m streamspace_devplane`."""

from streamspace_devplane.cli.main import main

main()
