#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Check the rules of CONTRIBUTING.md that a compiler cannot.

usage: tidy.py [ROOT]

Who may include whom; words that must not be merged; the SPDX line; that every
source and test is in meson.build; that every rule of doc/semantics.md has a
test and a mutant, and every mutant a test. Each check is seen to fail in
test/cli/tidy.sh.
"""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")

# A file in <key> may include "quoted" headers whose path starts with one of
# these. Headers of the file's own folder are named by their full path too.
MAY = {
    "include/pgmap": (),
    "src/base": ("base/",),
    "src/core": ("base/", "core/", "mmu/mmu.h"),
    "src/mmu": ("base/", "mmu/"),
    "src/dax": ("base/", "dax/"),
    "src/driver": ("base/", "driver/"),
    "src/runtime": ("base/", "runtime/", "core/hmm.h", "core/mm.h",
                    "core/notifier.h", "core/stat.h", "core/unit.h", "mmu/",
                    "open.h"),
    "src": ("base/", "core/", "driver/", "mmu/", "runtime/", "open.h",
            "place.h"),
    "preload": ("runtime/runtime.h",),
    "tools": ("beside.h", "bench/bench.h", "cmd.h", "number_in.h", "out.h"),
    "tools/bench": ("base/hash.h", "driver/driver.h", "mmu/uffd.h", "beside.h",
                    "bench/", "number_in.h", "out.h"),
    "tools/explore": ("base/", "core/", "mmu/mmu.h", "mmu/soft.h", "explore/",
                      "out.h"),
    "examples": (),
}
# ... and these of <pgmap/...>.
ALL = {"dax.h", "driver.h", "pagemap.h", "pgmap.h", "run.h", "stat.h"}
PUBLIC = {
    "include/pgmap": ALL,
    "src/base": set(),
    "src/core": ALL - {"dax.h", "run.h"},
    "src/dax": {"dax.h"},
    "src/mmu": set(),
    "src/driver": {"driver.h"},
    "src/runtime": ALL - {"driver.h"},
    "src": ALL,
    "preload": ALL,
    "tools": ALL,
    "tools/bench": ALL,
    "tools/explore": ALL,
    "examples": ALL,
}
# Core must stay deterministic: nothing of the OS but memory and errno.
CORE_LIBC = {"errno.h", "limits.h", "stdbool.h", "stddef.h", "stdint.h",
             "string.h", "xxhash.h"}
# The only files of core that may call a driver, and the MMU.
DOORS = [
    ("device.c",
     r"dev->ops(\.|->)(open|close|store|load|discard|usage|fork|"
     r"direct_access|flush)\s*\("),
    ("pt.c",
     r"(m|mmu)->ops(\.|->)(watch|unwatch|take|give|zero|poison|wake|present|"
     r"look|populate|pool_map|pool_unmap|pool_fill|pool_drop|now_ns)\s*\("),
]
# In every source but tests.
BANNED = [
    (r"\b(strcpy|strcat|sprintf|vsprintf|gets)\s*\(", "use the bounded form"),
    (r"(?<![\w.])assert\s*\(", "use pg_assert or pg_bug_on"),
    (r"\b(atomic_\w+|__atomic_\w+|__sync_\w+)\s*\(", "use base/atomic.h"),
]
BANNED_IN_LIBRARY = (r"\berrno\s*=(?!=)", "return a negative errno instead")
# What runs inside other people's programs, on threads that libc does not
# know, perhaps inside malloc.
IN_PROGRAM = {"src", "src/base", "src/core", "src/dax", "src/mmu",
              "src/driver", "src/runtime", "preload"}
IN_COMMAND = {"src/run.c", "src/runtime/site.c"}
BANNED_IN_PROGRAM = [
    (r"(?<![\w.>])(malloc|calloc|realloc|free|strdup|strndup|asprintf)\s*\(",
     "use base/mem.h"),
    (r"\b(v?f?d?printf|v?snprintf|puts|fopen|fwrite|perror|strerror)\s*\(",
     "use base/log.h"),
    (r"\bpthread_\w+", "use base/lock.h and base/thread.h"),
    (r"\b(_Thread_local|__thread|thread_local)\b", "no thread-local storage"),
    (r"\b(errno)\b", "use base/sys.h"),
    (r"\b(getenv|setenv)\s*\(", "read the environment in the command"),
]
# (file, word): where one of those is right, and why is told there.
EXCEPT = {
    ("src/base/atomic.h", "atomic_"),
    ("src/base/lock.c", "_Thread_local"),
    ("src/base/mutant.c", "getenv"),
    ("src/base/thread.c", "pthread_"),
}
# In every text.
MARKS = [
    (r"\b(FIX" r"ME|TO" r"DO|XX" r"X)\b", "finish it before it is merged"),
    (r"@" r"@", "a figure is still to be measured"),
]
SPDX = "SPDX-License-Identifier: BSD-3-Clause"
RULE = r"[RN]\d+[a-z]?"

bad = []


def read(name):
    path = root / name
    return path.read_text() if path.exists() else ""


def files(folders, pattern):
    for d in folders:
        yield from sorted(p for p in (root / d).rglob(pattern) if p.is_file())


def blank(match):
    return re.sub(r"[^\n]", " ", match[0])


def code_of(text):
    """The text with comments and strings blanked, line for line."""
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'
                  r"'(?:\\.|[^'\\\n])+'", blank, text, flags=re.S)


def check_includes(rel, where, lines):
    for no, line in enumerate(lines, 1):
        m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if m and where in MAY and not m[1].startswith(MAY[where] or "\0"):
            bad.append(f"{rel}:{no}: {where} may not include {m[1]}")
        m = re.match(r"\s*#\s*include\s+<([^>]+)>", line)
        if not m:
            continue
        if m[1].startswith("pgmap/"):
            if where in PUBLIC and m[1][6:] not in PUBLIC[where]:
                bad.append(f"{rel}:{no}: {where} may not include <{m[1]}>")
        elif where == "src/core" and m[1] not in CORE_LIBC:
            bad.append(f"{rel}:{no}: core may not include <{m[1]}>")
        elif m[1] == "stdatomic.h" and str(rel) != "src/base/atomic.h":
            bad.append(f"{rel}:{no}: only base/atomic.h may include <{m[1]}>")


def check_words(rel, where, name, code):
    rules = list(BANNED)
    if where.startswith("src"):
        rules.append(BANNED_IN_LIBRARY)
    if where in IN_PROGRAM and str(rel) not in IN_COMMAND:
        rules += BANNED_IN_PROGRAM
    for no, line in enumerate(code.split("\n"), 1):
        if re.match(r"\s*#\s*include", line):
            continue
        for pattern, why in rules:
            m = re.search(pattern, line)
            if m and not any(str(rel) == f and m[0].startswith(w)
                             for f, w in EXCEPT):
                bad.append(f"{rel}:{no}: {m[0].strip()}: {why}")
        for door, pattern in DOORS:
            if where == "src/core" and name != door and \
                    re.search(pattern, line):
                bad.append(f"{rel}:{no}: only {door} may do this")


def check_source(path):
    rel = path.relative_to(root)
    where = str(rel.parent)
    text = path.read_text()
    lines = text.split("\n")
    if lines[0] != f"/* {SPDX} */":
        bad.append(f"{rel}: first line is not the SPDX line")
    if where.startswith("test"):
        return
    check_includes(rel, where, lines)
    if path.suffix != ".S":
        check_words(rel, where, path.name, code_of(text))


def check_texts():
    """Marks of unfinished work, in everything that is written by hand."""
    kinds = {".c", ".h", ".S", ".py", ".sh", ".md", ".scd", ".txt", ".map",
             ".build", ".js", ".java"}
    paths = [p for p in root.iterdir() if p.is_file()]
    paths += files(["include", "src", "preload", "tools", "test", "examples",
                    "doc", "man", "scripts", ".ci"], "*")
    for p in sorted(paths):
        rel = p.relative_to(root)
        if p.suffix not in kinds and not (
                p.name == "Makefile" or p.parent.name in ("scripts", ".ci")):
            continue
        if "__pycache__" in rel.parts:
            continue
        text = p.read_text()
        for no, line in enumerate(text.split("\n"), 1):
            for pattern, why in MARKS:
                m = re.search(pattern, line)
                if m:
                    bad.append(f"{rel}:{no}: {m[0]}: {why}")
        script = p.suffix in (".py", ".sh") or p.parent.name == "scripts" or \
            p.name in ("Makefile", "meson.build")
        if script and SPDX not in "\n".join(text.split("\n")[:2]):
            bad.append(f"{rel}: first lines lack the SPDX line")


def listed():
    """The paths that meson.build names, its loops over lists written out."""
    meson = re.sub(r"#[^\n]*", "", read("meson.build"))
    paths = set(re.findall(r"'([^'\n]*)'", meson))
    for m in re.finditer(r"'([\w/]+)' / (\w+) \+ '(\.\w+)'", meson):
        loop = meson.rindex(f"foreach {m[2]}", 0, m.start())
        head = re.match(r".*? : (\[.*?\]|\w+)", meson[loop:], re.S)[1]
        if head[0] != "[":
            head = re.search(rf"^{head} = \{{.*?^\}}", meson, re.S | re.M)[0]
        paths |= {f"{m[1]}/{i}{m[3]}" for i in re.findall(r"'([\w.-]+)'", head)}
    return paths


def check_meson():
    """Every source and test is in the one list, or helps a test beside it."""
    in_meson = listed()
    scripts = {p: p.read_text() for pattern in ("*.sh", "*.py")
               for p in files(["test"], pattern)}
    for p in [*files(["src", "preload", "tools", "examples"], "*.[cS]"),
              *files(["test"], "*.c"), *scripts, *files(["man"], "*.scd")]:
        rel = str(p.relative_to(root))
        used = {".py": rf"[\"'/]{re.escape(p.name)}\b"
                       rf"|^from {re.escape(p.stem)} import",
                ".sh": rf'^\. .*/{re.escape(p.name)}"$'}.get(p.suffix)
        helper = used and any(
            re.search(used, text, re.M)
            for s, text in scripts.items() if s.parent == p.parent and s != p)
        if rel not in in_meson and not helper:
            bad.append(f"{rel}: not in meson.build")


def check_rules():
    """Rules, tests and mutants name each other."""
    rules = set(re.findall(rf"^({RULE})\.", read("doc/semantics.md"), re.M))
    names = set()
    for p in files(["test"], "*.c"):
        names |= set(re.findall(r"\b(?:TEST|CASE|CASE_STATUS)\(\s*(\w+)\s*[),]",
                                p.read_text()))
    for p in files(["tools/explore"], "*.c"):
        names |= set(re.findall(r"^X_SCENARIO\(\s*(\w+)\s*,", p.read_text(),
                                re.M))
    for p in [*files(["test"], "*.sh"), *files(["test"], "*.py")]:
        names |= set(re.findall(rf"^\s*(?:def |function |case_|test_)?"
                                rf"({RULE}_\w+)\s*\(\)", p.read_text(), re.M))

    def covers(name):
        m = re.match(rf"(?:{RULE}_)+", name)
        return set(m[0].strip("_").split("_")) if m else set()

    tested = set().union(*map(covers, names))
    bad.extend(f"test: no test named {r}_" for r in rank(rules - tested))
    bad.extend(f"doc/semantics.md: no rule {r}" for r in rank(tested - rules))

    planted = set()
    for p in files(["src"], "*.c"):
        planted |= set(re.findall(r'pg_mutant\("(\w+)"\)', p.read_text()))
    listed, killed = set(), set()
    for no, line in enumerate(read("test/mutations.txt").split("\n"), 1):
        f = line.split("#")[0].split()
        if not f:
            continue
        at = f"test/mutations.txt:{no}"
        if len(f) != 3:
            bad.append(f"{at}: want MUTANT PROGRAM TEST")
            continue
        listed.add(f[0])
        killed |= covers(f[2])
        if f[0] not in planted:
            bad.append(f"{at}: no pg_mutant(\"{f[0]}\") in src")
        if f[2] not in names:
            bad.append(f"{at}: no test {f[2]}")
    bad.extend(f'pg_mutant("{m}"): not in test/mutations.txt'
               for m in sorted(planted - listed))
    bad.extend(f"test/mutations.txt: no mutant for {r}"
               for r in rank(r for r in rules - killed if r[0] == "R"))


def rank(rules):
    return sorted(rules, key=lambda r: (r[0], int(re.sub(r"\D", "", r)), r))


for source in files(["include", "src", "tools", "preload", "examples",
                     "test"], "*.[chS]"):
    check_source(source)
check_texts()
check_meson()
check_rules()
if bad:
    print("\n".join(bad))
sys.exit(bool(bad))
