"""Run a torch module once and record what it does: MACs by the layer they belong to, and its activations.

The run is by preference on torch's meta device, where tensors have shapes but no values: it costs next to
nothing and needs no memory. Recorded are the operators that torch dispatches, not the modules' classes, so a
functional call, an attention layer or somebody's own module is seen as well as an `nn.Conv2d`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bitskip.errors import SpecError
from bitskip.nn.layers import BinaryLayer
from bitskip.nn.op_macs import NotCounted, op_macs

__all__ = ["LayerTrace", "Step", "Trace", "Value", "trace_module"]

# Elementwise at inference, though torch does not tag them so: statistics are constants by then.
_POINTWISE = {
    "native_batch_norm",
    "cudnn_batch_norm",
    "_native_batch_norm_legit_no_training",
    "_prelu_kernel",
    "_to_copy",
}


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the input: its elements and the bits of each."""

    elements: int
    bits: int


@dataclass(frozen=True)
class Step:
    """One operator, or one 1-bit layer as a whole, and the values it reads and writes.

    `reads` are (value, form) pairs; form is `signs` for the input of a 1-bit layer that binarises it, else
    `own` (as the value is).
    """

    name: str
    pointwise: bool
    reads: tuple[tuple[int, str], ...]
    writes: tuple[int, ...]
    macs: int = 0


@dataclass
class LayerTrace:
    """What the run showed of one module, without the modules inside it."""

    macs: int = 0
    not_counted: list[str] = field(default_factory=list)  # operators whose MACs are unknown
    input_bits: int | None = None
    output_shape: tuple[int, ...] | None = None  # without the batch


@dataclass
class Trace:
    """A run's record: modules by name in the order they ran first, and the steps between values."""

    layers: dict[str, LayerTrace] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    results: tuple[int, ...] = ()


