"""What any network costs, whatever names it."""

from __future__ import annotations

from collections.abc import Mapping

from bitskip.cost import Cost, cost_of
from bitskip.errors import SpecError
from bitskip.sources.grammar import Kind, parse, spec_of


def cost_of_source(
    source: str,
    *,
    input_size: int | None = None,
    classes: int | None = None,
    width: float | None = None,
    inputs: Mapping[str, tuple[int, int, int]] | None = None,
) -> Cost:
    """Return the cost of the network that `source` names, for one picture; nothing is trained or loaded.

    Networks of bitskip's own are counted from their spec, without torch; others by tracing them. Detectors
    are counted by `bitskip.detection.cost`, part by part.

    Args:
        source: a word of the grammar of `bitskip.sources.grammar`.
        input_size: height = width in pixels; None for the network's own.
        classes: outputs; None for the network's own.
        width: factor on every width, for networks with a spec.
        inputs: of a user's own network with several inputs each one's (C, H, W), by name.

    Raises:
        SpecError: for an unknown name, or a number that does not apply to it.
        RunError: if a library is not installed, or the folder holds no finished run.
    """
    word = parse(source)
    if inputs and word.kind is not Kind.PYTHON:
        raise SpecError(f"{source} knows what it takes; leave --input out")
    if word.has_spec:
        try:
            spec = spec_of(word, None if word.kind is Kind.RUN else classes, input_size)
        except SpecError:
            if word.kind is not Kind.RUN or width is not None:
                raise
        else:
            if word.kind is Kind.RUN and classes is not None:
                raise SpecError(f"--classes does not apply to '{source}': a trained network has its own")
            return cost_of(spec if width is None else spec.scaled(width))
    elif width is not None:
        raise SpecError(f"--width does not apply to '{source}'; it scales bitskip's own models")
    from bitskip.nn.count import count_module
    from bitskip.sources.load import load_model

    if inputs:
        input_size = next(iter(inputs.values()))[1]
    loaded = load_model(source, input_size=input_size, classes=classes, on_meta=True)
    return count_module(loaded.model, inputs or loaded.input_shape, name=loaded.name)
