"""The command line; the one place where the profiler and the web meet."""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from profiler import arguments, check, events
from profiler.agent import AgentOptions, run_agent, stop_on_signals
from profiler.cgroups import cgroup_id
from profiler.collector import BACKENDS, Sampling
from profiler.command import CommandError
from profiler.file_commands import FileError, WriteError, read_files, write_output, write_table
from profiler.formats.by_extension import extension_of, writer_for
from profiler.formats.read import FORMATS
from profiler.libbpf import BpfError
from profiler.memory import keep_small
from profiler.push import PushError, parse_target
from profiler.record import Output, RecordError, RecordOptions, run_record
from profiler.run import ServerError, run_both
from profiler.symbols import Symbols, open_symfiles
from symbolizer.debuginfo.debuginfod import server_urls

if TYPE_CHECKING:
    from web.flamegraph.rendering import Rendered

DEFAULT_LISTEN = "127.0.0.1:4099"
DEFAULT_DATA = "/var/lib/pilotlight"
FAILED, WRONG_USAGE = 1, 2
_MANY_FILES = 1 << 16
_EXTENSIONS = ".svg .html .folded .pb.gz .speedscope.json .firefox.json .json .txt"


class UsageError(Exception):
    """The command line asks for something that cannot be; the message says what."""


def main(given: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    own, command = _split_command(list(sys.argv[1:] if given is None else given))
    options = _parser().parse_args(_join_stdout(own))
    options.command_line = command
    if command and options.run is _symbolize:
        options.address += command
    elif command and options.run is not _record:
        print("pilotlight: only `record` takes a command after --.", file=sys.stderr)
        return WRONG_USAGE
    try:
        return int(options.run(options))
    except (UsageError, FileError) as error:
        print(f"pilotlight: {error}", file=sys.stderr)
        return WRONG_USAGE
    except (BpfError, events.EventError, RecordError, CommandError, PushError, ServerError, WriteError) as error:
        print(f"pilotlight: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130


def _split_command(given: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in given:
        return given, []
    at = given.index("--")
    return given[:at], given[at + 1 :]


def _join_stdout(given: list[str]) -> list[str]:
    """`-o -.folded` as one argument, since argparse takes what begins with a dash for an option."""
    joined: list[str] = []
    for argument in given:
        if argument.startswith("-.") and joined and joined[-1] in ("-o", "--output"):
            joined[-1] = f"--output={argument}"
        else:
            joined.append(argument)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pilotlight", description="Always-on, whole-system CPU profiler for Linux with flame graphs."
    )
    parser.add_argument("--version", action="version", version=f"pilotlight {version('pilotlight')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = _command(commands, "run", _run, "agent and server on this machine")
    _add_sampling(run)
    _add_agent(run)
    _add_listen(run)
    run.add_argument("--data", default=DEFAULT_DATA, metavar="DIR", help="where history is kept (%(default)s)")

    agent = _command(commands, "agent", _agent, "profile this host and push to a server")
    agent.add_argument("--server", required=True, metavar="URL", help="the server, such as http://10.0.0.1:4099")
    agent.add_argument("--token-file", metavar="FILE", help="file with the token the server asks for")
    _add_sampling(agent)
    _add_agent(agent)

    server = _command(commands, "server", _server, "keep profiles and show them")
    _add_listen(server)
    server.add_argument(
        "--store",
        default=f"chdb://{DEFAULT_DATA}",
        metavar="URL",
        help="chdb:///DIR, clickhouse://USER:PASSWORD@HOST/DATABASE or the same with https:// (%(default)s)",
    )
    server.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)

    record = _command(commands, "record", _record, "take one profile and write it to files")
    _add_sampling(record)
    record.add_argument(
        "-d", "--seconds", type=arguments.seconds, metavar="SECONDS", help="how long (until interrupted)"
    )
    _add_filters(record)
    record.add_argument("-a", "--all", action="store_true", help="with a command: the whole machine meanwhile")
    _add_outputs(record)
    record.usage = "pilotlight record [-F HZ] [-d SECONDS] [-p PID]… [-o FILE]… [-a] [-- COMMAND…]"

    capture = _command(commands, "capture", _capture, "have a server take a profile of a host")
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

    render = _command(commands, "render", _render, "make pictures and other formats of any profiler's files")
    _add_files(render)
    render.add_argument("input", nargs="+", metavar="IN", help=f"{FORMATS}; several are merged; - is stdin")
    render.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help=f"by extension {_EXTENSIONS}",
    )

    diff = _command(commands, "diff", _diff, "show what changed from one profile to another")
    _add_files(diff)
    diff.add_argument("before", metavar="BEFORE", help="as for render")
    diff.add_argument(
        "after", nargs="?", metavar="AFTER", help="without: BEFORE holds folded stacks with two counts each"
    )
    diff.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="by extension .svg .html .folded .json .txt"
    )
    diff.add_argument("--absolute", action="store_true", help="compare counts, not shares of either side")

    report = _command(commands, "report", _report, "print a profile as a table")
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

    symbolize = _command(commands, "symbolize", _symbolize, "names for addresses of a file or a process")
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

    _command(commands, "check", _check, "what this host can do, and what to change")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    purpose: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--title", default="", help="the title of the picture")
    parser.add_argument("--event", default="", help="which event of files that hold several")
    parser.add_argument(
        "--reverse", action="store_true", help="stacks from the leaf on: where time goes, and who called"
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


def _symbols(options: argparse.Namespace) -> Symbols:
    if options.debuginfod is None:
        return Symbols(options.symbol_cache_size)
    try:
        urls = server_urls(options.debuginfod or os.environ.get("DEBUGINFOD_URLS", ""))
    except ValueError as error:
        raise UsageError(f"--debuginfod: {error}") from error
    if not urls:
        raise UsageError("--debuginfod: name servers, or set DEBUGINFOD_URLS.")
    return Symbols(options.symbol_cache_size, urls)


def _sampling(options: argparse.Namespace) -> Sampling:
    return Sampling(options.hz, options.backend, options.unwind_memory, getattr(options, "max_overhead", 0.0))


def _token(options: argparse.Namespace) -> str:
    if not options.token_file:
        return ""
    try:
        token = Path(options.token_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The token file {options.token_file} cannot be read ({error}).") from error
    if not token:
        raise UsageError(f"The token file {options.token_file} is empty.")
    return token


def _say(sentence: str) -> None:
    print(f"pilotlight: {sentence}", file=sys.stderr, flush=True)


def _prepare() -> None:
    """Readies this process for sampling: small, and with two files a CPU, which may be more than the usual 1,024."""
    keep_small()
    _allow_many_files()


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run(options: argparse.Namespace) -> int:
    events.check_hz(options.hz)
    _prepare()
    token, symbols = _token(options), _symbols(options)
    stop = stop_on_signals()
    host, port = options.listen
    arguments = ["--listen", f"[{host}]:{port}", "--store", f"chdb://{os.path.abspath(options.data)}"]
    arguments += ["--token-file", os.path.abspath(options.token_file)] if options.token_file else []
    arguments += ["--insecure-no-auth"] if options.insecure_no_auth else []
    arguments += ["--user", options.user] if options.user else []
    arguments += [f"--allow-origin={origin}" for origin in options.allow_origin]
    arguments += [f"--retention={name}={days}d" for name, days in options.retention]

    def agent(url: str) -> AgentOptions:
        return AgentOptions(parse_target(url, token), _sampling(options), symbols, options.host, dict(options.label))

    return run_both(arguments, agent, _say, stop)


def _agent(options: argparse.Namespace) -> int:
    _prepare()
    target = parse_target(options.server, _token(options))
    return run_agent(
        AgentOptions(target, _sampling(options), _symbols(options), options.host, dict(options.label)), _say
    )


def _server(options: argparse.Namespace) -> int:
    _allow_many_files()  # each agent has two connections
    try:
        from web.app import ServerOptions, serve
    except ImportError as error:
        raise ServerError(
            f"The server's packages are not installed ({error.name}): pip install 'pilotlight[server]'."
        ) from error

    def ready(url: str) -> None:
        if options.ready_fd is None:
            print(f"pilotlight server at {url}", flush=True)
            return
        with os.fdopen(options.ready_fd, "w") as pipe:
            pipe.write(url + "\n")

    if options.ready_fd is not None:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    server = ServerOptions(
        store=options.store,
        host=options.listen[0],
        port=options.listen[1],
        token=_token(options) or None,
        insecure_no_auth=options.insecure_no_auth,
        retention=dict(options.retention),
        allow_origins=tuple(options.allow_origin),
    )
    return serve(server, user=_server_user(options.user), ready=ready)


def _end_with_parent() -> None:
    """Ends this process once the one that started it has ended, even by SIGKILL: it holds our stdin open."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _server_user(wanted: str | None) -> str | None:
    """Whom the server is to run as: nobody else unless started by root."""
    if os.geteuid() != 0:
        return None
    for name in [wanted] if wanted else ["pilotlight", "nobody"]:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise UsageError(f"There is no user {wanted or 'nobody'} to run the server as: name one with --user.")


def _record(options: argparse.Namespace) -> int:
    _prepare()
    events.check_hz(options.hz)
    if options.pid and options.command_line:
        raise UsageError("Give either pids (-p) or a command after --, not both.")
    try:
        cgroups = frozenset(cgroup_id(path) for path in options.cgroup)
    except OSError as error:
        raise UsageError(f"There is no cgroup {error.filename} ({error.strerror}).") from error
    outputs = tuple(_output(path) for path in options.output or ["pilotlight.svg"])
    return run_record(
        RecordOptions(
            outputs=outputs,
            sampling=_sampling(options),
            symbols=_symbols(options),
            seconds=options.seconds,
            command=tuple(options.command_line),
            pids=tuple(dict.fromkeys(options.pid)),
            cgroups=cgroups,
            whole_system=options.all,
        )
    )


def _capture(options: argparse.Namespace) -> int:
    from profiler.capture_client import CaptureError, CaptureOptions, run_capture

    try:
        return run_capture(
            CaptureOptions(
                target=parse_target(options.server, _token(options)),
                outputs=tuple(_output(path) for path in options.output or ["pilotlight.svg"]),
                host=options.host,
                seconds=options.seconds,
                hz=options.hz,
                pids=tuple(dict.fromkeys(options.pid)),
                cgroups=tuple(options.cgroup),
                name=options.name,
            )
        )
    except CaptureError as error:
        _say(str(error))
        return FAILED


def _symbolize(options: argparse.Namespace) -> int:
    from profiler.symbolize import SymbolizeError, SymbolizeOptions, run_symbolize

    symfiles = open_symfiles(_symbols(options))
    try:
        return run_symbolize(
            SymbolizeOptions(
                elf=options.elf,
                pid=options.pid or 0,
                addresses=tuple(options.address),
                functions=options.functions,
                inlines=options.inlines,
                show_addresses=options.addresses,
                pretty=options.pretty_print,
                base_names=options.basenames,
                demangle=not options.no_demangle,
                short=options.short,
                json=options.json,
            ),
            symfiles,
        )
    except SymbolizeError as error:
        _say(str(error))
        return FAILED
    finally:
        if symfiles is not None:
            symfiles.close()


def _render(options: argparse.Namespace) -> int:
    from web.flamegraph.rendering import EXTENSIONS, Options, render

    extension = _extension(options.output, EXTENSIONS)
    files = read_files(options.input, _say)
    how = Options(options.title, options.event, options.reverse)
    return _written(options.output, lambda: render(files, extension, how))


def _diff(options: argparse.Namespace) -> int:
    from web.flamegraph.rendering import DIFFERENCES, Options, render_difference

    extension = _extension(options.output, DIFFERENCES)
    before = read_files([options.before], _say)
    after = read_files([options.after], _say) if options.after else before
    how = Options(options.title, options.event, options.reverse)
    return _written(options.output, lambda: render_difference(before, after, extension, how, absolute=options.absolute))


def _report(options: argparse.Namespace) -> int:
    from web.flamegraph.rendering import merged

    files = read_files(options.input, _say)
    try:
        profile, problems = merged(files, options.event)
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    for problem in problems:
        _say(problem)
    write_table(
        files,
        profile,
        options.output,
        keys=options.sort,
        children=options.children,
        percent_limit=options.percent_limit,
    )
    return 0


def _written(path: str, make: Callable[[], Rendered]) -> int:
    try:
        rendered = make()
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    for problem in rendered.problems:
        _say(problem)
    write_output(path, rendered.data)
    return 0


def _extension(path: str, known: Sequence[str]) -> str:
    try:
        return extension_of(path, known)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _output(path: str) -> Output:
    from web.flamegraph.rendering import writers

    try:
        return Output("-" if path.startswith("-.") else path, writer_for(path, writers()))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _check(options: argparse.Namespace) -> int:
    found = list(check.requirements())
    print(check.report(found))
    return FAILED if any(requirement.met is False for requirement in found) else 0


if __name__ == "__main__":
    sys.exit(main())
