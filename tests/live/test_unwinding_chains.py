"""User stacks without frame pointers, from programs whose every stack is known."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from profiler.model import Profile, Sample
from symbolizer.types import Kind, Reason
from tests.live.support import (
    Build,
    Record,
    cut,
    fates,
    is_root,
    learn,
    record_in,
    samples_of,
    share_to_root,
    total,
    user_functions,
)

CHAIN = [f"f{number:02}" for number in range(65)]
FLAGS = ["-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread"]


@dataclass(frozen=True, slots=True)
class Variant:
    """How the chain is built. `shared`: its functions are in a library."""

    compiler: str
    flags: tuple[str, ...]
    shared: bool = False


VARIANTS = {
    f"{form}-O{level}": Variant("gcc", (f"-O{level}", *flags), form == "shared")
    for form, flags in {
        "pie": ["-pie"],
        "fixed": ["-no-pie"],
        "static": ["-static"],
        "staticpie": ["-static-pie"],
        "shared": ["-fPIC"],
    }.items()
    for level in (0, 2, 3)
} | {
    "alloca": Variant("gcc", ("-O2", "-DALLOCA")),
    "variable": Variant("gcc", ("-O2", "-DVARIABLE")),
    "aligned": Variant("gcc", ("-O2", "-DALIGNED", "-mavx2", "-mstackrealign")),
    "aligned-var-O0": Variant("gcc", ("-O0", "-DALIGNED_VARIABLE", "-mstackrealign")),
    "aligned-var": Variant("gcc", ("-O2", "-DALIGNED_VARIABLE", "-mstackrealign")),
    "clang": Variant("clang", ("-O2",)),
    "clang-fixed": Variant("clang", ("-O2", "-no-pie")),
    "clang-aligned": Variant("clang", ("-O2", "-DALIGNED_VARIABLE")),
}


def build_variant(build: Build, name: str) -> Path:
    variant = VARIANTS[name]
    flags = [*variant.flags, *FLAGS]
    if not variant.shared:
        return build(variant.compiler, "chain.c", *flags, to=name)
    library = build(variant.compiler, "chain.c", "-shared", "-DCHAIN_ONLY", *flags, to=f"lib{name}.so")
    return build(variant.compiler, "chain.c", "-DMAIN_ONLY", *flags, str(library), to=name)


@pytest.fixture(scope="module")
def chains(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """All variants at once, each by its name and, where it does it in a thread, with " thread"."""
    with ThreadPoolExecutor(2) as pool:
        programs = list(pool.map(lambda name: build_variant(build, name), VARIANTS))
    learn(*programs)
    script = " & ".join([*(f"{program} 0.25" for program in programs), f"{programs[0]} 0.25 thread", "wait"])
    return record_in(tmp_path_factory.mktemp("recorded"), "-F", "999", "--", "sh", "-c", script)


def in_chain(samples: list[Sample]) -> list[tuple[Sample, list[str]]]:
    """The samples in the chain, each with the user functions of its stack from the first of the chain on; before that
    nothing but the stub that leads to the next function, and what binds it, may stand."""
    found = []
    for sample in samples:
        names = user_functions(sample)
        at = next((at for at, name in enumerate(names) if name in CHAIN), None)
        if at is None:
            continue
        following = CHAIN[int(names[at][1:]) + 1 :][:1]
        for name in names[:at]:
            assert name in [f"{name}@plt" for name in following] or name.startswith("[ld-linux"), names[: at + 1]
        found.append((sample, names[at:]))
    return found


def is_start_of_main(names: list[str]) -> bool:
    """Whether these are the C library's frames below main."""
    return len(names) == 3 and names[2] == "_start" and names[1].startswith("__libc_start_main")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_stack_of_a_known_chain_is_exact(name: str, chains: Profile) -> None:
    found = in_chain([sample for sample in samples_of(chains, name) if sample.thread == name])
    of_main = [(sample, names) for sample, names in found if "main" in names or cut(sample)]
    depths = set()
    for _, names in of_main:
        depth = int(names[0][1:])
        depths.add(depth)
        assert names[: depth + 3] == [*reversed(CHAIN[: depth + 1]), "go_down", "main"]
        assert is_start_of_main(names[depth + 3 :]), names[depth + 3 :]
    assert sum(sample.count for sample, _ in of_main) > 100
    assert len(depths) > 40


