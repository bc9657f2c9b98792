"""Everything that wants a GPU, as one command without decisions; small files of it are brought back.

    python tools/gpu_runs.py --dry-run                 # what would run, with estimated minutes
    python tools/gpu_runs.py --out runs/gpu --minutes 60
    python tools/gpu_runs.py --out runs/gpu            # the same again goes on where it stopped

In order of importance: the rows of the paper's grid that are missing; the teacher; the zoo and the networks
for boards by `modern-long`; the baselines; two more seeds; the detector; the ablation of distillation.
`OUT/small.tar.gz` holds results, recipes, logs and packed files of what has ended.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import typer

from bitskip.cost import cost_of
from bitskip.files import read_json
from bitskip.nn.baselines import Baseline, baseline_names
from bitskip.sources import spec_of
from bitskip.spec import PAPER_VARIANTS
from bitskip.study.kept import kept_run

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "results" / "runs"
SPEED = ROOT / "benchmarks" / "results" / "training_speed-h200.json"

ZOO = (*PAPER_VARIANTS, "resnet14-w1a1")
TEACHER = "resnet14-full-all"
EPOCHS = {"zoo": 100, "edge": 150, "baselines": 100, "paper": 100}
SEEDS = 3
_ABLATED = 60  # epochs
# Small networks overfit less than they lack steps: light augmentation, full size throughout.
EDGE = ("batch_size=500", "resolution=[]", "augmentation.cutout=0", "augmentation.crop=2")

SMALL = ("result.json", "results.json", "run.json", "spec.json", "recipe.yaml", "metrics.csv", "tables.md")
_LEAST_SHARE = 0.3  # of the time of resnet14-full-all that any network takes: a step has a floor
_GRACE_SECONDS = 30.0  # for a training to leave its checkpoint


@dataclass(frozen=True)
class Job:
    """Commands that follow one another; a job that has ended is never run again."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    minutes: float  # estimated, alone on one H200
    after: str = ""  # a job that must have ended


@dataclass(frozen=True)
class Scale:
    """What makes the same plan run on a GPU, or in seconds on a CPU to see that it does."""

    tiny: bool = False

    @property
    def training(self) -> tuple[str, ...]:
        """Options of `bitskip train` and `bitskip study`."""
        if self.tiny:
            return ("--accelerator", "cpu", "--devices", "1", "--data", "mini", "--epochs", "1")
        return ("--accelerator", "gpu", "--devices", "1")

    @property
    def width(self) -> tuple[str, ...]:
        """Options for networks whose width can be chosen."""
        return ("--width", "0.0625") if self.tiny else ()

    def epochs(self, kind: str) -> tuple[str, ...]:
        """Options that set the length."""
        return () if self.tiny else ("--epochs", str(EPOCHS[kind]))


def plan(out: Path, scale: Scale) -> list[Job]:
    """Return all jobs, the most important first."""
    teacher = out / f"{TEACHER}-seed0"
    jobs = [*_paper(out, scale), _network(TEACHER, 0, out, scale, None)]
    jobs += [_network(name, 0, out, scale, teacher) for name in ZOO if name != TEACHER]
    jobs += [_edge(path, out, scale, teacher) for path in sorted(RUNS.glob("edge-*/spec.json"))]
    jobs += [_baseline(name, out, scale) for name in baseline_names()]
    jobs += [
        _network(name, seed, out, scale, None if name == TEACHER else teacher)
        for seed in range(1, SEEDS)
        for name in ZOO
    ]
    return [*jobs, _detector(out, scale), _ablation(out, scale, teacher)]


def _paper(out: Path, scale: Scale) -> list[Job]:
    missing = [name for name in PAPER_VARIANTS if kept_run(name) is None]
    if not missing:
        return []
    names = [word for name in missing for word in ("--models", name)]
    command = _bitskip("study", "--preset", "paper", *names, *scale.training, *scale.width, "--jobs", "auto",
                       "--out", str(out / "paper"))  # fmt: skip
    return [Job("paper", (command,), sum(_minutes(name, EPOCHS["paper"], False) for name in missing))]


def _network(name: str, seed: int, out: Path, scale: Scale, teacher: Path | None) -> Job:
    taught = ("--teacher", str(teacher), "--warm-start", str(teacher)) if teacher is not None else ()
    options = ("--recipe", "modern-long", *scale.epochs("zoo"), *scale.width, *taught)
    job = f"{name}-seed{seed}"
    return _trained(
        job, name, seed, options, out, scale, _minutes(name, EPOCHS["zoo"], bool(taught)), teacher
    )


