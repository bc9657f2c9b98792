"""Tables, figures and one HTML page from a study's results; architecture diagrams from a spec.

A report is a function of `Results` alone, and needs no torch. Figures need matplotlib (extra `train`), which
is loaded when the first one is drawn.
"""

from bitskip.report.write import draw_spec, print_tables, write_report

__all__ = ["draw_spec", "print_tables", "write_report"]
