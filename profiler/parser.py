"""The options and arguments of every command, and what --help says of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Final

from profiler import arguments
from profiler.collector import BACKENDS, Sampling
from profiler.formats.reading import FORMATS
from profiler.grouping import LABELS
from profiler.symbols import Symbols

DEFAULT_LISTEN: Final = "127.0.0.1:4099"
DEFAULT_DATA: Final = "/var/lib/pilotlight"
_EXTENSIONS: Final = ".svg .html .folded .pb.gz .speedscope.json .firefox.json .json .txt"

Run = Callable[[argparse.Namespace], int]


def make_parser(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """The parser of every command; what it finds has the command's function of `runs`, by its name, as `run`."""
    parser = argparse.ArgumentParser(
        prog="pilotlight", description="Always-on, whole-system CPU profiler for Linux with flame graphs."
    )
    parser.add_argument("--version", action="version", version=f"pilotlight {version('pilotlight')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, purpose: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".")
        added.set_defaults(run=runs[name])
        return added

    run = command("run", "agent and server on this machine")
    _add_sampling(run)
    _add_agent(run)
    _add_listen(run)
    run.add_argument("--data", default=DEFAULT_DATA, metavar="DIR", help="where history is kept (%(default)s)")

    agent = command("agent", "profile this host and push to a server")
    agent.add_argument("--server", required=True, metavar="URL", help="the server, such as http://10.0.0.1:4099")
    agent.add_argument("--token-file", metavar="FILE", help="file with the token the server asks for")
    _add_sampling(agent)
    _add_agent(agent)

    server = command("server", "keep profiles and show them")
    _add_listen(server)
    server.add_argument(
        "--store",
        default=f"chdb://{DEFAULT_DATA}",
        metavar="URL",
        help="chdb:///DIR, clickhouse://USER:PASSWORD@HOST/DATABASE or the same with https:// (%(default)s)",
    )
    server.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)

    record = command("record", "take one profile and write it to files")
    _add_sampling(record)
    record.add_argument(
        "-d", "--seconds", type=arguments.seconds, metavar="SECONDS", help="how long (until interrupted)"
    )
    _add_filters(record)
    record.add_argument("-a", "--all", action="store_true", help="with a command: the whole machine meanwhile")
    _add_outputs(record)
    record.usage = "pilotlight record [-F HZ] [-d SECONDS] [-p PID]… [-o FILE]… [-a] [-- COMMAND…]"

    capture = command("capture", "have a server take a profile of a host")
    capture.add_argument(
        "--server", default=f"http://{DEFAULT_LISTEN}", metavar="URL", help="the server to ask (%(default)s)"
    )
    capture.add_argument("--token-file", metavar="FILE", help="file with the token the server asks for")
    capture.add_argument("--host", default="", metavar="NAME", help="the host to profile (the only one)")
    capture.add_argument(
        "-d", "--seconds", type=arguments.seconds, default=10.0, metavar="SECONDS", help="how long (%(default)g)"
    )
    capture.add_argument(
        "-F", "--hz", type=arguments.hz, default=0, metavar="HZ", help="samples a second and CPU (the always-on rate)"
    )
    _add_filters(capture)
    capture.add_argument("--name", default="", help="what to call it on the server")
    _add_outputs(capture)

    render = command("render", "make pictures and other formats of any profiler's files")
    _add_files(render)
    _add_grouping(render)
    render.add_argument("input", nargs="+", metavar="IN", help=f"{FORMATS}; several are merged; - is stdin")
    render.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help=f"by extension {_EXTENSIONS}",
    )

    diff = command("diff", "show what changed from one profile to another")
    _add_files(diff)
    diff.add_argument("before", metavar="BEFORE", help="as for render")
    diff.add_argument(
        "after", nargs="?", metavar="AFTER", help="without: BEFORE holds folded stacks with two counts each"
    )
    diff.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="by extension .svg .html .folded .json .txt"
    )
    diff.add_argument("--absolute", action="store_true", help="compare counts, not shares of either side")

    report = command("report", "print a profile as a table")
    report.add_argument("input", nargs="+", metavar="IN", help="as for render")
    report.add_argument("--event", default="", help="which event of files that hold several")
    report.add_argument(
        "-s", "--sort", type=arguments.report_keys, metavar="KEYS", help="columns to tell rows by (comm,dso,symbol)"
    )
    report.add_argument(
        "--children",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with callers, in the order of what ran below them",
    )
    report.add_argument(
        "--percent-limit", type=arguments.percent, default=0.0, metavar="PERCENT", help="leave lighter rows out (0)"
    )
    report.add_argument("-o", "--output", default="-", metavar="FILE", help="the file to write (stdout)")

    symbolize = command("symbolize", "names for addresses of a file or a process")
    _add_symbols(symbolize)
    what = symbolize.add_mutually_exclusive_group(required=True)
    what.add_argument("-e", "--elf", "--exe", default="", metavar="FILE", help="addresses are in this file")
    what.add_argument(
        "--pid", type=arguments.pid, default=None, metavar="PID", help="addresses are in this process's memory"
    )
    symbolize.add_argument("-f", "--functions", action="store_true", help="print functions too")
    symbolize.add_argument("-i", "--inlines", action="store_true", help="print the callers a function is inlined into")
    symbolize.add_argument("-a", "--addresses", action="store_true", help="print each address before what it is")
    symbolize.add_argument("-p", "--pretty-print", action="store_true", help="one line for each function")
    symbolize.add_argument("-s", "--basenames", action="store_true", help="files without their directories")
    symbolize.add_argument("-C", "--demangle", action="store_true", help="readable C++ and Rust names (the default)")
    symbolize.add_argument("--no-demangle", action="store_true", help="names as they are in the file")
    symbolize.add_argument("--short", action="store_true", help="without arguments of templates and functions")
    symbolize.add_argument("--json", action="store_true", help="all that is known, a line of JSON for each address")
    symbolize.add_argument("address", nargs="*", metavar="ADDR", help="hexadecimal; without any, lines of stdin")

    command("check", "what this host can do, and what to change")
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--title", default="", help="the title of the picture")
    parser.add_argument("--event", default="", help="which event of files that hold several")
    parser.add_argument(
        "--reverse", action="store_true", help="stacks from the leaf on: where time goes, and who called"
    )


