"""pack, inspect, eval and run, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from bitskip.cli import app
from bitskip.cost import cost_of
from bitskip.data import load_mini
from bitskip.errors import BitskipError, DataError, FileFormatError, LoweringError, RunError
from bitskip.nn import build
from bitskip.spec import NetworkSpec, named_spec

NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def write_run(folder: Path, spec: NetworkSpec, **metadata: str) -> Path:
    """Write what a finished run leaves behind."""
    folder.mkdir()
    torch.manual_seed(0)
    model = build(spec)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 32, 32))
    values = {
        "spec": spec.to_json(),
        "mean": "0.4914,0.4822,0.4465",
        "std": "0.247,0.2435,0.2616",
        "class_names": "\n".join(NAMES),
        "standardise": "false",
    }
    save_file(model.state_dict(), folder / "weights.safetensors", values | metadata)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed")


@pytest.fixture(scope="module")
def run_folder(folder: Path) -> Path:
    return write_run(folder / "run", named_spec("resnet14-hybrid-middle-x0.125"))


@pytest.fixture(scope="module")
def packed(folder: Path, run_folder: Path) -> Path:
    call("pack", run_folder, "-o", folder / "m.bitskip", "--activations", "fp32")
    return folder / "m.bitskip"


def call(*words: Any, fails: type[BitskipError] | None = None) -> str:
    """Run the command and return its stdout; with `fails`, the message it failed with."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if fails is not None:
        assert isinstance(result.exception, fails), result.exception
        return str(result.exception)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout


def test_pack_writes_a_small_file(folder: Path, run_folder: Path) -> None:
    out = folder / "fp32.bitskip"
    values = json.loads(call("pack", run_folder, "-o", out, "--activations", "fp32", "--json"))
    spec = named_spec("resnet14-hybrid-middle-x0.125")
    assert values["path"] == str(out)
    assert values["file_bytes"] == out.stat().st_size
    assert out.stat().st_size <= 4 * cost_of(spec).effective_parameters * 1.02 + 4096
    assert values["class_names"] == NAMES
    assert values["macs"] == cost_of(spec).macs
    said = call("pack", run_folder / "weights.safetensors", "-o", out, "--activations", "fp32")
    assert str(out) in said
    assert "KiB" in said


def test_pack_int8(folder: Path, run_folder: Path, packed: Path) -> None:
    out = folder / "int8.bitskip"
    options = ("--activations", "int8", "--dense", "int8", "--calibration", "8", "--data", "mini")
    values = json.loads(call("pack", run_folder, "-o", out, *options, "--json"))
    assert values["calibration_images"] == 8
    assert {layer["precision"] for layer in values["layers"]} == {None, "w1", "int8"}
    assert out.stat().st_size < packed.stat().st_size


def test_pack_says_where_int8_changes_nothing(folder: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "full", named_spec("resnet14-full-none-x0.0625"))
    result = CliRunner().invoke(
        app,
        [
            "pack", str(run), "-o", str(tmp_path / "f.bitskip"),
            "--activations", "int8", "--calibration", "2", "--data", "mini",
        ],
    )  # fmt: skip
    assert "no layer reads int8 activations" in result.stderr


def test_pack_errors(folder: Path, run_folder: Path, tmp_path: Path) -> None:
    assert "no weights.safetensors" in call("pack", tmp_path, fails=RunError)
    assert "expected fp32 or int8" in call("pack", run_folder, "--activations", "fp16", fails=LoweringError)
    words = ("pack", run_folder, "--activations", "fp32", "--dense", "int8")
    assert "needs int8 activations" in call(*words, fails=LoweringError)
    words = ("pack", run_folder, "--activations", "int8", "--data", "mini", "--calibration")
    assert "expected at least 1 picture" in call(*words, "0", fails=LoweringError)
    broken = write_run(tmp_path / "broken", named_spec("resnet14-binary-none-x0.0625"), mean="x")
    assert "how its pictures were normalised" in call("pack", broken, fails=FileFormatError)


