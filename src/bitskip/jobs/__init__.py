"""Many long computations at once: in turn, in several processes of this machine, or on a Ray cluster.

A task is a function of a module with its arguments. `run_tasks` runs all of them and hands each event to
a callback: begun, progress, done, failed, lost. A task whose process is killed is taken up again in a new
one, so tasks must be able to go on from what they left. One that fails does not stop the others. Nothing
here knows what the tasks do, and nothing imports torch.
"""

from __future__ import annotations

from bitskip.jobs.place import Place, read_place
from bitskip.jobs.run import run_tasks
from bitskip.jobs.task import Event, Task

__all__ = ["Event", "Place", "Task", "read_place", "run_tasks"]
