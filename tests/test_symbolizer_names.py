"""Names made fit to show, and mangled names made readable."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbolizer.names import MAX_NAME, clean_name
from symbolizer.naming.demangle import function_names
from symbolizer.naming.itanium import demangle_cpp
from symbolizer.naming.rust import demangle_rust


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain_name", "plain_name"),
        (b"a\x1b[31mred\nnext\ttab\0", r"a\x1b[31mred\x0anext\x09tab\x00"),
        ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("tag\U000e0041", r"tag\U000e0041"),
        (b"\xff\xfe", r"\xff\xfe"),
        ("byte\udcff", r"byte\xff"),
        ("Grüße→世界", "Grüße→世界"),
        (b"a;b <script>", "a;b <script>"),
        (b"", ""),
    ],
)
def test_what_cannot_be_seen_is_made_visible_and_all_else_is_kept(name: bytes | str, shown: str) -> None:
    assert clean_name(name) == shown


def test_a_name_of_100_kb_is_cut_and_says_so() -> None:
    for name in (b"x" * 100_000, "ü" * 100_000, b"\xff" * 100_000, "\n" * 100_000):
        shown = clean_name(name)
        assert len(shown) == MAX_NAME
        assert shown.endswith("…")


@given(st.binary(max_size=400) | st.text(max_size=400))
def test_every_clean_name_is_printable_bounded_and_stays_as_it_is(name: bytes | str) -> None:
    shown = clean_name(name)
    assert shown.isprintable()
    assert len(shown) <= MAX_NAME
    assert clean_name(shown) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("symbol", "names"),
    [
        (b"main", ("main", "")),
        (b"malloc@@GLIBC_2.2.5", ("malloc", "")),
        (b"memcpy@GLIBC_2.14", ("memcpy", "")),
        (b"_Z3foov", ("foo()", "_Z3foov")),
        (b"_Z3foov.cold", ("foo() [clone .cold]", "_Z3foov.cold")),
        (b"_ZNSt6vectorIiSaIiEE9push_backERKi@@V1",
         ("std::vector<int, std::allocator<int>>::push_back(int const&)", "_ZNSt6vectorIiSaIiEE9push_backERKi")),
        (b"_Z3maxIiET_S0_S0_", ("max<int>(int, int)", "_Z3maxIiET_S0_S0_")),
        (b"_ZN4core3fmt9Formatter9write_str17h1234567890abcdefE",
         ("core::fmt::Formatter::write_str", "_ZN4core3fmt9Formatter9write_str17h1234567890abcdefE")),
        (b"_ZN50_$LT$T$u20$as$u20$core..convert..Into$LT$U$GT$$GT$4into17h1234567890abcdefE.llvm.123",
         ("<T as core::convert::Into<U>>::into",
          "_ZN50_$LT$T$u20$as$u20$core..convert..Into$LT$U$GT$$GT$4into17h1234567890abcdefE.llvm.123")),
        (b"_RNvNtCs43NoKGl62Ug_14rustc_demangle2v010basic_type",
         ("rustc_demangle::v0::basic_type", "_RNvNtCs43NoKGl62Ug_14rustc_demangle2v010basic_type")),
        (b"$s4main3FooV3baryySiF", ("main.Foo.bar(Swift.Int) -> ()", "$s4main3FooV3baryySiF")),
        (b"_D3std5stdio4File5closeMFZv", ("std.stdio.File.close()", "_D3std5stdio4File5closeMFZv")),
        (b"main.(*T).Method", ("main.(*T).Method", "")),
        (b"$stub", ("$stub", "")),
        (b"_Double", ("_Double", "")),
        (b"_Znot_a_mangled_name", ("_Znot_a_mangled_name", "")),
        (b"_Z1\xff", (r"_Z1\xff", "")),
    ],
)  # fmt: skip
def test_a_symbol_becomes_its_readable_name(symbol: bytes, names: tuple[str, str]) -> None:
    assert function_names(symbol) == names


@pytest.mark.parametrize(
    ("symbol", "function"),
    [
        (b"_Z3foov.cold", "foo() [clone .cold]"),
        (b"_Z3foov.part.0", "foo() [clone .part.0]"),
        (b"_Z3foov.constprop.0.isra.0", "foo() [clone .constprop.0] [clone .isra.0]"),
        (b"_Z3foov.llvm.123", "foo() [clone .llvm.123]"),
        (b"_Z3foov.lto_priv.0", "foo() [clone .lto_priv.0]"),
        (b"_ZN4core3fmt5write17h1234567890abcdefE.cold", "core::fmt::write [clone .cold]"),
        (b"_ZN4core3fmt5write17h1234567890abcdefE.llvm.77.cold", "core::fmt::write [clone .cold]"),
        (b"_RNvNtCs43NoKGl62Ug_14rustc_demangle2v010basic_type.llvm.7", "rustc_demangle::v0::basic_type"),
        (b"_RNvNtCs43NoKGl62Ug_14rustc_demangle2v010basic_type.cold", "rustc_demangle::v0::basic_type [clone .cold]"),
        (b"$s4main3fooyyF.cold", "main.foo() -> () [clone .cold]"),
        (b"_D4test3fooFAyaZv.part.0", "test.foo(immutable(char)[]) [clone .part.0]"),
        (b"foo.cold", "foo.cold"),
        (b"foo.constprop.0", "foo.constprop.0"),
        (b"foo.lto_priv.0", "foo.lto_priv.0"),
        (b"_Z3foov@plt", "foo()@plt"),
        (b"_Z3foov@@V1@plt", "foo()@plt"),
        (b"foo@@@LIB-1.2+x", "foo"),
        (b"_Z3foov.cold@V1", "foo() [clone .cold]"),
        (b"@plt", "@plt"),
        (b"@@V1", "@@V1"),
    ],
)
def test_what_compilers_and_linkers_append_is_kept_in_one_form_and_versions_are_not(
    symbol: bytes, function: str
) -> None:
    assert function_names(symbol)[0] == function


def test_suffixes_of_cpp_read_as_cppfilt_has_them() -> None:
    symbols = [
        "_Z3foov" + end for end in (".cold", ".part.0", ".constprop.0.isra.0", ".lto_priv.0", ".llvm.123", ".12")
    ]
    out = subprocess.run(["c++filt", *symbols], capture_output=True, text=True, check=True).stdout
    assert [function_names(symbol.encode())[0] for symbol in symbols] == out.splitlines()


def _system_symbols(path: str, *options: str) -> list[str]:
    out = subprocess.run(["nm", *options, "--defined-only", path], capture_output=True, text=True, check=True)
    names = {line.split()[-1].split("@")[0] for line in out.stdout.splitlines()}
    return sorted(name for name in names if name.startswith("_Z"))


def _comparable(name: str) -> str:
    """c++filt writes "> >" and long names for std::string, and so does not say which symbol it read."""
    for long, short in (
        ("std::basic_string<char, std::char_traits<char>, std::allocator<char> >", "std::string"),
        ("std::basic_ostream<char, std::char_traits<char> >", "std::ostream"),
        ("std::basic_istream<char, std::char_traits<char> >", "std::istream"),
        ("std::basic_iostream<char, std::char_traits<char> >", "std::iostream"),
    ):
        name = name.replace(long, short)
    return re.sub(r" +(?=>)", "", name)


@pytest.mark.skipif(not shutil.which("c++filt"), reason="needs binutils")
def test_the_names_of_a_real_cpp_library_read_as_cppfilt_has_them() -> None:
    symbols = _system_symbols("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "-D")
    if len(symbols) < 1000:
        pytest.skip("no libstdc++")
    out = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True)
    ours = [demangle_cpp(symbol, return_type=True) for symbol in symbols]
    assert ours.count(None) == 0
    same = sum(
        _comparable(our or "") == _comparable(their) for our, their in zip(ours, out.stdout.splitlines(), strict=True)
    )
    assert same / len(symbols) > 0.985


def test_names_made_to_expand_without_end_stay_small_and_quick() -> None:
    doubled = "".join(f"St4pairIS{i}_S{i}_E" for i in ["0", "1", *"23456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    deep = ["_Z1f" + "P" * 4000 + "i", "_Z1f" + "N1a" * 1000, "_Z1f" + "1aI" * 1000, "_RINvC1a1b" + "T" * 3000]
    packs = "_Z1fIJ" + "i" * 3000 + "EEv" + "DpT_" * 200
    digits = "_ZN" + "9" * 4000 + "a17h0123456789abcdefE"
    started = time.process_time()
    foreign = ["$s1a" + "Say" * 1300 + "SiF", "_D8" + "FC3foo" * 160, "_D1aF" + "HAi" * 1300, "$s1a" + "A" * 1000]
    for symbol in ["_Z1fSt4pairIccE" + doubled, packs, digits, "_ZN1aIX" + "ng" * 1500 + "Li1EEE", *deep, *foreign]:
        function, _ = function_names(symbol.encode())
        assert len(function) <= MAX_NAME
    assert time.process_time() - started < 20  # an unbounded one would take years


_PIECES = st.sampled_from(
    [*"NEILXTSJFPRKOAMDZCtswvic0123_", "St", "Dp", "cl", "sr", "1a", "3foo", "S_", "T_", "Ul", "fp"]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_PIECES, max_size=60))
def test_no_mangled_name_raises(pieces: list[str]) -> None:
    text = "".join(pieces)
    for symbol in ("_Z" + text, "_R" + text, "_ZN" + text + "17h0123456789abcdefE"):
        demangle_cpp(symbol)
        demangle_rust(symbol)
    for symbol in ("$s" + text, "_D1" + text, "_$S4main" + text + ".cold"):
        function, _ = function_names(symbol.encode())
        assert function


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_what_the_compiler_mangles_is_read_back(tmp_path: Path) -> None:
    source = tmp_path / "names.cpp"
    source.write_text(
        """
        namespace { struct Hidden { void run(int (*callback)(char const *), long const (&array)[3]); }; }
        void Hidden::run(int (*)(char const *), long const (&)[3]) {}
        struct Value { operator bool() const; Value &operator+=(Value const &); ~Value(); };
        Value::operator bool() const { return true; }
        Value &Value::operator+=(Value const &) { return *this; }
        Value::~Value() {}
        template <typename... T> void all(T const &...) {}
        void call() { Hidden hidden; long three[3]; hidden.run(nullptr, three); all(1, 'c', 2.0); }
        """
    )
    subprocess.run(["g++", "-c", "-O0", source, "-o", tmp_path / "names.o"], check=True)
    names = {demangle_cpp(symbol) for symbol in _system_symbols(str(tmp_path / "names.o"))}
    assert {
        "(anonymous namespace)::Hidden::run(int (*)(char const*), long const (&) [3])",
        "Value::operator bool() const",
        "Value::operator+=(Value const&)",
        "Value::~Value()",
        "all<int, char, double>(int const&, char const&, double const&)",
        "call()",
    } <= names


def test_a_name_that_ends_in_hundreds_of_suffixes_of_stubs_is_read_once() -> None:
    function, system = function_names(b"_Z3foov" + b"@plt" * 1000)
    assert function.startswith("_Z3foov@plt") and function.endswith("@plt") and system in ("", function)
    assert function_names(b"_Z3foov@plt@plt") == ("foo()@plt", "_Z3foov@plt")


def test_text_that_is_too_long_is_not_put_together_first() -> None:
    """Arguments of a template that are made of themselves, and lists of one long type."""
    of_itself = "_Z1fIJidc" + "y" * 256 + "T_" * 30 + "y" * 256 + "EEvDp"
    listed = "_Z1fPFv3000" + "y" * 3000 + "E" + "S0_" * 350
    tracemalloc.start()
    found = [demangle_cpp(symbol) for symbol in (of_itself, listed)]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [None, None] and most < 4 << 20
