#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Sum up a run of scripts/ci.sh.

usage: count.py RESULTS

RESULTS has meson's test logs (*.json), TAP (*.tap) and `checks`, whose lines
are "pass NAME" or "fail NAME". A test program may print its cases as cmocka
does or as TAP; one that prints neither is one case. Lists what was skipped,
with the reason, and what failed, with what was said of it: the comments behind
a case of TAP, and once for a program the end of its standard error. The last
line is "N passed, N failed, N skipped". The exit status is 1 when anything
failed or nothing ran.
"""
import json
import pathlib
import re
import sys

# Lines that are shown of the comments on a failure, and of standard error.
MOST_COMMENTS, MOST_SAID = 60, 15

results = pathlib.Path(sys.argv[1])
passed, failed, skipped = 0, [], []


def cmocka(text):
    """[(name, status, why)]; a case that began and did not end has failed."""
    cases = []
    for part in re.split(r"^\[ RUN      \] ", text, flags=re.M)[1:]:
        name = part.split("\n", 1)[0].strip()
        m = re.search(r"^\[ +(OK|FAILED|SKIPPED) +\] " + re.escape(name) + "$",
                      part, re.M)
        why = re.search(r"^SKIP: (.*)$", part, re.M)
        status = m[1] if m else "FAILED"
        cases.append((name, status, why[1] if why else ""))
    return cases


def tap(text):
    cases = []
    found = list(re.finditer(
        r"^(not )?ok\b *\d* *-? *(.*?)(?: *# *(SKIP\b *.*))?$",
        text, re.M | re.I))
    for m, after in zip(found, found[1:] + [None]):
        status = "SKIPPED" if m[3] else "FAILED" if m[1] else "OK"
        said = re.findall(r"^# ?(.*)$",
                          text[m.end():after.start() if after else None], re.M)
        cases.append((m[2], status,
                      m[3][4:].strip() if m[3] else "\n".join(said)))
    m = re.search(r"^1\.\.0\b *# *SKIP\b *(.*)$", text, re.M | re.I)
    if m and not cases:
        cases.append(("", "SKIPPED", m[1]))
    return cases


def add(where, cases, said=""):
    """said: by the program, of whatever failed in it."""
    global passed
    for name, status, why in cases:
        at = f"{where}: {name}" if name else where
        if status == "OK":
            passed += 1
        elif status == "SKIPPED":
            skipped.append(f"{at}: {why or 'no reason given'}")
        else:
            lines = why.splitlines()[-MOST_COMMENTS:] + \
                said.splitlines()[-MOST_SAID:]
            failed.append("\n    ".join([at, *filter(str.strip, lines)]))
            said = ""


def add_program(build, test):
    """One test program of meson's log."""
    where = f"{build}: {test['name'].split(' / ', 1)[-1]}"
    out, err = test.get("stdout", ""), test.get("stderr", "")
    cases = cmocka(out) or tap(out)
    bad = test["result"] not in ("OK", "SKIP", "EXPECTEDFAIL")
    if not cases:
        lines = (out + "\n" + err).strip().split("\n")
        cases = [("", "FAILED", out) if bad else
                 ("", "SKIPPED" if test["result"] == "SKIP" else "OK",
                  lines[-1])]
    elif bad and not any(status == "FAILED" for _, status, _ in cases):
        cases.append((test["result"].lower(), "FAILED", ""))
    add(where, cases, err)


for log in sorted(results.glob("*.json")):
    for line in log.read_text().split("\n"):
        if line.strip():
            add_program(log.stem, json.loads(line))
for log in sorted(results.glob("*.tap")):
    cases = tap(log.read_text())
    add(log.stem, cases or [("nothing ran", "FAILED", "")])
for line in (results / "checks").read_text().split("\n"):
    if line:
        word, name = line.split(" ", 1)
        add(name, [("", "OK" if word == "pass" else "FAILED", "")])

for s in skipped:
    print(f"skipped: {s}")
for f in failed:
    print(f"FAILED: {f}")
print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
sys.exit(bool(failed) or not passed)
