#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How many branches of src/core the fast tests take; TAP.

usage: coverage.py BUILD [PERCENT]

BUILD was configured with -Db_coverage=true and its tests have run. Red below
PERCENT (95). Lines that only a bug of ours can make go the other way
(pg_bug_on and the like) do not count. Further exceptions, each with its
reason, are in test/coverage.txt: FILE: SOURCE LINE # REASON. One that excuses
nothing is an error, so the list cannot rot.
"""
import json
import pathlib
import subprocess
import sys

root = pathlib.Path(__file__).resolve().parent.parent
build = pathlib.Path(sys.argv[1])
goal = float(sys.argv[2]) if len(sys.argv) > 2 else 95.0
OUR_BUGS = r".*\b(pg_bug_on|pg_bug|pg_assert|MUST)\(.*"

report = json.loads(subprocess.run(
    ["gcovr", "-r", str(root), "--object-directory", str(build),
     "-f", "src/core/", "--exclude-throw-branches",
     "--exclude-branches-by-pattern", OUR_BUGS, "--json", "-"],
    check=True, capture_output=True, text=True, cwd=root).stdout)

excused = {}
for line in (root / "test/coverage.txt").read_text().splitlines():
    if line and not line.startswith("#"):
        where, reason = line.rsplit(" # ", 1)
        name, text = where.split(": ", 1)
        excused[name, text.strip()] = reason

used = set()
taken = total = 0
missing = []
for f in sorted(report["files"], key=lambda f: f["file"]):
    source = (root / f["file"]).read_text().splitlines()
    of_file = [0, 0]
    for line in f["lines"]:
        n = line["line_number"]
        branches = [b for b in line["branches"]
                    if not b.get("gcovr/excluded", False)]
        hit = sum(1 for b in branches if b["count"] > 0)
        if hit < len(branches):
            key = f["file"], source[n - 1].strip()
            if key in excused:
                used.add(key)
                continue
            missing.append(f"{f['file']}:{n}: {source[n - 1].strip()}")
        of_file[0] += hit
        of_file[1] += len(branches)
    taken += of_file[0]
    total += of_file[1]
    if of_file[1]:
        print(f"# {f['file']:28} {of_file[0]:5} of {of_file[1]:5} "
              f"{100 * of_file[0] / of_file[1]:6.1f} %")

for m in missing:
    print(f"# not taken both ways: {m}")
stale = [f"{name}: {text}" for name, text in set(excused) - used]
percent = 100 * taken / total if total else 0
good = percent >= goal
print("1..2")
print(f"{'ok' if good else 'not ok'} - {percent:.1f} % of {total} branches of "
      f"src/core taken, {goal:.0f} % wanted, {len(used)} lines excused")
print(f"{'not ok' if stale else 'ok'} - every excuse in test/coverage.txt is "
      f"needed {stale or ''}")
sys.exit(0 if good and not stale else 1)
