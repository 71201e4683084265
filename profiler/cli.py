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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from profiler import check, events
from profiler.agent import AgentOptions, run_agent, stop_on_signals
from profiler.cgroups import cgroup_id
from profiler.collector import Sampling
from profiler.command import CommandError
from profiler.errors import FileError, UsageError, WriteError
from profiler.libbpf import BpfError
from profiler.memory import keep_small
from profiler.parser import Run, make_parser
from profiler.push import PushError, parse_target
from profiler.record import Output, RecordError, RecordOptions, run_record
from profiler.run import ServerError, run_both
from profiler.symbols import Symbols, open_symfiles
from symbolizer.debuginfo.debuginfod import server_urls

# Readers and writers of files, and the server, take memory that an agent never needs: each command loads its own.
if TYPE_CHECKING:
    from web.flamegraph.rendering import Rendered

FAILED, WRONG_USAGE = 1, 2
_MANY_FILES = 1 << 16


def main(given: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    own, command = _split_command(list(sys.argv[1:] if given is None else given))
    options = make_parser(_RUNS).parse_args(_join_stdout(own))
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
    return run_record(
        RecordOptions(
            outputs=_outputs(options),
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
                outputs=_outputs(options),
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
    from profiler.file_commands import read_files
    from web.flamegraph.rendering import EXTENSIONS, Options, render

    extension = _extension(options.output, EXTENSIONS)
    files = read_files(options.input, _say)
    how = Options(options.title, options.event, options.reverse, options.group_by)
    return _written(options.output, lambda: render(files, extension, how))


def _diff(options: argparse.Namespace) -> int:
    from profiler.file_commands import read_files
    from web.flamegraph.rendering import DIFFERENCES, Options, render_difference

    extension = _extension(options.output, DIFFERENCES)
    before = read_files([options.before], _say)
    after = read_files([options.after], _say) if options.after else before
    how = Options(options.title, options.event, options.reverse)
    return _written(options.output, lambda: render_difference(before, after, extension, how, absolute=options.absolute))


def _report(options: argparse.Namespace) -> int:
    from profiler.file_commands import read_files, write_table
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
    from profiler.file_commands import write_output

    try:
        rendered = make()
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    for problem in rendered.problems:
        _say(problem)
    write_output(path, rendered.data)
    return 0


def _extension(path: str, known: Sequence[str]) -> str:
    from profiler.formats.by_extension import extension_of

    try:
        return extension_of(path, known)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _outputs(options: argparse.Namespace) -> tuple[Output, ...]:
    from profiler.formats.by_extension import writer_for
    from web.flamegraph.rendering import PICTURES, UNGROUPED, writers

    known = writers(options.group_by)
    found = []
    for path in options.output or ["pilotlight.svg"]:
        try:
            found.append(Output("-" if path.startswith("-.") else path, writer_for(path, known)))
        except ValueError as error:
            raise UsageError(str(error)) from error
        if options.group_by and not path.endswith(PICTURES):
            raise UsageError(f"{path}: {UNGROUPED}.")
    return tuple(found)


def _check(options: argparse.Namespace) -> int:
    found = list(check.requirements())
    print(check.report(found))
    return FAILED if any(requirement.met is False for requirement in found) else 0


_RUNS: Final[Mapping[str, Run]] = {
    "run": _run,
    "agent": _agent,
    "server": _server,
    "record": _record,
    "capture": _capture,
    "render": _render,
    "diff": _diff,
    "report": _report,
    "symbolize": _symbolize,
    "check": _check,
}


if __name__ == "__main__":
    sys.exit(main())
