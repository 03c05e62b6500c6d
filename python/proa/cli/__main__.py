"""`python -m proa.cli`: the same as the script `proa`."""

from proa.cli.main import main

main()
