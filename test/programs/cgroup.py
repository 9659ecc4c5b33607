#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A memory control group whose limit kills a program does not kill the same
program under pgmap with the file device, which keeps nothing in RAM."""
import atexit
import os
import signal
import time

from harness import (BIN, MB, RAM, Run, Tap, check_device_worked,
                     check_resident, execute, load_stat, pgmap_command,
                     pss_command, run_plain, skip_all, workdir, Samples)

# What the group is charged for beside the budget: the runtime, the page cache
# of what is started, page tables. Sizes are the same at every scale.
LIMIT = RAM + 96 * MB
SIZE = 400


def write(path, text):
    with open(path, "w") as f:
        f.write(str(text))


def v1():
    top = "/sys/fs/cgroup/memory"
    if not os.path.exists(top + "/memory.limit_in_bytes"):
        return None
    group = f"{top}/pgmap-test-{os.getpid()}"
    os.mkdir(group)
    write(group + "/memory.limit_in_bytes", LIMIT)
    swap = group + "/memory.memsw.limit_in_bytes"
    if os.path.exists(swap):
        write(swap, LIMIT)
    return group


def v2():
    top = "/sys/fs/cgroup"
    with open(top + "/cgroup.controllers") as f:
        if "memory" not in f.read().split():
            return None
    with open("/proc/self/cgroup") as f:
        own = top + f.read().split("0::", 1)[1].strip()
    # A group with processes cannot have groups that are limited below it.
    for parent in (own, os.path.dirname(own), top):
        group = f"{parent}/pgmap-test-{os.getpid()}"
        try:
            os.mkdir(group)
        except OSError:
            continue
        if os.path.exists(group + "/memory.max"):
            write(group + "/memory.max", LIMIT)
            if os.path.exists(group + "/memory.swap.max"):
                write(group + "/memory.swap.max", 0)
            return group
        os.rmdir(group)
    return None


def make_group():
    for make in (v1, v2):
        try:
            group = make()
        except OSError:
            continue
        if group:
            return group
    return None


def remove(group):
    for _ in range(50):
        try:
            os.rmdir(group)
            return
        except OSError:
            time.sleep(0.1)


group = make_group()
if not group:
    skip_all("control groups are not writable here")
atexit.register(remove, group)
inside = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
tap = Tap()
work = workdir()
program = [os.path.join(BIN, "hold"), str(SIZE)]

plain = run_plain(program, work)
anon = plain.samples.peak("program_anon")
tap.ok(plain.status == 0, "plain, without a limit: exit status 0",
       f"{anon / MB:.0f} MB anonymous")
killed = execute(inside + program, Run())
tap.ok(killed.status == -signal.SIGKILL,
       f"plain, limited to {LIMIT // MB} MB: killed",
       f"status {killed.status}")
run = Run()
stat, pss = os.path.join(work, "json"), os.path.join(work, "pss")
execute(inside + pss_command(pss, True) + pgmap_command("file", stat) +
        program, run, compare=os.path.join(work, "plain.out"))
run.stat, run.samples = load_stat(stat), Samples(pss)
tap.ok(run.status == 0 and run.differs is None,
       f"under pgmap, limited to {LIMIT // MB} MB: as without a limit",
       f"status {run.status}, {run.seconds:.1f} s {run.stderr[-1000:]}")
check_device_worked(tap, "file", run, anon)
check_resident(tap, "file", run)
tap.end()
