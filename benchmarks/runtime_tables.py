"""Results of `runtime.py` as Markdown: the whole table, and the short one that stands in README.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bitskip.errors import RunError
from bitskip.files import read_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN = "<!-- speed: {source}; written by `python benchmarks/runtime.py readme {source}` -->"
END = "<!-- end of speed -->"
MARKED = re.compile(r"<!-- speed: (?P<source>[^;]+);.*?-->\n.*?" + re.escape(END), re.DOTALL)

# What the short table shows, by the names of results: ours on the best instruction set, peers at their best.
OURS = {
    "w1a1-none": "w1a1, no shortcuts",
    "w1a1-int8-int8": "w1a1",
    "hybrid-w1a1": "w1a1, int8 middle stage",
    "binary-none-int8-int8": "w1, no shortcuts",
    "binary-all-int8-int8": "w1, int8 activations",
    "hybrid-all-int8-int8": "w1, int8 middle stage",
    "full-all-int8-int8": "int8",
    "binary-all-fp32-fp32": "w1, fp32 activations",
    "full-all-fp32-fp32": "fp32",
}
PEERS = {
    ("onnxruntime", "int8"): ("ONNX Runtime", "int8"),
    ("openvino", "int8"): ("OpenVINO", "int8"),
    ("litert", "int8"): ("LiteRT", "int8"),
    ("onnxruntime", "fp32"): ("ONNX Runtime", "fp32"),
    ("openvino", "fp32"): ("OpenVINO", "fp32"),
    ("litert", "fp32"): ("LiteRT", "fp32"),
    ("pytorch", "fp32"): ("PyTorch", "fp32"),
    ("openvino", "binary"): ("OpenVINO", "w1a1"),
    ("lce", "binary"): ("Larq Compute Engine", "w1a1"),
    ("lce", "hybrid"): ("Larq Compute Engine", "w1a1, fp32 middle stage"),
}

HEADING = """# The runtime beside its peers

Written by `python benchmarks/runtime.py readme` from the results files beside this page. Networks of bitskip
are named by model, activations and dense layers and are lowered from torch with random weights; `w1a1-none`
and `hybrid-w1a1` are from synthetic.py. `lce` is Larq Compute Engine, `indirect` its kernels of that name,
which are not its default.

"""

Report = dict[str, Any]


def shown(name: str) -> str:
    """Return a result's name without what every name of a file has."""
    return name.replace(".bitskip", "").replace("resnet14-", "")


def fastest_int8_peer(report: Report, by: str = "median_ms") -> str | None:
    """Return the name of the fastest int8 engine that is not ours, by median or least time."""
    results = report["results"]
    peers = [name for name in results if not name.startswith("bitskip ") and "int8" in name.split()]
    return min(peers, key=lambda name: results[name][by], default=None)


def ratio(report: Report, name: str, by: str = "median_ms") -> str:
    """Return how many times faster a result is than its run's fastest int8 peer, by median or least time."""
    peer = fastest_int8_peer(report, by)
    if peer is None:
        return ""
    return f"{report['results'][peer][by] / report['results'][name][by]:.2f}"


def size(result: dict[str, Any]) -> str:
    """Return the bytes of a result's file, or nothing for results of a time when they were not kept."""
    return f"{result['bytes']:,}" if "bytes" in result else ""


def conditions(report: Report) -> str:
    """Return in one line what was measured where."""
    settings = ", ".join(f"{k}={v}" for k, v in report["settings"].items()) or "no settings"
    load = f"{report['load_average'][0]:.1f}"
    cpu = ", ".join(f"model {part}" if part.isdigit() else part for part in reversed(report["cpu"]))
    return (
        f"{report['what']}, threads: {report['threads']}; {cpu} "
        f"({', '.join(report['features'])}); {settings}; load average {load}; "
        f"commit {report['commit'][:10]}, {report['date'][:10]}"
    )