def _add_grouping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--group-by",
        type=arguments.labels,
        default=(),
        metavar="LABELS",
        help=f"pictures by these labels of samples, such as process,pid; there are {', '.join(LABELS)}",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-F", "--hz", type=arguments.hz, default=99, metavar="HZ", help="samples a second and CPU (%(default)s)"
    )
    parser.add_argument(
        "--unwind-memory",
        type=arguments.size,
        default=Sampling().unwind_bytes,
        metavar="SIZE",
        help="for unwind tables; 0: stacks by frame pointers alone (64M)",
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default=BACKENDS[0], help="how BPF is loaded (%(default)s: libbpf where it can)"
    )
    _add_symbols(parser)


def _add_symbols(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--symbol-cache-size",
        type=arguments.size,
        default=Symbols().cache_bytes,
        metavar="SIZE",
        help="on disk, for lines and inlined functions; 0: neither (1G)",
    )
    parser.add_argument(
        "--debuginfod",
        nargs="?",
        const="",
        metavar="URLS",
        help="fetch debug information from these servers ($DEBUGINFOD_URLS)",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p", "--pid", type=arguments.pids, action="extend", default=[], help="only these processes: 12,34"
    )
    parser.add_argument("--cgroup", action="append", default=[], metavar="PATH", help="only this cgroup")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        default=[],
        metavar="FILE",
        help=f"by extension {_EXTENSIONS}; -.folded is stdout (pilotlight.svg)",
    )
    _add_grouping(parser)


def _add_agent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-overhead",
        type=arguments.share,
        default=0.01,
        metavar="SHARE",
        help="of one CPU; the rate is lowered while profiling costs more; 0: never (1%%)",
    )
    parser.add_argument("--host", default="", metavar="NAME", help="this host's name (its hostname)")
    parser.add_argument(
        "--label",
        type=arguments.label,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a label on every window",
    )


def _add_listen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen", type=arguments.address, default=DEFAULT_LISTEN, metavar="ADDRESS:PORT", help="(%(default)s)"
    )
    parser.add_argument("--token-file", metavar="FILE", help="file with the token that clients must show")
    parser.add_argument(
        "--insecure-no-auth", action="store_true", help="let anyone who reaches the address read and write"
    )
    parser.add_argument(
        "--retention",
        type=arguments.retention,
        action="append",
        default=[],
        metavar="WHAT=DAYSd",
        help="how long history is kept: samples=14d, rollups=90d (as set before)",
    )
    parser.add_argument(
        "--allow-origin",
        type=arguments.origin,
        action="append",
        default=[],
        metavar="URL",
        help="pages from there may read profiles: https://www.speedscope.app, https://profiler.firefox.com",
    )
    parser.add_argument("--user", metavar="NAME", help="run the server as this user (pilotlight, else nobody)")