def test_the_default_is_int8_with_what_it_costs(
    run_folder: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BITSKIP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    out = tmp_path / "m.bitskip"
    # Nothing at hand: fp32, with a note, and no download.
    result = CliRunner().invoke(app, ["pack", str(run_folder), "-o", str(out), "--json"])
    assert json.loads(result.stdout)["activations"] == "fp32"
    assert "no pictures at hand to set int8 ranges; name them with --data" in result.stderr
    assert "downloading" not in result.stderr
    # The run says where its pictures are.
    run = write_run(tmp_path / "run", named_spec("resnet14-hybrid-middle-x0.125"))
    (run / "run.json").write_text(json.dumps({"data_source": "mini"}))
    values = json.loads(call("pack", run, "-o", out, "--calibration", "16", "--json"))
    assert (values["activations"], values["dense"], values["calibration_images"]) == ("int8", "int8", 16)
    assert values["file_bytes"] < 0.6 * packed.stat().st_size
    check = values["accuracy_check"]
    pictures, labels = load_mini().test_images, load_mini().test_labels
    from bitskip.runtime import load

    assert check["images"] == 500
    for key, file in (("accuracy", out), ("accuracy_fp32", packed)):
        assert check[key] == (load(file).predict(pictures).argmax(1) == labels).mean()
    assert check["difference"] == pytest.approx(check["accuracy"] - check["accuracy_fp32"])
    said = call("pack", run, "-o", out, "--calibration", "16")
    assert "accuracy on 500 test pictures of bundled mini set" in said
    assert "accuracy on" not in call("pack", run, "-o", out, "--calibration", "16", "--no-check")


def test_a_run_trained_on_other_classes_is_not_calibrated_on_what_lies_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    monkeypatch.setenv("BITSKIP_DATA", "mini")
    spec = dataclasses.replace(named_spec("resnet14-binary-none-x0.0625"), classes=3)
    run = write_run(tmp_path / "three", spec, class_names="a\nb\nc")
    assert json.loads(call("pack", run, "-o", tmp_path / "m.bitskip", "--json"))["activations"] == "fp32"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("x.onnx", "bitskip export x.bitskip --to onnx -o x.onnx"),
        (
            "x.TFLITE",
            "bitskip writes no TFLite: converters read `bitskip export x.bitskip --to onnx -o x.onnx`",
        ),
        ("x.c", "--to c99 -o x"),
        ("x.safetensors", "weights.safetensors holds its weights"),
    ],
)
def test_names_of_other_formats_are_refused(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert advice in call("pack", run_folder, "-o", name, fails=RunError)
    assert advice in call("import", "net.onnx", "-o", name, fails=RunError)  # before net.onnx is looked for
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("form", "other"), [("onnx", "m.onnx"), ("c99", "m"), ("npz", "m.npz")])
def test_an_export_never_has_the_name_of_a_packed_file(packed: Path, form: str, other: str) -> None:
    before = packed.read_bytes()
    error = call("export", packed, "--to", form, "-o", packed, fails=RunError)
    assert error.endswith(f"such as {packed.with_name(other).with_stem(packed.stem)}")
    assert packed.read_bytes() == before


def test_inspect(packed: Path) -> None:
    values = json.loads(call("inspect", packed, "--json"))
    by_name = {layer["name"]: layer for layer in values["layers"]}
    conv = by_name["stage1.block1.conv2"]
    assert (conv["precision"], conv["input"], conv["output_shape"]) == ("w1", "f32", [32, 32, 8])
    assert conv["weight_bytes"] == 8 * 3 * 3 * 8 // 8
    assert conv["macs"] == 8 * 3 * 3 * 8 * 32 * 32
    assert by_name["stage2.block1.conv1"]["precision"] == "fp32"
    assert values["peak_activation_bytes"] >= 2 * 32 * 32 * 8 * 4
    assert sum(layer["bytes"] for layer in values["layers"]) == values["constant_bytes"]
    table = call("inspect", packed)
    for word in ("stage3.block2.conv2", "w1", "peak activations", "global_avg_pool"):
        assert word in table
    assert "cannot read" in call("inspect", "nothing.bitskip", fails=FileFormatError)


def test_eval(packed: Path) -> None:
    values = json.loads(call("eval", packed, "--data", "mini", "--limit", "50", "--json"))
    assert values["images"] == 50
    assert values["accuracy"] == values["hits"] / 50
    low, high = values["interval_95"]
    assert low < values["accuracy"] < high
    assert values["engine"] in ("native", "reference")
    said = call("eval", packed, "--data", "mini", "--limit", "50", "--engine", "reference")
    assert "95% interval" in said
    assert f"{values['accuracy']:.2%} of 50" in said
    assert "expected at least 1" in call("eval", packed, "--limit", "0", fails=DataError)


