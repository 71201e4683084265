"""@pyroscope/nodejs pushes from a real process; @pyroscope/models, with which Pyroscope's pages read, takes answers."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import httpx

CPU = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
WALL = "wall:wall:nanoseconds:wall:nanoseconds"
CLIENT = """
const pyroscope = require("@pyroscope/nodejs");
pyroscope.init({
    serverAddress: process.argv[2],
    appName: "shop.node",
    tags: {region: "eu", hostname: "web-7"},
    flushIntervalMs: 1000,
    wall: {collectCpuTime: true, samplingDurationMs: 1000},
});
pyroscope.start();
function spendCpuTime() {
    const began = process.cpuUsage().user;
    let total = 0;
    while (process.cpuUsage().user - began < 200000) for (let i = 0; i < 1000; i++) total += i * i;
    return total;
}
let rounds = 0;
const timer = setInterval(async () => {
    pyroscope.wrapWithLabels({endpoint: "/buy"}, spendCpuTime);
    if (++rounds < 12) return;
    clearInterval(timer);
    await pyroscope.stop();
    process.exit(0);
}, 10);
"""
READER = """
const {FlamebearerProfileSchema, GroupsSchema} = require("@pyroscope/models");
const answers = JSON.parse(require("fs").readFileSync(process.argv[2]));
for (const answer of answers) {
    const read = FlamebearerProfileSchema.parse(answer);
    const width = read.metadata.format === "double" ? 7 : 4;
    const names = read.flamebearer.levels.flatMap(level => level.filter((_, at) => at % width === width - 1));
    if (!names.every(name => read.flamebearer.names[name])) throw new Error("a node without a name");
    if (answer.groups) GroupsSchema.parse(answer.groups);
}
console.log(answers.length);
"""


def node(modules: Path, program: str, argument: str) -> str:
    ran = subprocess.run(
        ["node", "-", argument],
        input=program,
        cwd=modules.parent,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "NODE_PATH": str(modules), "DEBUG": "pyroscope"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "rejected" not in ran.stderr and "Error sending" not in ran.stderr, ran.stderr
    return ran.stdout


def test_a_node_process_pushes_and_our_answers_are_what_its_readers_expect(
    server: str, node_modules: Path, tmp_path: Path
) -> None:
    began = int(time.time()) - 5
    node(node_modules, CLIENT, server)
    times = {"from": str(began), "until": "now"}

    def render(query: str, **more: str) -> dict[str, object]:
        answer = httpx.get(server + "/pyroscope/render", params={"query": query, **times, **more})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    selector = '{service_name="shop.node",host="web-7",region="eu",endpoint="/buy"}'
    cpu, wall = render(CPU + selector, groupBy="endpoint"), render(WALL + selector)
    for found in (cpu, wall):
        graph = found["flamebearer"]
        assert isinstance(graph, dict)
        assert graph["numTicks"] > 0 and any("spendCpuTime" in name for name in graph["names"])
    memory = render('memory:inuse_space:bytes:space:bytes{service_name="shop.node"}')

    sides = {
        f"{side}{name}": text for side in ("left", "right") for name, text in (("From", str(began)), ("Until", "now"))
    }
    queries = {"leftQuery": WALL + '{service_name="shop.node"}', "rightQuery": WALL + selector}
    diff = httpx.get(server + "/pyroscope/render-diff", params={**sides, **queries}).json()
    empty = render(CPU + '{service_name="nobody"}')
    answers = [cpu, wall, memory, diff, empty, render(CPU, maxNodes="2")]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    assert node(node_modules, READER, str(tmp_path / "answers.json")).strip() == str(len(answers))
