#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""java builds, searches and changes a heap of 300 MB: java.py [COLLECTOR]"""
import os
import subprocess
import sys

from harness import MB, SOURCE, compare, need, scaled, workdir

collector = sys.argv[1] if len(sys.argv) > 1 else "G1"
need("java", "javac")
classes = workdir()
subprocess.run(["javac", "-d", classes, os.path.join(SOURCE, "JavaJob.java")],
               check=True)
heap = max(48, scaled(400 * MB) // MB)
compare(["java", f"-XX:+Use{collector}GC", f"-Xms{heap}m", f"-Xmx{heap}m",
         "-Xshare:auto", "-cp", classes, "JavaJob", str(scaled(1500000))])
