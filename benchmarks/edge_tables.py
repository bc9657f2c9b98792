"""The tables of docs/edge.md and of the README, from what `edge.py measure` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_networks import NETWORKS, RESNET8, W1A1, lowered, smallest_arena
from emulator import BOARDS

from bitskip.backends.c99.cores import CORES
from bitskip.backends.c99.target import choose_placement
from bitskip.files import read_json
from bitskip.program import Program

MARKS = ("<!-- {}: made by benchmarks/edge.py -->", "<!-- end of {} -->")


def tables(results: Path) -> dict[str, str]:
    """Return the tables of docs/edge.md and the README by name, as Markdown."""
    known = {path.stem: read_json(path) for path in results.glob("*.json")}
    rows = [known[name] for name in NETWORKS if name in known]
    cmsis = known.get("cmsis-nn-resnet8")
    return {
        "devices": _devices_table(rows, cmsis),
        "goals": _goals_table({row["network"]: row for row in rows}, cmsis),
        "networks": _networks_table(rows, cmsis),
        "instructions": _instructions_table(rows, cmsis),
        "per MAC": _per_mac_table(rows, cmsis),
        "memory": _memory_table(rows),
        "conditions": _conditions(rows, cmsis, known.get("hosts")),
    }


def _markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _accuracy(row: dict[str, Any]) -> str:
    return "untrained" if row["accuracy"] is None else f"{row['accuracy']:.2%}"


def _million(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def _networks_table(rows: list[dict[str, Any]], cmsis: dict[str, Any] | None) -> str:
    head = [
        "network",
        "CIFAR-10 test",
        "MACs",
        "constants",
        "flash -O3 / -O2 / -Os",
        "arena",
        "least arena",
        "stack",
        "M4 instructions -O3 / -O2",
    ]
    body = []
    for row in rows:
        m4 = row["cores"]["cortex-m4"]
        flash = " / ".join(f"{size:,}" for size in m4.get("flash_bytes", {}).values())
        counts = " / ".join(
            _million(n)
            for level, n in m4.get("instructions_by_level", {"-O3": m4["instructions"]}).items()
            if level != "-Os"
        )
        body.append([
            row["network"], _accuracy(row), _million(sum(row["macs"].values())), f"{m4['constant_bytes']:,}",
            flash, f"{m4['arena_bytes']:,}", f"{m4['smallest_arena_bytes']:,}",
            f"{m4['stack_bytes']:,}", counts,
        ])  # fmt: skip
    if cmsis is not None:
        count = _million(cmsis["cores"]["cortex-m4"]["instructions"])
        body.append(["the same ResNet-8 through CMSIS-NN", "", "12.5 M", "", "", "", "", "", count])
    return _markdown(head, body)


# What the README shows: trained networks that fit small boards, and what int8 ResNet-8 takes there.
_ON_DEVICES = ("edge-16k", "edge-m4-w1", "edge-32k", "resnet14-hybrid-all-x0.25", RESNET8)


def _devices_table(rows: list[dict[str, Any]], cmsis: dict[str, Any] | None) -> str:
    head = ["network", "CIFAR-10 test", "built with", "flash", "RAM", "M4 instructions", "M0+ instructions"]
    by_name = {row["network"]: row for row in rows}
    body = []
    for row in (by_name[name] for name in _ON_DEVICES if name in by_name):
        m4, small = row["cores"]["cortex-m4"], row["cores"]["cortex-m0plus"]
        ram = m4["arena_bytes"] + m4["stack_bytes"]
        body.append([
            row["network"], _accuracy(row), f"`{m4['level']}`",
            f"{m4['flash_bytes'][m4['level']] / 1024:.1f} KiB", f"{ram / 1024:.1f} KiB",
            *(_million(core["instructions_by_level"][core["level"]]) for core in (m4, small)),
        ])  # fmt: skip
    if cmsis is not None:
        counts = (cmsis["cores"][core]["instructions"] for core in ("cortex-m4", "cortex-m0plus"))
        body.append(["the same ResNet-8 through CMSIS-NN", "", "", "", "", *map(_million, counts)])
    return _markdown(head, body) + "\n\n" + _per_mac_sentence(by_name, cmsis)


def _per_mac_sentence(rows: dict[str, dict[str, Any]], cmsis: dict[str, Any] | None) -> str:
    """Say what a multiply-accumulate takes on a Cortex-M4, over whole networks."""

    def per_mac(name: str, counted: dict[str, Any]) -> str:
        total = sum(rows[name]["macs"].values())
        return f"{counted['cores']['cortex-m4']['instructions'] / total:.1f}"

    said = []
    if "edge-m4-w1" in rows:
        said.append(f"{per_mac('edge-m4-w1', rows['edge-m4-w1'])} with 1-bit weights")
    if RESNET8 in rows:
        said.append(f"{per_mac(RESNET8, rows[RESNET8])} with int8")
        said += [] if cmsis is None else [f"{per_mac(RESNET8, cmsis)} through CMSIS-NN"]
    return f"Instructions a multiply-accumulate on a Cortex-M4: {', '.join(said)}."


W1 = ("edge-m4-w1", "edge-32k", "resnet14-binary-all-x0.25")  # with 1-bit weights but in the first layer


def _goals_table(rows: dict[str, dict[str, Any]], cmsis: dict[str, Any] | None) -> str:
    """Compare what was asked of whole networks with what was counted."""

    def per_mac(names: tuple[str, ...], *cores: str) -> tuple[str, float]:
        found = [
            [rows[name]["cores"][core]["instructions"] / sum(rows[name]["macs"].values()) for core in cores]
            for name in names
        ]
        shown = "; ".join(
            f"{name}: {', '.join(f'{n:.2f}' for n in line)}" for name, line in zip(names, found, strict=True)
        )
        return shown, max(n for line in found for n in line)

    body = []
    for goal, most, names, cores in (
        ("w1 on M3, M4", 0.85, W1, ("cortex-m3", "cortex-m4")),
        ("w1 on M0+, RV32IMC", 1.25, W1, ("cortex-m0plus", "rv32imc")),
        ("w1a1 on M3, M4", 0.5, (W1A1,), ("cortex-m3", "cortex-m4")),
        ("int8 on M4", 1.7, (RESNET8,), ("cortex-m4",)),
    ):
        shown, largest = per_mac(names, *cores)
        if goal.startswith("int8") and cmsis is not None:
            macs = sum(rows[RESNET8]["macs"].values())
            shown += f" (CMSIS-NN: {cmsis['cores']['cortex-m4']['instructions'] / macs:.2f})"
        body.append([f"instructions a MAC, {goal}", f"<= {most}", shown, _yes(largest <= most)])
    for core in ("cortex-m4", "cortex-m0plus"):
        code = {name: row["cores"][core]["code_bytes"] for name, row in rows.items()}
        code = {name: sizes for name, sizes in code.items() if "-O2" in sizes}
        largest_code = max(code, key=lambda name: code[name]["-O3"])
        o3, o2 = code[largest_code]["-O3"], code[largest_code]["-O2"]
        words = f"largest: {largest_code}, {o3:,} bytes at -O3, {o2:,} at -O2"
        body.append([f"code of the runtime, {core}", "<= 12 KiB", words, _yes(o3 <= 12 * 1024)])
    for goal, least, fits in (
        ("at ResNet-8's M4 budget (19.9 M), 45 KB of weights, 36 KiB of arena", 0.865, _in_budget),
        (
            "at 32 KiB of weights (34 KiB with their scales)",
            0.85,
            lambda m4: m4["constant_bytes"] <= 34 * 1024,
        ),
    ):
        known = [r for r in rows.values() if r["accuracy"] is not None and fits(r["cores"]["cortex-m4"])]
        best = max(known, key=lambda row: row["accuracy"])
        shown = f"{best['network']}: {best['accuracy']:.2%}"
        body.append([goal, f">= {least:.1%}", shown, _yes(best["accuracy"] >= least)])
    return _markdown(["goal", "asked", "reached", ""], body)


def _in_budget(m4: dict[str, Any]) -> bool:
    arena, constants = m4["arena_bytes"], m4["constant_bytes"]
    return bool(m4["instructions"] <= 19.9e6 and constants <= 45_000 and arena <= 36 * 1024)


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


def _instructions_table(rows: list[dict[str, Any]], cmsis: dict[str, Any] | None) -> str:
    cores = list(BOARDS)
    body = [
        [row["network"], *(_million(row["cores"][core]["instructions"]) for core in cores)] for row in rows
    ]
    if cmsis is not None:
        counted = cmsis["cores"]
        body.append(
            ["the same ResNet-8 through CMSIS-NN"]
            + [_million(counted[core]["instructions"]) if core in counted else "" for core in cores]
        )
    return _markdown(["network", *cores], body)


def _per_mac_table(rows: list[dict[str, Any]], cmsis: dict[str, Any] | None) -> str:
    cores = list(BOARDS)
    body = []
    for row in rows:
        total = sum(row["macs"].values())
        whole = (f"{row['cores'][core]['instructions'] / total:.2f}" for core in cores)
        body.append([f"{row['network']}, whole", *whole])
        for precision, macs in row["macs"].items():
            if macs < 0.02 * total:
                continue
            counts = (row["cores"][core]["instructions_by_precision"][precision] / macs for core in cores)
            body.append([f"its {precision} layers", *(f"{count:.2f}" for count in counts)])
    resnet8 = next((row for row in rows if row["network"] == RESNET8), None)
    if cmsis is not None and resnet8 is not None:
        total, counted = sum(resnet8["macs"].values()), cmsis["cores"]
        body.append(
            ["the same ResNet-8 through CMSIS-NN"]
            + [f"{counted[core]['instructions'] / total:.2f}" if core in counted else "" for core in cores]
        )
    return _markdown(["", *cores], body)


def _memory_table(rows: list[dict[str, Any]]) -> str:
    from bitskip.spec import named_spec

    body = []
    for policy in ("all", "middle", "none"):
        program = _random_network(named_spec(f"resnet14-binary-{policy}-x0.5"))
        plain = choose_placement(program, CORES["cortex-m4"])[0].arena_bytes
        body.append([policy, f"{plain:,}", f"{smallest_arena(program, 'cortex-m4'):,}"])
    first = int(body[0][1].replace(",", ""))
    for line in body:
        line.append(f"{int(line[1].replace(',', '')) / first:.2f}")
    return _markdown(
        ["shortcuts of resnet14-binary-*-x0.5", "arena, layer by layer", "least arena, in bands", "of `all`"],
        body,
    )


def _random_network(spec: Any) -> Program:
    import torch

    from bitskip.nn import build

    torch.manual_seed(0)
    side = spec.input_size
    return lowered(build(spec).eval(), (side, side, spec.input_channels), spec.name)


def _conditions(
    rows: list[dict[str, Any]], cmsis: dict[str, Any] | None, hosts: dict[str, Any] | None
) -> str:
    row = rows[0]
    pictures = wrong = 0
    for core in (core for r in rows for core in r["cores"].values()):
        pictures += core["pictures"] + core.get("pictures_in_smallest_arena", 0)
        wrong += core["pictures_with_a_wrong_bit"] + core.get("pictures_with_a_wrong_bit_in_bands", 0)
    text = (
        f"{row['date']}; {row['arm_gcc']}; {row['riscv_gcc']}; {row['qemu']}; `-O3`. "
        f"{pictures:,} classifications on {len(row['cores'])} cores, each logit compared with the reference: "
        f"{wrong} with a wrong bit."
    )
    if cmsis is not None:
        text += f" CMSIS-NN: commit {cmsis['commit'][:12]}, compiled with the same flags."
    if hosts is not None:
        counts = [(n["pictures"], wrong) for n in hosts["networks"] for wrong in n["wrong"].values()]
        names = ", ".join(n["network"] for n in hosts["networks"])
        versions = "; ".join(hosts["networks"][0]["compilers"].values())
        text += (
            f" On the host, {names}: {sum(n for n, _ in counts):,} classifications by {len(counts)} builds "
            f"(-O0 to -O3, 64 and 32 bits), {sum(n for _, n in counts)} with a wrong bit: {versions}."
        )
    return text
