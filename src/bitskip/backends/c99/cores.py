"""The processors that kernels are chosen for; the C itself compiles for any of them."""

from __future__ import annotations

from bitskip.backends.c99.kernels import Core

DEFAULT_CORE = "cortex-m4"

CORES = {
    core.name: core
    for core in (
        Core(
            "cortex-m0plus", dsp=False, long_multiply=False, multiple=True,
            flags="-mcpu=cortex-m0plus -mthumb",
        ),
        Core(
            "cortex-m3", dsp=False, long_multiply=True, saturates=True, paired=True,
            flags="-mcpu=cortex-m3 -mthumb",
        ),
        Core(
            "cortex-m4", dsp=True, long_multiply=True, saturates=True, paired=True,
            flags="-mcpu=cortex-m4 -mthumb",
        ),
        Core(
            "cortex-m7", dsp=True, long_multiply=True, saturates=True, paired=True,
            flags="-mcpu=cortex-m7 -mthumb",
        ),
        Core(
            "cortex-m33", dsp=True, long_multiply=True, saturates=True, paired=True,
            flags="-mcpu=cortex-m33 -mthumb",
        ),
        Core(
            "rv32imc", dsp=False, long_multiply=True, compiler="riscv64-unknown-elf-gcc",
            flags="-march=rv32imc -mabi=ilp32",
        ),
        Core("host", dsp=False, long_multiply=True, compiler="gcc"),
    )
}  # fmt: skip
