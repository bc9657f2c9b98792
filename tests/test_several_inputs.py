"""Programs with several named inputs: file, engines, lowering, ONNX, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor as TorchTensor
from torch import nn

from bitskip import _native, load
from bitskip.backends import export_target
from bitskip.backends.native import NativeProgram, available_isas
from bitskip.backends.reference import Reference, run_reference
from bitskip.errors import DataError, FileFormatError, LoweringError, RunError, SpecError
from bitskip.lower import lower
from bitskip.nn.count import count_module
from bitskip.program import Program, Tensor
from bitskip.program.file import signed
from bitskip.runtime.model import Model
from programs import two_inputs

PROGRAM = two_inputs()
SHAPES = {"left": (3, 8, 6), "right": (1, 8, 6)}


def pictures(program: Program, count: int = 5) -> tuple[Any, ...]:
    rng = np.random.default_rng(3)
    return tuple(rng.integers(0, 256, (count, *source.shape), dtype=np.uint8) for source in program.inputs)


class TwoBranches(nn.Module):
    """Two stems, joined by a sum or side by side."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.join = join
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8 if join == "add" else 16, 4)

    def forward(self, left: TorchTensor, right: TorchTensor) -> TorchTensor:
        x, y = self.a(left), self.b(right)
        z = x + y if self.join == "add" else torch.cat((x, y), 1)
        return self.fc(z.mean((2, 3)))


def network(join: str) -> nn.Module:
    torch.manual_seed(0)
    model = TwoBranches(join)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, *SHAPES["left"]), torch.randn(8, *SHAPES["right"]))
    return model.eval()


def calibration() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {n: rng.integers(0, 256, (16, h, w, c), dtype=np.uint8) for n, (c, h, w) in SHAPES.items()}


