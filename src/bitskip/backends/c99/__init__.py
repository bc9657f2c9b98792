"""C99 for microcontrollers: a packed model as a folder of C that compiles alone.

`placement` says where tensors lie and in which order rows run, `kernels` writes ops as data and calls,
`render` fills the templates, `target` is what `bitskip export --to c99` calls.
"""

from bitskip.backends.c99.target import TARGET

__all__ = ["TARGET"]
