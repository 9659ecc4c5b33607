#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Plant each fault of test/mutations.txt and demand that its test goes red.

usage: mutate.py BUILD [MUTANT | PROGRAM]...

BUILD is a build with -Dmutation=true. A line of the list is
    MUTANT PROGRAM TEST
with the name given to pg_mutant(), the name of a test program as meson knows
it, and the name of a test in it. The test must pass without the mutant, and
fail, crash or hang with it; a test of a race has a few tries to hit it. Prints
TAP; the exit status is 1 if a mutant lived.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

LIMIT_S = 60
TRIES = 20

build = pathlib.Path(sys.argv[1])
only = set(sys.argv[2:])
root = pathlib.Path(__file__).resolve().parent.parent


def mutations():
    for line in (root / "test/mutations.txt").read_text().split("\n"):
        fields = line.split("#")[0].split()
        if len(fields) == 3 and (not only or only & set(fields[:2])):
            yield tuple(fields)


def programs():
    out = subprocess.run(["meson", "introspect", "--tests", str(build)],
                         check=True, capture_output=True, text=True).stdout
    return {t["name"]: t for t in json.loads(out)}


def run(program, test, mutant):
    """"passed", "failed", "hung" or "did not run", and the output."""
    env = dict(os.environ, **program["env"], PGMAP_TEST=test)
    env.pop("PGMAP_MUTATE", None)
    if mutant:
        env["PGMAP_MUTATE"] = mutant
    try:
        p = subprocess.run(program["cmd"], env=env, timeout=LIMIT_S,
                           stdin=subprocess.DEVNULL, capture_output=True,
                           cwd=program["workdir"])
    except subprocess.TimeoutExpired:
        return "hung", ""
    text = (p.stdout + p.stderr).decode(errors="replace")
    name = re.escape(test)
    if not re.search(rf"^\[ RUN      \] {name}$", text, re.M):
        return "did not run", text
    if re.search(rf"^\[  SKIPPED \] {name}$", text, re.M):
        return "skipped", text
    return ("failed" if p.returncode else "passed"), text


def judge(row):
    """(status of the row as TAP, the rest of its line)"""
    mutant, program, test = row
    if program not in tests:
        return False, f"no test program {program}"
    sane, text = run(tests[program], test, None)
    if sane == "skipped":
        why = re.search(r"^SKIP: (.*)$", text, re.M)
        return True, f"# SKIP {why[1] if why else test + ' is skipped here'}"
    if sane != "passed":
        return False, f"without the mutant the test {sane}"
    for _ in range(TRIES):
        result, _ = run(tests[program], test, mutant)
        if result != "passed":
            break
    return result in ("failed", "hung"), f"the test {result}"


tests = programs()
rows = list(mutations())
if not rows:
    print("not ok - no such mutant")
    sys.exit(1)
lived = 0
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for row, (good, text) in zip(rows, pool.map(judge, rows)):
        mutant, program, test = row
        lived += not good
        skip = text.startswith("#")
        print(f"{'ok' if good else 'not ok'} - {mutant} turns {test} red"
              f"{' ' + text if skip else '' if good else ': ' + text}",
              flush=True)
print(f"1..{len(rows)}")
sys.exit(bool(lived))
