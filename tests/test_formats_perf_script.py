"""perf script's text in all the shapes that its fields and other programs' names give it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.formats.perf_script import is_perf_script, read_perf_script
from profiler.model import Profile, Sample
from symbolizer.types import Kind, Reason


def read(text: str) -> tuple[Profile, ...]:
    assert is_perf_script(text.encode())
    return read_perf_script(text.encode()).profiles


def one(text: str) -> Sample:
    (profile,) = read(text)
    (sample,) = profile.samples
    return sample


def names(sample: Sample) -> list[str]:
    """Root first."""
    return [frame.function for location in reversed(sample.stack) for frame in reversed(location.frames)]


STACK = "\n\t    7f1 leaf+0x1 (/bin/app)\n\t    7f2 main+0x22 (/bin/app)\n\n"


@pytest.mark.parametrize(
    ("header", "pid", "comm", "event"),
    [
        ("java 25607 4794564.109216: cycles: ", 25607, "java", "cycles"),
        ("java 12688 [002] 6544038.708352: cpu-clock: ", 12688, "java", "cpu-clock"),
        ("V8 WorkerThread 25607 4794564.109216: cycles: ", 25607, "V8 WorkerThread", "cycles"),
        ("java 24636/25607 [000] 4794564.109216: cycles: ", 24636, "java", "cycles"),
        ("java 12688/12764 6544038.708352: cpu-clock: ", 12688, "java", "cpu-clock"),
        ("V8 WorkerThread 24636/25607 [000] 94564.109216: cycles:", 24636, "V8 WorkerThread", "cycles"),
        ("         swapper     0 [000]   158.665: cycles:", 0, "swapper", "cycles"),
        ("perf 7 [001] 1.5:   10101010 cpu-clock:pppH: ", 7, "perf", "cpu-clock:pppH"),
        ("perf 7 [001] 1.5:   10101010 cpu_core/cycles/u: ", 7, "perf", "cpu_core/cycles/u"),
        ("perf 7 cycles:u:", 7, "perf", "cycles:u"),
        ("perf 7 1.5:", 7, "perf", "cpu-clock"),
        ("kworker/0:1-ev 9 [000] 1.5: cycles:", 9, "kworker/0:1-ev", "cycles"),
        ("Compiler 2 of 3 12 [000] 1.5: cycles:", 12, "Compiler 2 of 3", "cycles"),
        ("a:b: 12 [000] 1.5: cycles:", 12, "a:b:", "cycles"),
        ("x 12 [000] 1.5: sched:sched_switch: prev_comm=a prev_pid=1 ==> next_comm=b", 12, "x", "sched:sched_switch"),
    ],
)
def test_headers_of_every_shape(header: str, pid: int, comm: str, event: str) -> None:
    for text in (header + STACK, (header + STACK).replace("\n", "\r\n"), header + STACK.rstrip()):
        (profile,) = read(text)
        (sample,) = profile.samples
        expected = event + ":count" if event.startswith("sched:") else event
        assert (sample.pid, sample.process, sample.thread, profile.event) == (pid, comm, comm, expected)
        assert names(sample) == ["main", "leaf"]


def test_the_process_is_named_by_its_first_thread_wherever_that_is_in_the_file() -> None:
    text = "worker 10/11 1.0: cycles:" + STACK + "java 10/10 1.1: cycles:" + STACK
    (profile,) = read(text)
    assert [(s.process, s.thread, s.pid) for s in profile.samples] == [("java", "worker", 10), ("java", "java", 10)]


@pytest.mark.parametrize(
    ("line", "name", "path", "kind"),
    [
        ("ffffffff8103ce3b native_safe_halt ([kernel.kallsyms])", "native_safe_halt", "[kernel.kallsyms]", Kind.KERNEL),
        ("ffffffff8103ce3b start ([kernel.kallsyms].init.text)", "start", "[kernel.kallsyms].init.text", Kind.KERNEL),
        ("8c3453 tcp_sendmsg (/lib/debug/vmlinux)", "tcp_sendmsg", "/lib/debug/vmlinux", Kind.KERNEL),
        ("ffffffffc01 ext4_read+0x12 ([ext4])", "ext4_read", "[ext4]", Kind.MODULE),
        ("7ff clock_gettime+0x1 ([vdso])", "clock_gettime", "[vdso]", Kind.VDSO),
        ("ffff bpf_prog_1_x+0x1 (bpf_prog_1_x)", "bpf_prog_1_x", "bpf_prog_1_x", Kind.BPF),
        ("7f Ljava/io/P;::print(Ljava/lang/String;)V (/tmp/perf-9.map)", "", "/tmp/perf-9.map", Kind.JIT),
        ("7f LazyCompile:*f /srv/a b.js:12 (/tmp/perf-9.map)", "LazyCompile:*f /srv/a b.js:12", "", Kind.JIT),
        ("""13a RegExp:[&<>"'] (/tmp/perf-7539.map)""", """RegExp:[&<>"']""", "", Kind.JIT),
        ("7f f+0x1 (//anon)", "f", "//anon", Kind.JIT),
        ("7f operator()(int) const+0x3 (/usr/bin/app)", "operator()(int) const", "/usr/bin/app", Kind.NATIVE),
        ("7f net/http.(*Client).Do+0x3 (/usr/bin/app)", "net/http.(*Client).Do", "", Kind.NATIVE),
        (
            "7f <alloc::vec::Vec<T> as core::iter::X>::f+0x3 (/a)",
            "<alloc::vec::Vec<T> as core::iter::X>::f",
            "",
            Kind.NATIVE,
        ),
        (
            "7f _ZN4core3fmt5write17h0123456789abcdefE+0x3 (/a)",
            "_ZN4core3fmt5write17h0123456789abcdefE",
            "",
            Kind.NATIVE,
        ),
        ("7f f+0x3 (/home/me/my app/bin (deleted))", "f", "/home/me/my app/bin", Kind.NATIVE),
        ("7f f(int)+0x3 (/opt/x (86)/bin/app)", "f(int)", "/opt/x (86)/bin/app", Kind.NATIVE),
        ("native_safe_halt ([kernel.kallsyms])", "native_safe_halt", "[kernel.kallsyms]", Kind.KERNEL),
        ("add (/bin/x)", "add", "/bin/x", Kind.NATIVE),
        ("7f12 main", "main", "", Kind.NATIVE),
    ],
)
def test_frames_of_every_shape(line: str, name: str, path: str, kind: Kind) -> None:
    (location,) = one(f"x 1/1 1.0: cycles:\n\t{line}\n\n").stack
    (frame,) = location.frames
    assert frame.kind is kind and (not name or frame.function == name)
    assert not path or (location.binary is not None and location.binary.path == path)


