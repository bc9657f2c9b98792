"""A packed model beside other engines: what is exported, how processes are driven, what the command says."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitskip.bench.export import export, full_precision
from bitskip.bench.peers import PEERS
from bitskip.bench.process import Worker
from bitskip.bench.timing import alternate
from bitskip.bench.worker import load, random_input
from bitskip.errors import RunError
from bitskip.lower import lower
from bitskip.nn import binary_layers, build
from bitskip.spec import NetworkSpec, named_spec
from programs import every_op

SPEC = named_spec("resnet14-hybrid-all-x0.0625")
INSTALLED = {peer.name for peer in PEERS if importlib.util.find_spec(peer.module)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    assert export(SPEC, folder, batch=2) == []
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "m.bitskip"
    lower(build(SPEC).eval()).save(path)
    return path


@pytest.mark.parametrize("name", ["resnet14-w1a1-x0.0625", "resnet14-hybrid-middle-x0.0625"])
def test_full_precision_changes_bits_alone(name: str) -> None:
    spec = NetworkSpec.from_dict(
        named_spec(name).to_dict() | {"layer_precision": {"stage2.block1.conv1": "w1"}}
    )
    real = full_precision(spec)
    assert list(binary_layers(build(spec))) != []
    assert list(binary_layers(build(real))) == []
    convs = [(c.name, c.macs) for block in spec.iter_blocks() for c in block.convs]
    assert [(c.name, c.macs) for block in real.iter_blocks() for c in block.convs] == convs
    assert [b.shortcut for b in real.iter_blocks()] == [b.shortcut for b in spec.iter_blocks()]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_exported_files_compute_the_same_network(exported: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(full_precision(SPEC)).eval()
    fp32 = load("onnxruntime", str(exported / "fp32.onnx"), 1)
    assert fp32.shape == (2, 3, 32, 32)
    x = random_input(fp32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(fp32.run(x), expected, rtol=1e-4, atol=1e-4)
    threads = torch.get_num_threads()
    traced = load("pytorch", str(exported / "fp32.pt"), 1)
    torch.set_num_threads(threads)
    assert traced.shape == (2, 3, 32, 32)
    np.testing.assert_allclose(traced.run(x), expected, rtol=1e-4, atol=1e-4)
    quantized = load("onnxruntime", str(exported / "int8.onnx"), 1).run(x)
    assert not np.array_equal(quantized, expected)
    assert np.abs(quantized - expected).max() < 0.2 * np.abs(expected).max()
    assert (exported / "int8.onnx").stat().st_size < (exported / "fp32.onnx").stat().st_size


def test_worker_times_and_takes_turns(exported: Path) -> None:
    turns: list[str] = []
    with Worker("onnxruntime", exported / "fp32.onnx") as worker:

        def other(seconds: float) -> list[float]:
            turns.append(f"other {seconds}")
            return [1.0, 2.0, 3.0]

        def peer(seconds: float) -> list[float]:
            turns.append(f"peer {seconds}")
            return worker.time(seconds)

        found = alternate({"other": other, "peer": peer}, rounds=2, seconds=0.02)
    assert turns == ["other 0.02", "peer 0.02"] * 2
    assert (found["other"].n, found["other"].median_ms, found["other"].min_ms) == (6, 2.0, 1.0)
    assert found["peer"].n >= 2
    assert 0 < found["peer"].min_ms <= found["peer"].p10_ms <= found["peer"].median_ms <= found["peer"].p90_ms


def test_worker_says_why_it_cannot(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"onnxruntime does not run here: .*nothing\.onnx"):
        Worker("onnxruntime", tmp_path / "nothing.onnx")
    with pytest.raises(RunError, match=r"no-such-engine does not run here: KeyError"):
        Worker("no-such-engine", exported / "fp32.onnx")
    with pytest.raises(RunError, match=r"ended without an answer: exit code 1, .*"):
        Worker("onnxruntime", exported / "fp32.onnx", python=shutil.which("false") or "")
    with pytest.raises(RunError, match=r"onnxruntime: cannot start .*nowhere: No such file"):
        Worker("onnxruntime", exported / "fp32.onnx", python=str(tmp_path / "nowhere"))
    with Worker("onnxruntime", exported / "fp32.onnx") as worker:
        worker._process.kill()
        with pytest.raises(RunError, match="onnxruntime ended without an answer: exit code -9"):
            worker.time(0.01)


def test_worker_does_not_wait_for_ever(exported: Path, tmp_path: Path) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    with pytest.raises(RunError, match=r"onnxruntime gave no answer within 0\.2 s and was stopped"):
        Worker("onnxruntime", exported / "fp32.onnx", python=str(sleeper), patience=0.2)


def test_one_that_dies_while_timed_is_named_and_the_others_go_on() -> None:
    turns = []

    def dies(_: float) -> list[float]:
        turns.append("dies")
        if len(turns) == 2:
            raise RunError("exit code -9")
        return [1.0]

    failed: dict[str, str] = {}
    found = alternate({"dies": dies, "lives": lambda _: [2.0]}, rounds=4, seconds=0.01, failed=failed)
    assert (failed, len(turns)) == ({"dies": "exit code -9"}, 2)
    assert {name: spread.n for name, spread in found.items()} == {"lives": 4}
    turns.clear()
    with pytest.raises(RunError, match="exit code -9"):
        alternate({"dies": dies}, rounds=4, seconds=0.01)


def test_bench_peers_as_json(bitskip: Callable[..., Any], packed: Path) -> None:
    ran = bitskip("bench", str(packed), "--isa", "scalar", "--peers", "--seconds", "0.05", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    peers = {f"{peer['engine']} {peer['precision']}": peer for peer in report["peers"]}
    assert set(peers) == INSTALLED
    assert [reason.split(":")[0] for reason in report["missing"]] == [
        peer.name for peer in PEERS if peer.name not in INSTALLED
    ]
    (ours,) = report["timings"]
    for precision in ("int8", "fp32"):
        fastest = min(p["median_ms"] for p in peers.values() if p["precision"] == precision)
        ratio = report["times_faster_than"]["scalar"][precision]
        assert ratio == pytest.approx(fastest / ours["median_ms"])
        ratios = [p["times_faster_than"][precision] for p in peers.values() if p["precision"] == precision]
        assert max(ratios) == 1
    assert all(peer["file_bytes"] > 1000 and peer["n"] >= 5 for peer in peers.values())


def test_bench_peers_as_a_table(
    bitskip: Callable[..., Any], packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    hidden = ("openvino",)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else find(name))
    ran = bitskip("bench", str(packed), "--isa", "scalar", "--peers", "--seconds", "0.05", "--batch", "2")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert "2 pictures a call" in lines[0]
    assert "x int8 peer" in lines[1]
    assert f"{packed.stat().st_size:,}" in next(line for line in lines if "bitskip scalar" in line)
    assert "1.00" in next(line for line in lines if "onnxruntime int8" in line)
    assert "not measured: openvino int8: not installed; pip install openvino" in lines


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_bench_peers_names_what_is_missing(
    bitskip: Callable[..., Any], packed: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    ran = bitskip("bench", str(packed), "--peers", "--seconds", "0.05")
    assert ran.code == 2
    assert f"but {package} cannot be imported; pip install torch onnx" in ran.err
    assert ran.out == ""


def test_bench_peers_needs_a_spec(bitskip: Callable[..., Any], tmp_path: Path) -> None:
    every_op().save(tmp_path / "m.bitskip")
    ran = bitskip("bench", str(tmp_path / "m.bitskip"), "--peers")
    assert ran.code == 2
    assert "holds no network spec" in ran.err


@pytest.mark.parametrize("module", ["bitskip.bench.speed", "bitskip.bench.peers"])
def test_importing_loads_nothing_slow(module: str) -> None:
    slow = ("torch", "onnx", "onnxruntime", "openvino")
    code = f"import sys, {module}; print([name for name in {slow} if name in sys.modules])"
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert end.stdout.strip() == "[]"