def trace_module(model: nn.Module, input_shape: tuple[int, ...]) -> Trace:
    """Run `model` in eval mode on one input of `input_shape` (without the batch) and return the record.

    The model is left as it was. Where the forward needs values (it branches on them, say), it is run on the
    model's own device instead of the meta device.

    Raises:
        SpecError: if the model cannot be run on an input of that shape.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
        raise SpecError(
            f"{type(model).__name__} has lazy parameters without a shape; run it once before counting it"
        )
    dtype = next((t.dtype for t in model.parameters() if t.is_floating_point()), torch.float32)
    cause: Exception
    try:
        with _on_meta(model):
            return _run(model, torch.empty(1, *input_shape, dtype=dtype, device="meta"))
    except Exception as error:  # whatever a stranger's forward raises
        cause = error
    if not any(tensor.is_meta for tensor in tensors):
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        try:
            return _run(model, torch.zeros(1, *input_shape, dtype=dtype, device=device))
        except Exception as error:
            cause = error
    shape = "x".join(str(size) for size in input_shape)
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    raise SpecError(f"{type(model).__name__} does not run on an input of {shape}: {reason}") from cause


def _run(model: nn.Module, x: Tensor) -> Trace:
    owners: dict[int, list[str]] = {}
    for name, own in model.named_parameters(remove_duplicate=False):
        owners.setdefault(_storage(own), []).append(name.rpartition(".")[0])
    recorder = _Recorder(owners)
    recorder.trace.inputs = (recorder.add_value(x),)
    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        stack.enter_context(_without_fused_attention())
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(recorder.entering(name), prepend=True)
            after = module.register_forward_hook(recorder.leaving(name))
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(recorder)
        result = model(x)
    known = (recorder.value_of(tensor) for tensor in tree_leaves(result) if isinstance(tensor, Tensor))
    recorder.trace.results = tuple(dict.fromkeys(value for value in known if value is not None))
    return recorder.trace


@contextmanager
def _on_meta(model: nn.Module) -> Iterator[None]:
    """Put tensors without values in the place of the model's own, shared ones staying shared.

    Not `torch.func.functional_call`: in torch 2.13 it does not put a shared parameter back where a module
    has two paths.
    """
    swapped: dict[int, Tensor] = {}

    def without_values(tensor: Tensor) -> Tensor:
        if id(tensor) not in swapped:
            meta = tensor.detach().to("meta")
            swapped[id(tensor)] = nn.Parameter(meta, False) if isinstance(tensor, nn.Parameter) else meta
        return swapped[id(tensor)]

    held: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    try:
        for module in model.modules():
            for members in (module._parameters, module._buffers):
                for name, tensor in list(members.items()):
                    if tensor is not None:
                        held.append((members, name, tensor))  # type: ignore[arg-type]
                        members[name] = without_values(tensor)  # type: ignore[assignment]
        yield
    finally:
        for members, name, tensor in held:
            members[name] = tensor


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Keep attention as matrix products, not as one opaque operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that runs while it is entered."""

    def __init__(self, owners: dict[int, list[str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self._running: list[str] = []  # names of the modules that are being run, outermost first
        self._binary: list[tuple[int | None, int]] = []  # input of the running 1-bit layer, its MACs before
        self._owners = owners  # storage of a parameter -> names of the modules that hold it
        self._value_of: dict[int, int] = {}  # by storage: views of a tensor are the same value
        self._alive: list[Tensor] = []  # so that no storage's address is used twice

    def add_value(self, tensor: Tensor) -> int:
        """Give `tensor` a new value, also where it already had one (it was written in place)."""
        self.trace.values.append(Value(tensor.numel(), 8 * tensor.element_size()))
        self._alive.append(tensor)
        self._value_of[_storage(tensor)] = len(self.trace.values) - 1
        return len(self.trace.values) - 1

    def value_of(self, tensor: Tensor) -> int | None:
        """Return the value in `tensor`; None if it does not depend on the input."""
        return self._value_of.get(_storage(tensor))

    def entering(self, name: str) -> Any:
        """Return the hook that runs before the module `name`."""

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            tensor = next((leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)), None)
            layer = self._layer(name)
            if layer.input_bits is None and tensor is not None:
                layer.input_bits = 8 * tensor.element_size()
            self._running.append(name)
            if isinstance(module, BinaryLayer):
                self._binary.append((None if tensor is None else self.value_of(tensor), layer.macs))

        return hook

    def leaving(self, name: str) -> Any:
        """Return the hook that runs after the module `name`."""

        def hook(module: nn.Module, inputs: object, output: object) -> None:
            tensor = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
            if tensor is not None:
                self._layer(name).output_shape = tuple(tensor.shape[1:])
            self._running.pop()
            if isinstance(module, BinaryLayer):
                value, before = self._binary.pop()
                if value is not None and tensor is not None:
                    form = "own" if module.input_quantizer is None else "signs"
                    macs = self._layer(name).macs - before
                    self.trace.steps.append(
                        Step(name, False, ((value, form),), (self.add_value(tensor),), macs)
                    )

        return hook

    def _layer(self, name: str) -> LayerTrace:
        return self.trace.layers.setdefault(name, LayerTrace())

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        macs = self._count(func, args, out)
        if not self._binary:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self._step(func, tensors, out, macs)
        return out

    def _count(self, func: Any, args: tuple[Any, ...], out: Any) -> int:
        running = self._running[-1] if self._running else ""
        try:
            macs = op_macs(func, args, out)
        except NotCounted:
            layer = self._layer(running)
            if str(func) not in layer.not_counted:
                layer.not_counted.append(str(func))
            return 0
        if macs == 0:
            return 0
        # A functional call with another module's weight (as attention makes) belongs to that module.
        owners = [self._owners.get(_storage(arg), []) for arg in args if isinstance(arg, Tensor)]
        owner = next((names[0] for names in owners if names and running not in names), running)
        layer = self._layer(owner)
        layer.macs += macs
        if owner != running and layer.output_shape is None:
            layer.input_bits = 8 * out.element_size()
            layer.output_shape = tuple(out.shape[1:] if out.shape[0] == 1 else out.shape)
        return macs

    def _step(self, func: Any, tensors: list[Tensor], out: Any, macs: int) -> None:
        reads = tuple(dict.fromkeys(v for v in map(self.value_of, tensors) if v is not None))
        if not reads:
            return  # made from weights alone: a constant
        mutable = func._schema.is_mutable
        writes, whole = [], True
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor) or (self.value_of(tensor) is not None and not mutable):
                continue  # a view of what is there already
            writes.append(self.add_value(tensor))
            whole = whole and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        if not writes:
            return
        name = func._schema.name.removeprefix("aten::")
        pointwise = whole and (torch.Tag.pointwise in func.tags or name in _POINTWISE)
        running = self._running[-1] if self._running else ""
        self.trace.steps.append(
            Step(f"{running}/{name}", pointwise, tuple((v, "own") for v in reads), tuple(writes), macs)
        )


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