def _edge(spec: Path, out: Path, scale: Scale, teacher: Path) -> Job:
    small = spec_of(str(spec)).input_size != 32  # a teacher looks at pictures of its own size
    taught = () if small else ("--teacher", str(teacher), "--set", "distillation.views=student")
    changes = [word for change in EDGE for word in ("--set", change)]
    options = ("--recipe", "modern-long", *scale.epochs("edge"), *changes, *taught)
    minutes = _minutes(str(spec), EPOCHS["edge"], not small)
    return _trained(spec.parent.name, str(spec), 0, options, out, scale, minutes, None if small else teacher)


def _baseline(name: str, out: Path, scale: Scale) -> Job:
    options = ("--recipe", "modern-long", *scale.epochs("baselines"))
    word = f"baseline:{name}"
    return _trained(name, word, 0, options, out, scale, _minutes(word, EPOCHS["baselines"], False), None)


def _trained(
    job: str,
    network: str,
    seed: int,
    options: Sequence[str],
    out: Path,
    scale: Scale,
    minutes: float,
    teacher: Path | None,
) -> Job:
    folder = out / job
    train = _bitskip("train", network, *options, *scale.training, "--seed", str(seed), "--resume",
                     "--out", str(folder))  # fmt: skip
    # Of pictures that the run was trained on, which its folder names.
    pack = _bitskip("pack", str(folder), "--no-check", "-o", str(folder / f"{job}.bitskip"))
    return Job(job, (train, pack), minutes, teacher.name if teacher is not None else "")


def _detector(out: Path, scale: Scale) -> Job:
    how = "--device cuda --bf16 --test-pictures 512 --learning-rate 7e-4 --steps 6000 --warm-steps 6000"
    train, hybrid = "--seconds 150 --warm-seconds 60", "--seconds 120"
    if scale.tiny:
        how = "--steps 2 --warm-steps 2 --size 64 --test-pictures 2 --batch-size 2"
        train = hybrid = ""
    script = (sys.executable, str(ROOT / "examples" / "detect.py"))
    folder = ("--out", str(out / "detector"))
    commands = (
        (*script, "train", *how.split(), *train.split(), *folder),
        (*script, "hybrid", *how.split(), *hybrid.split(), *folder),
    )
    return Job("detector", commands, (150 + 60 + 120 + 60) / 60)  # their limits, and a minute of tests


def _ablation(out: Path, scale: Scale, teacher: Path) -> Job:
    arms = ("distillation", "views", "warm_start")
    how = f"--epochs {_ABLATED} --width 1 --seeds {SEEDS} --accelerator gpu"
    if scale.tiny:
        how = "--epochs 1 --width 0.0625 --seeds 1 --accelerator cpu --data mini"
    words = ("ablate", "resnet14-hybrid-all", "--recipe", "modern-long", "--arms", ",".join(arms))
    command = _bitskip(*words, *how.split(), "--teacher", str(teacher), "--out", str(out / "ablation"))
    runs = (1 + len(arms)) * SEEDS
    return Job("ablation", (command,), runs * _minutes("resnet14-hybrid-all", _ABLATED, True), teacher.name)


def _bitskip(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "bitskip", *words)


@cache
def _minutes(network: str, epochs: int, taught: bool) -> float:
    """Estimate a training's minutes from what an H200 was measured to do, and from its MACs."""
    rows = read_json(SPEED)["rows"]
    rate = max(float(row["bitskip"]) for row in rows if row["model"] == TEACHER)  # pictures/s
    if network.startswith("baseline:"):
        macs = Baseline(network.removeprefix("baseline:")).cost().macs
    else:
        macs = cost_of(spec_of(network)).macs
    share = max(_LEAST_SHARE, (macs or 0) / (cost_of(spec_of(TEACHER)).macs or 1))
    return epochs * 50_000 / rate / 60 * (share + (1 / 3 if taught else 0))


# -- running ------------------------------------------------------------------------------------------


