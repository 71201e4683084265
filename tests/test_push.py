"""Windows on their way to a server that is there, away, slow, or refuses."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from profiler.better_names import decode
from profiler.formats.otlp import read_otlp
from profiler.model import Accounting, Profile, Sample, Window
from profiler.push import NAMES_PATH, NOT_DELIVERED, PATH, Pusher, PushError, _pause_of, parse_target, said
from symbolizer.types import Binary, Frame, Kind, Location


class Server:
    """Keeps what is pushed to it; answers with `status`."""

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.names_status = 200
        self.retry_after = ""
        self.times: list[float] = []
        self.bodies: list[bytes] = []
        self.names: list[bytes] = []
        self.order: list[str] = []
        self.tokens: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.tokens.append(self.headers.get("Authorization"))
                are_names = self.path == NAMES_PATH
                status = outer.names_status if are_names and outer.status == 200 else outer.status
                outer.order.append(self.path)
                outer.times.append(time.monotonic())
                if status == 200:
                    (outer.names if are_names else outer.bodies).append(body)
                self.send_response(status)
                if outer.retry_after:
                    self.send_header("Retry-After", outer.retry_after)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"<no>\n")

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.status = 503  # on connections that are open yet
        self._http.shutdown()
        self._http.server_close()

    def named(self) -> list[Location]:
        """The locations that better names came for."""
        return [location for body in self.names for location in decode(gzip.decompress(body))]

    def windows(self) -> list[tuple[int, int, Accounting]]:
        """Sequence, samples and accounting of each window that came."""
        found = []
        for body in self.bodies:
            received = read_otlp(gzip.decompress(body))
            (profile,), identity = received.profiles, received.identity
            assert identity
            found.append((identity.sequence, sum(s.count for s in profile.samples), profile.accounting))
        return found


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def profile(number: int, size: int = 1) -> Profile:
    samples = tuple(
        Sample((Location(i, Binary("/bin/x"), (Frame(f"function_{number}_{i}", Kind.NATIVE),)),), 7, "x", "x", 2)
        for i in range(size)
    )
    window = Window(number * 10**10, (number + 1) * 10**10)
    accounting = Accounting(expected=3 * size, ticks=3 * size, idle=size, sampled=2 * size)
    return Profile("host", "cpu-clock", 99, window, samples, accounting)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_windows_arrive_in_order_with_their_identity(server: Server) -> None:
    pusher = Pusher(parse_target(f"http://127.0.0.1:{server.port}"), "agent", print)
    for number in range(5):
        pusher.put(profile(number))
    assert pusher.close(10) == 0
    assert [sequence for sequence, _, _ in server.windows()] == [1, 2, 3, 4, 5]
    assert pusher.counts.sent == 5


def test_what_was_pushed_while_the_server_was_away_arrives_when_it_is_back() -> None:
    first = Server()
    port = first.port
    said: list[str] = []
    pusher = Pusher(parse_target(f"http://127.0.0.1:{port}"), "agent", said.append)
    pusher.put(profile(0))
    wait_for(lambda: len(first.bodies) == 1)
    first.stop()
    for number in range(1, 4):
        pusher.put(profile(number))
    wait_for(lambda: bool(said))
    second = Server(port)
    try:
        wait_for(lambda: len(second.bodies) == 3)
        assert [sequence for sequence, _, _ in second.windows()] == [2, 3, 4]
        assert pusher.close(10) == 0
    finally:
        second.stop()
    assert "kept in memory" in said[0] and "is back" in said[1]


def test_a_full_queue_strips_the_oldest_windows_and_keeps_their_account() -> None:
    placeholder = Server()
    placeholder.stop()
    said: list[str] = []
    pusher = Pusher(parse_target(f"http://127.0.0.1:{placeholder.port}"), "agent", said.append, most_bytes=60_000)
    for number in range(8):
        pusher.put(profile(number, size=1000))
    assert pusher.counts.stripped > 0
    server = Server(placeholder.port)
    try:
        wait_for(lambda: len(server.bodies) == 8)
        windows = server.windows()
    finally:
        pusher.close(5)
        server.stop()
    assert [sequence for sequence, _, _ in windows] == list(range(1, 9))
    stripped = [accounting for _, samples, accounting in windows if not samples]
    assert len(stripped) == pusher.counts.stripped
    for accounting in stripped:
        assert accounting.lost == {NOT_DELIVERED: 2000} and accounting.closes and accounting.ticks == 3000
    assert windows[-1][1] == 2000


def test_a_window_that_is_refused_for_good_does_not_hold_up_the_next(server: Server) -> None:
    said: list[str] = []
    server.status = 400
    pusher = Pusher(parse_target(f"http://127.0.0.1:{server.port}"), "agent", said.append)
    pusher.put(profile(0))
    wait_for(lambda: pusher.counts.refused == 1)
    server.status = 200
    pusher.put(profile(1))
    assert pusher.close(10) == 0
    assert [sequence for sequence, _, _ in server.windows()] == [2]
    assert "400" in said[0] and "\n" not in said[0]


def test_the_token_is_shown_and_a_wrong_one_is_said(server: Server) -> None:
    said: list[str] = []
    server.status = 401
    pusher = Pusher(parse_target(f"http://127.0.0.1:{server.port}", "s3cret"), "agent", said.append)
    pusher.put(profile(0))
    wait_for(lambda: bool(said))
    server.status = 200
    assert pusher.close(10) == 0
    assert server.tokens[0] == "Bearer s3cret"
    assert "--token-file" in said[0] and "s3cret" not in said[0]


def test_closing_without_a_server_ends_in_time_and_says_how_many_are_left() -> None:
    placeholder = Server()
    placeholder.stop()
    pusher = Pusher(parse_target(f"http://127.0.0.1:{placeholder.port}"), "agent", lambda sentence: None)
    pusher.put(profile(0))
    pusher.put(profile(1))
    assert pusher.close(0.5) == 2


def better(number: int) -> Location:
    return Location(number, Binary("", "ab"), (Frame(f"function_{number}", Kind.NATIVE, "", "x.c", 1 + number),))


def test_names_follow_the_windows_that_were_there_before(server: Server) -> None:
    server.status = 503
    pusher = Pusher(parse_target(f"http://127.0.0.1:{server.port}", "s3cret"), "agent", lambda sentence: None)
    pusher.put_names([])
    for number in range(3):
        pusher.put(profile(number))
    pusher.put_names([better(1), better(2)])
    wait_for(lambda: len(server.order) > 0)
    server.order.clear()
    server.status = 200
    assert pusher.close(10) == 0
    assert [path for path in server.order if path == NAMES_PATH] == [NAMES_PATH]
    assert server.order[-4:] == [PATH, PATH, PATH, NAMES_PATH]
    assert server.named() == [better(1), better(2)] and set(server.tokens) == {"Bearer s3cret"}
    assert (pusher.counts.sent, pusher.counts.names_sent) == (3, 2)


def test_names_that_are_not_taken_now_are_sent_again_and_do_not_hold_up_windows(server: Server) -> None:
    said: list[str] = []
    server.names_status = 503
    pusher = Pusher(parse_target(f"http://127.0.0.1:{server.port}"), "agent", said.append)
    pusher.put_names([better(1)])
    wait_for(lambda: len(server.order) > 0)
    for number in range(3):
        pusher.put(profile(number))
    wait_for(lambda: len(server.bodies) == 3)
    assert not server.names
    server.names_status = 200
    wait_for(lambda: server.named() == [better(1)])
    assert pusher.close(10) == 0
    assert pusher.counts.names_sent == 1 and said == []


def test_a_server_that_knows_no_names_gets_windows_all_the_same(server: Server) -> None:
    said: list[str] = []
    server.names_status = 404
    pusher = Pusher(parse_target(f"http://127.0.0.1:{server.port}"), "agent", said.append)
    for number in range(3):
        pusher.put_names([better(number)])
        pusher.put(profile(number))
    assert pusher.close(10) == 0
    assert [sequence for sequence, _, _ in server.windows()] == [1, 2, 3]
    assert pusher.counts.names_refused == 3
    assert len(said) == 1 and "takes no better names (404" in said[0]


def test_a_full_queue_drops_the_oldest_names_before_any_window_loses_a_sample() -> None:
    placeholder = Server()
    placeholder.stop()
    said: list[str] = []
    pusher = Pusher(parse_target(f"http://127.0.0.1:{placeholder.port}"), "agent", said.append, most_bytes=60_000)
    for number in range(600):  # some 180 bytes each, of which an eighth of the memory is kept
        pusher.put_names([better(number)])
    kept = 600 - pusher.counts.names_dropped
    assert 10 < kept < 300
    pusher.put(profile(0, size=1000))
    for number in range(1, 8):
        pusher.put(profile(number, size=1000))
    assert pusher.counts.stripped > 0 and pusher.counts.names_dropped == 600
    assert sum("names" in sentence for sentence in said) == 1
    assert pusher.close(0) == 8


def test_names_that_were_kept_arrive_when_the_server_is_back() -> None:
    placeholder = Server()
    placeholder.stop()
    pusher = Pusher(parse_target(f"http://127.0.0.1:{placeholder.port}"), "agent", lambda s: None, most_bytes=60_000)
    for number in range(600):
        pusher.put_names([better(number)])
    pusher.put(profile(0))
    kept = 600 - pusher.counts.names_dropped
    server = Server(placeholder.port)
    try:
        wait_for(lambda: len(server.named()) == kept and len(server.bodies) == 1)
        assert server.named() == [better(number) for number in range(600 - kept, 600)]
    finally:
        pusher.close(5)
        server.stop()
    assert pusher.counts.names_sent == kept


def test_closing_does_not_wait_for_names_that_are_not_taken(server: Server) -> None:
    server.names_status = 503
    pusher = Pusher(parse_target(f"http://127.0.0.1:{server.port}"), "agent", lambda sentence: None)
    pusher.put_names([better(1)])
    assert pusher.close(600) == 0
    assert pusher.counts.names_sent == 0


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"\x08\x0e\x12\x11the store is full", "the store is full"),
        (b"plain text\n", "plain text"),
        (b'{"error": "the queue\\nis full"}', "the queue is full"),
        (b'{"error": 5}', '{"error": 5}'),
        (b"[1]", "[1]"),
        (b"\xff\xfe\x00", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_what_the_server_says_is_read_from_text_and_from_protobuf(body: bytes, sentence: str) -> None:
    assert said(body) == sentence


@pytest.mark.parametrize("url", ["", "host:4099", "ftp://host", "http://", "http://host:port", "http://host:99999"])
def test_what_is_no_address_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(PushError, match="no address of a server"):
        parse_target(url)


def test_addresses_are_understood() -> None:
    target = parse_target("https://pilotlight.example/base/")
    assert (target.host, target.port, target.tls) == ("pilotlight.example", 443, True)
    assert target.path == "/base/v1development/profiles" and target.names_path == "/base/api/v1/names"


def test_a_server_with_too_much_to_write_is_left_alone_as_long_as_it_asks(server: Server) -> None:
    said: list[str] = []
    server.status, server.retry_after = 429, "2"
    pusher = Pusher(parse_target(f"http://127.0.0.1:{server.port}"), "agent", said.append)
    pusher.put(profile(0))
    wait_for(lambda: bool(said))
    server.status, server.retry_after = 200, ""
    wait_for(lambda: len(server.bodies) == 1)
    assert server.times[-1] - server.times[0] >= 2  # four times our own first pause
    assert pusher.close(10) == 0
    assert (pusher.counts.sent, pusher.counts.refused) == (1, 0)
    assert "has more to write than it can (<no>). Windows are kept" in said[0]


@pytest.mark.parametrize("header", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "1e9", "", "\u0663"])
def test_an_odd_retry_after_is_no_pause(header: str) -> None:
    assert _pause_of(header) == 0


def test_no_server_silences_an_agent_for_long() -> None:
    assert _pause_of("9" * 5000) == 30
