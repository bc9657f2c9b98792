"""A whole training step as one CUDA graph: draw the batch, forward, backward, step, average, count.

From Python a step of a small network is bound by launching some hundred kernels; as a graph it is one
launch. Whatever changes from step to step lies on the device: what was drawn for the epoch's batches, and the
rate and the average's decay of every step. What changes the graph itself (picture size, frozen signs, real
weights) is a stage; each stage is captured when it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bitskip.data.batches import Batches, Draw

_WARM_UP_STEPS = 3  # before a capture: lets libraries choose kernels and optimizers make their state


def tensor_rates(optimizers: Sequence[torch.optim.Optimizer], device: torch.device) -> None:
    """Make optimizers ready for a graph: rates as tensors on `device`, counters there too, fused steps."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
            group["fused"], group["foreach"] = True, False
            if "capturable" in group:
                group["capturable"] = True
        for state in optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(device, torch.float32)


class CapturedStep:
    """The training steps of one run on one GPU.

    Args:
        batches: the training batches, on the GPU.
        compute: does everything that a step does with a batch, without waiting for the device; is given the
            batch, the averaged weights' share of new weights, and the share of training that is done, both
            tensors (). Returns the loss (), the correct answers () and how many pictures there were.
        optimizers: prepared by `tensor_rates`; each group has its peak rate under `peak`.
        kept: returns the tensors that steps change, beside the optimizers' state.
        factors: rate of every step of the training as a factor of the peak rate.
        shares: new weights' share in the average, of every step.
        after_first: called once a capture, after a step in the stage has been tried and before it is undone.
    """

    def __init__(
        self,
        batches: Batches,
        compute: Callable[[tuple[Tensor, ...], Tensor, Tensor], tuple[Tensor, Tensor, int]],
        optimizers: Sequence[torch.optim.Optimizer],
        kept: Callable[[], list[Tensor]],
        factors: Sequence[float],
        shares: Sequence[float],
        after_first: Callable[[], None] = lambda: None,
    ) -> None:
        self.batches, self.compute, self.optimizers, self.kept = batches, compute, optimizers, kept
        self.after_first = after_first
        device = batches.device
        self.factors = torch.tensor(factors, dtype=torch.float32, device=device)
        self.shares = torch.tensor(shares, dtype=torch.float32, device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)  # of the training
        self.at = torch.zeros(1, dtype=torch.int64, device=device)  # of the epoch
        self.sums = torch.zeros(3, device=device)  # loss, correct, count
        self.bad = torch.full((1,), -1, dtype=torch.int64, device=device)  # first step gone wrong
        self.draws: Draw | None = None
        self._graphs: dict[Any, torch.cuda.CUDAGraph] = {}

    def begin_epoch(self, epoch: int) -> None:
        """Bring what chance decides about the epoch's batches to the device, and start counting."""
        drawn = Draw.stack(list(self.batches.draws())).to(self.batches.device)
        if self.draws is None:
            self.draws = drawn
        else:
            self.draws.copy_(drawn)  # graphs read these very tensors
        self.step.fill_(epoch * len(self.batches))
        self.at.zero_()
        self.sums.zero_()

    def run(self, stage: Any) -> None:
        """Do the next step. `stage` names what makes a graph of its own necessary."""
        if stage not in self._graphs:
            self._graphs[stage] = self._capture()
        self._graphs[stage].replay()

    def _once(self) -> None:
        assert self.draws is not None
        factor = self.factors.index_select(0, self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"].copy_((factor * group["peak"]).squeeze(0))
        share = self.shares.index_select(0, self.step).squeeze(0)
        progress = self.step.squeeze(0) / len(self.factors)
        loss, correct, count = self.compute(self.batches.make(self.draws.at(self.at)), share, progress)
        with torch.no_grad():
            self.sums += torch.stack([loss.detach() * count, correct, torch.full_like(loss, count)])
            first_bad = ~torch.isfinite(loss.detach()) & (self.bad < 0)
            self.bad.copy_(torch.where(first_bad, self.step, self.bad))
            self.step += 1
            self.at += 1

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Try the step, undo what it did, and record it."""
        random = torch.cuda.get_rng_state(self.batches.device)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._try()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._once()
        torch.cuda.set_rng_state(random, self.batches.device)
        return graph

    def _try(self) -> None:
        """Do some steps, so that everything that a first step makes is there, and undo them."""
        counters = (self.step, self.at, self.sums, self.bad)
        before = [(tensor, tensor.clone()) for tensor in (*self._kept(), *counters)]
        known = {id(tensor) for tensor, _ in before}
        for index in range(_WARM_UP_STEPS):
            self._once()
            self.step -= 1  # the same batch again: the epoch may have no other left
            self.at -= 1
            if index == 0:
                self.after_first()
        with torch.no_grad():
            for tensor in self._kept():
                if id(tensor) not in known:
                    tensor.zero_()  # an optimizer's state before its first step
            for tensor, value in before:
                tensor.copy_(value)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _kept(self) -> list[Tensor]:
        states = (state for optimizer in self.optimizers for state in optimizer.state.values())
        inside = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        return [*self.kept(), *inside]
