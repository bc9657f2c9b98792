"""ONNX files come back as Programs with the same answers; what cannot is named, and nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from mobile_networks import small_efficientnet, small_v2, small_v3
from networks import MEAN, STD, normalised, pictures, pictures_of, random_network, randomised, torch_logits
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from bitskip.backends.onnx.target import model_of
from bitskip.data import load_mini
from bitskip.errors import FileFormatError, LoweringError
from bitskip.lower import lower
from bitskip.lower.from_onnx import import_onnx
from bitskip.program import Conv2d, Op, Program
from bitskip.runtime import Model
from bitskip.spec import NetworkSpec
from bitskip.zoo import model_path, zoo_names


def comes_back(program: Program, path: Path, x: Any, **how: str) -> Program:
    """Check that a file of `program` gives the same ops, 1-bit weights as 1 bit, and the same answers."""
    onnx.save(model_of(program, **how)[0], path)
    back, notes = import_onnx(path)
    assert notes == ()
    assert (back.class_names, back.name) == (program.class_names, program.name)
    kinds = [Counter((op.kind, getattr(op, "weight_dtype", "")) for op in p.ops) for p in (program, back)]
    assert kinds[0] == kinds[1]
    assert [t.scale for t in back.tensors] == pytest.approx([t.scale for t in program.tensors], rel=1e-6)
    expected, found = Model(program).predict(x), Model(back).predict(x)
    distance = np.abs(expected - found).max(axis=1) / np.abs(expected).max()
    assert (
        distance < 1e-5
    ).mean() >= 0.8  # float32 scales hold 24 bits of a multiplier's 31, which decide ties
    assert distance.max() < 0.02
    assert (expected.argmax(1) == found.argmax(1)).all()
    return back


@pytest.mark.parametrize("weights", ["bits", "int8"])
def test_a_packed_model_comes_back(weights: str, tmp_path: Path) -> None:
    program = Program.load(model_path("resnet14-hybrid-all-x0.25-int8"))
    x = load_mini().test_images[:32]
    back = comes_back(program, tmp_path / "m.onnx", x, weights=weights, rounding="exact")
    assert back.activations == "int8"
    assert abs(len(back.to_bytes()) - len(program.to_bytes())) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo_names())
def test_every_packed_model_of_the_zoo_comes_back(name: str, tmp_path: Path) -> None:
    x = load_mini().test_images[:16]
    comes_back(Program.load(model_path(name)), tmp_path / "m.onnx", x, rounding="exact")


def signs(**changes: object) -> NetworkSpec:
    """Return a small network of 1-bit layers with 1-bit inputs."""
    fields: dict[str, object] = {"name": "small", "widths": (8, 12), "blocks": (2, 1), "stem_width": 8}
    fields |= {"precision": ("w1a1", "w1a1"), "shortcuts": (True, True), "input_size": 12, "classes": 7}
    return NetworkSpec(**(fields | changes))  # type: ignore[arg-type]


REACT = {
    "style": "per_conv",
    "activation": "rprelu",
    "before_binary": "threshold",
    "projection": "pool_conv",
}
PLAIN = {"before_binary": "threshold", "shortcuts": (False, False)}
SIGNS = {
    "shortcuts": signs(),
    "thresholds": signs(**PLAIN),
    "react": signs(**REACT),
    "padding of +1": signs(pad_value=1, **PLAIN),
    "padding of -1": signs(pad_value=-1, **REACT),
    "beside real activations": signs(**REACT | {"precision": ("w1a1", "w1")}),
}


@pytest.mark.parametrize("weights", ["bits", "fp32"])
@pytest.mark.parametrize("name", SIGNS)
def test_1_bit_activations_come_back(name: str, weights: str, tmp_path: Path) -> None:
    spec = SIGNS[name]
    how = {"activations": "int8", "dense": "int8", "calibration": pictures(16, spec, seed=5)}
    program = lower(random_network(spec), MEAN, STD, **how)  # type: ignore[arg-type]
    assert any(t.dtype == "bits" for t in program.tensors)
    comes_back(program, tmp_path / "m.onnx", pictures(24, spec), weights=weights)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        ("react", False),
        pytest.param("thresholds", True, marks=pytest.mark.slow),
        pytest.param("react", True, marks=pytest.mark.slow),
    ],
)
def test_1_bit_activations_by_torchs_exporters(name: str, dynamo: bool, tmp_path: Path) -> None:
    spec, path = SIGNS[name], tmp_path / "net.onnx"
    model = random_network(spec)
    options = {} if dynamo else {"opset_version": 17}
    torch.onnx.export(model, (torch.rand(1, 3, 12, 12),), str(path), dynamo=dynamo, **options)
    back, _ = import_onnx(path, mean=MEAN, std=STD)
    kinds = [
        Counter(getattr(op, "weight_dtype", "") for op in p.ops) for p in (lower(model, MEAN, STD), back)
    ]
    assert kinds[0]["w1"] == kinds[1]["w1"] > 0
    x = pictures(16, spec)
    expected = torch_logits(model, x)
    np.testing.assert_allclose(Model(back).predict(x), expected, atol=1e-5 * np.abs(expected).max())


SIGN = [
    helper.make_node("GreaterOrEqual", ["x0", "zero"], ["p"], name="positive"),
    helper.make_node("Where", ["p", "one", "minus"], ["s"], name="sign"),
]
MISUSED: dict[str, tuple[list[Any], str]] = {
    "a sum of signs": (
        [*SIGN, helper.make_node("Add", ["s", "x0"], ["y"], name="op")],
        r"'op' \(Add\) reads signs, expected a convolution with 1-bit weights",
    ),
    "real weights": (
        [*SIGN, helper.make_node("Conv", ["s", "many"], ["y"], name="op")],
        r"'op' \(Conv\) reads signs but is not a convolution of .1 and -1 by weights of one magnitude",
    ),
    "signs of 0 and 1": (
        [SIGN[0], helper.make_node("Where", ["p", "one", "zero"], ["s"]),
         helper.make_node("Conv", ["s", "ones"], ["y"], name="op")],
        "reads signs but is not a convolution of .1 and -1",
    ),
    "padding of 2": (
        [*SIGN, helper.make_node("Pad", ["s", "pads", "two"], ["t"]),
         helper.make_node("Conv", ["t", "ones"], ["y"], name="op")],
        "padded with 2, expected -1, 0 or 1",
    ),
    "real padding": (
        [helper.make_node("Pad", ["x0", "pads", "two"], ["y"], name="op")],
        r"'op' \(Pad\) pads a value by itself, expected signs",
    ),
    "two values": (
        [helper.make_node("GreaterOrEqual", ["x0", "x0"], ["y"], name="op")],
        "compares two values of the network, expected a value and thresholds",
    ),
    "turned": (
        [SIGN[0], helper.make_node("Xor", ["p", "yes"], ["y"], name="op")],
        "turns signs of real values, expected those of sums of signs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSED)
def test_signs_that_a_program_does_not_have(name: str, tmp_path: Path) -> None:
    nodes, message = MISUSED[name]
    constants = {
        "zero": np.float32(0), "one": np.float32(1), "minus": np.float32(-1), "two": np.float32(2),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "yes": np.array(True),
        "ones": np.ones((4, 3, 3, 3), np.float32),
        "many": np.arange(108, dtype=np.float32).reshape(4, 3, 3, 3),
    }  # fmt: skip
    model = graph(nodes)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()
    )
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(LoweringError, match=message):
        import_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(small_v2, marks=pytest.mark.slow),
        small_v3,
        pytest.param(small_efficientnet, marks=pytest.mark.slow),
    ],
)
def test_int8_with_tables_comes_back(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    """ReLU6, hard swish, SiLU and gates: tables of codes behind integer epilogues."""
    torch.manual_seed(0)
    model = randomised(make(), lambda step: normalised(pictures_of((8, 32, 32, 3), step)), scales=False)
    how = {"activations": "int8", "dense": "int8", "calibration": pictures_of((8, 32, 32, 3), 7)}
    program = lower(model, MEAN, STD, input_shape=(3, 32, 32), **how)
    comes_back(program, tmp_path / "m.onnx", pictures_of((8, 32, 32, 3)), rounding="exact")


def randomized(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        ("resnet18", False),
        ("resnet18", True),
        pytest.param("resnet50", False, marks=pytest.mark.slow),
        pytest.param("resnet50", True, marks=pytest.mark.slow),
    ],
)
def test_torchvision_by_both_exporters(name: str, dynamo: bool, tmp_path: Path) -> None:
    model = randomized(name)
    path = tmp_path / "net.onnx"
    options = {} if dynamo else {"opset_version": 17}
    torch.onnx.export(model, (torch.rand(1, 3, 32, 32),), str(path), dynamo=dynamo, **options)
    program, notes = import_onnx(path)
    assert "normalised" in notes[0]
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(x / np.float32(255)).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(Model(program).predict(x), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "exporter"),
    [
        (small_efficientnet, "torch"),
        *(
            pytest.param(make, exporter, marks=pytest.mark.slow)
            for make in (small_v2, small_v3, small_efficientnet)
            for exporter in ("ours", "torch dynamo")
        ),
    ],
)
def test_mobile_networks_by_all_exporters(
    make: Callable[[], nn.Module], exporter: str, tmp_path: Path
) -> None:
    """Grouped convolutions, ReLU6, SiLU and hard swish, gates: the packed network's ops and answers."""
    torch.manual_seed(0)
    model = randomised(make(), lambda step: normalised(pictures_of((8, 32, 32, 3), step)), scales=False)
    program = lower(model, MEAN, STD, input_shape=(3, 32, 32))
    path = tmp_path / "net.onnx"
    if exporter == "ours":
        onnx.save(model_of(program, weights="fp32")[0], path)
    else:
        options = {} if "dynamo" in exporter else {"opset_version": 17}
        torch.onnx.export(
            model, (torch.rand(1, 3, 32, 32),), str(path), dynamo="dynamo" in exporter, **options
        )
    back, _ = import_onnx(path, mean=MEAN, std=STD)
    kinds = [Counter(map(described, p.ops)) for p in (program, back)]
    assert kinds[0] == kinds[1]
    x = pictures_of((4, 32, 32, 3))
    expected = torch_logits(model, x)
    np.testing.assert_allclose(Model(back).predict(x), expected, atol=1e-4 * np.abs(expected).max())


