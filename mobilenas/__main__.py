"""`python -m mobilenas` is the command line."""

from mobilenas.cli import main

main()