@pytest.mark.parametrize("isa", available_isas())
def test_every_instruction_set_gives_what_the_reference_gives(isa: str) -> None:
    given = pictures(PROGRAM)
    expected = run_reference(PROGRAM, given)
    for threads in (1, 2):
        native = NativeProgram(PROGRAM, threads=threads, isa=isa, guarded=True)
        np.testing.assert_allclose(native.run(given), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(run_reference(PROGRAM, (given[0], given[1] // 2)) - expected).max() > 1e-3  # both are read


@pytest.mark.parametrize("join", ["add", "concat"])
def test_a_network_with_two_inputs(join: str, tmp_path: Path) -> None:
    model = network(join)
    mean, std = (0.5, 0.4, 0.3, 0.2), (0.25, 0.2, 0.3, 0.1)
    program = lower(model, mean, std, input_shape=SHAPES)
    assert [(s.name, s.tensor, s.shape) for s in program.inputs] == [
        ("left", 0, (8, 6, 3)),
        ("right", 1, (8, 6, 1)),
    ]
    given = calibration()
    real = [
        torch.from_numpy(
            ((given[n] / 255 - np.array(mean[at])) / np.array(std[at]))
            .transpose(0, 3, 1, 2)
            .astype(np.float32)
        )
        for n, at in (("left", slice(0, 3)), ("right", slice(3, 4)))
    ]
    with torch.no_grad():
        expected = model(*real).numpy()
    np.testing.assert_allclose(Model(program).predict(given), expected, atol=1e-4)
    program.save(tmp_path / "two.bitskip")
    loaded = load(tmp_path / "two.bitskip")
    assert loaded.input_shapes == {"left": (8, 6, 3), "right": (8, 6, 1)}
    np.testing.assert_allclose(loaded.run(given)["logits"][:, 0, 0], expected, atol=1e-4)
    # Normalised floats are turned back into their pixels, input by input.
    floats = {n: x.numpy().transpose(0, 2, 3, 1) for n, x in zip(SHAPES, real, strict=True)}
    np.testing.assert_array_equal(loaded.run(floats)["logits"], loaded.run(given)["logits"])
    int8 = lower(model, mean, std, input_shape=SHAPES, activations="int8", dense="int8", calibration=given)
    assert int8.calibration_images == 16
    assert {t.dtype for t in int8.tensors[2:-1]} <= {"i8", "i32", "f32"}
    ordered = tuple(given.values())
    found = run_reference(int8, ordered)
    np.testing.assert_array_equal(NativeProgram(int8).run(ordered), found)
    assert np.abs(found - expected).max() < 0.15 * np.abs(expected).max() + 0.02


def test_the_file_and_both_readers() -> None:
    content = PROGRAM.to_bytes()
    assert struct.unpack_from("<I", content, 52) == (1,)
    assert _native.check(content) == ""
    again = Program.from_bytes(content)
    assert again.to_bytes() == content
    assert again.inputs == PROGRAM.inputs
    for more in (0, 2, 15, 16, 1 << 31):
        wrong = signed(content[:52] + struct.pack("<I", more) + content[56:])
        with pytest.raises(FileFormatError, match=r"inputs|u8"):
            Program.from_bytes(wrong)
        assert _native.check(wrong)


def test_files_with_one_input_are_as_they_were() -> None:
    from bitskip.zoo import model_path

    content = Path(model_path("resnet14-binary-all-x0.25-int8")).read_bytes()
    assert content[52:64] == bytes(12)
    program = Program.from_bytes(content)
    assert hashlib.sha256(program.to_bytes()).digest() == hashlib.sha256(content).digest()
    assert [source.name for source in program.inputs] == ["picture"]


@pytest.mark.parametrize(
    ("names", "said"), [(("same", "same"), "'same', 'same'"), (("", "right"), "'', 'right'")]
)
def test_inputs_need_names_of_their_own(names: tuple[str, str], said: str) -> None:
    renamed = tuple(dataclasses.replace(t, name=n) for t, n in zip(PROGRAM.tensors, names, strict=False))
    with pytest.raises(FileFormatError, match=f"its inputs are named {said}, expected a name of its own"):
        dataclasses.replace(PROGRAM, tensors=(*renamed, *PROGRAM.tensors[2:]))
    short = dataclasses.replace(PROGRAM.tensors[1], name="rite")
    content = dataclasses.replace(
        PROGRAM, tensors=(PROGRAM.tensors[0], short, *PROGRAM.tensors[2:])
    ).to_bytes()
    assert _native.check(content) == ""
    other = f"\n{names[0]}\nsame\n" if names[0] else "\n\nleftrite\n"
    wrong = signed(content.replace(b"\nleft\nrite\n", other.encode(), 1))
    assert "inputs" in _native.check(wrong)
    with pytest.raises(FileFormatError, match="its inputs are named"):
        Program.from_bytes(wrong)


def test_what_is_not_among_the_first_tensors_is_no_input() -> None:
    tensors = (*PROGRAM.tensors[:3], Tensor("u8", (3, 2, 1), -1, name="late"), *PROGRAM.tensors[4:])
    with pytest.raises(FileFormatError, match="tensor 3: dtype is u8; the first tensors, and no others"):
        dataclasses.replace(PROGRAM, tensors=tensors)


BAD_RUNS = {
    "input 'right' is missing; by hand takes left, right": {"left": 5},
    "got an input 'rigth', but by hand takes left, right; did you mean 'right'": {"left": 5, "rigth": 5},
    "got 5 of left, 4 of right, expected as many": {"left": 5, "right": 4},
}


@pytest.mark.parametrize("said", BAD_RUNS)
def test_a_wrong_set_of_inputs(said: str) -> None:
    shapes = {"left": (6, 5, 3), "right": (3, 2, 1), "rigth": (3, 2, 1)}
    given = {n: np.zeros((count, *shapes[n]), np.uint8) for n, count in BAD_RUNS[said].items()}
    with pytest.raises(DataError, match=said):
        Model(PROGRAM).run(given)


def test_a_wrong_shape_names_its_input() -> None:
    model = Model(PROGRAM)
    left, right = pictures(PROGRAM)
    with pytest.raises(DataError, match=r"input 'right': got images of shape \(5, 6, 5, 3\)"):
        model.run({"left": left, "right": left})
    with pytest.raises(DataError, match="by hand takes left, right; give them by name"):
        model.predict(left)
    for given in (left, (left,), (left, left), (left, right[:4]), (left, right.astype(np.float32))):
        with pytest.raises(
            RunError, match=r"expected uint8 images of shape \(N, 6, 5, 3\), \(N, 3, 2, 1\), got"
        ):
            NativeProgram(PROGRAM).run(given)


def test_what_a_network_takes_is_named() -> None:
    model = network("add")
    with pytest.raises(LoweringError, match="takes an input 'right' that input_shape does not name"):
        lower(model, input_shape=(3, 8, 6))
    with pytest.raises(LoweringError, match="names 'rihgt', and the network's forward takes left, right"):
        lower(model, input_shape={"left": (3, 8, 6), "rihgt": (1, 8, 6)})
    with pytest.raises(LoweringError, match=r"input_shape is \(1, 0, 6\)"):
        lower(model, input_shape={"left": (3, 8, 6), "right": (1, 0, 6)})
    with pytest.raises(LoweringError, match="got 3 means and 4 stds for pictures of 4 channels"):
        lower(model, (0.5,) * 3, (0.5,) * 4, input_shape=SHAPES)
    int8 = {"input_shape": SHAPES, "activations": "int8", "dense": "int8"}
    some = calibration()
    with pytest.raises(LoweringError, match="calibration has one array, expected pictures of left, right"):
        lower(model, **int8, calibration=some["left"])
    with pytest.raises(LoweringError, match="calibration has 16 of left, 3 of right"):
        lower(model, **int8, calibration=some | {"right": some["right"][:3]})


@pytest.mark.parametrize("to", ["onnx", "qonnx"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnx_and_back(to: str, precision: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    from bitskip.lower.from_onnx import import_onnx

    given = calibration()
    program = lower(
        network("concat"),
        (0.5,) * 4,
        (0.25,) * 4,
        input_shape=SHAPES,
        activations=precision,
        dense=precision,
        calibration=given,
    )
    out = tmp_path / "two.onnx"
    export_target(to).export(program, out, {})
    expected = Reference(program).run(tuple(given.values()))
    if to == "onnx":
        session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
        assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [
            ("left", [3, 8, 6]),
            ("right", [1, 8, 6]),
        ]
        feeds = {
            n: ((x / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype(np.float32) for n, x in given.items()
        }
        np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=0.05 * np.abs(expected).max())
        again, notes = import_onnx(out)
        assert not notes or precision == "int8"
        assert again.inputs == program.inputs
        assert (again.mean, again.std) == (program.mean, program.std)
        np.testing.assert_allclose(Model(again).predict(given), expected, atol=0.05 * np.abs(expected).max())
    else:
        import onnx

        assert [value.name for value in onnx.load(out).graph.input] == ["left", "right"]


def test_commands_on_several_inputs(tmp_path: Path, bitskip: Callable[..., Any]) -> None:
    path = str(tmp_path / "two.bitskip")
    PROGRAM.save(path)
    assert "input left 6x5x3 and right 3x2x1, 5 classes" in bitskip("inspect", path).out
    assert '"right": [' in bitskip("inspect", path, "--json").out
    assert bitskip("export", path, "--to", "c99", "--name", "two", "-o", str(tmp_path / "c")).code == 0
    assert "where right begins" in (tmp_path / "c" / "src" / "two.h").read_text()
    from PIL import Image

    Image.new("RGB", (5, 6)).save(tmp_path / "a.png")
    ran = bitskip("run", path, str(tmp_path / "a.png"))
    assert (ran.code, "give one picture each as left=IMAGE right=IMAGE" in ran.err) == (2, True)


STEREO = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, left, right):
        return self.fc((self.a(left).relu() + self.b(right).relu()).mean((2, 3)))
"""


@pytest.fixture
def stereo(tmp_path: Path) -> tuple[str, ...]:
    """Return the words of a `pack` command but for what sets int8 ranges."""
    (tmp_path / "stereo.py").write_text(STEREO)
    source, out = f"{tmp_path / 'stereo.py'}:Net", str(tmp_path / "two.bitskip")
    return "pack", source, "--input", "left=3,8,6", "--input", "right=1,8,6", "-o", out


def test_pack_and_run_take_several_inputs(
    stereo: tuple[str, ...], tmp_path: Path, bitskip: Callable[..., Any]
) -> None:
    ran = bitskip(*stereo)
    assert (ran.code, "activations fp32" in ran.out, "pixels are taken as x / 255" in ran.err) == (
        0,
        True,
        True,
    )
    given = calibration()
    np.savez(tmp_path / "pictures.npz", **given)
    normalisation = ("--mean", "0.5,0.4,0.3,0.2", "--std", "0.25,0.2,0.3,0.1")
    ran = bitskip(*stereo, *normalisation, "--data", str(tmp_path / "pictures.npz"))
    assert (ran.code, "activations int8, dense int8" in ran.out) == (0, True)
    model = load(tmp_path / "two.bitskip")
    assert model.input_shapes == {"left": (8, 6, 3), "right": (8, 6, 1)}
    assert (model.mean, model.program.calibration_images) == ((0.5, 0.4, 0.3, 0.2), 16)
    from PIL import Image

    first = {name: pictures[0] for name, pictures in given.items()}
    Image.fromarray(first["left"]).save(tmp_path / "a.png")
    Image.fromarray(first["right"][:, :, 0]).save(tmp_path / "b.png")
    words = (f"right={tmp_path / 'b.png'}", f"left={tmp_path / 'a.png'}")
    ran = bitskip("run", str(tmp_path / "two.bitskip"), *words, "--json")
    (found,) = json.loads(ran.out)["results"]
    assert found["top"][0]["index"] == model.predict(first)[0].argmax()
    for wrong, said in (
        ((words[0],), "input 'left' is missing"),
        ((words[0], words[0]), "expected one picture of each input"),
        ((words[0], f"left={tmp_path / 'none.png'}"), "input 'left': "),
    ):
        ran = bitskip("run", str(tmp_path / "two.bitskip"), *wrong)
        assert (ran.code, said in ran.err) == (2, True), ran


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--input", "left=3,2,2"), "--input names 'left' twice, expected each input once"),
        (("--input", "other=1,2"), "--input is 'other=1,2', expected NAME=CHANNELS,HEIGHT,WIDTH"),
        (("--input-size", "8"), "--input says the size of each input; leave --input-size out"),
        (("--input", "other=1,2,2"), "names 'other', and the network's forward takes left, right"),
        (("--data", "none.npz"), "--data is 'none.npz', expected an .npz file with uint8 pictures"),
    ],
)
def test_inputs_that_cannot_be(
    words: tuple[str, ...], said: str, stereo: tuple[str, ...], bitskip: Callable[..., Any]
) -> None:
    ran = bitskip(*stereo, *words)
    assert (ran.code, said in ran.err, Path(stereo[-1]).exists()) == (2, True, False), ran


# -- counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("left", "right"), ("right", "left")])
def test_counts_of_several_inputs(order: tuple[str, str]) -> None:
    model = network("cat")
    cost = count_module(model, {name: SHAPES[name] for name in order})
    stems = 8 * (3 + 1) * 3 * 3
    assert cost.macs == stems * 8 * 6 + 16 * 4
    assert cost.parameters == stems + 2 * 2 * 8 + 16 * 4 + 4
    assert cost.peak_activation_bytes["naive"] == 2 * 16 * 8 * 6 * 4  # both stems' maps and what joins them
    assert cost.to_dict()["input_shape"] == {name: list(SHAPES[name]) for name in order}
    with pytest.raises(SpecError, match=r"does not run on an input of left 3x8x6: .* 'right'"):
        count_module(model, {"left": SHAPES["left"]})


def test_counts_of_several_inputs_by_the_command(bitskip: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 8, 3)\n"
        "    def forward(self, left, right):\n        return torch.cat([self.a(left), self.b(right)], 1)\n"
    )
    words = ("count", f"{tmp_path}/net.py:Net", "--input", "left=3,8,8", "--input", "right=1,8,8")
    cost = json.loads(bitskip(*words, "--json").out)
    assert cost["macs"] == 8 * (3 + 1) * 3 * 3 * 6 * 6
    assert "input left 3x8x8, right 1x8x8" in bitskip(*words).out
    said = bitskip("count", "resnet14-full-all", "--input", "left=3,8,8")
    assert (said.code, "knows what it takes; leave --input out" in said.err) == (2, True)