@pytest.mark.parametrize(
    ("line", "name", "reason"),
    [
        ("7f12 [unknown] ([unknown])", "[no mapping]", Reason.NO_MAPPING),
        ("7f12 [unknown] (/lib/libc.so.6)", "[libc.so.6: no symbols]", Reason.NO_SYMBOLS),
        ("ffff [unknown] ([kernel.kallsyms])", "[kernel.kallsyms: no symbols]", Reason.NO_SYMBOLS),
        ("7f12", "[no mapping]", Reason.NO_MAPPING),
        ("0 (nil) (/bin/x)", "[x: no symbols]", Reason.NO_SYMBOLS),
    ],
)
def test_what_has_no_name_says_why(line: str, name: str, reason: Reason) -> None:
    sample = one(f"x 1/1 1.0: cycles:\n\t{line}\n\n")
    assert [(frame.function, frame.reason) for frame in sample.stack[0].frames] == [(name, reason)]
    (profile,) = read(f"x 1/1 1.0: cycles:\n\t{line}\n\n")
    assert profile.accounting.frames_unknown == {reason.value: 1}


def test_inlined_frames_are_of_the_location_they_are_inlined_into() -> None:
    text = "x 1/1 1.0: cycles:\n\t7f1 twice (inlined)\n\t7f1 sum (inlined)\n\t7f1 main+0x1 (/a)\n\t7f2 _start (/a)\n\n"
    first, second = one(text).stack
    assert [(f.function, f.kind) for f in first.frames] == [
        ("twice", Kind.INLINED),
        ("sum", Kind.INLINED),
        ("main", Kind.NATIVE),
    ]
    assert first.address == 0x7F1 and [f.function for f in second.frames] == ["_start"]


def test_functions_that_a_jit_inlined_are_taken_apart_and_operators_are_not() -> None:
    text = "java 1/1 1.0: cycles:\n\t7f1 Outer::a->Mid::b->In::c (/tmp/perf-1.map)\n\t7f2 X::operator-> (/a)\n\n"
    sample = one(text)
    assert names(sample) == ["X::operator->", "Outer::a", "Mid::b", "In::c"]
    assert [frame.kind for frame in sample.stack[0].frames] == [Kind.INLINED, Kind.INLINED, Kind.JIT]


