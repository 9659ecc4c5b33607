#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A program with four threads and random access to 300 MB, with the malloc of
libc or another: threads.py [jemalloc|mimalloc]

jemalloc is preloaded by the environment of `pgmap run`; mimalloc by env(1),
which is then the program that pgmap starts, and sets LD_PRELOAD itself.
"""
import os
import subprocess
import sys

from harness import BIN, compare, scaled, skip_all

LIBRARY = {"jemalloc": "libjemalloc.so.2", "mimalloc": "libmimalloc.so.2"}

program = [os.path.join(BIN, "threads"), str(scaled(300)), "4",
           str(scaled(200000))]
malloc = sys.argv[1] if len(sys.argv) > 1 else "libc"
environment = None
if malloc in LIBRARY:
    said = subprocess.run(["true"], capture_output=True, text=True,
                          env=dict(os.environ, LD_PRELOAD=LIBRARY[malloc]))
    if said.stderr:
        skip_all(said.stderr.strip())
if malloc == "jemalloc":
    environment = dict(os.environ, LD_PRELOAD=LIBRARY[malloc])
elif malloc == "mimalloc":
    program = ["env", "LD_PRELOAD=" + LIBRARY[malloc]] + program
compare(program, env=environment)
