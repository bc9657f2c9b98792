"""A packed model beside other engines that run the same architecture, all taking turns.

Peers have no 1-bit weights, so they run the network of the file's spec in full precision, and its int8
version made by onnxruntime's static quantization (QDQ, a scale per channel).
"""

from __future__ import annotations

import importlib.util
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bitskip.bench.export import export
from bitskip.bench.process import Worker
from bitskip.bench.speed import ROUNDS, Timing, check_numbers, native_timers, timing
from bitskip.bench.timing import Spread, alternate
from bitskip.errors import RunError
from bitskip.program import Program
from bitskip.spec import NetworkSpec


@dataclass(frozen=True)
class Peer:
    """An engine and the file it runs."""

    engine: str  # a key of worker.LOADERS
    precision: str  # fp32 or int8
    file: str
    module: str  # what importing it needs
    package: str  # what installing it needs

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.engine} {self.precision}"


PEERS = (
    Peer("onnxruntime", "fp32", "fp32.onnx", "onnxruntime", "onnxruntime"),
    Peer("onnxruntime", "int8", "int8.onnx", "onnxruntime", "onnxruntime"),
    Peer("openvino", "fp32", "fp32.onnx", "openvino", "openvino"),
    Peer("openvino", "int8", "int8.onnx", "openvino", "openvino"),
    Peer("pytorch", "fp32", "fp32.pt", "torch", "torch"),
)


@dataclass(frozen=True)
class PeerTiming:
    """Milliseconds of one call of a peer with `batch` pictures."""

    engine: str
    precision: str
    version: str
    threads: int
    batch: int
    file_bytes: int
    n: int  # calls timed
    median_ms: float
    p10_ms: float
    p90_ms: float

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True)
class Comparison:
    """A packed model and its peers, timed in turns."""

    timings: list[Timing]
    peers: list[PeerTiming]
    missing: list[str]  # a sentence for each peer that could not be timed

    def fastest_peer(self, precision: str) -> PeerTiming | None:
        """Return the fastest peer of `fp32` or `int8`."""
        found = [peer for peer in self.peers if peer.precision == precision]
        return min(found, key=lambda peer: peer.median_ms, default=None)

    def ratio(self, median_ms: float, precision: str) -> float | None:
        """Return how many times faster `median_ms` is than the fastest peer of `precision`."""
        peer = self.fastest_peer(precision)
        return peer.median_ms / median_ms if peer else None


def compare(
    program: Program, isas: tuple[str, ...], *, threads: int = 1, batch: int = 1, seconds: float = 1.0
) -> Comparison:
    """Time a packed model and, in turns with it, its architecture in every peer that can be imported here.

    Raises:
        RunError: if a number is out of range, the program holds no spec, or the export lacks a package.
    """
    check_numbers(batch, seconds)
    if program.spec is None:
        raise RunError(
            f"{program.name} holds no network spec, and peers run the architecture that it names; "
            "pack a network of bitskip's own with `bitskip pack`, or leave out --peers"
        )
    spec = NetworkSpec.from_dict(dict(program.spec), program.name)
    with tempfile.TemporaryDirectory(prefix="bitskip-peers-") as folder, ExitStack() as stack:
        missing = export(spec, Path(folder), batch)
        workers: dict[str, tuple[Peer, Worker, int]] = {}
        for peer in PEERS:
            path = Path(folder) / peer.file
            if importlib.util.find_spec(peer.module) is None:
                missing.append(f"{peer.name}: not installed; pip install {peer.package}")
            elif path.exists():
                try:
                    started = stack.enter_context(Worker(peer.engine, path, threads))
                except RunError as error:
                    missing.append(f"{peer.name}: {error}")
                else:
                    workers[peer.name] = (peer, started, path.stat().st_size)
        ours = native_timers(program, isas, threads, batch)
        died: dict[str, str] = {}
        spreads = alternate(
            ours | {name: started.time for name, (_, started, _) in workers.items()},
            ROUNDS,
            seconds / ROUNDS,
            failed=died,
        )
        missing += [f"{name}: {why}" for name, why in died.items()]
    return Comparison(
        [timing(isa, threads, batch, spreads[isa]) for isa in isas],
        [
            _peer_timing(peer, started.version, threads, batch, size, spreads[name])
            for name, (peer, started, size) in workers.items()
            if name in spreads
        ],
        missing,
    )


def _peer_timing(peer: Peer, version: str, threads: int, batch: int, size: int, spread: Spread) -> PeerTiming:
    return PeerTiming(
        peer.engine, peer.precision, version, threads, batch, size,
        spread.n, spread.median_ms, spread.p10_ms, spread.p90_ms,
    )  # fmt: skip