def run(jobs: Sequence[Job], out: Path, at_a_time: int, seconds: float | None) -> dict[str, str]:
    """Run what has not ended yet, and return how each job stands: done, failed, stopped or left.

    Args:
        jobs: the most important first.
        out: where everything lies; logs too.
        at_a_time: trainings beside each other.
        seconds: until everything is told to stop, its checkpoints kept; None for no limit.
    """
    end = None if seconds is None else time.monotonic() + seconds
    (out / "logs").mkdir(parents=True, exist_ok=True)
    state = {job.name: "done" if _mark(out, job).is_file() else "left" for job in jobs}
    running: dict[str, tuple[Job, Iterator[tuple[str, ...]], subprocess.Popen[bytes]]] = {}
    try:
        while True:
            for name, (job, rest, process) in list(running.items()):
                if process.poll() is None:
                    continue
                following = next(rest, None) if process.returncode == 0 else None
                if following is not None:
                    running[name] = (job, rest, _start(job, following, out))
                    continue
                del running[name]
                state[name] = "done" if process.returncode == 0 else "failed"
                _say(name, f"{state[name]} (its log: {_log(out, job)})")
                if state[name] == "done":
                    _mark(out, job).touch()
                bring_back(out)
            late = end is not None and time.monotonic() >= end
            ready = [
                job
                for job in jobs
                if state[job.name] == "left" and state.get(job.after, "done") == "done" and not late
            ]
            for job in ready[: at_a_time - len(running)]:
                commands = iter(job.commands)
                running[job.name] = (job, commands, _start(job, next(commands), out))
                state[job.name] = "stopped"  # what it is if nothing more is heard of it
                _say(job.name, f"begun, about {job.minutes:.1f} minutes alone")
            if late or not running:
                return state
            time.sleep(0.2)
    finally:
        _stop([process for _, _, process in running.values()])
        bring_back(out)


def _start(job: Job, command: Sequence[str], out: Path) -> subprocess.Popen[bytes]:
    with _log(out, job).open("ab") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask for an end as Ctrl-C does, and do not wait for long."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    end = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(out: Path, job: Job) -> Path:
    return out / "logs" / f"{job.name}.log"


def _mark(out: Path, job: Job) -> Path:
    return out / "logs" / f"{job.name}.done"


def _say(name: str, text: str) -> None:
    typer.echo(f"{time.strftime('%H:%M:%S')} {name}: {text}")


def bring_back(out: Path) -> Path:
    """Write `OUT/small.tar.gz`: what is small of everything that lies below `out`."""
    path, unfinished = out / "small.tar.gz", out / "small.tar.gz.part"
    with tarfile.open(unfinished, "w:gz") as tar:
        for file in sorted(out.rglob("*")):
            if file.name in SMALL or file.suffix in (".bitskip", ".log"):
                tar.add(file, file.relative_to(out))
    return unfinished.rename(path)


def main() -> int:
    """Run the script; returns 1 if a job failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of everything")
    parser.add_argument("--minutes", type=float, help="stop after so long; what was begun goes on next time")
    parser.add_argument("--at-a-time", type=int, default=3, help="trainings beside each other on the GPU")
    parser.add_argument("--only", metavar="NAME", action="append", help="jobs by name; repeat the option")
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    parser.add_argument("--tiny", action="store_true", help="seconds on a CPU, to see that it runs")
    args = parser.parse_args()
    out = args.out.absolute()
    jobs = plan(out, Scale(args.tiny))
    unknown = set(args.only or ()) - {job.name for job in jobs}
    if unknown:
        parser.error(f"no job is named {', '.join(sorted(unknown))}; --dry-run lists them")
    if args.at_a_time < 1 or (args.minutes is not None and args.minutes <= 0):
        parser.error("--at-a-time and --minutes are at least 1 and above 0")
    wanted = [job for job in jobs if not args.only or job.name in args.only]
    if args.dry_run:
        show(wanted, out)
        return 0
    if not args.tiny and not _has_gpu():
        parser.error("torch sees no GPU here; --tiny tries the whole on a CPU")
    paper = out / "paper" / "results.json"
    if not args.tiny and not paper.is_file():  # its finished rows, which the study then keeps
        paper.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "results" / "paper" / "results.json", paper)
    seconds = None if args.minutes is None else 60 * args.minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # trainings are told to stop then too
    state = run(wanted, out, args.at_a_time, seconds)
    for name, how in state.items():
        if how != "done":
            _say(name, how)
    typer.echo(json.dumps({how: list(state.values()).count(how) for how in sorted(set(state.values()))}))
    return 1 if "failed" in state.values() else 0


def show(jobs: Sequence[Job], out: Path) -> None:
    """Print the jobs, their commands and how long they take by estimate."""
    for job in jobs:
        done = ", done" if _mark(out, job).is_file() else ""
        after = f", after {job.after}" if job.after else ""
        typer.echo(f"{job.name}: about {job.minutes:.1f} minutes{after}{done}")
        for command in job.commands:
            shown = command[2:] if command[1:3] == ("-m", "bitskip") else ("python", *command[1:])
            typer.echo("    " + shlex.join(shown).replace(f"{out}/", "OUT/").replace(f"{ROOT}/", ""))
    total = sum(job.minutes for job in jobs if not _mark(out, job).is_file())
    typer.echo(f"{len(jobs)} jobs, about {total:.0f} minutes of one H200; others beside them gain little")


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    sys.exit(main())