def rows(cells: Iterable[Iterable[str]]) -> str:
    """Return table rows."""
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def full(report: Report) -> str:
    """Return everything of a report: engines, fastest first, threads, layers."""
    peer = fastest_int8_peer(report)
    lines = [
        conditions(report),
        "",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ". "
        + (f"`x int8`: how many times faster than {peer}." if peer else "No int8 peer was measured."),
        "",
        "| engine and network | median ms | 10% .. 90% | fastest | n | x int8 | file bytes |",
        "|---|--:|--:|--:|--:|--:|--:|",
        rows(
            (
                shown(name), f"{r['median_ms']:.3f}", f"{r['p10_ms']:.3f} .. {r['p90_ms']:.3f}",
                f"{r['min_ms']:.3f}", str(r["n"]), ratio(report, name), size(r),
            )
            for name, r in sorted(report["results"].items(), key=lambda item: item[1]["median_ms"])
        ),
    ]  # fmt: skip
    if report.get("two_threads"):
        lines += [
            "",
            f"Two threads against one, in turns, {report['batch']} pictures a call. Apart: two engines of "
            "one thread at once, each with half of the pictures, which is what the machine allows (medians):",
            "",
            "| network | 1 thread, ms | 2 threads, ms | ratio | of the fastest | apart, ms | ratio |",
            "|---|--:|--:|--:|--:|--:|--:|",
            rows(
                (
                    shown(name), f"{r['one_thread']['median_ms']:.3f}",
                    f"{r['two_threads']['median_ms']:.3f}", f"{r['ratio']:.2f}",
                    f"{r['one_thread']['min_ms'] / r['two_threads']['min_ms']:.2f}",
                    f"{r['apart']['median_ms']:.3f}" if "apart" in r else "",
                    f"{r['ratio_apart']:.2f}" if "apart" in r else "",
                )
                for name, r in report["two_threads"].items()
            ),
        ]  # fmt: skip
    for name, layers in report.get("layers", {}).items():
        lines += by_layer(name, layers)
    if report["missing"]:
        lines += ["", *(f"- not measured: {reason}" for reason in report["missing"])]
    return "\n".join(lines) + "\n"


def by_layer(name: str, layers: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of layers; none for results of a time when their MACs were not kept."""
    if "macs" not in layers[0]:
        return []
    return [
        "",
        f"Layers of {name}, one picture, one thread:",
        "",
        "| layer | kernel | median us | MACs a ns |",
        "|---|---|--:|--:|",
        rows(
            (
                layer["op"], layer["kernel"], f"{layer['median_us']:.1f}",
                f"{layer['macs'] / layer['median_us'] / 1e3:.0f}" if layer["macs"] else "",
            )
            for layer in layers
        ),
    ]  # fmt: skip


def short(report: Report) -> str:
    """Return one row an engine and network, fastest first: ours on its best instruction set, some peers."""
    best: dict[tuple[str, str], str] = {}
    results = report["results"]

    def milliseconds(name: str) -> float:
        return float(results[name]["median_ms"])

    for name in sorted(results, key=milliseconds, reverse=True):  # so that the fastest of a kind stays
        engine, network = shown(name).split(" ")[:2]
        if engine == "bitskip" and network in OURS:
            best["bitskip", OURS[network]] = name
        elif (engine, network) in PEERS and "bf16" not in name:
            best[PEERS[engine, network]] = name
    if not best:
        raise RunError("the results hold none of the networks that README.md shows; run `prepare` first")
    return "\n".join(
        [
            "| engine | network | median ms | x int8 | fastest ms | x int8 | file bytes |",
            "|---|---|--:|--:|--:|--:|--:|",
            rows(
                (
                    f"{engine} ({name.split(' ')[-1]})" if engine == "bitskip" else engine,
                    network,
                    f"{results[name]['median_ms']:.2f}",
                    ratio(report, name),
                    f"{results[name]['min_ms']:.2f}",
                    ratio(report, name, "min_ms"),
                    size(results[name]),
                )
                for (engine, network), name in sorted(best.items(), key=lambda item: milliseconds(item[1]))
            ),
        ]
    )


def section(results: Path) -> str:
    """Return the marked part of README.md, made from a results file."""
    report = read_json(results)
    if not results.resolve().is_relative_to(ROOT):
        raise RunError(
            f"{results} lies outside of {ROOT}; put it in benchmarks/results, where it can be committed"
        )
    source = results.resolve().relative_to(ROOT).as_posix()
    peer = fastest_int8_peer(report) or "no peer"
    return "\n".join(
        [
            BEGIN.format(source=source),
            f"{conditions(report)}.",
            "`w1` has 1-bit weights, `w1a1` 1-bit activations too. All engines in turns in one run; the",
            "fastest time is that of an undisturbed picture, the median has what else ran on the host too.",
            f"`x int8`: how many times faster than the fastest int8 engine ({peer} by median). Weights are",
            "random, for what is timed is arithmetic; what trained networks reach is in",
            "[accuracy against size](docs/accuracy.md).",
            "Kernels for AVX-512, AMX and ARM are tested, and their instructions counted, in",
            "[emulators](docs/runtime.md).",
            "",
            short(report),
            END,
        ]
    )


def whole_page() -> str:
    """Return benchmarks/results/README.md, made from every results file of `runtime.py`."""
    files = sorted(RESULTS.glob("resnet14-*.json"))
    return HEADING + "\n".join(f"## {path.stem}\n\n{full(read_json(path))}" for path in files)


def write(results: Path) -> list[Path]:
    """Write the pages; raises RunError if README.md has lost its marks."""
    readme = ROOT / "README.md"
    text, found = MARKED.subn(lambda _: section(results), readme.read_text(encoding="utf-8"))
    if found != 1:
        raise RunError(f"README.md has {found} parts between speed marks, expected 1")
    write_text(readme, text)
    write_text(RESULTS / "README.md", whole_page())
    return [readme, RESULTS / "README.md"]
