"""How far stacks were walked, for people: where they ended before their root, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from profiler.model import Unwinding
from symbolizer.types import Reason
from web.parts import Cut, PassageRow, UnwindingReport

ADVICE: Final = {
    Reason.MAPPINGS_NOT_KNOWN: (
        "The process was sampled before it was known what it had mapped. If this is more than a few in a thousand,"
        " programs are started that live for milliseconds: look for what starts them."
    ),
    Reason.NO_MAPPING: (
        "The caller's address is in no file. Usually a function below keeps something else in the frame pointer:"
        " build the files named here with -fno-omit-frame-pointer or with unwind tables."
    ),
    Reason.NO_UNWIND_TABLE: (
        "The file was built without .eh_frame (-fno-asynchronous-unwind-tables), or the code is made at run time:"
        " build it with unwind tables or -fno-omit-frame-pointer, run Java with -XX:+PreserveFramePointer."
    ),
    Reason.UNWIND_TABLE_NOT_LOADED: (
        "The file's table was not in place yet: this passes within seconds of a file's first samples. If it stays,"
        " the tables in use do not fit: give the agent more with --unwind-memory."
    ),
    Reason.NO_UNWIND_ROW: (
        "The file has unwind information, but none for this function: assembly without .cfi directives, or an object"
        " built with -fno-asynchronous-unwind-tables."
    ),
    Reason.UNWIND_RULE_UNSUPPORTED: (
        "The function finds its caller by a rule that the kernel's tables cannot hold: report it with the file, or"
        " build that with -fno-omit-frame-pointer."
    ),
    Reason.STACK_UNREADABLE: (
        "The stack's memory could not be read: it was swapped out, or the program was just being replaced by another"
        " (exec). Nothing is wrong with the file; where there are many, see whether the host is short of memory."
    ),
    Reason.STACK_BROKEN: (
        "The walk came to a frame that does not lie above the one it called: unwind information that is wrong,"
        " hand-written assembly, or code that switches stacks (coroutines)."
    ),
    Reason.TRUNCATED: (
        "The stack is deeper than may be walked (16,384 frames, or 264 on kernels before 5.17): look for a recursion"
        " that goes deeper than it should."
    ),
}
_UNKNOWN: Final = "This agent gives a reason that this server does not know: update the server."


def report(unwinding: Unwinding) -> UnwindingReport | None:
    """What the page of a host says; None where nobody looked how stacks ended."""
    cut = sum(unwinding.cut.values())
    stacks = unwinding.whole + unwinding.unchecked + cut
    if not stacks and not unwinding.binaries:
        return None
    binaries = [
        PassageRow(
            path, passage.by_table, passage.by_frame_pointer, sum(passage.ended.values()), _sorted(passage.ended)
        )
        for path, passage in unwinding.binaries.items()
    ]
    binaries.sort(key=lambda row: (-row.stacks_ended, -(row.by_table + row.by_frame_pointer), row.binary))
    known = {reason.value: advice for reason, advice in ADVICE.items()}
    return UnwindingReport(
        stacks=stacks,
        whole=unwinding.whole,
        unchecked=unwinding.unchecked,
        cut=cut,
        reasons=[
            Cut(reason, count, known.get(reason, _UNKNOWN)) for reason, count in _sorted(unwinding.cut).items() if count
        ],
        binaries=binaries,
    )


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
