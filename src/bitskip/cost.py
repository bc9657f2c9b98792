"""What a network costs: parameters by bits, MACs by precision, stored bytes, peak activation memory.

`cost_of(spec)` derives everything from the spec, without torch; `bitskip.nn.count` reports the same for
any torch module. docs/cost.md says what is counted and how.

What is unknown is None, with a note that says why; it is never counted as zero, and a total that
contains an unknown is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bitskip.activations import peak_activation_bytes
from bitskip.spec import LayerSpec, NetworkSpec

_WEIGHT_BITS = {"fp32": 32, "int8": 8, "w1": 1, "w1a1": 1}
_INPUT_BITS = {"fp32": 32, "int8": 8, "w1": 32, "w1a1": 1}
# A MAC has the precision of its wider operand: 1-bit weights times real activations is an fp32 MAC.
_MAC_PRECISION = {"fp32": "fp32", "int8": "int8", "w1": "fp32", "w1a1": "w1a1"}


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs, for one input."""

    name: str
    kind: str  # conv, linear, batch_norm, ...; for other torch modules the name of the class
    precision: str  # fp32, int8, w1, w1a1; for other torch types their own name
    input_bits: int | None  # bits of one element of the layer's input
    output_shape: tuple[int, ...] | None  # without the batch: (channels, height, width) or (features,)
    parameters_by_bits: Mapping[int, int] | None  # bits a stored parameter takes -> number of parameters
    macs: int | None  # multiply-accumulates
    mac_precision: str = "fp32"  # precision of the wider operand; w1a1: both operands are 1 bit

    @property
    def parameters(self) -> int | None:
        """Number of parameters, whatever their bits."""
        return None if self.parameters_by_bits is None else sum(self.parameters_by_bits.values())

    @property
    def binary_parameters(self) -> int | None:
        """Number of parameters stored as 1 bit."""
        return None if self.parameters_by_bits is None else self.parameters_by_bits.get(1, 0)

    @property
    def weight_bits(self) -> int | None:
        """Bits that the parameters take."""
        if self.parameters_by_bits is None:
            return None
        return sum(bits * number for bits, number in self.parameters_by_bits.items())

    @property
    def weight_bytes(self) -> int | None:
        """Bytes that the parameters take, each width rounded up to whole bytes."""
        if self.parameters_by_bits is None:
            return None
        return sum(-(-bits * number // 8) for bits, number in self.parameters_by_bits.items())

    @property
    def binary_macs(self) -> int | None:
        """MACs with both operands 1 bit."""
        return self.macs if self.mac_precision == "w1a1" or self.macs is None else 0

    def to_dict(self) -> dict[str, Any]:
        """Return the layer's row as JSON-serialisable values."""
        by_bits = self.parameters_by_bits
        return {
            "name": self.name,
            "kind": self.kind,
            "precision": self.precision,
            "input_bits": self.input_bits,
            "output_shape": None if self.output_shape is None else list(self.output_shape),
            "parameters": self.parameters,
            "binary_parameters": self.binary_parameters,
            "parameters_by_bits": None if by_bits is None else _by_bits(by_bits),
            "weight_bytes": self.weight_bytes,
            "macs": self.macs,
            "binary_macs": self.binary_macs,
        }


@dataclass(frozen=True)
class Cost:
    """What a network costs, for one input."""

    name: str
    # without the batch: (channels, height, width); of several inputs each one's, by name
    input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]]
    layers: tuple[LayerCost, ...]  # in the order they run
    peak_activation_bytes: Mapping[str, int | None]  # by executor: `naive` and `in_place`
    notes: tuple[str, ...] = ()  # what is unknown, and why

    @property
    def parameters(self) -> int | None:
        """Number of parameters, whatever their bits."""
        return _total(layer.parameters for layer in self.layers)

    @property
    def binary_parameters(self) -> int | None:
        """Number of parameters stored as 1 bit."""
        return _total(layer.binary_parameters for layer in self.layers)

    @property
    def parameters_by_bits(self) -> dict[int, int] | None:
        """Number of parameters by the bits that each takes, fewest bits first."""
        totals: dict[int, int] = {}
        for layer in self.layers:
            if layer.parameters_by_bits is None:
                return None
            for bits, number in layer.parameters_by_bits.items():
                totals[bits] = totals.get(bits, 0) + number
        return {bits: totals[bits] for bits in sorted(totals) if totals[bits]}

    @property
    def effective_parameters(self) -> int | float | None:
        """Stored weight bits / 32; an int where that is whole."""
        bits = _total(layer.weight_bits for layer in self.layers)
        if bits is None:
            return None
        return bits // 32 if bits % 32 == 0 else bits / 32

    @property
    def weight_bytes(self) -> int | None:
        """Bytes that the parameters take; each layer's share of each width is whole bytes."""
        return _total(layer.weight_bytes for layer in self.layers)

    @property
    def float32_bytes(self) -> int | None:
        """Bytes that the same parameters would take as 32-bit floats."""
        return None if self.parameters is None else 4 * self.parameters

    @property
    def compression(self) -> float | None:
        """`float32_bytes` over `weight_bytes`."""
        if self.float32_bytes is None or not self.weight_bytes:
            return None
        return self.float32_bytes / self.weight_bytes

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of any precision."""
        return _total(layer.macs for layer in self.layers)

    @property
    def binary_macs(self) -> int | None:
        """MACs with both operands 1 bit."""
        return _total(layer.binary_macs for layer in self.layers)

    @property
    def binary_weight_macs(self) -> int | None:
        """MACs with a 1-bit weight, whatever the input: no multiplication is needed for them."""
        return _total(
            layer.macs if layer.precision in ("w1", "w1a1") or layer.macs is None else 0
            for layer in self.layers
        )

    @property
    def macs_by_precision(self) -> dict[str, int] | None:
        """MACs by the precision of their wider operand; precisions without MACs are left out."""
        totals: dict[str, int] = {}
        for layer in self.layers:
            if layer.macs is None:
                return None
            if layer.macs:
                totals[layer.mac_precision] = totals.get(layer.mac_precision, 0) + layer.macs
        return dict(sorted(totals.items()))

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as JSON-serialisable values; null is unknown and `notes` says why."""
        by_bits = self.parameters_by_bits
        return {
            "name": self.name,
            "input_shape": _shape_value(self.input_shape),
            "parameters": self.parameters,
            "binary_parameters": self.binary_parameters,
            "parameters_by_bits": None if by_bits is None else _by_bits(by_bits),
            "effective_parameters": self.effective_parameters,
            "macs": self.macs,
            "binary_macs": self.binary_macs,
            "binary_weight_macs": self.binary_weight_macs,
            "macs_by_precision": self.macs_by_precision,
            "weight_bytes": self.weight_bytes,
            "float32_bytes": self.float32_bytes,
            "peak_activation_bytes": dict(self.peak_activation_bytes),
            "layers": [layer.to_dict() for layer in self.layers],
            "notes": list(self.notes),
        }


