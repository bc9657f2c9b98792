"""The tensors and ops of a Program as `bitskip.memory` takes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from bitskip import memory
from bitskip.program.ops import Op, Tensor, input_count, op_inputs, op_outputs, op_residual


def program_schedule(
    tensors: Sequence[Tensor],
    ops: Iterable[Op],
    outputs: Iterable[int],
    *,
    external: Collection[int] | None = None,
    sizes: Mapping[int, int] | None = None,
) -> memory.Schedule[int]:
    """Return the schedule of a program's ops; its tensors are called by their numbers.

    Args:
        tensors: offsets are ignored.
        ops: in the order they run.
        outputs: numbers of the tensors that stay to the end.
        external: numbers of the tensors that lie in the caller's memory; the inputs, if not given.
        sizes: bytes of each tensor where they are not `Tensor.size`.

    Raises:
        ValueError: if an op reads a tensor that no earlier op writes.
    """

    def schedule_op(op: Op) -> memory.ScheduledOp[int]:
        residual = op_residual(op)
        reads = op_inputs(op)
        return memory.ScheduledOp(
            op.name, reads if residual is None else reads[:-1], op_outputs(op), residual
        )

    held = {
        number: memory.Held(tensor.size if sizes is None else sizes[number], tensor.dtype)
        for number, tensor in enumerate(tensors)
    }
    inputs = tuple(range(input_count(tensors)))
    theirs = frozenset(inputs if external is None else external)
    return memory.Schedule(tuple(map(schedule_op, ops)), held, inputs, tuple(outputs), theirs)
