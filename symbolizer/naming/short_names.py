"""The short form of a function's name: what fits into a box of a flame graph, beside the full name.

Template arguments and parameters are folded, names stay whole:
`std::vector<int, std::allocator<int>>::push_back(int&&)` becomes `std::vector<…>::push_back`, Go's
`slices.Sort[go.shape.[]int]` becomes `slices.Sort[…]`, `foo(int) [clone .cold]` becomes `foo.cold`. The
notations are those of the demanglers of C++ (binutils, LLVM), Rust, Swift and D, and of Go's linker. A name
in none of them, or one that does not add up, is its own short form.
"""

from __future__ import annotations

import re
from typing import Final

_FOLDABLE: Final = re.compile(r"[<(\[]|\.(?:llvm|lto_priv)\.|::h[0-9a-f]{16}| : ")
# Names of a runtime's own making: "[libfoo.so: no symbols]", "JS:*f /x.js:1:2", "py::f:/x.py", "type:.eq.T", "-[A b]".
_VERBATIM: Final = re.compile(r"\[.*\]\Z|[A-Za-z]+:(?!:)|py::|[-+]\[|.*\s(?:/|[a-z]+://)", re.DOTALL)
_RUST_HASH: Final = re.compile(r"::h[0-9a-f]{16}(?=\Z| \[clone )")
_RENAMED: Final = re.compile(r"\.(?:llvm|lto_priv)\.\d+(?=[.\]@]|\Z)")
_EMPTY_CLONE: Final = re.compile(r" \[clone \]")
_ABOUT: Final = re.compile(
    r"(?:(?:vtable|VTT|typeinfo|typeinfo name|guard variable|TLS wrapper function|TLS init function|"
    r"reference temporary|construction vtable|transaction clone) for |"
    r"(?:non-virtual|virtual|covariant return) thunk to )*"
)
_OPERATOR: Final = r"\boperator(?:\(\)|\[\]|->\*?|<=>|<<=?|>>=?|[<>]=?|\"\"|[-+*/%^&|~!=,]+|(?![\w:]))"
_STEP: Final = re.compile(_OPERATOR + r"|[<(\[{ ]")
_BRACKET: Final = re.compile(_OPERATOR + r"|->|[<>()\[\]{}]")
_OPENING: Final = re.compile(r"[<(]")
_QUALIFIERS: Final = re.compile(r"(?: (?:const|volatile|noexcept|&&?)(?![\w&]))*")
_AFTER_PARAMETERS: Final = re.compile(r"\Z|::|[.@}]| \(| \[|\[abi:| -> | in |…\Z")
_CLOSES: Final = {">": "<", ")": "(", "]": "[", "}": "{"}


def short_name(function: str) -> str:
    """The name with arguments and parameters folded; never empty where `function` is not.

    The same for the same name, in time proportional to its length. What follows a name that was cut off ("…") is
    cut off, too. Suffixes that compilers add stay where they tell code apart (`foo.cold`, `foo.part.0`, `foo@plt`);
    where they only rename (`.llvm.N`, `.lto_priv.N`) they go, as do Rust's hashes.
    """
    if not _FOLDABLE.search(function) or _VERBATIM.match(function):
        return function
    text = _EMPTY_CLONE.sub("", _RENAMED.sub("", _RUST_HASH.sub("", function)))
    if "::" not in text:
        text = text.partition(" : ")[0]  # the type of one of Swift's properties
    return _folded(text) or function


def _partners(text: str) -> dict[int, int]:
    """Where each bracket that is closed closes. Of brackets that do not nest the outer ones count."""
    found: dict[int, int] = {}
    open_: list[tuple[str, int]] = []
    depth = dict.fromkeys("<([{", 0)
    for match in _BRACKET.finditer(text):
        bracket = match[0]
        if bracket in depth:
            open_.append((bracket, match.start()))
            depth[bracket] += 1
        elif bracket in _CLOSES and depth[_CLOSES[bracket]]:
            opening = _CLOSES[bracket]
            if bracket == ">" and open_[-1][0] != "<":
                continue  # "greater than", in an expression in parentheses
            while True:
                other, at = open_.pop()
                depth[other] -= 1
                if other == opening:
                    found[at] = match.start()
                    break
    return found


