#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""python3 builds and checks a dict of lists, strings and dicts, 300 MB."""
import os

from harness import SOURCE, compare, scaled, system_python

compare([system_python(), "-I", os.path.join(SOURCE, "python_job.py"),
         str(scaled(470000))])
