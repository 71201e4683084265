"""The agent's CPU time and memory against `perf record -F 99 -a -g` + `perf script`, over the same seconds.

Both profile the same machine at the same time, under a load of short processes, a compiler-like C program and
Python. Counted are CPU seconds, user and system: of the agent from its start to its end, of perf for recording
and for turning the recording into text (folding it would come on top).

    python bench/agent_cost.py [SECONDS]
"""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from profiler.formats.otlp import read_otlp

ROOT = Path(__file__).resolve().parent.parent
WORKLOADS = ROOT / "tests" / "live" / "workloads"


class Sink(BaseHTTPRequestHandler):
    """A server that accepts every window and keeps what it says of its cost."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def run_counted(command: list[str], **options: object) -> tuple[float, int]:
    """CPU seconds and largest resident set in bytes of a command and all that it waited for."""
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def start_load(folder: str, seconds: int) -> list[subprocess.Popen[bytes]]:
    chains = f"{folder}/chains"
    subprocess.run(["gcc", "-O1", "-fno-omit-frame-pointer", "-o", chains, str(WORKLOADS / "chains.c")], check=True)
    short = "while :; do /bin/ls /usr/bin >/dev/null; sleep 0.02; done"
    python = "import json,time\nwhile 1: json.loads(json.dumps(list(range(2000)))); time.sleep(0.0005)"
    return [
        subprocess.Popen([chains, str(seconds + 30)]),
        subprocess.Popen(["sh", "-c", short], start_new_session=True),
        subprocess.Popen([sys.executable, "-c", python]),
    ]


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    results: dict[str, tuple[float, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        load = start_load(folder, seconds)
        data = f"{folder}/perf.data"

        def agent() -> None:
            url = f"http://127.0.0.1:{server.server_port}"
            command = [sys.executable, "-m", "profiler.cli", "agent", "--server", url]
            results["agent"] = run_counted(["timeout", "-s", "TERM", str(seconds), *command], cwd=ROOT)

        def perf() -> None:
            command = ["perf", "record", "-q", "-F", "99", "-a", "-g", "-e", "cpu-clock", "-o", data]
            results["record"] = run_counted([*command, "--", "sleep", str(seconds)], stderr=subprocess.DEVNULL)

        threads = [threading.Thread(target=run) for run in (agent, perf)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for process in load:
            process.terminate()
            process.wait()
        command = ["perf", "script", "-i", data]
        results["script"] = run_counted(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server.shutdown()
    accounts = [read_otlp(gzip.decompress(body)).profiles[0].accounting for body in Sink.bodies]
    cost = accounts[-1].cost
    memory = max(account.cost.rss_bytes for account in accounts) + cost.locked_bytes
    bpf = sum(account.cost.bpf_ns for account in accounts) / 1e9
    mine, theirs = results["agent"][0] + bpf, results["record"][0] + results["script"][0]
    sampled = sum(account.sampled for account in accounts)
    print(f"agent: {mine:.2f} CPU s (of them {bpf:.2f} in BPF) for {sampled:,} samples in {seconds} s")
    print(f"perf:  {theirs:.2f} CPU s ({results['record'][0]:.2f} record, {results['script'][0]:.2f} script)")
    print(f"ratio agent/perf {mine / theirs:.3f} (budget 0.1)")
    print(f"agent memory {memory / 1e6:.0f} MB: resident and BPF together (budget 100)")
    print(f"lost {sum(account.lost_total for account in accounts)}; every account closes: "
          f"{all(account.closes for account in accounts)}")
    return 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start = time.monotonic()
    sys.exit(main())
