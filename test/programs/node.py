#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""node builds, searches and changes a heap of 300 MB."""
import os

from harness import SOURCE, compare, need, scaled

need("node")
compare(["node", "--max-old-space-size=1024",
         os.path.join(SOURCE, "node_job.js"), str(scaled(1150000))])
