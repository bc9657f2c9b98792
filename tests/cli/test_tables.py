"""Every table of the command line in a terminal of 80 columns and in one of 120."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitskip import terminal
from bitskip.spec import named_models
from bitskip.zoo import zoo_names
from report.made_up import puzzle, quick

Run = Callable[..., Any]

LAYERS = ("stage1.block1.conv1", "stage3.block2.conv2", "head")
# Words of a command that prints tables, and names that must stand in it whole.
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "zoo list": (("zoo", "list"), zoo_names()),
    "models": (("models",), named_models()),
    "count": (("count", "resnet14-hybrid-none"), LAYERS),
    "compare counts": (
        ("count", "--compare", "resnet14-full-all", "resnet14-hybrid-none-x0.25", "baseline:mlperf-resnet8"),
        ("resnet14-hybrid-none-x0.25", "baseline:mlperf-resnet8", "peak activations, in place"),
    ),
    "count a library's": (
        ("count", "torchvision:mobilenet_v2", "--input-size", "64"),
        ("torchvision:mobilenet_v2",),
    ),
    "count a detector": (
        ("count", "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", "--input-size", "64"),
        ("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",),
    ),
    "inspect": (("inspect", "resnet14-binary-all-x0.25-int8"), LAYERS[:2]),
    "shortcuts list": (("shortcuts", "list", "torchvision:resnet18"), ("layer1.0", "layer4.1")),
    "shortcuts plan": (
        ("shortcuts", "plan", "torchvision:resnet18", "--keep", "middle", "--out", "plan.json"),
        ("layer1.0",),
    ),
    "bench": (("bench", "resnet14-binary-all-x0.25-int8", "--seconds", "0.01", "--layers"), LAYERS[:2]),
}


@pytest.fixture(params=[80, 120])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    monkeypatch.setattr(terminal, "terminal_width", lambda: request.param)
    monkeypatch.chdir(tmp_path)
    return int(request.param)


def check(text: str, width: int, names: tuple[str, ...]) -> None:
    too_long = [line for line in text.splitlines() if len(line) > width]
    assert not too_long, too_long[:3]
    words = set(text.replace(",", " ").split())
    missing = [name for name in names if name not in words and f" {name} " not in text]
    assert not missing, missing


@pytest.mark.parametrize("command", COMMANDS)
def test_tables_fit(bitskip: Run, command: str, width: int) -> None:
    words, names = COMMANDS[command]
    ran = bitskip(*words)
    assert ran.code == 0, ran.err
    check(ran.out, width, names)


def test_wide_shows_all_columns(bitskip: Run, width: int) -> None:
    narrow, wide = bitskip("zoo", "list").out, bitskip("zoo", "list", "--wide").out
    assert "with --wide:" in narrow
    assert "with --wide:" not in wide
    assert {"recipe", "epochs"} <= set(wide.split())


def test_peers_beside_a_packed_model(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    from bitskip.bench.peers import Comparison, PeerTiming
    from bitskip.bench.speed import Timing
    from bitskip.cli.bench import _print_comparison

    timing = Timing("avx512", threads=1, batch=1, n=9, median_ms=0.5, p10_ms=0.4, p90_ms=0.6)
    peers = [
        PeerTiming(engine, precision, "1.30.0", 1, 1, 9_123_456, 9, 1.25, 1.125, 1.5)
        for engine in ("onnxruntime", "openvino", "torch")
        for precision in ("fp32", "int8")
    ]
    _print_comparison("network", "this machine", Comparison([timing], peers, []), 1000, False)
    out = capsys.readouterr().out
    check(out, width, ("avx512", "onnxruntime", "openvino"))
    assert " bitskip avx512  " in out
    assert "2.50" in out


@pytest.mark.parametrize("made_up", [quick, puzzle])
def test_report_tables_fit(bitskip: Run, width: int, tmp_path: Path, made_up: Callable[[], Any]) -> None:
    results = tmp_path / "results.json"
    made_up().save(results)
    ran = bitskip("report", str(results), "--out", str(tmp_path / "report"))
    assert ran.code == 0, ran.err
    check("\n".join(line for line in ran.out.splitlines() if not line.startswith("report: ")), width, ())


def test_report_on_an_ablation(bitskip: Run, width: int) -> None:
    results = Path(__file__).parents[2] / "results" / "ablation" / "full" / "results.json"
    ran = bitskip("report", str(results), "--out", "page")
    assert (ran.code, ran.err) == (0, "")
    check(ran.out, width, ("alternating_flip", "label_smoothing"))
    assert Path("page", "page.md").is_file()


def test_report_on_a_folder(bitskip: Run, tmp_path: Path) -> None:
    quick().save(tmp_path / "results.json")
    assert bitskip("report", str(tmp_path), "--out", str(tmp_path / "report")).code == 0
    ran = bitskip("report", str(tmp_path / "report"))
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "is a folder without results.json" in ran.err


def test_report_on_something_else(bitskip: Run, tmp_path: Path) -> None:
    for content in ("[]", "{}", '{"rows": []}', '{"rows": [1]}'):
        (tmp_path / "x.json").write_text(content)
        ran = bitskip("report", str(tmp_path / "x.json"))
        assert (ran.code, ran.err.count("\n")) == (2, 1)
