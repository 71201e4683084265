"""Fetching debug files: from Debian's debuginfod, beside its debuginfod-find, and from servers that mean harm."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from symbolizer.debuginfo.bounded_http import Call, StatusError
from symbolizer.debuginfo.debuginfod import Answer, Debuginfod, Limits, limits_of, server_urls
from symbolizer.debuginfo.debuginfod_cache import DebuginfodCache, cache_folder
from symbolizer.debuginfo.files import find_debug_info
from symbolizer.files import read_at

TOOLS = {
    "gcc": "gcc",
    "strip": "binutils",
    "debuginfod": "debuginfod",
    "debuginfod-find": "debuginfod",
    "openssl": "openssl",
}
SOURCE = "static int inner(int x) { return x * 3; }\nint main(int argc, char **argv) { return inner(argc); }\n"
# debuginfod 0.188 listens on every address, at a port that it must be told: this makes it 127.0.0.1, at a free port.
ONLY_LOCAL = """
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int result;
    if (address->sa_family == AF_INET6) {
        inet_pton(AF_INET6, "::ffff:127.0.0.1", &six.sin6_addr);
        result = next(fd, (struct sockaddr *)&six, sizeof six);
        length = sizeof six;
        getsockname(fd, (struct sockaddr *)&six, &length);
    } else if (address->sa_family == AF_INET) {
        result = next(fd, (struct sockaddr *)&four, sizeof four);
        length = sizeof four;
        getsockname(fd, (struct sockaddr *)&four, &length);
        six.sin6_port = four.sin_port;
    } else
        return next(fd, address, length);
    FILE *file = result ? NULL : fopen(getenv("PORT_FILE"), "w");
    if (file) {
        fprintf(file, "%d\\n", ntohs(six.sin6_port));
        fclose(file);
    }
    return result;
}
"""
UNKNOWN = "0123456789abcdef0123456789abcdef01234567"
QUICK = Limits(seconds=30.0, stall_seconds=30.0, most_bytes=1 << 20, spare_bytes=0)
PATIENCE = 60.0  # seconds; of tests that would fail only after that


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with debug information, not to be changed."""
    for tool, package in TOOLS.items():
        if not shutil.which(tool):
            pytest.fail(f"{tool} is not installed: `make setup-dev` installs it ({package})", pytrace=False)
    folder = tmp_path_factory.mktemp("served")
    (folder / "source.c").write_text(SOURCE)
    subprocess.run(
        ["gcc", "-g", "-O0", "-Wl,--build-id=sha1", "-o", folder / "program", folder / "source.c"], check=True
    )
    return folder / "program"


@pytest.fixture(scope="module")
def build_id(program: Path) -> str:
    notes = subprocess.run(["readelf", "-n", program], capture_output=True, text=True, check=True).stdout
    return notes.split("Build ID: ")[1].split()[0]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def debuginfod(program: Path, build_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of Debian's server, which serves the program."""
    folder = tmp_path_factory.mktemp("debuginfod")
    (folder / "local.c").write_text(ONLY_LOCAL)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "local.so", folder / "local.c"], check=True)
    port_file = folder / "port"
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PORT_FILE": str(port_file)}
    environment["LD_PRELOAD"] = str(folder / "local.so")
    command = ["debuginfod", "-d", str(folder / "db.sqlite"), "-p", "8002", "-F", str(program.parent)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        url = ""
        while time.monotonic() < end and server.poll() is None:
            with suppress(OSError, ValueError):
                url = f"http://127.0.0.1:{int(port_file.read_text())}"
                urllib.request.urlopen(f"{url}/buildid/{build_id}/debuginfo", timeout=PATIENCE).close()
                break
            time.sleep(0.02)
        else:
            pytest.fail(f"debuginfod does not serve {program}: {(folder / 'log').read_text()}")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE)
        finally:
            server.kill()


# A server that can be told to do anything

