"""benchmarks/runtime.py: tables say what the results say, and a machine without peers measures the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import runtime_peers
import runtime_tables
from typer.testing import CliRunner

import runtime
from bitskip.bench.export import export
from bitskip.errors import RunError
from bitskip.lower import lower
from bitskip.nn import build
from bitskip.spec import named_spec

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def result(median: float, **more: Any) -> dict[str, Any]:
    return {"n": 5, "median_ms": median, "p10_ms": median, "p90_ms": median, "min_ms": median, **more}


def report(**results: dict[str, Any]) -> dict[str, Any]:
    """Return a report whose results have names with `_` for a space."""
    return {
        "what": "a network", "threads": 1, "cpu": ["7", "A CPU"], "features": ["avx2"], "settings": {},
        "load_average": [0.5, 0.5, 0.5], "commit": "0123456789abcdef", "date": "2026-01-02T03:04:05",
        "versions": {"numpy": "2"}, "missing": [],
        "results": {name.replace("_", " "): values for name, values in results.items()},
    }  # fmt: skip


def test_readme_shows_what_the_results_say() -> None:
    (found,) = runtime_tables.MARKED.finditer(README)
    assert found.group() == runtime_tables.section(ROOT / found["source"])
    table_rows = [line for line in found.group().splitlines() if re.match(r"\| [^e-]", line)]
    assert 5 <= len(table_rows) <= len(runtime_tables.OURS) + len(runtime_tables.PEERS)


def test_results_page_shows_every_results_file() -> None:
    page = (ROOT / "benchmarks/results/README.md").read_text(encoding="utf-8")
    assert page == runtime_tables.whole_page()
    assert page.count("\n## ") == len(list((ROOT / "benchmarks/results").glob("resnet14-*.json"))) > 0


def test_short_table_takes_the_best_of_each_and_compares_with_the_fastest_int8_peer() -> None:
    found = report(**{
        "openvino_int8": result(4.0, bytes=1000) | {"min_ms": 2.5},
        "openvino_int8_nncf": result(3.0, bytes=2000),
        "onnxruntime_int8": result(6.0),
        "openvino_fp32": result(9.0),
        "openvino_fp32_bf16_allowed": result(1.0),
        "openvino_binary": result(2.0),
        "lce_binary": result(20.0, bytes=500),
        "lce_binary_indirect": result(12.0, bytes=500),
        "bitskip_resnet14-w1a1-int8-int8.bitskip_avx2": result(1.5, bytes=12345),
        "bitskip_resnet14-w1a1-int8-int8.bitskip_avx512": result(1.25, bytes=12345),
        "bitskip_binary-middle-int8-int8_avx2": result(0.1),
    })  # fmt: skip
    assert runtime_tables.short(found).splitlines()[2:] == [
        "| bitskip (avx512) | w1a1 | 1.25 | 2.40 | 1.25 | 2.00 | 12,345 |",
        "| OpenVINO | w1a1 | 2.00 | 1.50 | 2.00 | 1.25 |  |",
        "| OpenVINO | int8 | 3.00 | 1.00 | 3.00 | 0.83 | 2,000 |",
        "| ONNX Runtime | int8 | 6.00 | 0.50 | 6.00 | 0.42 |  |",
        "| OpenVINO | fp32 | 9.00 | 0.33 | 9.00 | 0.28 |  |",
        "| Larq Compute Engine | w1a1 | 12.00 | 0.25 | 12.00 | 0.21 | 500 |",
    ]
    with pytest.raises(RunError, match="none of the networks"):
        runtime_tables.short(report(other_engine=result(1.0)))


def test_full_table_shows_threads_and_what_is_missing() -> None:
    found = report(onnxruntime_int8=result(2.0), bitskip_w1a1_avx2=result(1.0, bytes=7000))
    found["missing"] = ["lce binary: no Python 3.11"]
    found["batch"] = 8
    found["two_threads"] = {
        "bitskip w1a1 avx2": {
            "one_thread": result(9.0), "two_threads": result(5.0), "ratio": 1.8,
            "apart": result(4.5), "ratio_apart": 2.0,
        },
        "bitskip int8 avx2": {"one_thread": result(8.0), "two_threads": result(5.0), "ratio": 1.6},
    }  # fmt: skip
    text = runtime_tables.full(found)
    assert "A CPU, model 7 (avx2)" in text
    assert "load average 0.5; commit 0123456789, 2026-01-02" in text
    lines = text.splitlines()
    at = lines.index("| bitskip w1a1 avx2 | 1.000 | 1.000 .. 1.000 | 1.000 | 5 | 2.00 | 7,000 |")
    assert lines[at + 1].startswith("| onnxruntime int8 | 2.000 |")
    assert "| bitskip w1a1 avx2 | 9.000 | 5.000 | 1.80 | 1.80 | 4.500 | 2.00 |" in lines
    assert "| bitskip int8 avx2 | 8.000 | 5.000 | 1.60 | 1.60 |  |  |" in lines
    assert "- not measured: lce binary: no Python 3.11" in lines
    without_peer = runtime_tables.full(report(bitskip_w1a1_avx2=result(1.0)))
    assert "No int8 peer was measured." in without_peer


def test_readme_is_rewritten_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "benchmarks/results"
    results.mkdir(parents=True)
    monkeypatch.setattr(runtime_tables, "ROOT", tmp_path)
    monkeypatch.setattr(runtime_tables, "RESULTS", results)
    source = results / "resnet14-here.json"
    source.write_text(json.dumps(report(onnxruntime_int8=result(2.0))))
    readme = tmp_path / "README.md"
    readme.write_text(README)
    assert runtime_tables.write(source) == [readme, results / "README.md"]
    text = readme.read_text()
    assert "| ONNX Runtime | int8 | 2.00 | 1.00 | 2.00 | 1.00 |  |" in text
    assert runtime_tables.MARKED.sub("", text) == runtime_tables.MARKED.sub("", README)
    readme.write_text("no marks here")
    with pytest.raises(RunError, match=r"README\.md has 0 parts between speed marks"):
        runtime_tables.write(source)


def test_readme_takes_no_results_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(report(onnxruntime_int8=result(2.0))))
    with pytest.raises(RunError, match=r"r\.json lies outside of .*; put it in benchmarks/results"):
        runtime_tables.section(tmp_path / "r.json")


def test_a_machine_without_peers_measures_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = named_spec("resnet14-binary-none-x0.0625")
    export(spec, tmp_path, prefix="resnet14-")
    (tmp_path / "resnet14-int8.onnx").write_bytes(b"no network")
    (tmp_path / "resnet14-fp32.pt").unlink()
    lower(build(spec).eval()).save(tmp_path / "small.bitskip")
    (tmp_path / "notes.json").write_text(json.dumps({"tflite models": "there is no lce environment"}))
    monkeypatch.setattr(runtime, "SYNTHETIC", ())
    monkeypatch.setattr(runtime, "PROFILED", ("w1a1-none",))
    out = tmp_path / "out.json"
    words = ["measure", str(tmp_path), "--rounds", "2", "--seconds", "0.01", "-o", str(out)]
    ran = CliRunner().invoke(runtime.app, words, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    made = json.loads(out.read_text())
    isa = [name for name in runtime.available_isas() if name != "scalar"][-1:] or ["scalar"]
    ours = f"bitskip small.bitskip {isa[0]}"
    assert made["results"][ours]["bytes"] == (tmp_path / "small.bitskip").stat().st_size
    onnx_bytes = (tmp_path / "resnet14-fp32.onnx").stat().st_size
    assert made["results"]["onnxruntime fp32"]["bytes"] == onnx_bytes
    reasons = dict(reason.split(": ", 1) for reason in made["missing"])
    assert "onnxruntime does not run here" in reasons["onnxruntime int8"]
    assert "there is no lce environment" in reasons["lce binary"]
    assert "there is no resnet14-binary.xml: run `python" in reasons["openvino binary"]
    if importlib.util.find_spec("openvino") is None:
        assert "openvino cannot be imported" in reasons["openvino fp32"]
    named = {peer.name for peer in runtime_peers.PEERS if not peer.feature}
    assert named <= set(made["results"]) | set(reasons)
    if runtime.os.cpu_count() > 1:
        scaling = made["two_threads"][ours]
        medians = scaling["one_thread"]["median_ms"], scaling["two_threads"]["median_ms"]
        assert scaling["ratio"] == pytest.approx(medians[0] / medians[1])
        assert scaling["ratio_apart"] == pytest.approx(medians[0] / scaling["apart"]["median_ms"])
    assert set(made["layers"]) == {
        f"w1a1-none {name}" for name in runtime.available_isas() if name != "scalar"
    }
    rows = next(iter(made["layers"].values()))
    outer = 3 * 64 * 3 * 3 * 32 * 32 + 256 * 10
    stages = [64 * 64 * 3 * 3 * 32 * 32 * 4]
    stages += [(64 + 3 * 128) * 128 * 3 * 3 * 16 * 16, (128 + 3 * 256) * 256 * 3 * 3 * 8 * 8]
    assert sum(row["macs"] for row in rows) == outer + sum(stages)
    busy = next(row for row in rows if row["macs"])
    assert f"| {busy['op']} | {busy['kernel']} | {busy['median_us']:.1f} |" in runtime_tables.full(made)
    assert {"commit", "cpu", "features", "versions", "load_average", "settings", "date"} <= set(made)
    assert made["versions"]["onnxruntime"] == importlib.metadata.version("onnxruntime")


def test_prepare_tries_every_step_and_keeps_why_one_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {
        "lce": runtime_peers.Environment(("no package",), (2, 7)),
        "litert": runtime_peers.Environment(()),
    }
    monkeypatch.setattr(runtime_peers, "ENVIRONMENTS", wanted)
    monkeypatch.setattr(runtime_peers, "_export", lambda directory: None)
    monkeypatch.setattr(runtime_peers, "_lower", lambda directory: None)
    monkeypatch.setattr(runtime_peers.shutil, "which", lambda name: None)
    ran: list[list[str]] = []

    def fails(words: list[str]) -> None:
        ran.append(words)
        raise RunError("no network")

    monkeypatch.setattr(runtime_peers, "_run", fails)
    notes = runtime_peers.prepare(tmp_path / "new", lambda line: None)
    assert notes == {
        "lce environment": "it needs Python 2.7, and no python2.7 is on the PATH",
        "litert environment": "no network",
        "tflite models": "there is no lce environment",
        "openvino models": "there is no openvino environment",
    }
    assert ran == [[sys.executable, "-m", "venv", str(tmp_path / "new/litert")]]
    assert json.loads((tmp_path / "new/notes.json").read_text()) == notes


def test_a_failed_command_is_told_in_one_line() -> None:
    code = "import sys; print('ERROR: no such thing'); print('and more'); sys.exit(3)"
    with pytest.raises(RunError, match=r"ended with code 3: ERROR: no such thing$"):
        runtime_peers._run([sys.executable, "-c", code])


def test_ceilings_name_a_peer_only_where_nothing_shared_the_machine() -> None:
    import ceilings

    networks = {name: {"ms": 2.0, "kernels_alone_us": 1000.0} for name in ceilings.GOALS}
    found = {
        "machine": {"cpu": "A CPU", "cores": 2}, "isa": "avx2", "load_average": 1.0, "peer": "fast int8",
        "peer_ms": 4.0, "networks": networks,
    }  # fmt: skip
    assert "| int8 | 2.00 | 1.00 | 50% | 2.00 | 4.00 | 1.1 |" in ceilings.table(found)
    shared = ceilings.table(found | {"load_average": 9.0})
    assert "| int8 | 2.00 | 1.00 | 50% |\n" in shared
    assert "fast int8" not in shared


def test_networks_of_224_pixels_stand_beside_their_peers_in_the_doc() -> None:
    import runtime_224

    found = {"bitskip int8": result(2.0), "openvino int8": result(3.0)}
    given = {
        "machine": {"cpu": "A CPU"}, "isa": "avx2", "load_average": 1.0,
        "networks": {"resnet18": {"results": found, "x_int8": {"bitskip int8": 1.5, "openvino int8": 1.0}}},
    }  # fmt: skip
    table = runtime_224.table(given)
    assert table.index("| resnet18 | bitskip int8 | 2.0 | 2.0 | 1.50 |") < table.index("openvino int8")
    doc = runtime_224.DOC.read_text(encoding="utf-8")
    assert doc.count(runtime_224.BEGIN) == doc.count(runtime_224.END) == 1
    assert doc.count("<!-- ceilings -->") == doc.count("<!-- end of ceilings -->") == 1


def test_what_a_batch_saves_stands_in_the_doc() -> None:
    import batch

    ops = [["direct", 1.0, 0.9, False], ["winograd", 1.0, 0.5, True]]
    found = {"network": "int8", "isa": "avx2", "ms": 2.0, "ms_side_by_side": 1.5, "ratio": 0.75, "ops": ops}
    table = batch.table({"machine": {"cpu": "A CPU"}, "load_average": 1.0, "results": [found]})
    assert "| int8 | avx2 | 2.00 | 1.50 | 0.75 | 1 | 50% |" in table
    assert len(batch.MARKED.findall(batch.DOC.read_text(encoding="utf-8"))) == 1
