"""Run a torch module once and record what it does: MACs by the layer they belong to, and its activations.

The run is by preference on torch's meta device, where tensors have shapes but no values: it costs next to
nothing and needs no memory. Recorded are the operators that torch dispatches, not the modules' classes, so a
functional call, an attention layer or somebody's own module is seen as well as an `nn.Conv2d`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bitskip.errors import SpecError
from bitskip.graph.operators import Kind, operator_of
from bitskip.graph.working import undisturbed, unwrap, working_copy
from bitskip.terminal import shape_text


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the input: its elements and the bits of each."""

    elements: int
    bits: int


@dataclass(frozen=True)
class OperatorCall:
    """One operator, or one 1-bit layer as a whole, and the values it reads and writes.

    `reads` are (value, form) pairs; form is `signs` for the input of a 1-bit layer that binarises it, else
    `own` (as the value is).
    """

    name: str
    pointwise: bool
    reads: tuple[tuple[int, str], ...]
    writes: tuple[int, ...]
    macs: int = 0
    origin: Any = None  # what the reader of a graph says that is being run: the node of torch.fx


@dataclass
class LayerTrace:
    """What the run showed of one module, without the modules inside it."""

    macs: int = 0
    not_counted: list[str] = field(default_factory=list)  # operators whose MACs are unknown
    input_bits: int | None = None
    output_shape: tuple[int, ...] | None = None  # without the batch


@dataclass
class Trace:
    """A run's record: modules by name in the order they ran first, and the calls between values."""

    layers: dict[str, LayerTrace] = field(default_factory=dict)
    calls: list[OperatorCall] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    modules: dict[str, nn.Module] = field(default_factory=dict)  # of the copy that ran, by name


def record_module(model: nn.Module, input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]]) -> Trace:
    """Run a copy of `model` in eval mode on one input of `input_shape`, without the batch.

    The model is left as it was. Where the forward needs values (it branches on them, say), the copy is run on
    the model's own device instead of the meta device. Wrappers (`DataParallel`, `torch.compile`) are opened.

    Raises:
        SpecError: if the model cannot be run on an input of that shape.
    """
    model = unwrap(model)
    tensors = [*model.parameters(), *model.buffers()]
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
        raise SpecError(
            f"{type(model).__name__} has lazy parameters without a shape; run it once before counting it"
        )
    dtype = next((t.dtype for t in model.parameters() if t.is_floating_point()), torch.float32)
    cause: Exception
    try:
        with undisturbed(), working_copy(model, on_meta=True) as twin:
            return _record_on(twin, input_shape, dtype, torch.device("meta"))
    except Exception as error:  # whatever a stranger's forward raises
        cause = error
    if not any(tensor.is_meta for tensor in tensors):
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        try:
            with undisturbed(), working_copy(model) as twin:
                return _record_on(twin, input_shape, dtype, device)
        except Exception as error:
            cause = error
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    raise SpecError(
        f"{type(model).__name__} does not run on an input of {shape_text(input_shape)}: {reason}"
    ) from cause


def _record_on(
    model: nn.Module,
    input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
) -> Trace:
    if not isinstance(input_shape, Mapping):
        return record(model, torch.zeros(1, *input_shape, dtype=dtype, device=device))
    named = {name: torch.zeros(1, *shape, dtype=dtype, device=device) for name, shape in input_shape.items()}
    return record(model, *named.values(), run=lambda _: model(**named))