Behaviour = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behaviour: Behaviour, tls: ssl.SSLContext | None) -> None:
        self.behaviour = behaviour
        self.tls = tls
        self.asked: list[str] = []
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = self.socket.accept()
        if self.tls:
            connection.settimeout(PATIENCE)
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are what is tested


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.close_connection = True
        self.server.behaviour(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(behaviour, tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def status(code: int) -> Behaviour:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def content(data: bytes, length: int | None = None) -> Behaviour:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def chunked(data: bytes) -> Behaviour:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for at in range(0, len(data), 1000):
            part = data[at : at + 1000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    return answer


def redirecting(to: str, code: int = 302) -> Behaviour:
    """Redirects, with a body that never ends."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Location", to)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1 << 16))

    return answer


def hang(handler: BaseHTTPRequestHandler) -> None:
    assert isinstance(handler.server, Server)
    handler.server.over.wait()


def drip(before: bytes) -> Behaviour:
    """Goes on sending a byte at a time, so that no read ever times out."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        assert isinstance(handler.server, Server)
        handler.wfile.write(before)
        while not handler.server.over.wait(0.01):
            handler.wfile.write(b"x")

    return answer


def continue_for_ever(handler: BaseHTTPRequestHandler) -> None:
    while True:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def endless(handler: BaseHTTPRequestHandler) -> None:
    """More than 2 GB, without saying so before."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 20))


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(bytes(70000))


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def fetched(client: Debuginfod, build_id: str) -> bytes | None:
    file = client.fetch(build_id)
    if file is None:
        return None
    try:
        return read_at(file, 0, os.fstat(file).st_size)
    finally:
        os.close(file)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """(mode, size) by path; the size of folders is 0."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        found[str(path.relative_to(folder))] = (status.st_mode, 0 if path.is_dir() else status.st_size)
    return found


def debuginfod_find(folder: Path, url: str, build_id: str, **more: str) -> str | None:
    """The path that elfutils' client prints, None where it finds nothing."""
    environment = {"PATH": os.environ["PATH"], "DEBUGINFOD_URLS": url, "HOME": str(folder.parent)}
    if not more:
        environment["DEBUGINFOD_CACHE_PATH"] = str(folder)
    command = ["debuginfod-find", "debuginfo", build_id]
    done = subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout.strip() if done.returncode == 0 else None


def closed_port() -> str:
    """A URL at which nothing listens. The port is low, so that nobody is given it by chance."""
    return "http://127.0.0.1:1"


# With elfutils


def test_a_file_is_fetched_from_debuginfod_whole(debuginfod: str, program: Path, build_id: str, tmp_path: Path) -> None:
    client = Debuginfod((debuginfod,), str(tmp_path / "cache"), QUICK)
    assert fetched(client, build_id) == program.read_bytes()
    assert fetched(client, build_id) == program.read_bytes()
    assert client.answers == {Answer.FETCHED: 1, Answer.CACHED: 1}
    assert fetched(client, UNKNOWN) is None
    assert "HTTP status 404" in client.reason(UNKNOWN)
    assert client.answers[Answer.MISSING] == 1


def test_a_stripped_binary_gets_its_debug_information_from_debuginfod(
    debuginfod: str, program: Path, tmp_path: Path
) -> None:
    subprocess.run(["strip", "-o", tmp_path / "stripped", program], check=True)
    client = Debuginfod((debuginfod,), str(tmp_path / "cache"), QUICK)
    with (tmp_path / "stripped").open("rb") as binary:
        info = find_debug_info(binary.fileno(), "/stripped", [], client.fetch)
    assert info is not None
    try:
        assert info.source == "debuginfod"
        assert read_at(info.file, 0, 1 << 20) == program.read_bytes()
    finally:
        info.close()


def test_the_cache_looks_as_debuginfod_find_leaves_it(debuginfod: str, build_id: str, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    client = Debuginfod((debuginfod,), str(ours), QUICK)
    for each in (build_id, UNKNOWN, UNKNOWN):
        fetched(client, each)
        debuginfod_find(theirs, debuginfod, each)
    assert tree(ours) == tree(theirs)
    for name in ("cache_clean_interval_s", "cache_miss_s"):
        assert (ours / name).read_text() == (theirs / name).read_text()


@pytest.mark.parametrize("code", [403, 404, 406, 410, 500, 503, None])
def test_failures_are_remembered_as_debuginfod_find_remembers_them(code: int | None, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with serving(status(code or 404)) as server:
        url = server.url if code else closed_port()
        assert fetched(Debuginfod((url,), str(ours), QUICK), UNKNOWN) is None
        assert debuginfod_find(theirs, url, UNKNOWN) is None
    assert tree(ours) == tree(theirs)
    assert (ours / UNKNOWN / "debuginfo").exists() == (code not in (406, None))


def test_what_one_client_fetched_the_other_does_not_ask_for(program: Path, build_id: str, tmp_path: Path) -> None:
    with serving(content(program.read_bytes())) as server:
        assert fetched(Debuginfod((server.url,), str(tmp_path / "1"), QUICK), build_id) == program.read_bytes()
        found = debuginfod_find(tmp_path / "1", server.url, build_id)
        assert found and Path(found).read_bytes() == program.read_bytes()
        assert debuginfod_find(tmp_path / "2", server.url, build_id)
        assert fetched(Debuginfod((server.url,), str(tmp_path / "2"), QUICK), build_id) == program.read_bytes()
        assert server.asked == [f"/buildid/{build_id}/debuginfo"] * 2


def test_what_one_client_did_not_get_the_other_does_not_ask_for(tmp_path: Path) -> None:
    with serving(status(404)) as server:
        assert fetched(Debuginfod((server.url,), str(tmp_path / "1"), QUICK), UNKNOWN) is None
        assert debuginfod_find(tmp_path / "1", server.url, UNKNOWN) is None
        assert debuginfod_find(tmp_path / "2", server.url, UNKNOWN) is None
        assert fetched(Debuginfod((server.url,), str(tmp_path / "2"), QUICK), UNKNOWN) is None
        assert len(server.asked) == 2


def test_what_was_missing_is_asked_for_again_when_cache_miss_s_is_over(
    program: Path, build_id: str, tmp_path: Path
) -> None:
    with serving(status(404)) as server:
        client = Debuginfod((server.url,), str(tmp_path), QUICK)
        assert fetched(client, build_id) is None
        (tmp_path / "cache_miss_s").write_text("1000000")
        long_ago = time.time() - 900_000
        os.utime(tmp_path / build_id / "debuginfo", (long_ago, long_ago))
        server.behaviour = content(program.read_bytes())
        assert fetched(client, build_id) is None
        (tmp_path / "cache_miss_s").write_text("800000\n")
        assert fetched(client, build_id) == program.read_bytes()


@pytest.mark.parametrize("variables", ["cache path", "xdg", "home", "older", "older with xdg"])
def test_the_cache_is_where_debuginfod_find_has_it(
    variables: str, program: Path, build_id: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home)}
    if variables == "cache path":
        environment["DEBUGINFOD_CACHE_PATH"] = str(tmp_path / "path")
    if "xdg" in variables:
        environment["XDG_CACHE_HOME"] = str(tmp_path / "xdg")
    if "older" in variables:
        (home / ".debuginfod_client_cache").mkdir()
    with serving(content(program.read_bytes())) as server:
        found = debuginfod_find(tmp_path, server.url, build_id, **environment)
    assert found == os.path.join(cache_folder(environment), build_id, "debuginfo")


def test_what_was_not_used_for_long_is_removed_and_nothing_else(tmp_path: Path) -> None:
    old, new = time.time() - 1000, time.time()
    kept = ["aa" * 20 + "/debuginfo", "bb" * 20 + "/notes", "other/debuginfo", "cc" * 20 + "/executable"]
    gone = ["bb" * 20 + "/debuginfo", "bb" * 20 + "/debuginfo.a1B2c3", "dd" * 20 + "/source##x.c"]
    for name in kept + gone:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        recent = name.startswith(("aa", "cc"))
        os.utime(path, (new if recent else old, old))
    (tmp_path / "max_unused_age_s").write_text("500")
    cache = DebuginfodCache(str(tmp_path))
    (tmp_path / "cache_clean_interval_s").write_text("2000")
    os.utime(tmp_path / "cache_clean_interval_s", (old, old))
    cache.clean()
    assert all((tmp_path / name).exists() for name in kept + gone)
    (tmp_path / "cache_clean_interval_s").write_text("500")
    os.utime(tmp_path / "cache_clean_interval_s", (old, old))
    cache.clean()
    assert [name for name in kept + gone if (tmp_path / name).exists()] == kept
    assert (tmp_path / "cache_clean_interval_s").stat().st_mtime > old + 500


def test_a_file_that_is_used_is_not_old(program: Path, build_id: str, tmp_path: Path) -> None:
    with serving(content(program.read_bytes())) as server:
        client = Debuginfod((server.url,), str(tmp_path), QUICK)
        fetched(client, build_id)
        file = tmp_path / build_id / "debuginfo"
        os.utime(file, (1000, 1000))
        fetched(client, build_id)
        assert file.stat().st_mtime == 1000
        assert file.stat().st_atime > 1_000_000


def test_a_server_is_asked_over_tls_and_must_prove_who_it_is(
    program: Path, build_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(content(program.read_bytes()), context) as server, serving(content(b"")) as plain:
        client = Debuginfod((server.url,), str(tmp_path / "1"), QUICK)
        assert client.fetch(build_id) is None
        assert "certificate verify failed" in client.reason(build_id).lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetched(Debuginfod((server.url,), str(tmp_path / "2"), QUICK), build_id) == program.read_bytes()
        server.behaviour = redirecting(plain.url)
        client = Debuginfod((server.url,), str(tmp_path / "3"), QUICK)
        assert client.fetch(build_id) is None
        assert "it redirects from https to http" in client.reason(build_id)
        assert plain.asked == []


# Servers that mean harm


def assert_nothing_is_left(folder: Path) -> None:
    """No file but the settings, and so nothing half written."""
    assert [name for name in tree(folder) if not name.endswith("_s")] == []


HANGING = {
    "silence": hang,
    "status": drip(b"HTTP/1.1 "),
    "headers": drip(b"HTTP/1.1 200 OK\r\nX: "),
    "content": drip(b"HTTP/1.1 200 OK\r\n\r\n\x7fELF"),
    "chunk": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "continue": continue_for_ever,
}


@pytest.mark.parametrize("where", HANGING)
def test_a_server_that_hangs_ends_in_an_answer(where: str, tmp_path: Path) -> None:
    limits = Limits(seconds=0.3, stall_seconds=PATIENCE, most_bytes=1 << 40, spare_bytes=0)
    with serving(HANGING[where]) as server:
        client = Debuginfod((server.url,), str(tmp_path), limits)
        assert client.fetch(UNKNOWN) is None
        assert client.answers == {Answer.TIMEOUT: 1}
        assert client.reason(UNKNOWN) == "no debuginfod server sent it within 0.3 s"
        for thread in threading.enumerate():  # it ends although the server goes on
            if thread.name.startswith("debuginfod "):
                thread.join(PATIENCE)
                assert not thread.is_alive()
    assert_nothing_is_left(tmp_path)


def test_a_server_that_stalls_gives_the_next_one_its_turn(program: Path, build_id: str, tmp_path: Path) -> None:
    limits = Limits(seconds=PATIENCE, stall_seconds=2.0, most_bytes=1 << 20, spare_bytes=0)
    with serving(hang) as first, serving(content(program.read_bytes())) as second:
        client = Debuginfod((first.url, second.url), str(tmp_path), limits)
        assert fetched(client, build_id) == program.read_bytes()
        assert client.fetch(UNKNOWN) is None  # the first is left alone, the second sends another file
        assert (len(first.asked), len(second.asked)) == (1, 2)


def test_servers_that_cannot_be_asked_are_left_alone_for_a_while(tmp_path: Path) -> None:
    with serving(hang_up) as server:
        client = Debuginfod((server.url, closed_port()), str(tmp_path), QUICK)
        for number in range(10):
            assert client.fetch(f"{number:040x}") is None
        assert len(server.asked) == 1
    assert client.answers == {Answer.NO_ANSWER: 10}
    assert "Connection refused" in client.reason(f"{0:040x}")
    assert "lately" in client.reason(f"{9:040x}")
    assert_nothing_is_left(tmp_path)


def _to_itself(handler: BaseHTTPRequestHandler) -> None:
    redirecting(handler.path)(handler)


def _ever_on(handler: BaseHTTPRequestHandler) -> None:
    redirecting(f"{handler.path}/on")(handler)


@pytest.mark.parametrize("behaviour", [_to_itself, _ever_on])
def test_redirects_without_end_are_not_followed(behaviour: Behaviour, tmp_path: Path) -> None:
    with serving(behaviour) as server:
        client = Debuginfod((server.url,), str(tmp_path), QUICK)
        assert client.fetch(UNKNOWN) is None
        assert len(server.asked) == 1 + QUICK.redirects
    assert client.answers == {Answer.NO_ANSWER: 1}
    assert "it redirects more than 5 times" in client.reason(UNKNOWN)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "http://[", "//"])
def test_redirects_to_anything_but_http_are_not_followed(to: str, tmp_path: Path) -> None:
    with serving(redirecting(to)) as server:
        client = Debuginfod((server.url,), str(tmp_path), QUICK)
        assert client.fetch(UNKNOWN) is None
    assert client.answers == {Answer.NO_ANSWER: 1}
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_to_another_server(code: int, program: Path, build_id: str, tmp_path: Path) -> None:
    heads: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        heads.append(handler.headers.get("Authorization"))
        content(program.read_bytes())(handler)

    def redirect(handler: BaseHTTPRequestHandler) -> None:
        heads.append(handler.headers.get("Authorization"))
        redirecting(f"{second.url}/x y", code)(handler)

    with serving(answer) as second, serving(redirect) as first:
        url = first.url.replace("//", "//me:secret%21@")
        assert fetched(Debuginfod((url,), str(tmp_path), QUICK), build_id) == program.read_bytes()
        assert second.asked == ["/x%20y"]
    assert heads == ["Basic bWU6c2VjcmV0IQ==", None]  # the password is for the first server only


HARMFUL: dict[str, tuple[Callable[[bytes], Behaviour], Answer, str]] = {
    "garbage": (lambda elf: content(os.urandom(5000)), Answer.NOT_IT, "it is not an ELF file"),
    "a web page": (lambda elf: content(b"<html>log in</html>"), Answer.NOT_IT, "it is not an ELF file"),
    "nothing": (lambda elf: content(b""), Answer.NOT_IT, "it is not an ELF file"),
    "another file": (lambda elf: content(elf), Answer.NOT_IT, "its build id is"),
    "half of it": (lambda elf: content(elf[: len(elf) // 2]), Answer.NOT_IT, "cut short"),
    "less than said": (lambda elf: content(elf, len(elf) + 1), Answer.NO_ANSWER, "it broke off after"),
    "2 GB, said before": (lambda elf: content(elf, 2 << 30), Answer.TOO_LARGE, "2147483648 bytes, more than 1048576"),
    "2 GB, not said before": (lambda elf: endless, Answer.TOO_LARGE, "it has more than 1048576 bytes"),
    "hanging up": (lambda elf: hang_up, Answer.NO_ANSWER, ""),
    "too large": (lambda elf: status(406), Answer.TOO_LARGE, "HTTP status 406"),
    "a partial answer": (lambda elf: status(206), Answer.MISSING, "HTTP status 206"),
    "no HTTP": (lambda elf: no_http, Answer.NO_ANSWER, ""),
}


@pytest.mark.parametrize("harm", HARMFUL)
def test_what_is_not_the_debug_file_is_not_kept(harm: str, program: Path, build_id: str, tmp_path: Path) -> None:
    behaviour, answer, sentence = HARMFUL[harm]
    wanted = UNKNOWN if harm == "another file" else build_id
    with serving(behaviour(program.read_bytes())) as server:
        client = Debuginfod((server.url,), str(tmp_path), QUICK)
        assert client.fetch(wanted) is None
        assert client.answers == {answer: 1}
        assert sentence in client.reason(wanted)
        assert client.reason(wanted).startswith(f"{server.url}: ")
        if answer is not Answer.MISSING:
            assert_nothing_is_left(tmp_path)
        assert client.fetch(wanted) is None
        assert len(server.asked) == 1  # a failure is remembered


def test_garbage_in_the_cache_is_replaced(program: Path, build_id: str, tmp_path: Path) -> None:
    with serving(content(b"garbage")) as server:
        assert debuginfod_find(tmp_path, server.url, build_id)  # elfutils' client keeps what it is sent
        server.behaviour = content(program.read_bytes())
        assert fetched(Debuginfod((server.url,), str(tmp_path), QUICK), build_id) == program.read_bytes()


@pytest.mark.parametrize("harm", ["fifo", "folder", "loop", "link out"])
def test_what_is_no_file_in_the_cache_is_not_opened(harm: str, program: Path, build_id: str, tmp_path: Path) -> None:
    place = tmp_path / build_id / "debuginfo"
    place.parent.mkdir()
    if harm == "fifo":
        os.mkfifo(place)
    elif harm == "folder":
        place.mkdir()
    else:
        place.symlink_to(place if harm == "loop" else program)
    client = Debuginfod((closed_port(),), str(tmp_path), QUICK)
    assert client.fetch(build_id) is None
    assert client.answers == {Answer.CACHE_UNUSABLE: 1}
    assert str(tmp_path) in client.reason(build_id)


def test_a_cache_that_cannot_be_made_is_the_reason(build_id: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    client = Debuginfod((closed_port(),), str(tmp_path / "file" / "cache"), QUICK)
    assert client.fetch(build_id) is None
    assert client.answers == {Answer.CACHE_UNUSABLE: 1}
    assert "Not a directory" in client.reason(build_id)


def test_nothing_is_fetched_where_the_disk_is_full(program: Path, build_id: str, tmp_path: Path) -> None:
    with serving(content(program.read_bytes())) as server:
        client = Debuginfod((server.url,), str(tmp_path), Limits(spare_bytes=1 << 62))
        assert client.fetch(build_id) is None
        assert server.asked == []
    assert client.answers == {Answer.NO_ROOM: 1}


def test_a_chunked_answer_is_taken(program: Path, build_id: str, tmp_path: Path) -> None:
    with serving(chunked(program.read_bytes())) as server:
        assert fetched(Debuginfod((server.url,), str(tmp_path), QUICK), build_id) == program.read_bytes()


@pytest.mark.parametrize("build_id", ["", "ab", "../../etc", "g" * 40, "ab/cd" * 8, "AB" * 20, "ab" * 65])
def test_what_is_no_build_id_is_not_asked_for(build_id: str, tmp_path: Path) -> None:
    with serving(hang) as server:
        client = Debuginfod((server.url,), str(tmp_path), QUICK)
        assert client.fetch(build_id) is None
        assert server.asked == []
    assert client.answers == {Answer.INVALID: 1}
    assert list(tmp_path.iterdir()) == []


def test_no_more_questions_at_once_than_allowed(tmp_path: Path) -> None:
    lock, go = threading.Lock(), threading.Event()
    now, most = 0, 0
    full = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == 2:
                full.set()
        go.wait(PATIENCE)
        with lock:
            now -= 1
        status(404)(handler)

    limits = Limits(seconds=PATIENCE, stall_seconds=PATIENCE, spare_bytes=0, questions=2)
    with serving(answer) as server:
        client = Debuginfod((server.url,), str(tmp_path), limits)
        threads = [threading.Thread(target=client.fetch, args=(f"{number:040x}",)) for number in range(6)]
        for thread in threads:
            thread.start()
        assert full.wait(PATIENCE)
        go.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(server.asked) == 6
    assert most == 2
    assert client.answers == {Answer.MISSING: 6}


def test_the_same_question_is_asked_once_however_many_ask_it(program: Path, build_id: str, tmp_path: Path) -> None:
    with serving(content(program.read_bytes())) as server:
        client = Debuginfod((server.url,), str(tmp_path), QUICK)
        found: list[bytes | None] = []
        threads = [threading.Thread(target=lambda: found.append(fetched(client, build_id))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert found == [program.read_bytes()] * 8
        assert len(server.asked) == 1


def test_a_call_that_was_ended_before_it_began_asks_nothing_more() -> None:
    with serving(hang) as server:
        call = Call(server.url, {}, stall_seconds=PATIENCE, redirects=0)
        call.abort()
        with pytest.raises(Exception, match="called off"), open(os.devnull, "wb") as out:
            call.get(out.fileno(), 1)


def test_an_http_status_is_told() -> None:
    with serving(status(418)) as server, open(os.devnull, "wb") as out, pytest.raises(StatusError) as error:
        Call(server.url, {}, stall_seconds=PATIENCE, redirects=0).get(out.fileno(), 1)
    assert error.value.status == 418


def test_servers_are_told_as_for_debuginfod_find() -> None:
    text = " https://a.example/  http://b.example:8002/x/\thttps://a.example ima:enforcing"
    assert server_urls(text) == ("https://a.example", "http://b.example:8002/x")
    assert server_urls("") == ()
    for wrong in ("a.example", "ftp://a.example", "file:///x", "http://", "http://x:99999", "http://\u00e9.example"):
        with pytest.raises(ValueError, match="is no debuginfod server"):
            server_urls(wrong)


def test_limits_are_told_as_for_debuginfod_find() -> None:
    told = {"DEBUGINFOD_MAXTIME": "7", "DEBUGINFOD_TIMEOUT": "3", "DEBUGINFOD_MAXSIZE": "1000"}
    assert limits_of(told) == Limits(seconds=7, stall_seconds=3, most_bytes=1000)
    assert limits_of({}) == Limits()
    assert limits_of(dict.fromkeys(told, "0")) == Limits()
    assert limits_of(dict.fromkeys(told, "many")) == Limits()
