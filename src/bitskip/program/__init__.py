"""Program, what runs after training (docs/program.md): its ops, the one validation pass, and the file.

`bitskip.backends.reference` is docs/program.md as numpy.
"""

from bitskip.program import ops
from bitskip.program.memory import program_schedule
from bitskip.program.ops import *  # noqa: F403 - a new op is known here by its line in `ops.__all__`
from bitskip.program.program import Program

__all__ = ["Program", "program_schedule"]
__all__ += ops.__all__