def test_eval_reports_test_time_augmentation_beside_the_plain_figure(packed: Path) -> None:
    words = ("eval", packed, "--data", "mini", "--limit", "50")
    plain = json.loads(call(*words, "--json"))
    both = json.loads(call(*words, "--tta", "flip", "--json"))
    assert "tta" not in plain
    assert both["hits"] == plain["hits"]
    assert both["tta"]["kind"] == "flip"
    assert both["tta"]["accuracy"] == both["tta"]["hits"] / 50
    said = call(*words, "--tta", "flip")
    assert f"{plain['accuracy']:.2%} of 50" in said
    assert f"mirror image): {both['tta']['accuracy']:.2%} (95% interval" in said
    assert "--tta is 'flop'" in call(*words, "--tta", "flop", fails=RunError)


def test_eval_refuses_data_that_does_not_fit(tmp_path: Path) -> None:
    import dataclasses

    spec = dataclasses.replace(named_spec("resnet14-binary-none-x0.0625"), classes=3)
    run = write_run(tmp_path / "three", spec, class_names="a\nb\nc")
    call("pack", run, "-o", tmp_path / "three.bitskip", "--activations", "fp32")
    message = call("eval", tmp_path / "three.bitskip", "--data", "mini", fails=DataError)
    assert "has the class 'airplane', which" in message
    assert "it was trained on a, b, c" in message


def test_eval_matches_classes_by_name(folder: Path, tmp_path: Path, packed: Path) -> None:
    run = write_run(
        tmp_path / "run", named_spec("resnet14-binary-none-x0.0625"), class_names="\n".join(NAMES[::-1])
    )
    call("pack", run, "-o", tmp_path / "m.bitskip", "--activations", "fp32")
    values = json.loads(call("eval", tmp_path / "m.bitskip", "--data", "mini", "--json"))
    from bitskip.runtime import load

    mini = load_mini()
    found = load(tmp_path / "m.bitskip").predict(mini.test_images).argmax(1)
    assert values["hits"] == int((found == 9 - mini.test_labels).sum())


def test_run(packed: Path, tmp_path: Path) -> None:
    pictures = load_mini().test_images[:2]
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    values = json.loads(call("run", packed, *paths, "--top", "2", "--json"))
    from bitskip.runtime import load

    expected = load(packed).predict(pictures)
    for row, result in zip(expected, values["results"], strict=True):
        assert [p["index"] for p in result["top"]] == np.argsort(-row)[:2].tolist()
        assert [p["class"] for p in result["top"]] == [NAMES[p["index"]] for p in result["top"]]
        assert result["logits"] == row.tolist()
        assert result["ms"] > 0
    said = call("run", packed, paths[0])
    assert NAMES[int(expected[0].argmax())] in said
    assert " ms, engine " in said
    assert "does not exist" in call("run", packed, "nothing.png", fails=DataError)
    assert "expected at least 1 class" in call("run", packed, paths[0], "--top", "0", fails=DataError)
    assert "neither a file nor a model of the zoo" in call("run", "resnt14", paths[0], fails=FileFormatError)


def test_run_takes_folders_and_names_of_the_zoo(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for number, picture in enumerate(load_mini().test_images[:2]):
        Image.fromarray(picture).save(tmp_path / ("below" if number else ".") / f"{number}.png")
    (tmp_path / "notes.txt").write_text("")
    result = CliRunner().invoke(app, ["run", "resnet14-binary-all-x0.25-int8", str(tmp_path)])
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        str(tmp_path / "0.png"),
        str(tmp_path / "below" / "1.png"),
    ]
    assert "2 pictures; skipped 1 .txt" in result.stderr


def test_run_names_the_broken_picture_and_classifies_the_others(packed: Path, tmp_path: Path) -> None:
    for name in "abc":
        Image.fromarray(load_mini().test_images[0]).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"")
    result = CliRunner().invoke(app, ["run", str(packed), str(tmp_path)])
    assert [Path(line.partition(":")[0]).name for line in result.stdout.splitlines()] == ["a.png", "c.png"]
    assert "b.png is not a readable picture (it is empty)" in result.stderr
    assert isinstance(result.exception, DataError)
    assert "1 of 3 pictures cannot be read" in str(result.exception)
    values = json.loads(CliRunner().invoke(app, ["run", str(packed), str(tmp_path), "--json"]).stdout)
    assert [Path(entry["image"]).name for entry in values["failed"]] == ["b.png"]
    assert len(values["results"]) == 2


def test_help_teaches() -> None:
    for command in ("pack", "inspect", "eval", "run"):
        said = call(command, "--help")
        assert "Examples" in said
        assert f"bitskip {command}" in said
