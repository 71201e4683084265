"""The viewer's script: the modules of static/flamegraph as one, which runs from a file and where it is linked.

A picture sent around has to be one file, and Chromium runs no module scripts in documents of XML (crbug.com/717643). So
the modules are written such that they can be put after one another in one function: what they declare has names that no
other module declares, they import by those names, from each other only, in one line each, and not in a circle.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

_IMPORT: Final = re.compile(r'^import \{ \w+(?:, \w+)* \} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:function|const|let|class)\b)", re.MULTILINE)
_DECLARED: Final = re.compile(r"^(?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE)


@cache
def viewer_script() -> str:
    """The script, one function that calls itself."""
    folder = files("web") / "static" / "flamegraph"
    return joined({file.name: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".js")})


def joined(modules: dict[str, str], main: str = "main.js") -> str:
    """The modules that `main` needs, and it, as one script. Raises ValueError where they cannot be put together."""
    body = "\n".join(_plain(name, modules[name]) for name in _in_order(modules, main))
    declared: set[str] = set()
    for name in _DECLARED.findall(body):
        if name in declared:
            raise ValueError(f"two modules of the viewer declare {name}: give one of them another name")
        declared.add(name)
    return f'(() => {{\n"use strict";\n{body}}})();\n'


def _in_order(modules: dict[str, str], main: str) -> list[str]:
    """`main` after all that it imports."""
    order: list[str] = []
    entered: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in entered:
            raise ValueError(f"modules of the viewer import each other in a circle: {' → '.join((*entered, name))}")
        if name not in modules:
            raise ValueError(f"{entered[-1] if entered else 'the viewer'} needs {name}, which is not there")
        entered.append(name)
        for needed in _IMPORT.findall(modules[name]):
            visit(needed)
        entered.pop()
        order.append(name)

    visit(main)
    return order


def _plain(name: str, source: str) -> str:
    text = _EXPORT.sub("", _IMPORT.sub("", source))
    left = re.search(r"^(?:import|export)\b.*", text, re.MULTILINE)
    if left:
        raise ValueError(f"{name} has a line that cannot be joined: {left[0]!r}")
    return text
