"""What stands in the boxes of a flame graph: names with arguments and parameters folded."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from symbolizer.naming.demangle import function_names
from symbolizer.naming.short_names import short_name

LIBSTDCPP = "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"


@pytest.mark.parametrize(
    ("function", "short"),
    [
        ("std::vector<int, std::allocator<int>>::push_back(int&&)", "std::vector<…>::push_back"),
        ("std::vector<int, std::allocator<int> >::operator[](unsigned long) const", "std::vector<…>::operator[]"),
        ("foo(int) const &", "foo"),
        ("Foo<int>::~Foo()", "Foo<…>::~Foo"),
        ("std::string::_M_append[abi:cxx11](char const*)", "std::string::_M_append"),
        ("(anonymous namespace)::Hidden::run(int (*)(char const*), long const (&) [3])",
         "(anonymous namespace)::Hidden::run"),
        ("void std::__introsort_loop<int*, long>(int*, int*, long)", "std::__introsort_loop<…>"),
        ("std::enable_if<(1>2), int>::type foo<(Bar)3, &Foo::operator< >(int)", "foo<…>"),
        ("vtable for X<int>", "vtable for X<…>"),
        ("non-virtual thunk to A<B>::c(int)", "non-virtual thunk to A<…>::c"),
        ("guard variable for foo()::x", "guard variable for foo::x"),
        ("void (*foo(int))(char)", "void (*foo(int))(char)"),
    ],
)  # fmt: skip
def test_template_arguments_and_parameters_of_cpp_are_folded(function: str, short: str) -> None:
    assert short_name(function) == short


@pytest.mark.parametrize(
    ("function", "short"),
    [
        ("operator<(Foo const&, Foo const&)", "operator<"),
        ("bool operator< <int>(Foo<int> const&, int)", "operator< <…>"),
        ("std::ostream& operator<< <char>(std::ostream&, char)", "operator<< <…>"),
        ("operator<=>(A, B)", "operator<=>"),
        ("Foo::operator()(int) const", "Foo::operator()"),
        ("Foo::operator()<int>(int) const", "Foo::operator()<…>"),
        ("Foo<int>::operator->() const", "Foo<…>::operator->"),
        ("Foo::operator->*(int)", "Foo::operator->*"),
        ("Foo::operator!() const", "Foo::operator!"),
        ("Foo::operator,(int)", "Foo::operator,"),
        ("Foo::operator*() const", "Foo::operator*"),
        ("Foo::operator bool() const", "Foo::operator bool"),
        ("Foo::operator unsigned long() const", "Foo::operator unsigned long"),
        ("Foo::operator std::vector<int>() const", "Foo::operator std::vector<…>"),
        ("operator new[](unsigned long)", "operator new[]"),
        ("operator delete(void*, unsigned long)", "operator delete"),
        ('operator"" _km(long double)', 'operator"" _km'),
        ("my_operator_x(int)", "my_operator_x"),
    ],
)
def test_operators_keep_the_brackets_that_are_their_names(function: str, short: str) -> None:
    assert short_name(function) == short


@pytest.mark.parametrize(
    ("function", "short"),
    [
        ("main::{lambda(int)#1}::operator()(int) const", "main::{lambda#1}::operator()"),
        ("foo(int)::{lambda(auto:1, std::vector<int>)#2}::operator()<int>(int) const",
         "foo::{lambda#2}::operator()<…>"),
        ("auto foo<int>(int)::{lambda()#1}::operator()() const", "foo<…>::{lambda#1}::operator()"),
        ("foo()::$_0::operator()() const", "foo::$_0::operator()"),
        ("foo()::'lambda'(int)::operator()(int) const", "foo::'lambda'::operator()"),
        ("(anonymous namespace)::{unnamed type#1}::f()", "(anonymous namespace)::{unnamed type#1}::f"),
    ],
)  # fmt: skip
def test_lambdas_are_told_by_where_they_are_and_their_number(function: str, short: str) -> None:
    assert short_name(function) == short


@pytest.mark.parametrize(
    ("function", "short"),
    [
        ("foo() [clone .cold]", "foo.cold"),
        ("foo(int) [clone .isra.0] [clone .cold]", "foo.isra.0.cold"),
        ("foo(int) (.cold)", "foo.cold"),
        ("Foo<int>::~Foo() [clone .part.0]", "Foo<…>::~Foo.part.0"),
        ("foo.cold", "foo.cold"),
        ("foo.constprop.0", "foo.constprop.0"),
        ("foo()@plt", "foo@plt"),
        ("malloc@plt", "malloc@plt"),
        ("foo(int) [clone .llvm.123]", "foo"),
        ("foo.part.0.llvm.12345", "foo.part.0"),
        ("foo.lto_priv.0", "foo"),
        ("core::fmt::write [clone .cold]", "core::fmt::write.cold"),
    ],
)
def test_suffixes_of_compilers_look_alike_whatever_the_language(function: str, short: str) -> None:
    assert short_name(function) == short


@pytest.mark.parametrize(
    ("function", "short"),
    [
        ("<alloc::vec::Vec<T> as core::ops::Drop>::drop", "<alloc::vec::Vec<…> as core::ops::Drop>::drop"),
        ("<alloc::vec::Vec<u8>>::push", "<alloc::vec::Vec<…>>::push"),
        ("<T as core::convert::Into<U>>::into", "<T as core::convert::Into<…>>::into"),
        ("core::ptr::drop_in_place::<alloc::vec::Vec<u8>>", "core::ptr::drop_in_place::<…>"),
        ("core::ptr::drop_in_place::<<A as B>::drop::Guard<u8>>", "core::ptr::drop_in_place::<…>"),
        ("core::ptr::drop_in_place<alloc::vec::Vec<u8>>", "core::ptr::drop_in_place<…>"),
        ("core::fmt::num::<impl core::fmt::Debug for usize>::fmt",
         "core::fmt::num::<impl core::fmt::Debug for usize>::fmt"),
        ("<&mut dyn core::ops::FnMut(usize) -> bool as Foo<X>>::bar::{closure#0}",
         "<&mut dyn core::ops::FnMut(…) -> bool as Foo<…>>::bar::{closure#0}"),
        ("foo::bar::{{closure}}::h0123456789abcdef", "foo::bar::{{closure}}"),
        ("core::ops::function::FnOnce::call_once{{vtable.shim}}",
         "core::ops::function::FnOnce::call_once{{vtable.shim}}"),
        ("main.(*T).Method", "main.(*T).Method"),
        ("main.(*Map[go.shape.int,go.shape.[]string]).Load", "main.(*Map[…]).Load"),
        ("slices.SortFunc[go.shape.[]int]", "slices.SortFunc[…]"),
        ("main.F[go.shape.int].func1", "main.F[…].func1"),
        ("slices.SortFunc[...]", "slices.SortFunc[...]"),
        ("github.com/foo/bar.(*T).Method-fm", "github.com/foo/bar.(*T).Method-fm"),
        ("main.Foo.bar(Swift.Int) -> ()", "main.Foo.bar"),
        ("closure #1 (Swift.Int) -> () in main.foo<A>(A) -> ()", "closure #1 in main.foo<…>"),
        ("Foundation.Data.count.getter : Swift.Int", "Foundation.Data.count.getter"),
        ('std.algorithm.iteration.map!("a", int[]).map(int[])', "std.algorithm.iteration.map!(…).map"),
    ],
)  # fmt: skip
def test_names_of_rust_go_swift_and_d_are_folded_in_their_own_way(function: str, short: str) -> None:
    assert short_name(function) == short


@pytest.mark.parametrize(
    "function",
    [
        "main", "do_syscall_64", "", " ", "<", "(", "()", "a<b", "operator", "_ZN3foo", "[libfoo.so: no symbols]",
        "[no mapping]", "<module>", "foo.<locals>.<lambda>", "py::<module>:/usr/lib/x.py", "f (/usr/lib/x.py:12)",
        "JS:*foo file:///x(y).js:1:2", "LazyCompile:~foo /a/b(c)<d>.js:1", "foo /a/b(c)<d>.js:1", "Object.<anonymous>",
        "get [Symbol.species]", "(anonymous)", "type:.eq.[2]interface {}", "Lcom/foo/Bar;::method(I)V", "-[Foo bar:]",
    ],
)  # fmt: skip
def test_what_is_no_compilers_notation_stays_as_it_is(function: str) -> None:
    assert short_name(function) == function


def test_a_name_that_was_cut_off_says_so_where_its_own_name_is_missing() -> None:
    assert short_name("std::map<int, std::vector<lo…") == "std::map<…"
    assert short_name("foo(int, st…") == "foo…"


def _defined(path: str | Path, *options: str) -> list[str]:
    out = subprocess.run(["nm", *options, "--defined-only", path], capture_output=True, text=True, check=True).stdout
    return sorted({line.split(" ", 2)[-1] for line in out.splitlines()})


def _check(names: list[str]) -> None:
    for name in names:
        short = short_name(name)
        assert short and len(short) <= len(name)
        assert short_name(short) == short
        if short != name and not name.endswith("…"):
            left = re.sub(r"operator(\(\)|->\*?|<=>|<<=?|>>=?|[<>]=?)|->|<>|\(anonymous namespace\)", "", short)
            assert left.count("<") == left.count(">") and left.count("(") == left.count(")"), (name, short)


def test_names_of_real_cpp_libraries_are_the_same_with_and_without_their_parameters() -> None:
    if not Path(LIBSTDCPP).exists() or not shutil.which("c++filt"):
        pytest.fail("libstdc++ and binutils are not installed: `make setup-dev` installs them", pytrace=False)
    symbols = [symbol.partition("@")[0] for symbol in _defined(LIBSTDCPP, "-D")]
    symbols = sorted({symbol for symbol in symbols if symbol.startswith("_Z")})
    assert len(symbols) > 3000
    _check([function_names(symbol.encode())[0] for symbol in symbols])
    # binutils can leave parameters, and types that are returned, off by itself.
    with_and_without = [
        subprocess.run(["c++filt", *options], input="\n".join(symbols), capture_output=True, text=True, check=True)
        for options in ([], ["-p"])
    ]
    pairs = [*zip(*(ran.stdout.splitlines() for ran in with_and_without), strict=True)]
    differ = [(a, b) for a, b in pairs if short_name(a) != short_name(b)]
    assert len(differ) < len(pairs) / 100, differ[:20]


def test_names_of_a_large_library_are_folded_whole() -> None:
    found = sorted(Path("/usr/lib/x86_64-linux-gnu").glob("libLLVM-*.so.1"))
    if not found:
        pytest.fail("LLVM is not installed: `make setup-dev` installs it", pytrace=False)
    symbols = [symbol for symbol in _defined(found[-1], "-D") if symbol.startswith("_Z")]
    names = [function_names(symbol.encode())[0] for symbol in random.Random(4).sample(symbols, 3000)]
    _check(names)
    assert sum(map(len, map(short_name, names))) < sum(map(len, names)) / 2


@pytest.mark.parametrize("mangling", ["legacy", "v0"])
def test_names_of_a_rust_program_are_folded_whole(mangling: str, tmp_path: Path) -> None:
    if not shutil.which("rustc"):
        pytest.fail("rustc is not installed: `make setup-dev` installs it", pytrace=False)
    source = tmp_path / "program.rs"
    source.write_text(
        """
        use std::collections::HashMap;
        fn main() {
            let mut words: HashMap<String, Vec<u8>> = HashMap::new();
            words.insert("a".into(), vec![1]);
            println!("{:?}", words.iter().map(|(k, v)| (k.len(), v.len())).collect::<Vec<_>>());
        }
        """
    )
    # Of some versions another scheme than their own is to be had only with a switch that it is unstable.
    chosen = ["-C", "symbol-mangling-version=" + mangling, "-Z", "unstable-options"]
    subprocess.run(
        ["rustc", *chosen, "-o", tmp_path / "program", source],
        check=True,
        env={**os.environ, "RUSTC_BOOTSTRAP": "1"},
    )
    names = [function_names(symbol.encode())[0] for symbol in _defined(tmp_path / "program")]
    names = [name for name in names if "::" in name]
    assert len(names) > 100
    _check(names)
    assert any(re.search(r"main::\{+closure", short_name(name)) for name in names)


_PIECES = st.sampled_from(
    [*"<>()[]{} .:*&,-#…@", "::", "operator", "operator<", "operator()", "->", " -> ", " in ", "foo", "T", " as ",
     "impl ", "{lambda(", "[clone .cold]", "[abi:x]", "(anonymous namespace)", " const", " for ", "vtable for ",
     "::h0123456789abcdef", ".llvm.1", " : ", "::<", "!("]
)  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(st.lists(_PIECES, min_size=1, max_size=40).map("".join) | st.text(min_size=1))
@example("operator ")
@example(" [clone .a]")
def test_no_name_is_lost_or_grows_whatever_it_is_made_of(name: str) -> None:
    short = short_name(name)
    assert short
    assert len(short) <= len(name) + 2 * name.count("…") + 2
    assert short_name(name) == short


def _steps(name: str) -> int:
    """Lines of Python run to shorten `name`."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        short_name(name)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "piece",
    ["<", ">", "<>", "(", "a()", "a<b>::", "<(", "(<", "operator<", "[clone .a] ", " ", "{lambda(", "::<a as b>",
     "f() -> in ", "a(", "::h0123456789abcdef", ".llvm.1", "((((>", "<<<<)"],
)  # fmt: skip
def test_a_name_twice_as_long_takes_no_more_than_twice_the_steps(piece: str) -> None:
    for end in ("", "…", ">()"):
        short, long = (_steps("a" + piece * times + end) for times in (200, 400))
        assert long < 2.2 * short + 50