def test_stacks_of_a_thread_end_where_the_thread_began(chains: Profile) -> None:
    found = in_chain(samples_of(chains, next(iter(VARIANTS))))
    of_thread = [(sample, names) for sample, names in found if "main" not in names]
    assert sum(sample.count for sample, _ in of_thread) > 100
    for sample, names in of_thread:
        depth = int(names[0][1:])
        assert names[: depth + 2] == [*reversed(CHAIN[: depth + 1]), "go_down"]
        assert is_root(sample), names
        assert len(names) == depth + 4  # start_thread and clone3


def test_nothing_is_lost_with_all_cpus_busy(chains: Profile) -> None:
    assert chains.hz == 999
    assert chains.accounting.lost_total == 0
    assert chains.accounting.idle < 0.5 * chains.accounting.ticks
    assert chains.accounting.sampled > 4000


def test_the_account_says_how_many_stacks_are_whole(chains: Profile) -> None:
    unwinding = chains.accounting.unwinding
    whole = total(sample for sample in chains.samples if user_functions(sample) and not cut(sample))
    reasons: dict[str, int] = {}
    for sample in chains.samples:
        if reason := cut(sample):
            reasons[reason.value] = reasons.get(reason.value, 0) + sample.count
    assert (unwinding.whole, dict(unwinding.cut)) == (whole, reasons)
    assert unwinding.whole > 0.99 * (unwinding.whole + sum(unwinding.cut.values()))


