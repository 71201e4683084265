"""Labels of samples that stacks can be grouped by: they stand on the labels' values then, see model.stack_table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from profiler.model import Profile

LABELS: Final = ("service", "container", "pid", "process", "thread", "cpu_kind")  # fields of Sample
MOST: Final = 4
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]{0,199}")


def parse_labels(text: str) -> tuple[str, ...]:
    """`label[,label]` as labels to group by, whether there are such or not. Raises ValueError, with a sentence."""
    labels = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if len(labels) > MOST:
        raise ValueError(f"more than {MOST} labels to group by")
    for label in labels:
        if label == "comm":
            raise ValueError("comm is the name of a process or of a thread: group by process, or by thread")
        if not _NAME.fullmatch(label):
            raise ValueError(f"{label if len(label) <= 60 else label[:60] + '…'!r} is no label to group by")
    return labels


def labels_of(profile: Profile) -> tuple[str, ...]:
    """Those of LABELS that some sample of a profile has a value of; all, of a profile without samples."""
    return tuple(
        label for label in LABELS if not profile.samples or any(getattr(sample, label) for sample in profile.samples)
    )


def check_labels(profile: Profile, labels: Sequence[str]) -> None:
    """Raises ValueError, with a sentence, for a label that samples of a profile cannot have: what is in LABELS they
    can, unless they come without any, as from a file that has nothing but stacks."""
    known = labels_of(profile)
    for label in labels:
        if label not in LABELS or not known:
            there = f"there are {', '.join(known)}" if known else "they have none"
            raise ValueError(f"no sample has a label {label!r} to group by; {there}")
