"""How the commands print numbers and tables: `bitskip.terminal`, which reports print with too."""

from bitskip.terminal import byte_size, number, print_table

__all__ = ["byte_size", "number", "print_table"]