def record(
    model: nn.Module, *inputs: Any, run: Callable[[Recorder], Any] | None = None, batch: int = 1
) -> Trace:
    """Run a working copy of a module on `inputs` and return the record.

    Args:
        model: may be changed by its own forward.
        inputs: of its forward.
        run: what runs it instead, given the recorder.
        batch: examples in the inputs; sizes are those of one.
    """
    owners: dict[int, list[str]] = {}
    for name, own in model.named_parameters(remove_duplicate=False):
        owners.setdefault(_storage(own), []).append(name.rpartition(".")[0])
    recorder = Recorder(owners, batch)
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    recorder.trace.inputs = tuple(map(recorder.add_value, tensors))
    recorder.trace.modules = dict(model.named_modules())
    with ExitStack() as stack:
        stack.enter_context(_without_fused_attention())
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks; what it does belongs to the module around it
            before = module.register_forward_pre_hook(recorder.entering(name), prepend=True)
            after = module.register_forward_hook(recorder.leaving(name))
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(recorder)
        result = model(*inputs) if run is None else run(recorder)
    known = (recorder.value_of(tensor) for tensor in tree_leaves(result) if isinstance(tensor, Tensor))
    recorder.trace.results = tuple(dict.fromkeys(value for value in known if value is not None))
    return recorder.trace


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Keep attention as matrix products, not as one opaque operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that runs while it is entered."""

    def __init__(self, owners: dict[int, list[str]], batch: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self.origin: Any = None  # goes into the calls
        self.seen: list[tuple[Kind | None, Any]] = []  # kind and overload of what ran; readers clear it
        self.written: list[Tensor] = []  # tensors that were changed in place; likewise
        self._batch = batch
        self._running: list[str] = []  # names of the modules that are being run, outermost first
        self._binary: list[tuple[int | None, int]] = []  # input of the running 1-bit layer, its MACs before
        self._owners = owners  # storage of a parameter -> names of the modules that hold it
        self._value_of: dict[int, int] = {}  # by storage: views of a tensor are the same value
        self._alive: list[Tensor] = []  # so that no storage's address is used twice

    def add_value(self, tensor: Tensor) -> int:
        """Give `tensor` a new value, also where it already had one (it was written in place)."""
        whole, rest = divmod(tensor.numel(), self._batch)
        self.trace.values.append(Value(tensor.numel() if rest else whole, 8 * tensor.element_size()))
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
            if hasattr(type(module), "input_form"):
                self._binary.append((None if tensor is None else self.value_of(tensor), layer.macs))

        return hook

    def leaving(self, name: str) -> Any:
        """Return the hook that runs after the module `name`."""

        def hook(module: nn.Module, inputs: object, output: object) -> None:
            tensor = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
            if tensor is not None:
                self._layer(name).output_shape = tuple(tensor.shape[1:])
            self._running.pop()
            if hasattr(type(module), "input_form"):
                value, before = self._binary.pop()
                if value is not None and tensor is not None:
                    form = str(module.input_form)
                    macs = self._layer(name).macs - before
                    self.trace.calls.append(
                        OperatorCall(
                            name, False, ((value, form),), (self.add_value(tensor),), macs, self.origin
                        )
                    )

        return hook

    def _layer(self, name: str) -> LayerTrace:
        return self.trace.layers.setdefault(name, LayerTrace())

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # In inference mode torch hands over what it otherwise takes apart before: a whole convolution, say.
        if func._can_decompose() and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        macs = self._count(func, args, out)
        if func._schema.is_mutable:
            names = [argument for argument in func._schema.arguments if _is_written(argument)]
            places = [a.name for a in func._schema.arguments]
            given = dict(zip(places, args, strict=False)) | kwargs
            written = tree_leaves([given.get(argument.name) for argument in names])
            self.written += [leaf for leaf in written if isinstance(leaf, Tensor)]
        if not self._binary:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self._step(func, tensors, out, macs)
        return out

    def _count(self, func: Any, args: tuple[Any, ...], out: Any) -> int:
        running = self._running[-1] if self._running else ""
        row = operator_of(func)
        self.seen.append((None if row is None else row.kind, func))
        macs = None if row is None else row.macs(args, out)
        if macs is None:
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
        row = operator_of(func)
        pointwise = whole and row is not None and row.kind == "pointwise"
        running = self._running[-1] if self._running else ""
        self.trace.calls.append(
            OperatorCall(
                f"{running}/{name}",
                pointwise,
                tuple((v, "own") for v in reads),
                tuple(writes),
                macs,
                self.origin,
            )
        )


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write
