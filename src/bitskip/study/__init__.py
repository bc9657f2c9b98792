"""The paper's three-by-three study: its published figures, its results file and the grid that fills it.

`paper` and `results` need no torch, so that reports are written wherever Python runs.
"""
