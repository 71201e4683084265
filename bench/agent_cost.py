"""The agent's CPU time and memory against `perf record -F 99 -a -g` + `perf script` to folded text.

All profile the same machine in the same seconds, under a C program, clang in a loop, Python and node. Counted are CPU
seconds, user and system, of each with all its children:

- perf, one recording: recording, and `perf script` with the stackcollapse.py that comes with it;
- perf, windows: the same with `--switch-output=10s`, each file made into text, which is what the agent delivers;
- the agent with what it spends inside BPF (what perf spends in the kernel's interrupts is not counted), while it
  runs on, and with its start (imports, kernel symbols, the first look at every file).

With `steady` all CPUs are busy with programs that run on, Python and C without frame pointers, and counting begins
once their names and unwind tables are known. So it does with `whole`, where all CPUs are busy with Go, which keeps
frame pointers: there perf's stacks are whole as ours are, and both do the same work.

    python bench/agent_cost.py [SECONDS] [steady|whole]
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from profiler.formats.otlp import read_otlp
from profiler.push import PATH

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "/usr/lib/perf-core/scripts/python/stackcollapse.py"
COMPILED = ("chains", "loader", "plugin", "short", "stacks", "syscalls", "threads")
WORKLOADS = ROOT / "tests" / "live" / "workloads"


DEEP_PYTHON = """
import json
def deep(left):
    return deep(left - 1) if left else sum(len(json.dumps(list(range(50)))) for _ in range(50))
while True:
    deep(50)
"""


class Sink(BaseHTTPRequestHandler):
    """A server that accepts every window and keeps what it says of its cost."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == PATH:  # better names for earlier windows go to another
            self.bodies.append(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def run_counted(command: list[str]) -> float:
    """CPU seconds of a command and all that it waited for; perf aborts now and then, and is then tried again."""
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if not status:
            return usage.ru_utime + usage.ru_stime
    raise SystemExit(f"{' '.join(command)} failed: {os.waitstatus_to_exitcode(status)}")


def cpu_seconds(pid: int) -> float:
    """What a process has used until now (proc_pid_stat(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_load(folder: str) -> list[subprocess.Popen[bytes]]:
    chains, sources = f"{folder}/chains", " ".join(str(WORKLOADS / f"{name}.c") for name in COMPILED)
    subprocess.run(["gcc", "-O1", "-fno-omit-frame-pointer", "-o", chains, str(WORKLOADS / "chains.c")], check=True)
    build = f"cd {folder}; while :; do for f in {sources}; do clang -O2 -S -o out.s $f; done; sleep 0.3; done"
    node = "setInterval(() => JSON.parse(JSON.stringify(Array.from({length: 5000}, (_, i) => ({i, s: `${i}`})))), 5)"
    python = "import json,time\nwhile 1: json.loads(json.dumps(list(range(2000)))); time.sleep(0.0005)"
    return [
        subprocess.Popen([chains, "100000"]),
        subprocess.Popen(["sh", "-c", build], start_new_session=True, stderr=subprocess.DEVNULL),
        subprocess.Popen([sys.executable, "-c", python]),
        subprocess.Popen(["node", "-e", node]),
    ]


def start_steady_load(folder: str) -> list[subprocess.Popen[bytes]]:
    chains = f"{folder}/chains"
    subprocess.run(["gcc", "-O1", "-fomit-frame-pointer", "-o", chains, str(WORKLOADS / "chains.c")], check=True)
    commands = [["/usr/bin/python3", "-c", DEEP_PYTHON], [chains, "100000"]]
    return [subprocess.Popen(commands[cpu % 2]) for cpu in range(os.cpu_count() or 2)]


def start_whole_load(folder: str) -> list[subprocess.Popen[bytes]]:
    busy = f"{folder}/busy"
    subprocess.run(["go", "build", "-o", busy, str(WORKLOADS / "busy.go")], check=True)
    return [subprocess.Popen([busy])]


LOADS = {"": start_load, "steady": start_steady_load, "whole": start_whole_load}


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    kind = sys.argv[2] if len(sys.argv) > 2 else ""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        load = LOADS[kind](folder)
        url, data = f"http://127.0.0.1:{server.server_port}", f"{folder}/perf.data"
        agent = subprocess.Popen([sys.executable, "-m", "profiler.cli", "agent", "--server", url], cwd=ROOT)
        while len(Sink.bodies) < (4 if kind else 2):  # a whole window has been pushed: it has started
            time.sleep(0.05)
        started, first = cpu_seconds(agent.pid), len(Sink.bodies)
        record = ["perf", "record", "-q", "-F", "99", "-a", "-g", "-e", "cpu-clock"]
        windows = [*record, "--switch-output=10s", "-o", f"{folder}/windows"]
        with ThreadPoolExecutor() as pool:
            in_windows = pool.submit(run_counted, [*windows, "--", "sleep", str(seconds)])
            recorded = run_counted([*record, "-o", data, "--", "sleep", str(seconds)])
            used = cpu_seconds(agent.pid)
            windows_recorded = in_windows.result()
        agent.terminate()
        agent.wait()
        for process in load:
            process.kill()
            process.wait()
        scripted = run_counted(["perf", "script", "-i", data, "-s", FOLDER])
        files = sorted(Path(folder).glob("windows.*"))
        windows_scripted = sum(run_counted(["perf", "script", "-i", str(file), "-s", FOLDER]) for file in files)
    server.shutdown()
    accounts = [read_otlp(gzip.decompress(body)).profiles[0].accounting for body in Sink.bodies]
    steady = accounts[first:-1]
    bpf = sum(account.cost.bpf_ns for account in steady) / 1e9
    running, with_start = used - started + bpf, used + bpf
    once, often = recorded + scripted, windows_recorded + windows_scripted
    memory = max(account.cost.rss_bytes for account in accounts) + accounts[-1].cost.locked_bytes
    share = f"{running / seconds:.2%} of one CPU"
    print(f"agent: {running:.2f} CPU s in {seconds} s ({share}), of them {bpf:.2f} in BPF; with start {with_start:.2f}")
    whole = sum(account.unwinding.whole for account in steady)
    stacks = whole + sum(sum(account.unwinding.cut.values()) for account in steady)
    sampled = sum(account.sampled for account in steady)
    print(f"       {sampled:,} samples in {len(steady)} windows, {whole / max(stacks, 1):.2%} of user stacks whole")
    print(f"perf, one recording: {once:.2f} CPU s: {recorded:.2f} record, {scripted:.2f} script and folding")
    parts = f"{windows_recorded:.2f} record, {windows_scripted:.2f} script and folding"
    print(f"perf, {len(files)} windows: {often:.2f} CPU s: {parts}")
    for peer, spent in (("one recording", once), ("windows", often)):
        print(
            f"ratio agent/{peer} {running / spent:.3f} running on, {with_start / spent:.3f} with its start (budget 0.1)"
        )
    print(f"agent memory {memory / 1e6:.0f} MB: resident and BPF together (budget 100)")
    closes = all(account.closes for account in accounts)
    print(f"lost {sum(account.lost_total for account in accounts)}; every account closes: {closes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
