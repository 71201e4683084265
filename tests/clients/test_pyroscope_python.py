"""pyroscope-io, Pyroscope's client for Python, pushes from a real process, and what it saw is found again."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx

TOKEN = "a token of some length"  # as in conftest.py

CPU = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
PROGRAM = """
import sys, time
import pyroscope

pyroscope.configure(
    application_name="shop.python",
    server_address=sys.argv[1],
    tags={"region": "eu"},
    upload_interval=1,
    report_pid=True,
    report_thread_name=True,
    mem_enabled=True,
    basic_auth_username="anyone",
    basic_auth_password=sys.argv[2],
)

def spend_cpu_time():
    began, total, kept = time.process_time(), 0, []
    while time.process_time() - began < 2.5:
        total += sum(number * number for number in range(1000))
        kept.append(bytearray(1 << 16))
        del kept[:-100]
    return total

with pyroscope.tag_wrapper({"endpoint": "/buy"}):
    spend_cpu_time()
pyroscope.shutdown()
"""


def run(url: str, password: str) -> int:
    """Runs the program; returns its pid."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, url, password], cwd="/")
    assert process.wait(120) == 0
    return process.pid


def test_a_python_process_pushes_and_is_found_by_its_labels(server: str) -> None:
    began = time.time()
    pid = run(server, "")
    until = time.time() + 1

    def ask(path: str, **parameters: str) -> object:
        answer = httpx.get(server + path, params={**parameters, "from": int(began) - 5, "until": int(until)})
        assert answer.status_code == 200, answer.text
        return answer.json()

    found = ask("/pyroscope/render", query=CPU + '{service_name="shop.python",region="eu",endpoint="/buy"}')
    assert isinstance(found, dict)
    graph = found["flamebearer"]
    assert "spend_cpu_time" in graph["names"] and "MainThread" in graph["names"]
    assert graph["numTicks"] > 0 and graph["numTicks"] % 10_000_000 == 0  # at 100 Hz, a hundredth of a second each
    assert sum(found["timeline"]["samples"]) == graph["numTicks"]
    other = ask("/pyroscope/render", query=CPU + '{service_name="shop.python",endpoint!="/buy",endpoint!=""}')
    assert isinstance(other, dict) and other["flamebearer"]["numTicks"] == 0

    assert ask("/pyroscope/label-values", label="pid", query='{service_name="shop.python",endpoint="/buy"}') == [
        str(pid)
    ]
    kinds = ask("/pyroscope/label-values", label="__name__")
    assert isinstance(kinds, list)
    assert {CPU, "memory:alloc_space:bytes:space:bytes"} <= set(kinds)
    memory = ask("/pyroscope/render", query='memory:alloc_space:bytes:space:bytes{service_name="shop.python"}')
    assert isinstance(memory, dict)
    assert memory["flamebearer"]["numTicks"] > 1 << 20 and memory["metadata"]["units"] == "bytes"

    folded = httpx.get(
        server + "/flamegraph.folded",
        params={"from": int(began) - 5, "until": int(until), "event": "cpu-clock", "q": "service=shop.python"},
    )
    counts = [int(line.rpartition(" ")[2]) for line in folded.text.splitlines()]
    everything = ask("/pyroscope/render", query=CPU + '{service_name="shop.python"}')
    assert isinstance(everything, dict)
    assert sum(counts) * 10_000_000 == everything["flamebearer"]["numTicks"]
    assert "stored" in httpx.get(server + "/metrics").text


def test_the_token_is_the_password(guarded_server: str) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    run(guarded_server, "wrong")
    assert httpx.get(guarded_server + "/api/v1/hosts", headers=headers).json() == []
    run(guarded_server, TOKEN)
    assert httpx.get(guarded_server + "/api/v1/hosts", headers=headers).json() != []
