"""The kind of each CPU: its model, and on machines whose cores are not all alike which sort of them it is.

Sources: proc_cpuinfo(5); on Intel's hybrid machines the PMU of each sort of core names its CPUs
(intel_hybrid_pmu_type_map in the kernel's arch/x86/events/intel/core.c); on ARM the main ID register, whose part
numbers Arm publishes core by core.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_SORTS: Final = {"cpu_core": "performance core", "cpu_atom": "efficiency core", "cpu_lowpower": "low-power core"}
_LONGEST: Final = 200  # characters
# By MIDR's implementer and part number.
_PARTS: Final = {
    ("0x41", "0xd03"): "Arm Cortex-A53",
    ("0x41", "0xd05"): "Arm Cortex-A55",
    ("0x41", "0xd07"): "Arm Cortex-A57",
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd09"): "Arm Cortex-A73",
    ("0x41", "0xd0a"): "Arm Cortex-A75",
    ("0x41", "0xd0b"): "Arm Cortex-A76",
    ("0x41", "0xd0c"): "Arm Neoverse-N1",
    ("0x41", "0xd0d"): "Arm Cortex-A77",
    ("0x41", "0xd40"): "Arm Neoverse-V1",
    ("0x41", "0xd41"): "Arm Cortex-A78",
    ("0x41", "0xd44"): "Arm Cortex-X1",
    ("0x41", "0xd46"): "Arm Cortex-A510",
    ("0x41", "0xd47"): "Arm Cortex-A710",
    ("0x41", "0xd48"): "Arm Cortex-X2",
    ("0x41", "0xd49"): "Arm Neoverse-N2",
    ("0x41", "0xd4d"): "Arm Cortex-A715",
    ("0x41", "0xd4e"): "Arm Cortex-X3",
    ("0x41", "0xd4f"): "Arm Neoverse-V2",
    ("0x41", "0xd80"): "Arm Cortex-A520",
    ("0x41", "0xd81"): "Arm Cortex-A720",
    ("0x41", "0xd82"): "Arm Cortex-X4",
    ("0x41", "0xd84"): "Arm Neoverse-V3",
    ("0x41", "0xd8e"): "Arm Neoverse-N3",
    ("0xc0", "0xac3"): "Ampere-1",
    ("0xc0", "0xac4"): "Ampere-1A",
}


def cpu_kinds(root: Path = Path("/")) -> dict[int, str]:
    """The kind of each CPU that is online, by its number: "AMD EPYC 7763 64-Core Processor", "Arm Neoverse-N1", or with
    the sort of core behind it, "… i7-12700K (efficiency core)". A CPU of which the kernel does not tell is left out.
    `root` has proc and sys in it.
    """
    sorts = _sorts(root)
    kinds = {}
    for block in _read(root / "proc/cpuinfo").split("\n\n"):
        facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in block.splitlines())}
        number, model = facts.get("processor", ""), _model(facts)
        if number.isdecimal() and model:
            sort = sorts.get(int(number))
            kinds[int(number)] = f"{model} ({sort})" if sort else model
    return kinds


def _model(facts: Mapping[str, str]) -> str:
    """What a CPU calls itself; "" where that is not told."""
    implementer, part = facts.get("CPU implementer", ""), facts.get("CPU part", "")
    known = _PARTS.get((implementer, part))
    name = known or facts.get("model name") or (f"ARM {implementer} part {part}" if implementer and part else "")
    return re.sub(r"\s+", " ", name)[:_LONGEST]


def _sorts(root: Path) -> dict[int, str]:
    """The sort of each core, where there are several."""
    found = {
        cpu: sort for name, sort in _SORTS.items() for cpu in cpu_list(_read(root / "sys/devices" / name / "cpus"))
    }
    return found if len(set(found.values())) > 1 else {}


def cpu_list(text: str) -> set[int]:
    """The CPUs of a list such as "0-3,8" (cpulist, see bitmap_parselist() in the kernel's lib/bitmap-str.c)."""
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
