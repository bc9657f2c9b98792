"""One reading of any torch module, and one table of what torch's operators do.

`working` gives the copies that are read, `record` runs one and writes down its operators, `trace` gives its
graph of torch.fx, `operators` is the table, `fuse` makes the ops of `bitskip.memory` of what was recorded.
"""
