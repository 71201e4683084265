"""A stand-in for a ClickHouse server: enough of its HTTP interface for clickhouse-connect, over the embedded engine.

It is not ClickHouse's server. What it exercises is the client's path: addresses, passwords, parameters and inserts over
HTTP, and errors that come back so. Interface: https://clickhouse.com/docs/interfaces/http

    python standin_clickhouse.py DIRECTORY PASSWORD

prints the port that it listens on (loopback), and ends with its standard input.
"""

from __future__ import annotations

import gzip
import re
import sys
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
from backports import zstd

NO_SETTINGS = {
    "database", "query", "session_id", "session_timeout", "session_check", "query_id", "compress", "decompress",
    "wait_end_of_query", "client_protocol_version", "role", "buffer_size", "send_progress_in_http_headers",
    "http_headers_progress_interval_ms", "enable_http_compression", "user", "password", "default_format",
    "cancel_http_readonly_queries_on_client_close",
}  # fmt: skip
INSERT = re.compile(rb"^(\s*insert\s.*?)\bformat\s+(\w+)[ \t]*\r?\n", re.IGNORECASE | re.DOTALL)
FORMAT = re.compile(rb"\bformat\s+(\w+)\s*;?\s*$", re.IGNORECASE)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory = ""
    password = ""

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self.body()
        if urlsplit(self.path).path == "/ping":
            self.answer(200, b"Ok.\n")
            return
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        if self.password and b64decode(given).decode().partition(":")[2] != self.password:
            self.answer(403, b"Code: 516. DB::Exception: Authentication failed", {"X-ClickHouse-Exception-Code": "516"})
            return
        try:
            self.run(parameters, body)
        except Exception as error:  # chDB raises RuntimeError for whatever the engine says
            code = re.search(r"Code: (\d+)", str(error))
            self.answer(500, str(error).encode(), {"X-ClickHouse-Exception-Code": code[1] if code else "1002"})

    def run(self, parameters: dict[str, str], body: bytes) -> None:
        query = parameters.get("query", "").encode()
        sql = query + (b"\n" if query and body else b"") + body
        connection: Any = chdb.connect(self.directory)  # type: ignore[no-untyped-call]
        try:
            if parameters.get("database", "__default__") not in ("", "__default__"):
                connection.query(f"USE `{parameters['database']}`")
            for name, value in parameters.items():
                if name not in NO_SETTINGS and not name.startswith("param_"):
                    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
                    connection.query(f"SET {re.sub(r'[^a-z0-9_]', '', name)} = '{escaped}'")
            insert = INSERT.match(sql)
            if insert:
                stream = connection.send_insert(insert[1].decode(), insert[2].decode())
                stream.append(sql[insert.end() :])
                written = stream.finish().rows_written
                self.answer(200, b"", {"X-ClickHouse-Summary": f'{{"written_rows":"{written}"}}'})
                return
            named = FORMAT.search(sql)
            form = named[1].decode() if named else parameters.get("default_format", "TabSeparated")
            arguments = {name[6:]: value for name, value in parameters.items() if name.startswith("param_")}
            found = connection.query(sql.decode(), form, params=arguments)
            self.answer(200, found.bytes(), {"X-ClickHouse-Format": form, "X-ClickHouse-Timezone": "UTC"})
        finally:
            connection.close()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = bytearray()
            while length := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = bytearray(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        encoding = self.headers.get("Content-Encoding", "")
        if encoding == "lz4":
            import lz4.frame  # type: ignore[import-untyped]

            return bytes(lz4.frame.decompress(bytes(content)))
        if encoding == "zstd":
            return zstd.decompress(bytes(content))
        return gzip.decompress(bytes(content)) if encoding == "gzip" else bytes(content)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    Handler.directory, Handler.password = sys.argv[1:3]
    # The engine lives as long as one connection does.
    anchor: Any = chdb.connect(Handler.directory)  # type: ignore[no-untyped-call]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    server.shutdown()
    anchor.close()


if __name__ == "__main__":
    main()
