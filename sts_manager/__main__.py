"""`python -m sts_manager`."""

from sts_manager.cli import main

main()
