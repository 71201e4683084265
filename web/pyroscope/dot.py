"""A call tree as a graph of functions, in Graphviz' language."""

from __future__ import annotations

from web.flamegraph.calltree import CallTree
from web.pyroscope.flamebearer import side


def write_dot(tree: CallTree, hz: int, is_time: bool) -> str:
    """Each function with what it has itself, and in all; each call with what was in it, recursion counted once.

    Source: https://graphviz.org/doc/info/lang.html
    """
    total, own, _ = side(tree.start, tree.total, tree.parent, hz, is_time)
    functions: dict[int, list[int]] = {}
    calls: dict[tuple[int, int], int] = {}
    parent, frame = tree.parent.tolist(), tree.frame.tolist()
    above: list[frozenset[int]] = [frozenset()]
    edges: list[frozenset[tuple[int, int]]] = [frozenset()]
    for node in range(1, len(tree)):
        function, caller = frame[node], parent[node]
        sums = functions.setdefault(function, [0, 0])
        sums[0] += int(own[node])
        if function not in above[caller]:
            sums[1] += int(total[node])
        above.append(above[caller] | {function})
        call = (frame[caller], function)
        if caller and call not in edges[caller]:
            calls[call] = calls.get(call, 0) + int(total[node])
        edges.append(edges[caller] | {call})
    lines = ["digraph profile {", '  node [shape=box, fontname="sans-serif"]']
    for function, (self_, whole) in functions.items():
        name = _quoted(tree.frames[function].function or "[unnamed]")
        lines.append(f'  f{function} [label="{name}\\nself {self_}\\ntotal {whole}"]')
    lines += [f'  f{caller} -> f{callee} [label="{weight}"]' for (caller, callee), weight in calls.items()]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    visible = "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text[:200])
    return visible.replace("\\", "\\\\").replace('"', '\\"')
