"""The tensors and ops of a Program as `bitskip.memory` takes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from bitskip import memory
from bitskip.program.ops import Op, Tensor, op_inputs, op_outputs, op_residual

__all__ = ["program_schedule"]


def program_schedule(
    tensors: Sequence[Tensor],
    ops: Iterable[Op],
    outputs: Iterable[int],
    *,
    external: Collection[int] = (0,),
    sizes: Mapping[int, int] | None = None,
) -> memory.Schedule[int]:
    """Return the schedule of a program's ops; its tensors are called by their numbers.

    Args:
        tensors: offsets are ignored.
        ops: in the order they run.
        outputs: numbers of the tensors that stay to the end.
        external: numbers of the tensors that lie in the caller's memory, as the picture does.
        sizes: bytes of each tensor where they are not `Tensor.size`.

    Raises:
        ValueError: if an op reads a tensor that no earlier op writes.
    """

    def schedule_op(op: Op) -> memory.Op[int]:
        residual = op_residual(op)
        reads = op_inputs(op)
        return memory.Op(op.name, reads if residual is None else reads[:-1], op_outputs(op), residual)

    held = {
        number: memory.Held(tensor.size if sizes is None else sizes[number], tensor.dtype)
        for number, tensor in enumerate(tensors)
    }
    return memory.Schedule(tuple(map(schedule_op, ops)), held, (0,), tuple(outputs), frozenset(external))
