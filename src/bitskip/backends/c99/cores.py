"""The processors that kernels are chosen for; the C itself compiles for any of them."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_CORE = "cortex-m4"


@dataclass(frozen=True)
class Core:
    """What the chosen kernels assume of a processor."""

    name: str
    dsp: bool  # SMLAD and SXTB16
    long_multiply: bool  # 32 x 32 to 64 bits in one instruction
    saturates: bool = False  # clamps to int8 in one instruction
    paired: bool = False  # stores two registers in one instruction
    multiple: bool = False  # low and high registers, moved by LDM and STM
    tile: int = 8  # pixels that share one load of 1-bit weights
    compiler: str = "arm-none-eabi-gcc"
    flags: str = ""


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
