"""What kind a CPU is, from what the kernel tells of it on different machines."""

from __future__ import annotations

from pathlib import Path

from profiler import events
from profiler.cpukinds import cpu_kinds


def machine(root: Path, cpuinfo: str, **pmus: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    for name, cpus in pmus.items():
        (root / "sys/devices" / name).mkdir(parents=True)
        (root / "sys/devices" / name / "cpus").write_text(cpus + "\n")
    return root


def x86(*models: str) -> str:
    return "\n".join(f"processor\t: {i}\nvendor_id\t: X\nmodel name\t: {model}\n" for i, model in enumerate(models))


def test_a_cpu_is_of_the_kind_that_its_model_is(tmp_path: Path) -> None:
    root = machine(tmp_path, x86("Intel(R) Xeon(R)   Processor", "AMD EPYC 7763"))
    assert cpu_kinds(root) == {0: "Intel(R) Xeon(R) Processor", 1: "AMD EPYC 7763"}


def test_the_sorts_of_cores_of_a_hybrid_machine_are_told_apart(tmp_path: Path) -> None:
    root = machine(tmp_path, x86(*["i7"] * 5), cpu_core="0,2-3", cpu_atom="1", cpu_lowpower="4")
    assert cpu_kinds(root) == {
        0: "i7 (performance core)",
        1: "i7 (efficiency core)",
        2: "i7 (performance core)",
        3: "i7 (performance core)",
        4: "i7 (low-power core)",
    }


def test_cores_that_are_all_of_one_sort_are_called_by_their_model_alone(tmp_path: Path) -> None:
    assert cpu_kinds(machine(tmp_path, x86("i7", "i7"), cpu_core="0-1")) == {0: "i7", 1: "i7"}


def test_arm_cores_are_told_apart_by_part_number_known_or_not(tmp_path: Path) -> None:
    parts = ("0xd03", "0xd08", "0xfff")
    blocks = [f"processor\t: {i}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n" for i, part in enumerate(parts)]
    root = machine(tmp_path, "\n".join([*blocks, "Hardware\t: Board\n"]))
    assert cpu_kinds(root) == {0: "Arm Cortex-A53", 1: "Arm Cortex-A72", 2: "ARM 0x41 part 0xfff"}


def test_cpus_that_nothing_is_told_of_have_no_kind(tmp_path: Path) -> None:
    assert cpu_kinds(tmp_path) == {}
    assert cpu_kinds(machine(tmp_path, "processor\t: 0\nmachine\t: s390\n\nprocessor : x\nmodel name : y\n")) == {}


def test_every_cpu_of_this_machine_has_a_kind() -> None:
    kinds = cpu_kinds()
    assert kinds.keys() == events.online_cpus() and all(kinds.values())
