"""Programs with debug information to build symbol files of, and what tests compare those with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from symbolizer.debuginfo.symfile import SymFile
from symbolizer.debuginfo.symfile_build import build_symfile
from symbolizer.files import read_at

SOURCE = """
#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>
#ifndef PART
#define PART 0
#endif
struct Shape { virtual ~Shape() = default; virtual int area() const = 0; };
template <int N> struct Square : Shape {
    int side;
    explicit Square(int s) : side(s) { if (s < N) throw std::runtime_error("small " + std::to_string(s)); }
    int area() const override { return side * side * N; }
};
static int depth(int x) { return x < 2 ? 1 : depth(x - 1) + depth(x - 2); }
static inline int clamp_all(std::vector<int>& v, int most) {
    int sum = 0;
    for (int& x : v) sum += x = std::min(x, most);
    return sum;
}
int run(int argc, char** argv) {
    std::map<std::string, std::vector<int>> words;
    for (int i = 0; i < argc; i++) words[argv[i]].push_back(i + PART);
    int total = 0;
    for (auto& entry : words) {
        std::sort(entry.second.begin(), entry.second.end(), [](int a, int b) { return (a ^ 7) < (b ^ 7); });
        total += clamp_all(entry.second, argc);
    }
    Square<2> two(argc);
    Square<3> three(total);
    const Shape* shapes[] = {&two, &three};
    for (const Shape* shape : shapes) total += shape->area();
    return total + depth(argc % 9);
}
int main(int argc, char** argv) {
    try {
        return run(argc, argv) & 1;
    } catch (const std::exception&) {
        return 2;
    }
}
"""
RUST = """
use std::collections::HashMap;
fn main() {
    let mut words: HashMap<String, Vec<u32>> = HashMap::new();
    for i in 0..100u32 { words.entry(format!("{}", i % 7)).or_default().push(i); }
    let mut sums: Vec<_> = words.iter().map(|(k, v)| (k.clone(), v.iter().sum::<u32>())).collect();
    sums.sort_by(|a, b| b.1.cmp(&a.1));
    println!("{:?}", sums);
}
"""
GO = """package main
import ("fmt"; "sort"; "strings")
func main() { words := strings.Split("b,a", ","); sort.Strings(words); fmt.Println(words) }
"""
Compile = Callable[..., Path]


@dataclass(frozen=True, slots=True)
class Files:
    """Descriptors of a file with debug information and of its supplementary file."""

    file: int
    supplement: int | None = None


def tool(name: str) -> str:
    """The program's path. Fails the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed: `make setup-dev` installs it", pytrace=False)
    return path


def compiler(folder: Path) -> Compile:
    """compile("name", "g++", "-O2", …) → the program of SOURCE, of RUST ("rustc") or GO ("go"), built once."""
    (folder / "prog.cc").write_text(SOURCE)
    (folder / "prog.rs").write_text(RUST)
    (folder / "prog.go").write_text(GO)

    def compile_(name: str, command: str, *options: str) -> Path:
        output = folder / name
        if not output.exists():
            kind = {"rustc": "prog.rs", "go": "prog.go"}.get(command, "prog.cc")
            arguments = ["build", *options] if command == "go" else [*options]
            environment = {**os.environ, "GO111MODULE": "off"}
            line = [tool(command), *arguments, "-o", str(output), str(folder / kind)]
            subprocess.run(line, check=True, cwd=folder, env=environment, capture_output=True)
        return output

    return compile_


def symfile_bytes(binary: Path, debug: Path | None = None, supplement: Path | None = None) -> bytes:
    """What build_symfile makes of these files."""
    handles = [os.open(path, os.O_RDONLY) for path in (binary, debug or binary, supplement) if path is not None]
    try:
        info = Files(handles[1], handles[2] if len(handles) > 2 else None)
        return build_symfile(lambda offset, size: read_at(handles[0], offset, size), info)
    finally:
        for handle in handles:
            os.close(handle)


def opened(data: bytes) -> SymFile:
    """The symbol file of these bytes. Raises SymFileError."""
    handle = os.memfd_create("symfile")
    try:
        os.write(handle, data)
        return SymFile.open(handle)
    finally:
        os.close(handle)


def symfile(binary: Path, debug: Path | None = None, supplement: Path | None = None) -> SymFile:
    """A symbol file built of these files, opened."""
    return opened(symfile_bytes(binary, debug, supplement))
