#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""xz -9 -T2 compresses 64 MB; the archive is the same.

Each thread follows its matches through tables of hundreds of MB, so the input
repeats itself, as backups and logs do: random text would take every step of
every search to another page.
"""
import random

from harness import MB, cached, compare, need, scaled, sentences


def backup(f):
    text = bytearray("\n".join(sentences(400, 150, seed=5)).encode()[:4096])
    rnd = random.Random(6)
    for _ in range(scaled(64 * MB) // len(text)):
        text[rnd.randrange(len(text))] = rnd.choice(b"abcdefgh")
        f.write(text)


need("xz")
compare(["xz", "-9", "-T2", "--block-size=16MiB", "-k", "-c",
         cached("backup.bin", backup)])
