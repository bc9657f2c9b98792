"""What follows a sum, in C: epilogues with their constants, and where their rows go."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bitskip.backends.c99.arrays import Constants, float_literal
from bitskip.backends.c99.bounds import digits_fit, digits_of, reach, room_above, shared_bias
from bitskip.backends.c99.cores import Core
from bitskip.backends.c99.placement import Placement
from bitskip.backends.c99.weights import bit_stream
from bitskip.program import (
    Activation,
    Add,
    Affine,
    Array,
    Conv2d,
    Epilogue,
    FloatEpilogue,
    IntegerEpilogue,
    Mul,
    Op,
    Program,
    Tensor,
    ThresholdEpilogue,
    inverse_scale,
    op_outputs,
    op_residual,
)

# Those that the templates compute, by their numbers there.
ACTIVATIONS = {"none": 0, "relu": 1, "prelu": 2, "rprelu": 3, "relu6": 4}
ACTIVATIONS |= {"sigmoid": 5, "hard_sigmoid": 6, "hard_swish": 7, "silu": 8}


@dataclass
class Written:
    """An op in C: structs before it, and the statements of one step."""

    comment: str
    declarations: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)


class EpilogueWriter:
    """Writes what follows a sum; holds what the ops of one program share: constants, which C they use."""

    def __init__(self, program: Program, placement: Placement, core: Core, wide_bias: bool) -> None:
        self.program, self.placement, self.core, self.wide_bias = program, placement, core, wide_bias
        self.digits = not core.long_multiply and digits_fit(program)
        integers = [op for op in program.ops if isinstance(getattr(op, "epilogue", None), IntegerEpilogue)]
        self.low = any(self.lowest(op) > -128 for op in integers)
        self.constants = Constants()
        self.uses: set[str] = set()
        self.shifts: set[bool] = set()  # whether shifts of epilogues are 32 or more

    # -- rows ---------------------------------------------------------------------------------------------

    def tensor(self, number: int) -> Tensor:
        return self.program.tensors[number]

    def row(self, number: int, y: str = "y", const: bool = False) -> str:
        """Return the C expression of row `y` of a tensor, as a pointer to its elements."""
        dtype = self.tensor(number).dtype
        c_type = {"u8": "uint8_t", "i8": "int8_t", "f32": "float", "i32": "int32_t", "bits": "uint32_t"}[
            dtype
        ]
        qualifier = "const " if const else ""
        if dtype == "u8":
            before = sum(tensor.size for tensor in self.program.tensors[:number])
            _, width, channels = self.tensor(number).shape
            return f"run->in + {f'{before}u + ' if before else ''}(uint32_t){y} * {width * channels}u"
        if number == self.program.output:
            return "run->out"
        return f"({qualifier}{c_type} *)(void *)bsk_row(run->arena, &tensor_{number}, {y})"

    def bytes(self, number: int, y: str = "y") -> str:
        """Return the C expression of row `y` of a tensor, as bytes."""
        return f"bsk_row(run->arena, &tensor_{number}, {y})"

    def words(self, at: int) -> str:
        """Return an op's working memory as int32."""
        return f"(int32_t *)(void *)(run->arena + {self.placement.scratch.get(at, 0)}u)"

    # -- epilogues ------------------------------------------------------------------------------------------

    def finish(
        self, at: int, op: Conv2d | Add | Affine | Mul, epilogue: Epilogue, done: Written
    ) -> list[str]:
        """Declare an epilogue's constants; return the statement that says where its row goes."""
        self.uses.add("epilogue")
        parts: list[str] = []
        if isinstance(epilogue, IntegerEpilogue):
            done.declarations.append(self.integer(at, op, epilogue))
            parts.append(f".integer = &integer_{at}")
            self.uses.add("integer")
        elif isinstance(epilogue, ThresholdEpilogue):
            done.declarations.append(self.threshold(at, op.name, epilogue.threshold, epilogue.flip))
            parts.append(f".threshold = &threshold_{at}")
            self.uses.add("threshold")
        else:
            done.declarations.append(self.real(at, op, epilogue))
            parts.append(f".real = &real_{at}")
            self.uses.add("float")
        for number in op_outputs(op):
            dtype = self.tensor(number).dtype
            parts.append(f".{dtype} = {self.row(number)}")
            if dtype == "bits" and not isinstance(epilogue, ThresholdEpilogue):
                self.uses.add("bits_out")
        residual = op_residual(op)
        if residual is not None:
            parts.append(f".residual = bsk_row(run->arena, &tensor_{residual}, y)")
            if self.tensor(residual).dtype == "i8":
                self.uses.add("residual_i8")
        joined = ",\n        ".join(parts)
        return [f"const bsk_finish finish = {{\n        {joined},\n    }};"]

    def integer(self, at: int, op: Conv2d | Add | Affine | Mul, epilogue: IntegerEpilogue) -> str:
        """Declare an integer epilogue, with zero points and what rounds folded into one number."""
        residual = epilogue.residual
        target = self.tensor(op_outputs(op)[0])
        offset = 0 if self.core.saturates else 128
        zero = target.zero_point + offset
        after = (1 << (epilogue.shift - 1)) + (zero << epilogue.shift)
        if residual is not None:
            after -= self.tensor(residual).zero_point * epilogue.residual_multiplier
        more = f", {int(epilogue.pre_relu and residual is not None)}"
        if self.low:
            more += f", {self.lowest(op) + offset}"
            self.uses.add("low")
        if self.digits:
            return self.integer_digits(at, op, epilogue, after, more)
        by = room_above(epilogue)
        m = self.constants.add(
            f"multiplier_{at}", (epilogue.multiplier << by).astype(np.int32), f"{op.name}: multipliers"
        )
        bias: Array = epilogue.bias.astype(np.int64) << by
        unit = ""
        if not self.wide_bias:
            shared = shared_bias(bias)
            assert shared is not None
            bias, unit = shared[0], f", {shared[1]}"
        b = self.constants.add(f"bias_{at}", bias, f"{op.name}: biases")
        if (reach(op, epilogue, self.program) >> epilogue.shift) + 256 >= 2**31 - 1000:
            self.uses.add("wide")
        self.shifts.add(epilogue.shift + by >= 32)
        return (
            f"static const bsk_integer integer_{at} = {{ {m}, {b}{unit}, {after << by}LL, "
            f"{epilogue.shift + by}, {epilogue.residual_multiplier << by}{more} }};"
        )

    def lowest(self, op: Op) -> int:
        """Return the smallest value that an integer epilogue can give: more than -128 after some ReLUs."""
        epilogue = getattr(op, "epilogue", None)
        assert isinstance(epilogue, IntegerEpilogue)
        if epilogue.post_relu or (epilogue.pre_relu and epilogue.residual is None):
            return max(-128, self.tensor(op_outputs(op)[0]).zero_point)  # t >= 0 gives q >= zero_point
        return -128

    def integer_digits(
        self, at: int, op: Conv2d | Add | Affine | Mul, epilogue: IntegerEpilogue, after: int, more: str
    ) -> str:
        """Return an integer epilogue for a core without a long multiplication."""
        bias = epilogue.bias.astype(np.int64) + (after if epilogue.residual is None else 0)
        m, b = digits_of(epilogue.multiplier), digits_of(bias)
        rows = np.stack([b[2], m[2], b[1], b[0], m[1], m[0]], axis=1)
        digits = self.constants.add_rows(
            f"digits_{at}", "bsk_digits", rows, 16, f"{op.name}: biases and multipliers"
        )

        def braces(value: int) -> str:
            return f"{{ {', '.join(str(int(digit)) for digit in digits_of(np.array([value]))[:, 0])} }}"

        return (
            f"static const bsk_integer integer_{at} = {{ {digits}, {epilogue.shift - 22}, "
            f"{braces(after)}, {braces(epilogue.residual_multiplier)}{more} }};"
        )

    def threshold(self, at: int, name: str, threshold: Array, flip: Array) -> str:
        t = self.constants.add(f"threshold_values_{at}", threshold.astype(np.int32), f"{name}: thresholds")
        f = self.constants.add(
            f"threshold_flips_{at}", bit_stream(flip[None, :]), f"{name}: which comparisons turn over"
        )
        return f"static const bsk_threshold threshold_{at} = {{ {t}, {f} }};"

    def real(self, at: int, op: Op, epilogue: FloatEpilogue) -> str:
        def floats(what: str, values: Array | None) -> str:
            if values is None:
                return "NULL"
            return self.constants.add(f"{what}_{at}", values.astype(np.float32), f"{op.name}: {what}")

        def activation(place: str, a: Activation) -> str:
            if a.kind in ("sigmoid", "silu"):
                self.uses.add("exp")
            if a.kind in ("relu6", "hard_sigmoid", "hard_swish"):
                self.uses.add("relu6")
            rest = (("slope", a.slope), ("shift_in", a.shift_in), ("shift_out", a.shift_out))
            return f"{{ {ACTIVATIONS[a.kind]}, {', '.join(floats(f'{place}_{n}', v) for n, v in rest)} }}"

        i8 = next((self.tensor(n) for n in op_outputs(op) if self.tensor(n).dtype == "i8"), None)
        inverse = "0.0f" if i8 is None else float_literal(float(inverse_scale(i8.scale)))
        return (
            f"static const bsk_float real_{at} = {{\n    {floats('scale', epilogue.scale)}, "
            f"{floats('bias', epilogue.bias)},\n    {activation('pre', epilogue.pre)},\n    "
            f"{activation('post', epilogue.post)},\n    {floats('threshold', epilogue.threshold)}, "
            f"{inverse}, {0 if i8 is None else i8.zero_point},\n}};"
        )
