#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""GNU sort merges 400 MB of journals in memory.

The input is the journals of eight machines, one after the other; each is
nearly in order of time, as such files are.
"""
import random

from harness import MB, cached, compare, need, scaled, sentences

MACHINES = 8


def journal(f):
    messages = [s.encode() for s in sentences(5000, 800)]
    for host in range(MACHINES):
        rnd = random.Random(host)
        left, t, part = scaled(400 * MB) // MACHINES, 0, []
        while left > 0:
            t += rnd.getrandbits(12)
            # One line in 300 was held back and comes late.
            when = t - rnd.getrandbits(22) if rnd.random() < 1 / 300 else t
            line = b"%015d host%02d unit-%03d[%d]: %s\n" % (
                when + (1 << 30), host, t % 211, t % 32768,
                messages[rnd.getrandbits(12)])
            left -= len(line)
            part.append(line)
            if len(part) == 20000 or left <= 0:
                f.write(b"".join(part))
                part = []


need("sort")
compare(["env", "LC_ALL=C", "sort", "-S", "1G", "--parallel=2",
         cached("journal.txt", journal)])
