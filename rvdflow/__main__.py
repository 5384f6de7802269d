"""`python -m rvdflow` is `rvdflow`."""

from rvdflow.cli import main

main()
