"""`python -m lbm` is the command `lbm`."""

from lbm.cli import main

main()
