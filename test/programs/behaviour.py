#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Run each case of a program of behaviour.h plainly and under pgmap with a
budget of 16 MB: behaviour.py PROGRAM [CASE...]

The same must be printed, and the process must end in the same way.
"""
import os
import signal
import subprocess
import sys

from harness import BIN, DEVICES, FAULT, MB, NOBODY, Tap, load_stat, \
    pgmap_command, workdir

LIMIT = 120
# Cases that cannot work as nobody, or where faults are signals, as
# pgmap-run(1) says, and what they print.
NOT_AS_NOBODY = {"process_vm_readv_and_writev": "(errno 14)"}
# Where faults are signals there are more descriptors.
NOT_BY_SIGNAL = {"descriptors_are_the_same_as_ever"}
# Cases that are about what only root can do.
ROOT_ONLY = {"without_rights_from_now_on"}


def end(argv, env=None):
    """Return: exit status as subprocess has it ("time" when there was none),
    standard output, standard error."""
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=env,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         start_new_session=True)
    try:
        out, err = p.communicate(timeout=LIMIT)
        return p.returncode, out, err.decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, err = p.communicate()
        return "time", out, err.decode(errors="replace")


def show(status):
    if status == "time":
        return f"still running after {LIMIT} s"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


program = os.path.join(BIN, sys.argv[1])
tap = Tap()
work = workdir()
listed = subprocess.run([program, "--list"], check=True, capture_output=True,
                        text=True).stdout
for line in listed.splitlines():
    case, want = line.split()
    if len(sys.argv) > 2 and case not in sys.argv[2:]:
        continue
    if (NOBODY and case in ROOT_ONLY) or (FAULT and case in NOT_BY_SIGNAL):
        continue
    status, out, err = end([program, case])
    if status == 77 and out.startswith(b"SKIP "):
        tap.skip(f"plain: {case}", out[5:].decode().strip())
        continue
    if not tap.ok(status == int(want), f"plain: {case}"):
        tap.note(f"{show(status)}, want {show(int(want))}\n{err[-1000:]}")
        continue
    for device in DEVICES:
        stat = os.path.join(work, "stat.json")
        if os.path.exists(stat):
            os.unlink(stat)
        got, text, said = end(pgmap_command(device, stat, ram=16 * MB) +
                              [program, case, "managed"])
        trouble = []
        if (NOBODY or FAULT) and case in NOT_AS_NOBODY:
            tap.ok(got == 99 and NOT_AS_NOBODY[case] in said,
                   f"{device}: {case} fails as documented",
                   f"{show(got)}, {said}")
            continue
        if got != status:
            trouble.append(f"{show(got)}, plainly {show(status)}")
        if text != out:
            trouble.append("it printed " + repr(text[-500:]) +
                           ", plainly " + repr(out[-500:]))
        if said != err:
            trouble.append("on standard error: " + said[-1500:])
        total = load_stat(stat).get("total", {})
        if not total.get("evictions"):
            trouble.append("nothing was evicted")
        if total.get("poisoned") or total.get("io_errors"):
            trouble.append(f"poisoned {total.get('poisoned')}, "
                           f"io_errors {total.get('io_errors')}")
        tap.ok(not trouble, f"{device}: {case}", "\n".join(trouble))
tap.end()
