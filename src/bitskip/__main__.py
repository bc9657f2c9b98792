"""`python -m bitskip` is the `bitskip` command."""

from bitskip.cli import main

main()
