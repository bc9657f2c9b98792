"""The one word that says which network: read, told apart, and turned into a spec where it has one.

| word | network |
|---|---|
| `resnet14-hybrid-none` | one of bitskip's named models |
| `NET.json` | a spec's file |
| `RUN`, `RUN/weights.safetensors` | a finished run, pruned or not |
| `zoo:NAME` | the architecture of a packed model of the zoo |
| `baseline:NAME` | a network that the paper compares with |
| `torchvision:NAME`, `timm:NAME` | a network of these libraries |
| `FILE.py:CALLABLE` | what a callable of a Python file returns; the file is run |
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bitskip.errors import RunError, SpecError, nearest
from bitskip.spec import NetworkSpec, named_models, resolve_spec

SOURCES_HELP = (
    "A named model, a spec's JSON file, a run's folder, `zoo:NAME`, `baseline:NAME`, `torchvision:NAME`, "
    "`timm:NAME` or `FILE.py:CALLABLE`."
)
_PYTHON = re.compile(r"(?P<file>.+\.py):(?P<name>[^:]*)")


class Kind(Enum):
    """Where a network comes from."""

    NAMED = "named model"
    SPEC_FILE = "spec file"
    RUN = "run"
    ZOO = "zoo"
    BASELINE = "baseline"
    TORCHVISION = "torchvision"
    TIMM = "timm"
    PYTHON = "Python file"


_PREFIXES = {kind.value: kind for kind in (Kind.ZOO, Kind.BASELINE, Kind.TORCHVISION, Kind.TIMM)}


@dataclass(frozen=True)
class Source:
    """A word of the grammar, taken apart."""

    text: str  # as it was given
    kind: Kind
    name: str  # without its prefix; of a Python file, the callable
    path: Path | None = None  # of the file or the folder, for kinds that have one

    @property
    def has_spec(self) -> bool:
        """Whether it is a network of bitskip's own; a pruned run may turn out not to be."""
        return self.kind in (Kind.NAMED, Kind.SPEC_FILE, Kind.RUN, Kind.ZOO)

    @property
    def takes_weights(self) -> bool:
        """Whether a state dict can be loaded into it."""
        return not self.has_spec


def parse(text: str) -> Source:
    """Take one word of the grammar apart; whether a name is known is left to what loads it.

    Raises:
        SpecError: for a word of no kind, naming the nearest.
        RunError: for a folder or a weights file that does not exist.
    """
    found = _PYTHON.fullmatch(text)
    if found:
        path = Path(found["file"])
        if not path.is_file():
            raise SpecError(f"there is no Python file '{path}'; expected FILE.py:CALLABLE")
        if not found["name"].isidentifier():
            raise SpecError(f"'{text}' does not name what to call in the file; expected FILE.py:CALLABLE")
        return Source(text, Kind.PYTHON, found["name"], path)
    prefix, colon, name = text.partition(":")
    if colon and not Path(text).exists():
        if prefix not in _PREFIXES:
            raise SpecError(
                f"'{prefix}:' is not a source of networks; expected one of "
                f"{', '.join(f'{known}:' for known in _PREFIXES)}{nearest(prefix, _PREFIXES)}"
            )
        if not name:
            raise SpecError(f"'{text}' lacks a name; expected {prefix}:NAME")
        return Source(text, _PREFIXES[prefix], name)
    path = Path(text)
    if path.suffix == ".py":
        raise SpecError(f"'{text}' does not name what to call in the file; expected {path.name}:CALLABLE")
    if path.suffix == ".bitskip":
        raise SpecError(
            f"'{text}' is a packed model, which cannot be trained, counted or packed again; name its run, "
            "or its architecture (`bitskip inspect` shows it)"
        )
    if path.is_dir():
        return Source(text, Kind.RUN, path.name, path)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise RunError(f"there is no weights file '{text}'")
        return Source(text, Kind.RUN, path.parent.name, path)
    if path.suffix == ".json" or path.is_file():
        return Source(text, Kind.SPEC_FILE, path.stem, path)
    if "/" in text:
        raise RunError(f"there is no run or spec file '{text}'")
    return Source(text, Kind.NAMED, text)


def spec_of(source: Source | str, classes: int | None = None, input_size: int | None = None) -> NetworkSpec:
    """Return the spec of a network of bitskip's own.

    Args:
        source: what `parse` takes or returns.
        classes: outputs; None for the network's own.
        input_size: height = width in pixels; None for the network's own.

    Raises:
        SpecError: for an unknown name, a spec that does not hold together, or a network without a spec.
        RunError: if the folder holds no finished run.
    """
    source = parse(source) if isinstance(source, str) else source
    spec = _own_spec(source)
    if classes is not None:
        spec = dataclasses.replace(spec, classes=classes)
    return spec if input_size is None else dataclasses.replace(spec, input_size=input_size)


def _own_spec(source: Source) -> NetworkSpec:
    match source.kind:
        case Kind.NAMED | Kind.SPEC_FILE:
            try:
                return resolve_spec(source.text)
            except SpecError:
                if source.kind is Kind.NAMED and source.name not in named_models():
                    _point_to_other_kinds(source.name)
                raise
        case Kind.ZOO:
            from bitskip.program import Program
            from bitskip.zoo import model_path

            values = Program.load(model_path(source.name)).spec
            if values is None:
                raise SpecError(f"{source.text} holds no network spec, only its packed layers")
            return NetworkSpec.from_dict(dict(values), source.text)
        case Kind.RUN:
            return _spec_of_run(source)
    raise SpecError(
        f"{source.text} is not a network of bitskip's own, which this needs; give a named model, a spec's "
        "JSON file, a run or zoo:NAME"
    )


def _spec_of_run(source: Source) -> NetworkSpec:
    """Read the spec that a run's weights carry, without torch; an unfinished run has it as a file."""
    from bitskip.training.folder import weights_metadata

    if source.path is None:
        raise AssertionError(source)
    path = source.path / "weights.safetensors" if source.path.is_dir() else source.path
    if not path.is_file():
        if (path.parent / "spec.json").is_file():
            return resolve_spec(str(path.parent / "spec.json"))
        raise RunError(f"{source.text} holds neither weights.safetensors nor spec.json; is it a run?")
    metadata = weights_metadata(path)
    if "spec" not in metadata:
        why = "has no spec"
        if "pruned_from" in metadata:
            why = "holds a pruned network that no spec describes"
        elif "baseline" in metadata:
            why = "holds a baseline, which no spec describes"
        raise SpecError(f"{path} {why}; this needs a network of bitskip's own")
    return NetworkSpec.from_json(metadata["spec"], str(path))


def _point_to_other_kinds(name: str) -> None:
    """Say so where a bare name is one of the zoo's."""
    from bitskip.zoo import zoo_names

    if name in zoo_names():
        raise SpecError(f"'{name}' is a packed model of the zoo; its architecture is zoo:{name}")
