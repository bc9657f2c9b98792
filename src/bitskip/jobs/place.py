"""Where tasks run: how many processes of this machine, or which cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bitskip.errors import RunError

_PER_GPU = 6  # trainings of small networks that fill one GPU: more gain nothing (measured with ResNet14)

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Place:
    """`jobs` processes at a time, each with `threads` threads; on a Ray cluster if `ray` names one.

    `jobs` 1 without `ray` runs in this process, one task after the other.
    """

    jobs: int = 1
    threads: int | None = None  # of each process; None leaves the libraries' own choice
    gpus: int = 0  # of this machine, dealt out in turns
    ray: str | None = None  # address of a cluster, or `auto`

    @property
    def in_turn(self) -> bool:
        """Whether tasks run in this process, one after the other."""
        return self.jobs == 1 and self.ray is None

    def environment(self, slot: int) -> dict[str, str]:
        """Return what to set in the environment of process number `slot`, before it loads any library."""
        values = {}
        if self.threads is not None:
            values = dict.fromkeys(_THREADS, str(self.threads))
        if self.gpus > 1:
            values["CUDA_VISIBLE_DEVICES"] = str(slot % self.gpus)
        return values


def read_place(jobs: str | int, ray: str | None, *, small: bool, gpus: int = 0) -> Place:
    """Read `--jobs` and `--ray`.

    `auto` runs six processes a GPU; on CPUs one process a core for small networks, which gain nothing from a
    second thread, else one after the other.

    Args:
        jobs: a number from 1, or `auto`.
        ray: a cluster's address, `auto`, or None.
        small: whether the networks are so small that one thread each is best.
        gpus: how many GPUs are to be used; 0 for CPUs.

    Raises:
        RunError: for anything else, or if nobody answers at the cluster's address.
    """
    if ray is not None:
        from bitskip.jobs.cluster import check_address

        check_address(ray)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if str(jobs) == "auto":
        count = _PER_GPU * gpus if gpus else cores if small else 1
    else:
        try:
            count = int(jobs)
        except ValueError:
            count = 0
        if count < 1:
            raise RunError(f"--jobs is '{jobs}', expected auto or a whole number of at least 1")
    return Place(count, threads=max(1, cores // count) if count > 1 else None, gpus=gpus, ray=ray)
