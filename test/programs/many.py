#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Many small processes share one budget: none of them comes near it alone,
all of them together exceed it."""
import os
import shutil

from harness import BIN, DEVICES, FIXED, MB, Run, Samples, Tap, execute, load_stat, \
    pgmap_command, pss_command, workdir

BUDGET = 64 * MB
# What a process needs beside the memory that is managed: its libraries'
# variables and stack, and once it is managed the runtime's own.
EACH = 3 * MB // 2
CASES = {
    "at once": ["12", "14", "1500"],
    "in small steps": ["12", "14", "800", "grow"],
    "48 small ones": ["48", "3", "1000"],
}

TRIES = 3

tap = Tap()
work = workdir()


def once(device, args):
    run = Run()
    files = [os.path.join(work, f) for f in ("pss", "json", "out")]
    summary = os.path.join(work, "summary")
    command = pgmap_command(device, files[1], ram=BUDGET,
                            more=["--summary", summary])
    execute(pss_command(files[0], True) + command +
            [os.path.join(BIN, "many"), *args], run, save=files[2])
    samples = Samples(files[0])
    # What the device keeps in RAM is not in the budget; what moves while a
    # sample is taken may be seen twice.
    pss = [1024 * (p - d - m) for p, d, m in
           zip(*(samples.column[c]
                 for c in ("program_anon", "device_host", "moved")))]
    procs = max(samples.column["procs"])
    limit = BUDGET * 105 // 100 + FIXED + procs * EACH
    with open(summary) as f:
        text = f.read()
    return (max(pss) <= limit,
            f"{max(pss) / MB:.1f} MB in {procs} processes, "
            f"{limit / MB:.1f} MB allowed; {samples.cost()}",
            run, text, load_stat(files[1]))


for device in DEVICES:
    for name, args in CASES.items():
        # On a machine that is busy with something else memory may grow for
        # a moment faster than it can leave, which the summary tells.
        for _ in range(TRIES):
            ok, detail, run, text, stat = once(device, args)
            if ok or run.status:
                break
        what = f"{device}: {name}"
        tap.ok(run.status == 0, f"{what}: every byte was right", run.stderr)
        tap.ok(ok, f"{what}: all processes together are within the budget",
               detail)
        tap.ok("never came near" not in text and
               stat.get("managed_processes", 0) > 1,
               f"{what}: the summary does not say that it fitted", text)
shutil.rmtree(work, True)
tap.end()
