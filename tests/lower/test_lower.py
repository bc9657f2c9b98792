"""torch evaluation and the packed program agree, for every kind of network and every mode."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from networks import MEAN, STD, normalised, pictures, random_network, torch_logits
from torch import nn

from bitskip.backends.reference import run_reference
from bitskip.cost import cost_of
from bitskip.errors import LoweringError
from bitskip.lower import lower
from bitskip.lower.build import build_graph
from bitskip.nn import binary_layers, build
from bitskip.program import (
    Add,
    Conv2d,
    FloatEpilogue,
    IntegerEpilogue,
    Program,
    ThresholdEpilogue,
    op_inputs,
    op_outputs,
)
from bitskip.program.file import op_bytes
from bitskip.spec import PAPER_VARIANTS, NetworkSpec, named_spec


def small(**changes: object) -> NetworkSpec:
    """Return a network of two stages that runs in milliseconds, with the fields that `changes` names."""
    fields: dict[str, object] = {
        "name": "small",
        "widths": (8, 12),
        "blocks": (2, 1),
        "precision": ("w1", "w1"),
        "shortcuts": (True, True),
        "stem_width": 8,
        "input_size": 12,
        "classes": 7,
    }
    return NetworkSpec(**(fields | changes))  # type: ignore[arg-type]


W1A1 = {"precision": ("w1a1", "w1a1")}
REACT = {
    "style": "per_conv",
    "activation": "rprelu",
    "before_binary": "threshold",
    "projection": "pool_conv",
}
NETWORKS = {
    "full": small(precision=("fp32", "fp32")),
    "binary": small(),
    "hybrid": small(precision=("w1", "fp32")),
    "no_shortcuts": small(shortcuts=(False, False)),
    "standard": small(style="standard"),
    "standard_pool_conv": small(style="standard", projection="pool_conv"),
    "per_conv_relu": small(style="per_conv"),
    "bottleneck": small(block="bottleneck", style="standard"),
    "bottleneck_w1a1": small(block="bottleneck", style="standard", before_binary="threshold", **W1A1),
    "imagenet_stem": small(stem="imagenet", input_size=40),
    "imagenet_w1a1": small(stem="imagenet", input_size=40, **W1A1, **REACT),
    "odd_size": small(input_size=13, projection="pool_conv", style="standard"),
    "react": small(**W1A1, **REACT),
    "react_no_shortcuts": small(**W1A1, **(REACT | {"shortcuts": (False, False)})),
    "react_odd": small(input_size=13, **W1A1, **REACT),
    "react_w1": small(precision=("w1", "w1"), **REACT),
    "react_mixed": small(precision=("w1a1", "w1"), **REACT),
    "react_fp32": small(precision=("fp32", "w1a1"), **REACT),
    "signs_paper": small(**W1A1),
    "signs_no_shortcuts": small(shortcuts=(False, False), **W1A1),
    "signs_threshold": small(before_binary="threshold", **W1A1),
    "signs_threshold_plain": small(before_binary="threshold", shortcuts=(False, False), **W1A1),
    "signs_pad_plus": small(pad_value=1, shortcuts=(False, False), **W1A1),
    "signs_pad_minus": small(pad_value=-1, **W1A1, **REACT),
    "scale_channel": small(weight_scale="channel", shortcuts=(False, False), **W1A1),
    "scale_learned": small(weight_scale="learned"),
    "one_channel": small(widths=(1, 3), stem_width=1, **W1A1),
    "wide": small(widths=(65, 70), stem_width=66, blocks=(1, 1), **W1A1, **REACT),
}
INT8_LAYERS = small(precision=("int8", "w1"), stem_precision="int8", head_precision="int8")


@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_mode_agrees_with_torch(name: str) -> None:
    spec = NETWORKS[name]
    model = random_network(spec)
    images = pictures(24, spec)
    program = Program.from_bytes(lower(model, MEAN, STD).to_bytes())
    expected, got = torch_logits(model, images), run_reference(program, images)
    assert got.dtype == np.float32
    assert got.shape == (24, 7)
    # A sign may turn over where a value lies within rounding of its threshold; no picture here has one.
    np.testing.assert_allclose(got, expected, atol=1e-4)
    np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))
    assert expected.std() > 0.01, "the logits must differ for this to mean anything"


@pytest.mark.parametrize("name", ["full", "binary", "hybrid", "standard", "imagenet_stem", "react_w1"])
@pytest.mark.parametrize("dense", ["fp32", "int8"])
def test_int8_mode_is_close(name: str, dense: str) -> None:
    spec = NETWORKS[name]
    model = random_network(spec)
    images = pictures(32, spec)
    program = lower(model, MEAN, STD, activations="int8", dense=dense, calibration=pictures(48, spec, seed=7))
    program = Program.from_bytes(program.to_bytes())
    expected, got = torch_logits(model, images), run_reference(program, images)
    assert np.abs(got - expected).mean() < 0.15 * expected.std()
    assert (got.argmax(1) == expected.argmax(1)).mean() >= 0.8
    precisions = {op.weight_dtype for op in program.ops if isinstance(op, Conv2d)}
    assert ("f32" in precisions) == (dense == "fp32"), "nothing falls back to fp32, nothing is turned unasked"


def test_int8_mode_reads_no_floats_where_a_layer_is_1_bit() -> None:
    spec = NETWORKS["binary"]
    program = lower(random_network(spec), MEAN, STD, activations="int8", calibration=pictures(8, spec))
    reads = {
        op.name: program.tensors[op.input].dtype
        for op in program.ops
        if isinstance(op, Conv2d) and op.weight_dtype == "w1"
    }
    assert len(reads) == 7  # two convolutions in each of three blocks, and one projection
    assert set(reads.values()) == {"i8"}


def test_int8_layers_run_in_int8_or_not_at_all() -> None:
    model = random_network(INT8_LAYERS)
    with pytest.raises(LoweringError, match=r"'(stem\.conv|head)' is int8 .* --activations int8"):
        lower(model, MEAN, STD)
    program = lower(model, MEAN, STD, activations="int8", calibration=pictures(32, INT8_LAYERS, seed=7))
    assert {op.weight_dtype for op in program.ops if isinstance(op, Conv2d)} == {"i8", "w1"}
    images = pictures(32, INT8_LAYERS)
    expected, got = torch_logits(model, images), run_reference(program, images)
    assert np.abs(got - expected).mean() < 0.15 * expected.std()


def test_standardised_latents_and_frozen_signs() -> None:
    spec = NETWORKS["binary"]
    model = random_network(spec)
    for layer in binary_layers(model).values():
        layer.weight.data += 0.2  # so that the standardised signs differ from those of the weights
    plain = lower(model, MEAN, STD)
    for layer in binary_layers(model).values():
        layer.standardise = True
    images = pictures(8, spec)
    standardised = lower(model, MEAN, STD)
    np.testing.assert_allclose(run_reference(standardised, images), torch_logits(model, images), atol=1e-4)
    assert not np.allclose(run_reference(plain, images), run_reference(standardised, images))


def test_sign_after_batch_norm_becomes_integer_thresholds() -> None:
    spec = NETWORKS["signs_no_shortcuts"]
    program = lower(random_network(spec), MEAN, STD)
    epilogues = {op.name: op.epilogue for op in program.ops if isinstance(op, Conv2d)}
    assert isinstance(epilogues["stage1.block1.conv1"], ThresholdEpilogue)
    assert isinstance(epilogues["stage1.block1.conv2"], ThresholdEpilogue)
    assert isinstance(epilogues["stage2.block1.conv2"], FloatEpilogue)  # the pool reads real values


def test_thresholds_give_what_training_gives_for_every_integer() -> None:
    """Not only those that occur: all accumulators -n..n, beside the torch modules themselves."""
    for name in ("signs_no_shortcuts", "signs_threshold_plain", "scale_channel", "react_no_shortcuts"):
        spec = NETWORKS[name]
        model = random_network(spec)
        program = lower(model, MEAN, STD)
        checked = 0
        for op in program.ops:
            if not (isinstance(op, Conv2d) and isinstance(op.epilogue, ThresholdEpilogue)):
                continue
            block, conv = op.name.rsplit(".", 1)
            index = int(conv[-1])
            bound = op.kernel[0] * op.kernel[1] * program.tensors[op.input].shape[2]
            acc = np.arange(-bound, bound + 1)
            module = model.get_submodule(block)
            layer = module.get_submodule(conv)
            with torch.no_grad():
                x = torch.arange(-bound, bound + 1).float().view(-1, 1, 1, 1)
                x = x.expand(-1, op.weight.shape[0], 1, 1).contiguous()
                scale = layer.output_scale()
                x = x if scale is None else x * scale.view(1, -1, 1, 1)
                x = module.get_submodule(f"activation{index}")(module.get_submodule(f"bn{index}")(x))
                after = reader_of(op.name, spec)
                x = model.get_submodule(after)(x) if after else x
                positive = (x >= 0).squeeze(-1).squeeze(-1).numpy()
            got = (acc[:, None] >= op.epilogue.threshold) ^ op.epilogue.flip
            np.testing.assert_array_equal(got, positive, err_msg=f"{name} {op.name}")
            checked += 1
        assert checked >= 3, name


def reader_of(name: str, spec: NetworkSpec) -> str | None:
    """Return the module before the next 1-bit input, in a network without shortcuts."""
    order = [layer.name for block in spec.iter_blocks() for layer in block.convs]
    at = order.index(name) + 1
    return order[at].replace("conv", "threshold") if at < len(order) else None


def test_an_activation_that_is_not_monotonic_is_not_turned_into_a_threshold() -> None:
    spec = NETWORKS["react_no_shortcuts"]
    model = random_network(spec)
    activation = model.get_submodule("stage1.block1.activation1")
    activation.slope.data.fill_(-0.5)
    activation.shift_out.data.fill_(-0.05)
    program = lower(model, MEAN, STD)
    epilogues = {op.name: op.epilogue for op in program.ops if isinstance(op, Conv2d)}
    assert isinstance(epilogues["stage1.block1.conv1"], FloatEpilogue)
    images = pictures(8, spec)
    np.testing.assert_allclose(run_reference(program, images), torch_logits(model, images), atol=1e-4)


@pytest.mark.parametrize("name", [*PAPER_VARIANTS, "resnet14-w1a1"])
def test_the_file_is_as_small_as_counted(name: str) -> None:
    """At most 4 bytes an effective parameter, 2% and 4 KiB, in every mode."""
    spec = named_spec(name)
    torch.manual_seed(0)
    model = build(spec).eval()
    bound = 4 * cost_of(spec).effective_parameters * 1.02 + 4096
    fp32 = lower(model, MEAN, STD, class_names=tuple(f"class {n}" for n in range(10)))
    assert len(fp32.to_bytes()) <= bound
    if name.endswith("-all") or name.endswith("w1a1"):
        int8 = lower(model, MEAN, STD, activations="int8", calibration=pictures(2, spec))
        assert len(int8.to_bytes()) <= bound


def test_what_is_counted_as_1_bit_is_stored_as_1_bit() -> None:
    spec = named_spec("resnet14-binary-none")
    program = lower(build(spec).eval(), MEAN, STD)
    binary = sum(layer.binary_parameters for layer in spec.iter_layers())
    real = sum(layer.parameters - layer.binary_parameters for layer in spec.iter_layers())
    assert program.weight_bytes <= binary / 8 + 4 * real + 8 * len(list(program.constants()))


def test_integer_epilogues_take_8_bytes_a_channel() -> None:
    """As many as the batch norm that they replace is counted."""
    spec = NETWORKS["binary"]
    program = lower(random_network(spec), MEAN, STD, activations="int8", calibration=pictures(8, spec))
    for at, op in enumerate(program.ops):
        if isinstance(op, Conv2d) and isinstance(op.epilogue, IntegerEpilogue):
            out, kh, kw, _ = op.weight.shape
            taps = kh * kw * program.tensors[op.input].shape[2]
            stored = (out * taps // 8, 4 * out, 8 * out)  # signs, multipliers, biases, 64-byte aligned
            assert op_bytes(program)[at] <= sum(-(-size // 64) * 64 for size in stored)


@pytest.mark.parametrize("name", ["binary", "react", "hybrid", "imagenet_w1a1"])
def test_buffers_do_not_overlap_and_adds_work_in_place(name: str) -> None:
    """Run the program in one arena, every tensor at its offset: what a device does."""
    spec = NETWORKS[name]
    program = lower(random_network(spec), MEAN, STD)
    assert any(isinstance(op, Conv2d | Add) and op.in_place for op in program.ops)
    total = sum(t.size for t in program.tensors[1:])
    largest = 0
    for op in program.ops:
        of_op = [program.tensors[n] for n in (*op_inputs(op), *op_outputs(op)) if n]
        largest = max(largest, sum({t.offset: t.size for t in of_op}.values()))
    assert largest <= program.arena_bytes < total
    images = pictures(1, spec)
    owner: dict[int, int] = {}  # byte of the arena to the tensor that wrote it last
    for op in program.ops:
        for number in op_inputs(op):
            if number:
                buffer = program.tensors[number].buffer
                assert {owner[at] for at in range(buffer.offset, buffer.end)} == {number}
        for number in op_outputs(op):
            buffer = program.tensors[number].buffer
            owner.update(dict.fromkeys(range(buffer.offset, buffer.end), number))
    assert np.isfinite(run_reference(program, images)).all()


def test_lowering_leaves_the_model_as_it_was() -> None:
    spec = NETWORKS["react"]
    model = random_network(spec)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lower(model, MEAN, STD)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_lowering_says_what_is_wrong() -> None:
    spec = NETWORKS["binary"]
    model = random_network(spec)
    with pytest.raises(LoweringError, match="got a Linear without the size of its pictures"):
        lower(nn.Linear(2, 2))
    with pytest.raises(LoweringError, match="dense int8 needs int8 activations"):
        lower(model, MEAN, STD, dense="int8")
    with pytest.raises(LoweringError, match="expected fp32 or int8"):
        lower(model, MEAN, STD, activations="int4")
    with pytest.raises(LoweringError, match="need calibration pictures"):
        lower(model, MEAN, STD, activations="int8")
    with pytest.raises(LoweringError, match=r"expected uint8 \(N, 12, 12, 3\)"):
        lower(model, MEAN, STD, activations="int8", calibration=np.zeros((2, 8, 8, 3), np.uint8))
    model.head.weight.data[0, 0] = torch.nan
    with pytest.raises(LoweringError, match=r"'head\.weight' holds values that are not finite"):
        lower(model, MEAN, STD)


def test_the_program_carries_its_spec_and_names() -> None:
    spec = NETWORKS["hybrid"]
    program = lower(random_network(spec), MEAN, STD, class_names=tuple("abcdefg"))
    again = Program.from_bytes(program.to_bytes())
    assert NetworkSpec.from_dict(dict(again.spec or {})) == spec
    assert again.class_names == tuple("abcdefg")
    assert (again.mean, again.std) == (MEAN, STD)
    assert json.dumps(again.spec) == json.dumps(spec.to_dict())


def test_graph_follows_the_spec() -> None:
    spec = dataclasses.replace(NETWORKS["standard"], shortcuts=(True, False))
    graph = build_graph(random_network(spec))
    names = [layer.name for layer in spec.iter_layers() if layer.kind in ("conv", "linear")]
    assert sorted(names) == sorted(node.name for node in graph.nodes if node.name != "pool")
    adds = [node.name for node in graph.nodes if getattr(node, "residual", None) is not None]
    assert adds == ["stage1.block1.conv2", "stage1.block2.conv2"]


def test_normalisation_is_part_of_the_program() -> None:
    spec = NETWORKS["full"]
    program = lower(random_network(spec), MEAN, STD)
    images = pictures(4, spec)
    seen: dict[int, np.ndarray] = {}
    run_reference(program, images, observe=lambda number, values: seen.setdefault(number, values))
    expected = normalised(images).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(seen[1], expected, atol=1e-5)
