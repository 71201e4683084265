"""`python -m tests.fuzz [SECONDS] [TARGET…]`: fuzzes for so many seconds of CPU time in all; exits 1 on findings."""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported: a process that is forked has one thread

import argparse
import json
import secrets
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.driver import Report, Target, fuzz, run_once
from tests.fuzz.seeds import Corpus
from tests.fuzz.targets import TARGETS


def main() -> int:
    known = {target.name: target for target in TARGETS}
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=f"Targets: {', '.join(known)}.")
    parser.add_argument("seconds", nargs="?", type=float, default=600.0, help="CPU time in all (default: 600)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="what to fuzz (default: everything)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), help="for the same inputs again")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="run one TARGET on this input alone")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what was found as JSON, too")
    options = parser.parse_intermixed_args()
    if unknown := [name for name in options.targets if name not in known]:
        parser.error(f"there is no target {unknown[0]}; there are {', '.join(known)}")
    chosen = [known[name] for name in options.targets] or list(TARGETS)
    if options.repeat is not None:
        return _repeat(chosen, options.repeat.read_bytes())
    found = Path(tempfile.mkdtemp(prefix="pilotlight-fuzz-"))
    print(f"seed {options.seed}, {options.seconds:g} s of CPU time, inputs of findings go to {found}", flush=True)
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        corpus = Corpus(Path(folder))
        for target in chosen:
            report = fuzz(target, corpus, options.seed, options.seconds / len(chosen), found)
            _tell(report, options.seed)
            reports.append(report)
    if options.report is not None:
        options.report.write_text(json.dumps([asdict(report) for report in reports]))
    if not any(report.findings for report in reports):
        found.rmdir()
        return 0
    return 1


def _tell(report: Report, seed: int) -> None:
    print(
        f"{report.target:12} {report.inputs:8,} inputs in {report.seconds:6.1f} s of CPU time,"
        f" {report.lines:5,} lines run, {len(report.findings)} findings",
        flush=True,
    )
    for finding in report.findings:
        print(f"\n{finding.key}: input {finding.number} of seed {seed}; to repeat:")
        print(f"    python -m tests.fuzz --repeat {finding.path} 0 {finding.target}\n{finding.detail}", flush=True)


def _repeat(targets: list[Target], data: bytes) -> int:
    findings = [finding for target in targets if (finding := run_once(target, data)) is not None]
    for finding in findings:
        print(f"{finding.target}: {finding.key}\n{finding.detail}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
