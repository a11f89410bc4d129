"""`python -m skillfleet_cli` is `skillfleet`."""

from skillfleet_cli.main import main

main()