def cost_of(spec: NetworkSpec) -> Cost:
    """Return the cost of `spec` for one picture.

    Counted are the weights and biases of every layer, batch norms with weight and bias (their running
    statistics fold into them), thresholds, activations and learned scales. MACs are those of convolutions
    and linear layers, padded taps included.
    """
    return Cost(
        name=spec.name,
        input_shape=(spec.input_channels, spec.input_size, spec.input_size),
        layers=tuple(_layer_cost(layer) for layer in spec.iter_layers()),
        peak_activation_bytes=peak_activation_bytes(spec),
    )


def _layer_cost(layer: LayerSpec) -> LayerCost:
    by_bits = {_WEIGHT_BITS[layer.precision]: layer.weights}
    if layer.bias:
        by_bits[32] = by_bits.get(32, 0) + layer.out_channels
    flat = layer.kind == "linear"
    size = layer.output_size
    return LayerCost(
        name=layer.name,
        kind=layer.kind,
        precision=layer.precision,
        input_bits=_INPUT_BITS[layer.precision],
        output_shape=(layer.out_channels,) if flat else (layer.out_channels, size, size),
        parameters_by_bits=by_bits,
        macs=layer.macs,
        mac_precision=_MAC_PRECISION[layer.precision],
    )


def _by_bits(by_bits: Mapping[int, int]) -> dict[str, int]:
    return {str(bits): number for bits, number in by_bits.items()}


def _shape_value(shape: tuple[int, ...] | Mapping[str, tuple[int, ...]]) -> list[int] | dict[str, list[int]]:
    if isinstance(shape, Mapping):
        return {name: list(own) for name, own in shape.items()}
    return list(shape)


def _total(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
