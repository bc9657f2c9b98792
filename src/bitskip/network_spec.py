"""NetworkSpec: the value that says what a residual network is, before anything is built or trained.

A spec is frozen, validated once (at construction), versioned, and converts to and from JSON. Bits are
set per stage and may be overridden per layer; shortcuts are set per stage and may be overridden per block.
Cost, torch model, report and packed file are all functions of it.

Names inside a network, the same in torch, cost tables and plans: `stem.conv`, `stage1.block2.conv1`,
`stage2.block1.shortcut.conv`, `head`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bitskip.errors import SpecError, nearest
from bitskip.quantizers import QUANTIZERS, input_quantizers

FORMAT_VERSION = 1

PRECISIONS = ("fp32", "int8", "w1", "w1a1")
SHORTCUT_POLICIES = ("all", "middle", "none")
WEIGHT_SCALES = ("none", "channel", "learned")

_CHOICES: dict[str, tuple[Any, ...]] = {  # the quantizers apart
    "block": ("basic", "bottleneck"),
    "style": ("paper", "standard", "per_conv"),
    "stem": ("cifar", "imagenet"),
    "projection": ("conv", "pool_conv"),
    "activation": ("relu", "rprelu"),
    "before_binary": ("no_relu", "threshold", "relu"),
    "weight_scale": WEIGHT_SCALES,
    "pad_value": (0, 1, -1),
    "stem_precision": ("fp32", "int8"),
    "head_precision": ("fp32", "int8"),
}


def choices() -> dict[str, tuple[Any, ...]]:
    """Return what the fields that name one of several things may be; a quantizer may join at any time."""
    return _CHOICES | {"weight_quantizer": tuple(QUANTIZERS), "input_quantizer": input_quantizers()}


# A bottleneck's last convolution has this many times the channels of its 3x3 (He et al. 2016).
BOTTLENECK_EXPANSION = 4


@dataclass(frozen=True)
class LayerSpec:
    """One layer that holds parameters.

    `kind` is `conv`, `linear`, `batch_norm`, `activation` (RPReLU), `threshold` (before a 1-bit input)
    or `scale` (learned scale of 1-bit weights). Sizes are height = width, in pixels.
    """

    name: str
    kind: str
    precision: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    input_size: int
    output_size: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Number of weights, without bias."""
        if self.kind in ("conv", "linear"):
            return self.in_channels * self.out_channels * self.kernel * self.kernel
        return self.out_channels * {"batch_norm": 2, "activation": 3, "threshold": 1, "scale": 1}[self.kind]

    @property
    def parameters(self) -> int:
        """Number of parameters, bias included, whatever their bits."""
        return self.weights + (self.out_channels if self.bias else 0)

    @property
    def binary_parameters(self) -> int:
        """How many of the parameters are stored as 1 bit."""
        return self.weights if self.precision in ("w1", "w1a1") else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image; layers other than conv and linear count none."""
        if self.kind not in ("conv", "linear"):
            return 0
        return self.weights * self.output_size * self.output_size


@dataclass(frozen=True)
class BlockSpec:
    """One residual block: its convolutions in order and what its shortcut is.

    `shortcut` is `identity`, `projection` or None. In style `per_conv` the first convolution carries
    `shortcut` and the second an identity, both removed together.
    """

    name: str
    stage: int
    in_channels: int
    out_channels: int
    stride: int
    input_size: int
    output_size: int
    convs: tuple[LayerSpec, ...]
    shortcut: str | None
    projection: LayerSpec | None


@dataclass(frozen=True)
class NetworkSpec:
    """A residual network: bits per layer, shortcuts per block, and everything needed to build it.

    Raises:
        SpecError: for any value out of range, an override that names nothing, or a layer whose
            binarised input would be the constant +1.
    """

    name: str  # of the network, for tables and files
    widths: tuple[int, ...]  # channels of each stage's 3x3 convolutions
    blocks: tuple[int, ...]  # residual blocks in each stage
    precision: tuple[str, ...]  # precision of each stage's convolutions
    shortcuts: tuple[bool, ...]  # whether each stage's blocks keep their shortcuts
    block: str = "basic"  # basic (two 3x3) or bottleneck (1x1, 3x3, 1x1)
    style: str = "paper"  # paper: ReLU on both branches, then add; standard: add, then ReLU; per_conv
    stem: str = "cifar"  # cifar: 3x3 stride 1; imagenet: 7x7 stride 2 and a 3x3 max pool
    stem_width: int = 64  # channels after the stem
    stem_precision: str = "fp32"  # fp32 or int8
    head_precision: str = "fp32"  # fp32 or int8
    projection: str = "conv"  # conv: 1x1 strided, the stage's precision; pool_conv: average pool, 1x1 fp32
    activation: str = "relu"  # relu or rprelu (ReActNet's shifted PReLU)
    before_binary: str = "no_relu"  # what stands before a 1-bit input: no_relu, or threshold (learned)
    weight_quantizer: str = "ste_sign"  # gradient estimator of 1-bit weights
    input_quantizer: str = "ste_sign"  # gradient estimator of 1-bit activations
    weight_scale: str = "none"  # scale of 1-bit weights per output channel: none, channel (mean), learned
    pad_value: int = 0  # what a 1-bit activation reads outside the picture: 0, +1 or -1
    layer_precision: Mapping[str, str] = field(default_factory=dict)  # precision of single layers, by name
    block_shortcuts: Mapping[str, bool] = field(default_factory=dict)  # shortcuts of single blocks, by name
    classes: int = 10  # outputs of the head
    input_size: int = 32  # height = width of the picture, in pixels
    input_channels: int = 3  # channels of the picture

    def __post_init__(self) -> None:
        for name in ("widths", "blocks", "precision", "shortcuts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("layer_precision", "block_shortcuts"):
            object.__setattr__(self, name, dict(sorted(getattr(self, name).items())))
        self._check()

    def __hash__(self) -> int:
        return hash(self.to_json())

    # -- validation ---------------------------------------------------------------------------------

    def _check(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise SpecError(f"spec: name must be a non-empty string, got {self.name!r}")
        for key, allowed in choices().items():
            value = getattr(self, key)
            if value not in allowed or isinstance(value, bool):
                raise SpecError(f"spec '{self.name}': {key} is {value!r}, expected one of {_list(allowed)}")
        for key in ("stem_width", "classes", "input_size", "input_channels"):
            self._check_positive(key, getattr(self, key))
        stages = len(self.widths)
        if stages == 0:
            raise SpecError(f"spec '{self.name}': widths is empty, expected at least one stage")
        for key in ("blocks", "precision", "shortcuts"):
            if len(getattr(self, key)) != stages:
                raise SpecError(
                    f"spec '{self.name}': {key} has {len(getattr(self, key))} entries, "
                    f"expected {stages}, one for each stage in widths"
                )
        for stage in range(stages):
            self._check_positive(f"widths[{stage}]", self.widths[stage])
            self._check_positive(f"blocks[{stage}]", self.blocks[stage])
            if self.precision[stage] not in PRECISIONS:
                raise SpecError(
                    f"spec '{self.name}': precision[{stage}] is {self.precision[stage]!r}, "
                    f"expected one of {_list(PRECISIONS)}"
                )
            if not isinstance(self.shortcuts[stage], bool):
                raise SpecError(
                    f"spec '{self.name}': shortcuts[{stage}] is {self.shortcuts[stage]!r}, "
                    "expected true or false"
                )
        if self.style == "per_conv" and self.block != "basic":
            raise SpecError(f"spec '{self.name}': style per_conv is defined for basic blocks only")
        self._check_overrides()
        self._check_constant_signs()

    def _check_positive(self, key: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpecError(f"spec '{self.name}': {key} is {value!r}, expected a whole number of at least 1")

    def _check_overrides(self) -> None:
        blocks = {name for name, *_ in self._block_positions()}
        for name, keep in self.block_shortcuts.items():
            if name not in blocks:
                raise SpecError(
                    f"spec '{self.name}': block_shortcuts names '{name}', which is not a block"
                    + nearest(name, blocks)
                )
            if not isinstance(keep, bool):
                raise SpecError(f"spec '{self.name}': block_shortcuts['{name}'] is {keep!r}, expected a bool")
        layers = {
            layer.name for block in self.iter_blocks() for layer in (*block.convs, block.projection) if layer
        }
        for name, precision in self.layer_precision.items():
            if name not in layers:
                raise SpecError(
                    f"spec '{self.name}': layer_precision names '{name}', which is not a layer of a block"
                    + nearest(name, layers)
                )
            if precision not in PRECISIONS:
                raise SpecError(
                    f"spec '{self.name}': layer_precision['{name}'] is {precision!r}, "
                    f"expected one of {_list(PRECISIONS)}"
                )

    def _check_constant_signs(self) -> None:
        """Refuse sign(ReLU(x)): with sign(0) = +1 it is the constant +1, whatever the picture."""
        if self.activation != "relu" or self.before_binary != "relu":
            return
        for block in self.iter_blocks():
            for layer in (*block.convs, block.projection):
                if layer is not None and layer.precision == "w1a1":
                    raise SpecError(
                        f"spec '{self.name}': the 1-bit input of '{layer.name}' comes from a ReLU, so its "
                        "sign is the constant +1; set before_binary to no_relu or threshold"
                    )

    # -- structure ----------------------------------------------------------------------------------

    @property
    def feature_channels(self) -> int:
        """Channels that reach the head."""
        return self.widths[-1] * (BOTTLENECK_EXPANSION if self.block == "bottleneck" else 1)

    @property
    def stem_layer(self) -> LayerSpec:
        """The first convolution."""
        kernel, stride = (3, 1) if self.stem == "cifar" else (7, 2)
        output_size = math.ceil(self.input_size / stride)
        return LayerSpec(
            "stem.conv", "conv", self.stem_precision, self.input_channels, self.stem_width,
            kernel, stride, kernel // 2, self.input_size, output_size,
        )  # fmt: skip

    @property
    def stem_output_size(self) -> int:
        """Height = width after the stem and, for stem imagenet, its max pool."""
        size = self.stem_layer.output_size
        return size if self.stem == "cifar" else math.ceil(size / 2)

    @property
    def head_layer(self) -> LayerSpec:
        """The classifier, a linear layer with bias."""
        return LayerSpec(
            "head", "linear", self.head_precision, self.feature_channels, self.classes, 1, 1, 0, 1, 1, True
        )

    def _block_positions(self) -> Iterator[tuple[str, int, int]]:
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                yield f"stage{stage + 1}.block{index + 1}", stage, index

    def iter_blocks(self) -> Iterator[BlockSpec]:
        """Yield the residual blocks in the order they run."""
        channels, size = self.stem_width, self.stem_output_size
        for name, stage, index in self._block_positions():
            stride = 2 if stage > 0 and index == 0 else 1
            block = self._block(name, stage, channels, stride, size)
            yield block
            channels, size = block.out_channels, block.output_size

    def _block(self, name: str, stage: int, channels: int, stride: int, size: int) -> BlockSpec:
        width = self.widths[stage]
        output_size = math.ceil(size / stride)

        def conv(
            suffix: str, cin: int, cout: int, kernel: int, step: int, at: int, default: str
        ) -> LayerSpec:
            full = f"{name}.{suffix}"
            precision = self.layer_precision.get(full, default)
            return LayerSpec(
                full, "conv", precision, cin, cout, kernel, step, kernel // 2, at, math.ceil(at / step)
            )

        precision = self.precision[stage]
        if self.block == "basic":
            out = width
            convs: tuple[LayerSpec, ...] = (
                conv("conv1", channels, width, 3, stride, size, precision),
                conv("conv2", width, width, 3, 1, output_size, precision),
            )
        else:
            out = width * BOTTLENECK_EXPANSION
            convs = (
                conv("conv1", channels, width, 1, 1, size, precision),
                conv("conv2", width, width, 3, stride, size, precision),
                conv("conv3", width, out, 1, 1, output_size, precision),
            )
        shortcut, projection = None, None
        if self.block_shortcuts.get(name, self.shortcuts[stage]):
            shortcut = "identity" if stride == 1 and channels == out else "projection"
        if shortcut == "projection":
            if self.projection == "conv":
                projection = conv("shortcut.conv", channels, out, 1, stride, size, precision)
            else:
                projection = conv("shortcut.conv", channels, out, 1, 1, output_size, "fp32")
        return BlockSpec(name, stage, channels, out, stride, size, output_size, convs, shortcut, projection)

    def iter_layers(self) -> Iterator[LayerSpec]:
        """Yield every layer that holds parameters, in the order they run."""
        yield from self._with_norm(self.stem_layer, "stem.bn")
        if self.activation == "rprelu":
            yield self._pointwise("stem.activation", "activation", self.stem_layer)
        for block in self.iter_blocks():
            for index, layer in enumerate(block.convs, 1):
                if layer.precision == "w1a1" and self.before_binary == "threshold":
                    yield self._pointwise(f"{block.name}.threshold{index}", "threshold", layer, of_input=True)
                yield from self._with_norm(layer, f"{block.name}.bn{index}")
                if self.activation == "rprelu":
                    yield self._pointwise(f"{block.name}.activation{index}", "activation", layer)
            if block.projection is not None:
                prefix = f"{block.name}.shortcut"
                if block.projection.precision == "w1a1" and self.before_binary == "threshold":
                    yield self._pointwise(f"{prefix}.threshold", "threshold", block.projection, of_input=True)
                yield from self._with_norm(block.projection, f"{prefix}.bn")
                if self.activation == "rprelu" and self.style == "paper":
                    yield self._pointwise(f"{prefix}.activation", "activation", block.projection)
        yield self.head_layer

    def _with_norm(self, layer: LayerSpec, norm: str) -> Iterator[LayerSpec]:
        yield layer
        if self.weight_scale == "learned" and layer.binary_parameters:
            yield self._pointwise(f"{layer.name}.scale", "scale", layer)
        yield self._pointwise(norm, "batch_norm", layer)

    @staticmethod
    def _pointwise(name: str, kind: str, layer: LayerSpec, of_input: bool = False) -> LayerSpec:
        channels = layer.in_channels if of_input else layer.out_channels
        size = layer.input_size if of_input else layer.output_size
        return LayerSpec(name, kind, "fp32", channels, channels, 1, 1, 0, size, size)

    # -- other specs from this one --------------------------------------------------------------------

    def scaled(self, width: float) -> NetworkSpec:
        """Return the same network with every width multiplied by `width`, at least 1 channel each."""
        if not (math.isfinite(width) and width > 0):
            raise SpecError(f"width is {width}, expected a factor above 0")
        if width == 1:
            return self
        return dataclasses.replace(
            self,
            name=f"{self.name}-x{width:g}",
            widths=tuple(max(1, round(w * width)) for w in self.widths),
            stem_width=max(1, round(self.stem_width * width)),
        )

    def resized(self, input_size: int) -> NetworkSpec:
        """Return the same network for pictures of `input_size` x `input_size` pixels."""
        if input_size == self.input_size:
            return self
        return dataclasses.replace(self, name=f"{self.name}-{input_size}px", input_size=input_size)

    # -- JSON -----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON-serialisable values, with its format version."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        return {"bitskip_spec": FORMAT_VERSION, **plain}

    def to_json(self) -> str:
        """Return the spec as a JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: object, source: str = "spec") -> NetworkSpec:
        """Build a spec from the values of `to_dict`.

        Raises:
            SpecError: for another format version, a missing or unknown key, or a value out of range.
        """
        if not isinstance(values, dict):
            raise SpecError(f"{source}: expected a JSON object, got {type(values).__name__}")
        rest = dict(values)
        version = rest.pop("bitskip_spec", None)
        if version != FORMAT_VERSION:
            raise SpecError(
                f'{source}: "bitskip_spec" is {version!r}, expected {FORMAT_VERSION}; '
                "is this a network spec of this version?"
            )
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in rest:
            if key not in fields:
                raise SpecError(f"{source}: unknown key '{key}'{nearest(key, fields)}")
        for key, f in fields.items():
            required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if required and key not in rest:
                raise SpecError(f"{source}: key '{key}' is missing")
        for key in ("widths", "blocks", "precision", "shortcuts"):
            if not isinstance(rest[key], list):
                raise SpecError(
                    f"{source}: {key} is {rest[key]!r}, expected a list, one entry for each stage"
                )
        for key in ("layer_precision", "block_shortcuts"):
            if not isinstance(rest.get(key, {}), dict):
                raise SpecError(f"{source}: {key} is {rest[key]!r}, expected an object of names to values")
        return cls(**rest)

    @classmethod
    def from_json(cls, text: str, source: str = "spec") -> NetworkSpec:
        """Build a spec from the text of `to_json`; raises SpecError on malformed JSON."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError(
                f"{source}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
            ) from None
        return cls.from_dict(values, source)


def _list(values: tuple[Any, ...]) -> str:
    return ", ".join(str(v) for v in values)