def test_source_lines_belong_to_the_frame_before_them() -> None:
    text = "x 1/1 1.0: cycles:\n\t7f1 f+0x1 (/a)\n  a.c:12\n\t7f2 g (/a)\n  libg.so[12]\n\t7f3 main (/a)\n  b.c:3\n\n"
    frames = [location.frames[0] for location in one(text).stack]
    assert [(f.function, f.file, f.line) for f in frames] == [("f", "a.c", 12), ("g", "", 0), ("main", "b.c", 3)]


def test_events_mixed_in_one_file_become_a_profile_each() -> None:
    text = (
        "x 1/1 1.0: 10101010 cpu-clock:"
        + STACK
        + "x 1/1 1.1: 1 page-faults:"
        + STACK
        + "y 2/2 1.2: 10101010 cpu-clock:"
        + STACK
        + "y 2/2 1.3: 4 page-faults:"
        + STACK
    )
    clock, faults = read(text)
    assert (clock.event, clock.hz, clock.accounting.sampled) == ("cpu-clock", 99, 2)
    assert (faults.event, faults.hz, faults.accounting.sampled) == ("page-faults:count", 1, 5)
    assert clock.accounting.closes and clock.window.end_ns == 200_000_000 + 10**9 // 99


def test_one_line_for_each_sample_without_call_chains() -> None:
    line = "         swapper     0 [001] 158.570607:          1 cycles:  ffffffff81 native_safe_halt+0x1 ([kernel])\n"
    (profile,) = read(line * 3)
    assert [names(sample) for sample in profile.samples] == [["native_safe_halt"]] * 3


def test_samples_without_a_stack_count() -> None:
    (profile,) = read("x 1/1 1.0: cycles:\n\nx 1/1 1.1: cycles:\n\nx 1/1 1.2: cycles:" + STACK)
    assert [len(sample.stack) for sample in profile.samples] == [0, 0, 2]
    assert profile.accounting.sampled == 3


def test_comments_tell_the_host_and_the_rate() -> None:
    text = (
        "# ========\n# captured on    : Fri Nov 28 2026\n# hostname : web-1\n"
        "# cmdline : /usr/bin/perf record -F 49 -a -g \n# ========\n#\n" + "x 1/1 1.0: cycles:" + STACK
    )
    (profile,) = read(text)
    assert (profile.host, profile.hz) == ("web-1", 49)


def test_a_command_line_of_several_lines_does_not_end_the_comments() -> None:
    text = "# ========\n# hostname : web-1\n# cmdline : perf record -F 49 -- python -c x = 1\nprint 3\n\ny 1.5: 2\n"
    text += "# ========\n#\n"
    file = read_perf_script((text + "x 1/1 1.0: cycles:" + STACK).encode())
    assert file.profiles[0].hz == 49 and file.profiles[0].accounting.sampled == 1
    assert not any("left out" in problem for problem in file.problems)


def test_a_rate_that_is_not_told_is_assumed_and_said() -> None:
    file = read_perf_script(("x 1/1 1.0: cycles:" + STACK).encode())
    assert file.profiles[0].hz == 100
    assert "The samples of cycles come without their rate: 100 Hz assumed." in file.problems


def test_lines_that_make_no_sense_are_told_and_cost_nothing_else() -> None:
    file = read_perf_script(("x 1/1 1.0: cycles:" + STACK + "no sense\nx 1/1 1.1: cycles:" + STACK).encode())
    assert [len(sample.stack) for sample in file.profiles[0].samples] == [2, 2]
    assert "line 5 left out: neither a sample nor a frame of perf script" in file.problems


def test_text_without_a_sample_names_the_line() -> None:
    with pytest.raises(ValueError, match="line 1 and 1 more names no thread"):
        read_perf_script(b"nothing here\nnor here\n")


@pytest.mark.parametrize("text", ["a;b;c 12\n", "main;f 1 2\n", "java;cycles: 5\n", "", "{}"])
def test_other_text_is_not_taken_for_perf_scripts(text: str) -> None:
    assert not is_perf_script(text.encode())


HEADERS = ("x 1/2 [0] 1.5: 3 cycles:u:", "x 1 2.0:  7f g (/x)")
OTHERS = ("\t7f a (/b)", "", "\t(inlined)", " 7f (inlined)", "#", "x", "  a.c:3", "->", "\t1 a->b (/tmp/perf-1.map)")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(HEADERS + OTHERS)))
def test_lines_in_any_order_are_read_or_refused_and_every_sample_counted(lines: list[str]) -> None:
    try:
        file = read_perf_script("\n".join(lines).encode())
    except ValueError as error:
        assert str(error)
        return
    total = sum(profile.accounting.sampled for profile in file.profiles)
    assert total == sum(line in HEADERS for line in lines)