@pytest.fixture(scope="module")
def contexts(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Programs that leave the plain call stack, all at once, each by its name."""
    flags = ["-O2", *FLAGS]
    names = ["signals", "coroutines", "recursion"]
    programs = {name: build("gcc", f"{name}.c", *flags) for name in names}
    programs["exceptions"] = build("g++", "exceptions.cc", *flags)
    programs["lazy"] = build("gcc", "lazy.c", *flags)
    library = build("gcc", "lazy.c", "-DLIBRARY", "-shared", "-fPIC", "-fno-builtin", "-Wl,-z,lazy", *flags, "-lm")
    learn(*programs.values(), library)
    arguments = {"recursion": "10000 0.4", "lazy": f"0.8 {library}"}
    script = " & ".join(f"{program} {arguments.get(name, '0.8')}" for name, program in programs.items())
    return record_in(tmp_path_factory.mktemp("recorded"), "-F", "999", "--", "sh", "-c", f"{script} & wait")


def test_a_handler_on_its_own_stack_stands_on_what_it_interrupted(contexts: Profile) -> None:
    in_handler = [
        (sample, names[names.index("on_signal") + 1 :])
        for sample in samples_of(contexts, "signals")
        if "on_signal" in (names := user_functions(sample))
    ]
    interrupted = 0
    for sample, names in in_handler:
        assert names[0].startswith("[libc.so.6") or "restore_rt" in names[0]  # the signal frame
        assert "main" in names and is_start_of_main(names[names.index("main") + 1 :]), names
        if names[1] in CHAIN:
            depth = int(names[1][1:])
            assert names[1 : depth + 3] == [*reversed(CHAIN[: depth + 1]), "main"]
            interrupted += sample.count
    assert interrupted > 5


def test_coroutines_end_where_their_stack_begins(contexts: Profile) -> None:
    found = {"first": 0, "second": 0, "main": 0}
    for sample in samples_of(contexts, "coroutines"):
        names = user_functions(sample)
        for name in ("first", "second"):
            if f"{name}_work" not in names:
                continue
            found[name] += sample.count
            rest = names[names.index(f"{name}_work") + 1 :]
            assert rest[0] == f"{name}_coroutine"
            # makecontext's trampoline has no caller, which its unwind information leaves unsaid.
            assert len(rest) <= 3 and cut(sample) in (None, Reason.NO_UNWIND_ROW), names
        if "schedule" in names:
            found["main"] += sample.count
            assert is_start_of_main(names[names.index("schedule") + 2 :]), names
        assert len(names) == len(set(names)), names
    assert min(found.values()) > 12, found


def test_exceptions_being_thrown_stand_on_who_throws(contexts: Profile) -> None:
    throwing = [
        sample
        for sample in samples_of(contexts, "exceptions")
        if any(name.startswith("_Unwind_") for name in user_functions(sample))
    ]
    assert total(throwing) > 25
    exact = 0
    for sample in throwing:
        names = [re.sub(r"[(\[].*", "", name).strip() for name in user_functions(sample)]
        dives = [int(name[5:-1]) for name in names if name.startswith("dive<")]
        if "attempt" in names and dives == list(range(11))[11 - len(dives) :]:
            rest = user_functions(sample)[names.index("attempt") + 1 :]
            exact += sample.count * (rest[0] == "main" and is_start_of_main(rest[1:]))
    # Where _Unwind_Resume and its like put the catcher's registers into their own frame, they are in no frame's caller.
    assert exact >= 0.95 * total(throwing)
    assert share_to_root(throwing) >= 0.98, fates(throwing)


def test_deep_recursion_keeps_its_leaf_and_its_root(contexts: Profile) -> None:
    at_the_bottom = [s for s in samples_of(contexts, "recursion") if {"bottom", "deeper"} <= set(user_functions(s))]
    assert total(at_the_bottom) > 50
    for sample in at_the_bottom:
        names = user_functions(sample)
        first, last = names.index("deeper"), len(names) - names[::-1].index("deeper")
        assert names[first - 1] == "bottom"
        assert set(names[first:last]) == {"deeper", "[truncated]"}
        assert names.count("[truncated]") == 1 and len(names) > 100
        assert names[last] == "main" and is_start_of_main(names[last + 1 :])


def test_binding_and_loading_of_libraries_reaches_the_root(contexts: Profile) -> None:
    at_work = [s for s in samples_of(contexts, "lazy") if "load_and_call" in user_functions(s)]
    binding = 0
    for sample in at_work:
        stack = [at for at in sample.stack if at.frames[0].kind not in (Kind.KERNEL, Kind.MODULE)]
        names = [at.frames[-1].function for at in stack]
        caller = names.index("call_everything") if "call_everything" in names[1:] else 0
        callee = stack[caller - 1].binary if caller else None
        if callee is not None and "/ld-linux" in callee.path:
            binding += sample.count
            assert is_root(sample), names
            assert names[caller + 1 :][:2] == ["load_and_call", "main"]
    assert binding > 3
    assert share_to_root(at_work) >= 0.99, fates(at_work)


def test_five_milliseconds_of_a_known_program_reach_the_root(build: Build, record: Record) -> None:
    program = build("gcc", "short.c", "-O2", *FLAGS)
    learn(program, "/bin/true", "/bin/sh")
    loop = f"i=0; while [ $i -lt 150 ]; do {program}; /bin/true; i=$((i+1)); done"
    for _ in range(3):  # how soon the agent hears of a process is not its alone to say
        profile = record("-F", "999", "--", "sh", "-c", loop)
        short, only_loaded = samples_of(profile, "short"), samples_of(profile, "true")
        assert total(short) > 50
        if share_to_root(short) >= 0.95:
            break
    assert share_to_root(short) >= 0.85, fates(short)  # the aim is 0.95, which a busy machine misses
    # /bin/true is little but ld.so's start: much of it is over before anyone but the kernel can know of the process.
    known = {None, Reason.MAPPINGS_NOT_KNOWN, Reason.NO_MAPPING, Reason.STACK_UNREADABLE}
    assert total(only_loaded) > 3
    assert sum(sample.count for sample in only_loaded if cut(sample) not in known) <= 0.1 * total(only_loaded)


def test_no_stack_of_known_programs_ends_in_a_false_root(chains: Profile, contexts: Profile) -> None:
    for profile in (chains, contexts):
        whole = [sample for sample in profile.samples if user_functions(sample) and not cut(sample)]
        false = [sample for sample in whole if not is_root(sample)]
        assert total(false) == 0, [user_functions(sample)[-3:] for sample in false]
