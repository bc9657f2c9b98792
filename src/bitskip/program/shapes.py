"""Shape rules of ops and their largest sums, as text that Python evaluates and that C is generated from.

A rule is a condition on whole numbers in +, -, *, comparisons, `and` and `or`: without division, so that both
languages read it alike. `c_function` proves that no value of it leaves 64 bits before it writes it as C.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import CodeType


@dataclass(frozen=True)
class Shape:
    """A shape rule: what an op's output must have, given its inputs. A residual has the output's shape.

    Args:
        says: the rule in words, for messages.
        side: of height and of width: `size` is the first input's, `result` the output's; `reach` is what the
            window covers, `stride` and `padding` are its own (1, 1 and 0 of an op without one).
        channels: `channels` are the first input's, `total` those of all inputs, `result` the output's; `taps`
            are the pixels under the window, `pixels` those of the first input.
        other_side: of each further input: `other` is its height or width, `size` the first input's.
        other_channels: likewise, `other` and `channels`.
    """

    says: str
    side: str = "result == size"
    channels: str = "result == channels"
    other_side: str = "other == size"
    other_channels: str = "other == channels"


_ROOM = "size + 2 * padding - reach"  # for a window to move in; the last of `result` starts within it
_WINDOW = f"(result - 1) * stride <= {_ROOM} and {_ROOM} < result * stride"
# torch's ceil_mode: one more window if it still starts inside the picture or its left padding, else one less
_CEIL = f"(result - 2) * stride < {_ROOM} and {_ROOM} <= (result - 1) * stride"
_ONE_LESS = f"(result - 1) * stride < {_ROOM} and {_ROOM} <= result * stride"
SHAPES: dict[str, Shape] = {
    "same": Shape("the input's"),
    "window": Shape(
        "(size + 2 * padding - (dilation * (kernel - 1) + 1)) // stride + 1, any number of channels",
        side=_WINDOW,
        channels="result >= 1",
    ),
    "ceil": Shape(
        "as a window's, or torch's ceil_mode one; the input's channels",
        side=f"({_WINDOW}) or ({_CEIL} and (result - 1) * stride < size + padding)"
        f" or ({_ONE_LESS} and size + padding <= result * stride)",
    ),
    "global": Shape("(1, 1, C)", side="result == 1"),
    "concat": Shape(
        "the inputs' height and width, the sum of their channels",
        channels="result == total",
        other_channels="other >= 1",
    ),
    "resize": Shape("any height and width, the input's channels", side="result >= 1"),
    "factor": Shape(
        "the first input's, the second being (1, 1, C)",
        other_side="other == 1",
    ),
}


@cache
def _compiled(rule: str) -> CodeType:
    return compile(rule, "<shape rule>", "eval")


def evaluate(rule: str, **values: int) -> int:
    """Return what `rule` is for `values`: 0 or 1 of a condition."""
    return int(eval(_compiled(rule), {"__builtins__": {}}, values))


def largest(rule: str, limits: Mapping[str, int]) -> int:
    """Return what no value within `rule` exceeds, if each name is at most its limit and at least 0.

    Raises:
        ValueError: if the rule has more than names of `limits`, whole numbers, + - *, comparisons, and, or.
    """

    def bound(node: ast.AST) -> int:
        match node:
            case ast.Name(id=name) if name in limits:
                return limits[name]
            case ast.Constant(value=int(value)):
                return value
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
                return bound(left) + bound(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return bound(left) * bound(right)
            case ast.Compare(left=left, ops=[_], comparators=[right]):
                return max(bound(left), bound(right))
            case ast.BoolOp(values=values):
                return max(map(bound, values))
        raise ValueError(f"rule '{rule}' has {ast.unparse(node)!r}, expected sums, products and comparisons")

    return bound(ast.parse(rule, mode="eval").body)


def c_function(name: str, rules: Iterable[tuple[int, str]], limits: Mapping[str, int]) -> list[str]:
    """Return the lines of a C function that evaluates the rule of a code; 0 where a code has none.

    Args:
        name: of the function; its arguments are the code and then the names in `limits`.
        rules: code and rule.
        limits: the largest value of each name; all are at least 0.

    Raises:
        ValueError: if a value within a rule could reach 2^63.
    """
    lines = [
        f"static inline int64_t {name}(int code, {', '.join(f'int64_t {value}' for value in limits)}) {{",
        f"  {', '.join(f'(void){value}' for value in limits)};",
        "  switch (code) {",
    ]
    for code, rule in rules:
        if largest(rule, limits) >= 1 << 63:
            raise ValueError(f"rule '{rule}' can reach {largest(rule, limits)}, expected less than 2^63")
        in_c = rule.replace(" and ", " && ").replace(" or ", " || ")
        lines.append(f"    case {code}: return {in_c};")
    return [*lines, "    default: return 0;", "  }", "}", ""]