def described(op: Op) -> tuple[object, ...]:
    return (op.kind, op.groups, op.epilogue.pre.kind) if isinstance(op, Conv2d) else (op.kind,)


def op_graph(
    kind: str, shape: tuple[int, ...] = (3, 16, 16), inputs: Mapping[str, Any] | None = None, **how: Any
) -> Any:
    """A graph of one operator: it reads the picture and `inputs`, constants or None for the picture again."""
    constants = {key: np.asarray(value) for key, value in (inputs or {}).items() if value is not None}
    names = ["x0", *(key if key in constants else "x0" for key in inputs or {})]
    if kind == "Resize":
        names.insert(1, "")
    picture = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["N", 3, 8, 8])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *shape])
    initial = [onnx.numpy_helper.from_array(value, key) for key, value in constants.items()]
    nodes = [helper.make_node(kind, names, ["y"], name="op", **how)]
    made = helper.make_graph(nodes, "g", [picture], [result], initial)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
TWICE = {"scales": np.array([1, 1, 2, 2], np.float32)}
FILTERS = {"w": np.ones((3, 1, 3, 3), np.float32)}
HALF_MORE = {"scales": np.array([1, 1, 1.5, 1.5], np.float32)}
OPERATORS: dict[str, Callable[[], Any]] = {
    "sigmoid": lambda: op_graph("Sigmoid", (3, 8, 8)),
    "hard sigmoid": lambda: op_graph("HardSigmoid", (3, 8, 8), alpha=1 / 6, beta=0.5),
    "hard swish": lambda: op_graph("HardSwish", (3, 8, 8)),
    "relu6": lambda: op_graph("Clip", (3, 8, 8), {"low": np.float32(0), "high": np.float32(6)}),
    "twice": lambda: op_graph("Resize", inputs=TWICE, **FLOOR),
    "twice by half pixels": lambda: op_graph("Resize", inputs=TWICE),
    "half more": lambda: op_graph("Resize", (3, 12, 12), HALF_MORE, **FLOOR),
    "pair": lambda: op_graph("Concat", (6, 8, 8), {"again": None}, axis=1),
    "linear": lambda: op_graph("Resize", (3, 12, 12), HALF_MORE, mode="linear"),
    "dilation": lambda: op_graph("Conv", (3, 4, 4), FILTERS, group=3, dilations=[2, 2]),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str, tmp_path: Path) -> None:
    """As onnx's own reference computes them."""
    model = OPERATORS[name]()
    onnx.save(model, tmp_path / "m.onnx")
    program, _ = import_onnx(tmp_path / "m.onnx", mean=(0.5,) * 3, std=(0.1,) * 3)
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    pictures = ((x / np.float32(255) - np.float32(0.5)) / np.float32(0.1)).transpose(0, 3, 1, 2)
    expected = ReferenceEvaluator(model).run(None, {"x0": pictures.astype(np.float32)})[0]
    (found,) = Model(program).outputs(x).values()
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), atol=1e-5)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "another slope": (
        lambda: op_graph("HardSigmoid", (3, 8, 8)),
        r"'op' \(HardSigmoid\) has alpha=0.2 and beta=0.5, expected 1/6 and",
    ),
    "linear": (
        lambda: op_graph(
            "Resize", inputs=TWICE, mode="linear", coordinate_transformation_mode="align_corners"
        ),
        "is linear by align_corners, expected half_pixel without antialias",
    ),
    "cubic": (lambda: op_graph("Resize", inputs=TWICE, mode="cubic"), "mode=cubic, expected the nearest"),
    "half more by half pixels": (
        lambda: op_graph("Resize", (3, 12, 12), HALF_MORE),
        "by half_pixel and round_prefer_floor, expected asymmetric and floor",
    ),
    "rows joined": (
        lambda: op_graph("Concat", (3, 16, 8), {"again": None}, axis=2),
        "joins along dimension 2, expected 1, the channels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operators_that_cannot_be_imported(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    onnx.save(make(), tmp_path / "m.onnx")
    with pytest.raises(LoweringError, match=message):
        import_onnx(tmp_path / "m.onnx")


def test_activations_of_few_bits_as_brevitas_writes_them(tmp_path: Path) -> None:
    """QuantizeLinear, Clip to the codes of 4 bits, DequantizeLinear (QCDQ)."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.integers(-7, 8, (3, 3, 3, 3)).astype(np.int8), "ws": np.full(3, 0.1, np.float32),
        "wz": np.zeros(3, np.int8), "sp": np.float32(10 / 255), "z": np.int8(0),
        "s": np.float32(0.3), "zu": np.uint8(0), "none": np.uint8(0), "most": np.uint8(15),
    }  # fmt: skip
    steps = [
        ("QuantizeLinear", ["x0", "sp", "z"], "q"), ("DequantizeLinear", ["q", "sp", "z"], "d"),
        ("DequantizeLinear", ["w", "ws", "wz"], "wd"),
        ("Conv", ["d", "wd"], "c"), ("Relu", ["c"], "r"), ("QuantizeLinear", ["r", "s", "zu"], "q2"),
        ("Clip", ["q2", "none", "most"], "qc2"), ("DequantizeLinear", ["qc2", "s", "zu"], "y"),
    ]  # fmt: skip
    axes = {"wd": {"axis": 0}}
    nodes = [helper.make_node(kind, given, [made], **axes.get(made, {})) for kind, given, made in steps]
    picture = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["N", 3, 8, 8])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 6, 6])
    initial = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    made = helper.make_graph(nodes, "g", [picture], [result], initial)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    program, _ = import_onnx(tmp_path / "m.onnx", mean=(0.5,) * 3, std=(0.1,) * 3)
    assert [op.kind for op in program.ops].count("lookup") == 1
    x = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    pictures = ((x / np.float32(255) - np.float32(0.5)) / np.float32(0.1)).transpose(0, 3, 1, 2)
    expected = ReferenceEvaluator(model).run(None, {"x0": pictures.astype(np.float32)})[0]
    (found,) = Model(program).outputs(x).values()
    steps_apart = np.abs(found - expected.transpose(0, 2, 3, 1)) / 0.3
    assert steps_apart.max() < 1.01  # a tie
    assert (steps_apart < 0.01).mean() > 0.9  # weights of 4 bits are brought to 8
    assert len(np.unique(found)) > 8


def graph(nodes: list[Any], inputs: int = 1, opset: int = 18) -> Any:
    pictures = [
        helper.make_tensor_value_info(f"x{at}", TensorProto.FLOAT, ["N", 3, 8, 8]) for at in range(inputs)
    ]
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 1, 1])
    made = helper.make_graph(nodes, "g", pictures, [logits], [])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def pooled(**how: Any) -> Any:
    return graph([helper.make_node("GlobalAveragePool", ["x0"], ["y"], name="pool")], **how)


def test_unsupported_nodes_are_all_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("LRN", ["x0"], ["a"], name="first", size=3),
        helper.make_node("Erf", ["x0"], ["b"], name="second"),
        helper.make_node("Add", ["a", "b"], ["c"], name="reads both"),
        helper.make_node("GlobalAveragePool", ["c"], ["y"], name="pool"),
    ]
    onnx.save(graph(nodes), tmp_path / "m.onnx")
    with pytest.raises(LoweringError, match=r"^2 nodes .*'first' \(LRN\).*'second' \(Erf\)"):
        import_onnx(tmp_path / "m.onnx")


def _cut(path: Path) -> None:
    content = pooled().SerializeToString()
    path.write_bytes(content[: len(content) // 2])


def _external(path: Path) -> None:
    model = randomized("resnet18")
    torch.onnx.export(model, (torch.rand(1, 3, 32, 32),), str(path), dynamo=False, opset_version=17)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin")
    (path.parent / "weights.bin").unlink()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_cut, "is not an ONNX file, or is cut short|holds no ONNX graph"),
        (lambda path: path.write_bytes(b"nonsense" * 100), "is not an ONNX file"),
        (lambda path: path.write_bytes(b""), "holds no ONNX graph"),
        (lambda path: None, "cannot read .* No such file"),
        (lambda path: onnx.save(pooled(opset=7), path), "has opset 7, expected 11 to 28"),
        (_external, "'weights.bin', which does not lie beside it"),
    ],
)
def test_files_that_cannot_be_read(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path / "m.onnx")
    with pytest.raises(FileFormatError, match=message):
        import_onnx(tmp_path / "m.onnx")


def test_commands(bitskip: Any, tmp_path: Path) -> None:
    """Export and import by the command line; a bad file leaves nothing behind."""
    name = "resnet14-binary-all-x0.25-int8"
    there, back = tmp_path / "there.onnx", tmp_path / "back.bitskip"
    assert bitskip("export", name, "--to", "onnx", "-o", str(there)).code == 0
    assert bitskip("import", str(there), "-o", str(back)).code == 0
    x = load_mini().test_images[:64]
    answers = [Model(Program.load(path)).predict(x).argmax(1) for path in (back, model_path(name))]
    assert (answers[0] == answers[1]).mean() > 0.9
    there.write_bytes(there.read_bytes()[:1000])
    again = tmp_path / "again.bitskip"
    assert bitskip("import", str(there), "-o", str(again)).code == 2
    assert not again.exists()
    strange = ("--binary-weights", "int4")
    wrong = bitskip("export", name, "--to", "onnx", *strange, "-o", str(tmp_path / "w.onnx"))
    assert wrong.code == 2
    assert not (tmp_path / "w.onnx").exists()


def test_a_size_that_the_file_does_not_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    fixed = helper.make_graph(
        [helper.make_node("Conv", ["picture", "w"], ["y"], name="conv")],
        "net",
        [helper.make_tensor_value_info("picture", 1, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, [1, 2, 8, 8])],
        [helper.make_tensor("w", 1, [2, 3, 1, 1], range(6))],
    )
    onnx.save(helper.make_model(fixed, opset_imports=[helper.make_opsetid("", 17)]), path)
    assert import_onnx(path, input_size=8)[0].input_shape == (8, 8, 3)
    with pytest.raises(
        LoweringError, match="takes pictures of 8x8 pixels, so --input-size 32 does not apply"
    ):
        import_onnx(path, input_size=32)
