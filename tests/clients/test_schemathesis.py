"""schemathesis asks all that /openapi.json describes, in sense and nonsense; the answers must be as described."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx

# Not positive_data_acceptance: a time, a selector and the like are texts to a schema, and not every text is one.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,unsupported_method"
)


def test_every_answer_is_as_the_description_says(server: str, tmp_path: Path) -> None:
    for name in ("shop.cpu{region=eu}", "shop.alloc_space"):
        answer = httpx.post(server + "/ingest", params={"name": name}, content=b"main;hot 3\nmain;cold 4\n")
        assert answer.status_code == 200
    ran = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{server}/openapi.json",
            f"--checks={CHECKS}",
            "--phases=examples,coverage,fuzzing",
            "--max-examples=3",
            "--seed=7",
            "--workers=1",
            "--request-timeout=60",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    counted = re.search(r"(\d+) generated, (\d+) passed", ran.stdout)
    assert counted is not None and counted[1] == counted[2] and int(counted[1]) > 300, ran.stdout[-2000:]
