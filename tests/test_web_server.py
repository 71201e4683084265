"""The server as a process: killed and restarted, started by root, asked to stop, and refused a start."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from profiler.better_names import encode
from profiler.formats.json import read_json
from profiler.formats.otlp import PushIdentity, write_otlp
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from web import urls
from web.app import ServerOptions, serve
from web.store.store import Store

CHECKOUT = Path(__file__).parent.parent
START = int(time.time()) // 60 * 60 - 7200

PROGRAM = """
import sys
from web.app import ServerOptions, serve
url, seconds, user, port = [*sys.argv[1:], "0"][:4]
options = ServerOptions(url, port=int(port), commit_seconds=float(seconds))
sys.exit(serve(options, user=user or None, ready=lambda url: print(url, flush=True)))
"""


class Server:
    """A server in a process of its own, on a port of its own."""

    def __init__(
        self, store: str, *, user: str = "", seconds: float = 0.0, port: int = 0, python: list[str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [*(python or [sys.executable, "-c", PROGRAM]), store, str(seconds), user, *([str(port)] if port else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            self.process.wait(60)
            raise AssertionError(self.process.stderr.read())

    def end(self, number: int = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(store: str, **options: object) -> Server:
        started.append(Server(store, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for server in started:
        server.end()


def profile(number: int, host: str = "host") -> Profile:
    begin = START + 10 * number
    frames = tuple(Location(n, None, (Frame(f"f{n}", Kind.NATIVE),)) for n in (number % 13, number % 5, 99))
    samples = tuple(Sample(frames[: 1 + n % 3], 1 + n, f"p{n}", f"p{n}", 1 + (number + n) % 4) for n in range(30))
    total = sum(sample.count for sample in samples)
    return Profile(
        host,
        "cpu-clock",
        99,
        Window(begin * 10**9, (begin + 10) * 10**9),
        samples,
        Accounting(1980, total + 500, 500, 0, total),
    )


def post(client: httpx.Client, url: str, number: int, host: str = "host") -> httpx.Response:
    return client.post(
        url + "v1development/profiles",
        content=write_otlp(profile(number, host), PushIdentity(f"agent of {host}", 1, number)),
        headers={"content-type": "application/x-protobuf"},
    )


def test_no_acknowledged_window_is_lost_or_doubled_by_kill_9(tmp_path: Path, start: Callable[..., Server]) -> None:
    url = f"chdb://{tmp_path}/store"
    chance = random.Random(4099)
    hosts = ("h0", "h1", "h2", "h3")
    acknowledged: dict[str, set[int]] = {host: set() for host in hosts}
    following = dict.fromkeys(hosts, 0)

    def keep_pushing(server: Server, host: str) -> None:
        with httpx.Client(timeout=30) as client:
            while True:
                number = following[host]
                try:
                    answer = post(client, server.url, number, host)
                except httpx.HTTPError:
                    return  # killed; the same push is tried again with the next server
                if answer.status_code == 200:
                    acknowledged[host].add(number)
                    following[host] = number + 1

    kills = 20
    for kill in range(kills):
        if kill % 5 == 4:  # also while it starts, and may be undoing what the last one left
            starting = subprocess.Popen([sys.executable, "-c", PROGRAM, url, "0", ""], cwd=CHECKOUT)
            time.sleep(chance.uniform(0.5, 2.5))
            starting.kill()
            starting.wait(60)
            continue
        server = start(url, seconds=(0.0, 0.05)[kill % 2])
        pushers = [threading.Thread(target=keep_pushing, args=(server, host)) for host in hosts]
        before = sum(map(len, acknowledged.values()))
        for pusher in pushers:
            pusher.start()
        while sum(map(len, acknowledged.values())) < before + 2 and server.process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4))
        server.end(signal.SIGKILL)
        for pusher in pushers:
            pusher.join()
    server = start(url)
    with httpx.Client(timeout=30) as client:
        # What was not acknowledged is sent again, and something that was as well.
        for host in hosts:
            for number in sorted({following[host], max(acknowledged[host])}):
                assert post(client, server.url, number, host).status_code == 200
                acknowledged[host].add(number)
        for host in hosts:
            query = f"?from={START}&until={START + 86400}&host={host}"
            got = read_json(client.get(server.url + "flamegraph.json" + query).content)
            expected = [profile(number, host) for number in acknowledged[host]]
            assert got.accounting == sum((each.accounting for each in expected), Accounting())
            assert sum(sample.count for sample in got.samples) == got.accounting.sampled
            points = client.get(server.url + "api/v1/series" + query).json()["points"]
            assert sum(point["samples"] for point in points) == got.accounting.sampled
    assert server.end(signal.SIGTERM) == 0
    assert sum(map(len, acknowledged.values())) >= 2 * 16
    store = Store(url)
    doubled = "SELECT count(), uniqExact(agent, sequence) FROM pushes"
    assert len(set(store.rows(doubled).rows[0])) == 1
    windows = "SELECT host, ts, count() FROM windows GROUP BY host, ts HAVING count() > 1"
    assert store.rows(windows).rows == []
    per_window = (
        "SELECT count() FROM (SELECT host, ts, sum(value) AS s FROM samples GROUP BY host, ts) AS a"
        " FULL JOIN (SELECT host, ts, sum(sampled) AS s FROM windows GROUP BY host, ts) AS b"
        " USING (host, ts) WHERE a.s != b.s"
    )
    assert store.rows(per_window).rows == [(0,)]
    for rollup, span in (("series_1m", "Minute"), ("stacks_1h", "Hour")):
        keys = "host, process" if rollup == "series_1m" else "host, process, thread, stack"
        rolled = f"SELECT t, {keys}, sum(value) AS s FROM {rollup} GROUP BY ALL HAVING s > 0 ORDER BY ALL"
        summed = f"SELECT toStartOf{span}(ts) AS t, {keys}, sum(value) AS s FROM samples GROUP BY ALL ORDER BY ALL"
        assert store.rows(rolled).rows == store.rows(summed).rows, rollup
    store.close()


def test_no_acknowledged_name_is_lost_by_kill_9(tmp_path: Path, start: Callable[..., Server]) -> None:
    url = f"chdb://{tmp_path}/store"
    server = start(url)
    unknown = (Frame("[x: no symbols]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS),)
    plain = [Location(address, Binary("/lib/x.so", "ab"), unknown) for address in range(40)]
    window = Window(START * 10**9, (START + 10) * 10**9)
    samples = tuple(Sample((location,), 1, "p", "p", 1) for location in plain)
    sent = write_otlp(
        Profile("host", "cpu-clock", 99, window, samples, Accounting(40, 40, 0, 0, 40)), PushIdentity("agent", 1, 1)
    )
    profiles = {"content-type": "application/x-protobuf"}
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.post("/v1development/profiles", content=sent, headers=profiles).status_code == 200
        for location in plain[:20]:
            names = encode([replace(location, frames=(Frame(f"f{location.address}", Kind.NATIVE, "", "f.c", 7),))])
            answer = client.post("/api/v1/names", content=names[0].body, headers={"content-type": "application/json"})
            assert answer.status_code == 200
    server.end(signal.SIGKILL)
    server = start(url)
    got = read_json(httpx.get(server.url + f"flamegraph.json?from={START}", timeout=30).content)
    named = [sample.stack[0] for sample in got.samples if sample.stack[0].frames != unknown]
    assert sorted(location.address for location in named) == list(range(20))
    assert all(location.frames[0].function == f"f{location.address}" for location in named)
    assert got.accounting.sampled == len(got.samples) == 40
    assert server.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(("path", "name"), [("/api/v1/lines", "function"), ("/api/v1/agents/{agent}/captures", "host")])
def test_the_longest_names_that_may_be_asked_for_fit_into_an_address(
    tmp_path: Path, start: Callable[..., Server], path: str, name: str
) -> None:
    server = start(f"chdb://{tmp_path}/store")
    address = httpx.URL(server.url)
    described = httpx.get(server.url + "openapi.json").json()["paths"][path]["get"]["parameters"]
    longest = next(each["schema"]["maxLength"] for each in described if each["name"] == name)
    for length in (longest, longest + 1):
        connection = HTTPConnection(address.host, address.port, timeout=60)  # httpx sends no address of over 64 kB
        with closing(connection):
            connection.request("GET", f"{path.format(agent='a')}?{urlencode({name: chr(0x1F525) * length})}")
            answer = connection.getresponse()
            said = answer.read().decode()
            assert answer.headers["content-type"] == "application/json", said
            assert (f"{name}: string should have at most" in said) == (length > longest), said


def test_it_stops_in_peace_and_commits_what_waits(tmp_path: Path, start: Callable[..., Server]) -> None:
    url = f"chdb://{tmp_path}/store"
    for number in (signal.SIGTERM, signal.SIGINT):
        server = start(url, seconds=2.0)
        answers: list[int] = []
        with httpx.Client(timeout=30) as client:
            post(client, server.url, 1)

        def push(url: str, answers: list[int]) -> None:
            with httpx.Client(timeout=30) as client:
                answers.append(post(client, url, 2).status_code)

        waiting = threading.Thread(target=push, args=(server.url, answers))
        waiting.start()
        time.sleep(0.4)
        assert server.end(number) == 0
        waiting.join()
        assert answers == [200]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_started_by_root_it_serves_every_page_without_a_file_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Server]
) -> None:
    """The packages lie where the server's user cannot read, as in a checkout below /root."""
    hidden = tmp_path_factory.mktemp("hidden")
    hidden.chmod(0o700)
    for package in ("profiler", "symbolizer", "web"):
        shutil.copytree(CHECKOUT / package, hidden / package, ignore=shutil.ignore_patterns("__pycache__"))
    site = Path(httpx.__file__).parent.parent
    copied = hidden / "site-packages"
    linked = subprocess.run(["cp", "-al", str(site), str(copied)], capture_output=True, check=False)
    if linked.returncode:  # on another file system
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(site, copied)
    data = Path("/tmp") / f"pilotlight-test-{os.getpid()}"
    program = (
        "import sys\n"
        f"sys.path = [{str(hidden)!r}, {str(copied)!r}, *[p for p in sys.path if 'site-packages' not in p and p]]\n"
        f"import web.app, chdb\nassert all(m.__file__.startswith({str(hidden)!r}) for m in (web.app, chdb))\n" + PROGRAM
    )
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    try:
        server = start(f"chdb://{data}", user="nobody", python=[str(base), "-S", "-E", "-B", "-c", program])
        nobody = pwd.getpwnam("nobody")
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(fields["Uid"].split()) == {str(nobody.pw_uid)}
        assert set(fields["Gid"].split()) == {str(nobody.pw_gid)}
        assert fields["Groups"].split() == [] and int(fields["CapEff"], 16) == 0
        assert data.stat().st_uid == nobody.pw_uid and stat.S_IMODE(data.stat().st_mode) == 0o700
        with httpx.Client(base_url=server.url, timeout=60) as client:
            empty = ["/", "/flamegraph", "/docs", "/login", "/captures", "/debug/pprof/"]
            assert [client.get(path).status_code for path in empty] == [200] * len(empty)
            for number in range(3):
                assert post(client, server.url, number).status_code == 200
            assert client.post("/api/v1/captures", json={"hz": "x"}).status_code == 400
            made = client.post("/api/v1/captures", json={"seconds": 1, "pid": [1]}).json()
            parameters = {"host": "host", "epoch": "1", "state": "done"}
            told = client.post(
                f"/api/v1/agents/a/captures/{made['id']}", params=parameters, content=write_otlp(profile(1))
            )
            assert told.status_code == 200
            for ending in ["", *(f".{twin}" for twin in urls.TWINS)]:
                assert client.get(f"/captures/{made['id']}{ending}").status_code == 200
            query = f"?from={START}"
            pages = [
                "/",
                "/hosts.json",
                f"/flamegraph{query}",
                f"/flamegraph{query}&comm=p1",
                f"/hosts/host{query}",
            ]
            pages += [f"/flamegraph.{extension}{query}&q=pid=1" for extension in urls.TWINS]
            pages += ["/api/v1/hosts", f"/api/v1/labels{query}&label=comm", f"/api/v1/series{query}"]
            pages += ["/metrics", "/readyz", "/openapi.json", "/static/style.css", "/static/flamegraph.js"]
            for path in pages:
                answer = client.get(path)
                assert answer.status_code == 200, (path, answer.text)
            json_body = {"content-type": "application/json"}
            assert client.post("/v1development/profiles", content=b"{}", headers=json_body).status_code == 200
            assert client.post("/api/v1/names", content=b"{}", headers=json_body).status_code == 400
            names = encode([Location(1, Binary("", "ab"), (Frame("f", Kind.NATIVE),))])[0].body
            assert client.post("/api/v1/names", content=names, headers=json_body).status_code == 200
            assert client.get("/flamegraph?q=comm=~(").status_code == 400
            assert client.get("/none").status_code == 404
        assert server.end(signal.SIGTERM) == 0
    finally:
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(hidden, ignore_errors=True)


def refused(capsys: pytest.CaptureFixture[str], options: ServerOptions, user: str | None = None) -> str:
    assert serve(options, user=user) == 1
    said = capsys.readouterr().err
    assert said.startswith("pilotlight: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


def test_a_port_in_use_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, ServerOptions(f"chdb://{tmp_path}/store", port=port))
    assert f"port {port} of 127.0.0.1 is in use" in said
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.net"])
def test_an_open_address_needs_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str) -> None:
    said = refused(capsys, ServerOptions(f"chdb://{tmp_path}/store", host, 0))
    assert "token" in said and "--insecure-no-auth" in said


def test_an_empty_token_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "empty" in refused(capsys, ServerOptions(f"chdb://{tmp_path}/store", port=0, token=""))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("user", "why"), [("no-such-user", "no user named"), ("root", "does not run as root")])
def test_a_user_it_cannot_become_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], user: str, why: str
) -> None:
    assert why in refused(capsys, ServerOptions(f"chdb://{tmp_path}/store", port=0), user)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_directory_with_other_files_is_not_given_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letters").write_text("mine")
    assert "holds other files" in refused(capsys, ServerOptions(f"chdb://{tmp_path}", port=0), "nobody")
    assert (tmp_path / "letters").stat().st_uid == 0
