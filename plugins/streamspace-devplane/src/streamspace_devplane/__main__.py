"""`python -m streamspace_devplane`."""

from streamspace_devplane.cli import main

main()
