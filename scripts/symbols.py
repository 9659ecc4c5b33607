#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Check that names, visibility and what the runtime asks of libc are right.

usage: symbols.py ROOT LIB.a IN_PROGRAM.a LIB.so PRELOAD.so

 - every global symbol of LIB.a starts with pg_ or pgmap_;
 - LIB.so exports what include/pgmap declares, and nothing else;
 - what runs inside other people's programs needs nothing of libc but the few
   functions below: no malloc, no stdio, no errno, no thread-local storage;
 - PRELOAD.so exports nothing and brings no library but libc into a program.
"""
import pathlib
import re
import subprocess
import sys

# Of libc: functions that neither allocate, lock, nor touch errno or
# thread-local storage, and abort, which does not come back.
LIBC = {"abort", "bcmp", "clock_gettime", "environ", "memchr", "memcmp", "memcpy",
        "memmove", "memset", "strchr", "strcmp", "strlen", "strncmp",
        "strcspn", "strnlen", "strrchr", "strspn", "strstr", "write",
        # before the program starts, on its own thread
        "dl_iterate_phdr", "getauxval",
        # made by the compiler or the linker
        "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_", "__ehdr_start"}
# The libraries that PRELOAD.so carries inside it, and libgcc.
LIBRARIES = r"(LZ4|io_uring)_|__\w+[dst]i[234]$"
OURS = r"(pg|pgmap)_"

root, static, in_program, shared, preload = (
    pathlib.Path(a) for a in sys.argv[1:6])


def run(*command):
    return subprocess.run(command, check=True, capture_output=True,
                          text=True).stdout


def nm(*args):
    """(type, name) of the symbols, without versions."""
    out = []
    for line in run("nm", *args).splitlines():
        m = re.match(r"(?:[0-9a-f]+)?\s+([A-Za-z?])\s+(\S+)$", line)
        if m:
            out.append((m[1], m[2].split("@")[0]))
    return out


def declared():
    names = set()
    for h in sorted((root / "include/pgmap").glob("*.h")):
        text = re.sub(r"/\*.*?\*/", "", h.read_text(), flags=re.S)
        text = re.sub(r"^static inline[^;{]*\{.*?^\}", "", text,
                      flags=re.S | re.M)
        names |= set(re.findall(r"^[\w \*]*?\b(pgmap_\w+)\(", text, re.M))
    return names


def exported(lib):
    return {n for t, n in nm("-D", "--defined-only", lib)
            if t != "A" and n not in ("_init", "_fini")}


bad = []
for t, name in sorted(set(nm("-g", "--defined-only", static))):
    if not re.match(OURS, name) and not name.startswith("__"):
        bad.append(f"{name}: not static, so it must start with pg_ or pgmap_")

public, visible = declared(), exported(shared)
bad += [f"{s}: declared in include/, not in pgmap.map"
        for s in sorted(public - visible)]
bad += [f"{s}: in pgmap.map, not declared in include/"
        for s in sorted(visible - public)]

symbols = set(nm(in_program))
own = {n for t, n in symbols if t not in "Uuw"}
for t, name in sorted(symbols):
    if t == "U" and name not in own and name not in LIBC and \
            not re.match(LIBRARIES, name):
        bad.append(f"{name}: must not be called inside other programs")

bad += [f"{s}: exported by {preload.name}" for s in sorted(exported(preload))]
dynamic = run("readelf", "-dlW", preload)
for lib in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic):
    if not re.match(r"libc\.|ld-linux", lib):
        bad.append(f"{preload.name}: needs {lib}")
if re.search(r"^\s*TLS\s", dynamic, re.M):
    bad.append(f"{preload.name}: has thread-local storage")
if "BIND_NOW" not in dynamic and not re.search(r"FLAGS.*\bNOW\b", dynamic):
    bad.append(f"{preload.name}: is not linked with -z now")
if bad:
    print("\n".join(bad))
sys.exit(bool(bad))