def _folded(text: str) -> str:
    """`text` with its arguments folded; "" where it is not understood."""
    partners = _partners(text)
    swift = " -> " in text
    about = _ABOUT.match(text)
    at = about.end() if about else 0
    done = [text[:at]]
    name = 1  # of `done`, where the name begins: what is before may be the type that it returns
    told = False  # whether that type is known to be none
    after_operator = -1
    while step := _STEP.search(text, at):
        here, before = step.start(), text[step.start() - 1 : step.start()]
        done.append(text[at:here])
        at = step.end()
        if step[0].startswith("operator"):
            done.append(step[0])
            if text[at : at + 1] == " ":
                at += 1
                done.append(" ")
                # What follows is a type, or arguments of a template: the next space is within the name.
                told = told or text[at : at + 1] != "<"
            after_operator = at
            continue
        if step[0] == " ":
            done.append(" ")
            if not told:
                name = len(done)
            continue
        end = partners.get(here)
        if end is None:
            if not text.endswith("…"):
                return ""
            done.append("…" if step[0] == "(" else step[0] + "…")
            at = len(text)
            break
        inner = text[here + 1 : end]
        at = end + 1
        named = here == after_operator or before not in ("", " ", ".", ":", "<", "(", "[", "{", ",")
        if step[0] == "{":
            done.append(_lambda(text, here, end, partners))
        elif step[0] == "<":
            done.append(_arguments(text, here, end) if named else _angles(text, here, end, before, partners))
        elif step[0] == "[":
            if inner.startswith("clone ."):
                _drop_space(done)
                done.append(inner.removeprefix("clone "))
            elif inner.startswith("abi:"):
                pass
            elif inner in ("", "...") or not named:
                done.append(text[here:at])
            else:
                done.append("[…]")
        elif before == " " and inner.startswith("."):
            _drop_space(done)
            done.append(inner)
        elif before == " " and inner.startswith(("*", "&")):
            return ""  # a function that returns a function is declared around its name
        elif inner == "anonymous namespace" or not (named or swift):
            done.append(_receiver(text, here, end, partners) if before == "." else text[here:at])
        elif before == "!" and here != after_operator:
            done.append("(…)")
        else:
            qualifiers = _QUALIFIERS.match(text, at)
            at = qualifiers.end() if qualifiers else at
            if not _AFTER_PARAMETERS.match(text, at):
                return ""
            if text.startswith(" -> ", at):
                of = text.find(" in ", at)
                at = len(text) if of < 0 else of
            if swift and before == " ":
                _drop_space(done)
            if not swift and not told:
                del done[1:name]
                told = True
    done.append(text[at:])
    return "".join(done).strip()


def _drop_space(done: list[str]) -> None:
    """Takes off the space, and the nothing after it, that pieces end with."""
    if done[-2:] == [" ", ""]:
        del done[-2:]


def _arguments(text: str, start: int, end: int) -> str:
    return text[start] + ("…" if end > start + 1 else "") + text[end]


def _angles(text: str, start: int, end: int, before: str, partners: dict[int, int]) -> str:
    if before in (" ", "."):
        return text[start : end + 1]  # Python's <locals>, JavaScript's <anonymous>
    folded = _within(text, start + 1, end, partners, _OPENING)
    if before == "" or (before == ":" and (folded.startswith("impl ") or " as " in folded)):
        return f"<{folded}>"  # Rust's <T as Trait>
    return _arguments(text, start, end)


def _lambda(text: str, start: int, end: int, partners: dict[int, int]) -> str:
    if not text.startswith("{lambda(", start):
        return text[start : end + 1]
    close = partners.get(start + len("{lambda"), end)
    return "{lambda" + text[close + 1 : end + 1] if close < end else text[start : end + 1]


def _receiver(text: str, start: int, end: int, partners: dict[int, int]) -> str:
    """Go's (*T) with the arguments of T folded."""
    return "(" + _within(text, start + 1, end, partners, re.compile(r"\[")) + ")"


def _within(text: str, at: int, end: int, partners: dict[int, int], opening: re.Pattern[str]) -> str:
    """text[at:end] with what is in brackets folded."""
    done = []
    while (step := opening.search(text, at, end)) and step.start() in partners:
        done.append(text[at : step.start()])
        done.append(_arguments(text, step.start(), partners[step.start()]))
        at = partners[step.start()] + 1
    done.append(text[at:end])
    return "".join(done)
