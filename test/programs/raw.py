#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""As nobody, a program that makes system calls past the C library is left
alone, and the summary says why."""
import json
import os
import subprocess

from harness import BIN, MB, Tap, pgmap_command, workdir

tap = Tap()
stat = os.path.join(workdir(), "stat.json")
p = subprocess.run(pgmap_command("lz4", stat, ram=16 * MB) +
                   [os.path.join(BIN, "raw"), "calls_past_the_c_library"],
                   capture_output=True, text=True, check=False)
tap.ok(p.returncode == 0, "it runs as if alone", p.stderr[-1000:])
with open(stat, encoding="utf-8") as f:
    result = json.load(f)
tap.ok("raw makes system calls past the C library" in
       result.get("unmanaged", ""), "the summary says why it was left alone",
       result.get("unmanaged"))

# What calls leave behind is found also before anything is managed.
p = subprocess.run(pgmap_command("lz4", stat, ram=64 * MB) +
                   [os.path.join(BIN, "buffers"),
                    "handlers_that_leave_calls_for_good"],
                   capture_output=True, text=True, check=False, timeout=60)
tap.ok(p.returncode == 0, "20000 calls that never come back",
       p.stderr[-1000:])
tap.end()
