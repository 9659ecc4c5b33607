#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A page in which a bit was flipped while it was on the device raises SIGBUS
with its address; all other pages are what they were."""
import array
import os
import random
import signal
import subprocess

from harness import (BIN, MB, PAGE, Tap, load_stat, pgmap_command, skip_all,
                     workdir)

SIZE = 96
MARK = (0x70676d617068656c).to_bytes(8, "little")
seed = int(os.environ.get("PGMAP_SEED") or random.randrange(1 << 30))
rnd = random.Random(seed)


def absent_pages(pid, address):
    """Numbers of the pages of the program that are not in RAM."""
    entries = array.array("Q")
    with open(f"/proc/{pid}/pagemap", "rb") as f:
        f.seek(address // PAGE * 8)
        entries.frombytes(f.read(SIZE * MB // PAGE * 8))
    return [i for i, e in enumerate(entries) if not e >> 63]


def places_on_device(path):
    """Where in the file each page is: {number: [offset, ...]}"""
    found = {}
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        offset = 0
        while True:
            part = f.read(MB)
            if not part:
                break
            for at in range(0, len(part), PAGE):
                if part[at:at + 8] == MARK:
                    page = int.from_bytes(part[at + 8:at + 16], "little")
                    found.setdefault(page, []).append(offset + at)
            offset += len(part)
    return found


def flip(path, offsets):
    with open(path, "r+b", buffering=0) as f:
        for offset in offsets:
            at = offset + rnd.randrange(PAGE)
            byte = os.pread(f.fileno(), 1, at)[0]
            os.pwrite(f.fileno(), bytes([byte ^ 1 << rnd.randrange(8)]), at)
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if os.geteuid():
    skip_all("only root sees which pages of another process are in RAM")
tap = Tap()
tap.note(f"PGMAP_SEED={seed}")
work = workdir()
backing, stat = os.path.join(work, "device"), os.path.join(work, "json")
open(backing, "wb").close()
p = subprocess.Popen(
    pgmap_command(f"file:path={backing},size=256M", stat, ram=16 * MB) +
    [os.path.join(BIN, "hold"), str(SIZE), "wait"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    text=True, start_new_session=True)
try:
    pid, address = map(int, p.stdout.readline().split())
    places = places_on_device(backing)
    away = [n for n in absent_pages(pid, address) if n in places]
    tap.ok(len(away) > 1000, "pages are found in the file",
           f"{len(away)} pages away")
    chosen = sorted(rnd.sample(away, min(40, len(away))))
    flip(backing, [o for n in chosen for o in places[n]])
    out, err = p.communicate("\n", timeout=60)
except (ValueError, subprocess.TimeoutExpired) as e:
    os.killpg(p.pid, signal.SIGKILL)
    out, err = p.communicate()
    tap.note(f"{type(e).__name__}: {e}")
    chosen = []
said = [l.split() for l in out.splitlines()]
raised = sorted(int(l[1]) for l in said if l[0] == "sigbus")
tap.ok(chosen and raised == chosen,
       "each of them, and no other, raises SIGBUS with its address",
       f"raised {raised}\nflipped {chosen}")
tap.ok(not any(l[0] == "wrong" for l in said), "no wrong byte is ever seen",
       str([l[1] for l in said if l[0] == "wrong"][:20]))
tap.ok(raised and all(l[2] == "EFAULT" for l in said if l[0] == "sigbus"),
       "a system call on such a page says EFAULT")
tap.ok(said[-1:] == [["right", str(SIZE * MB // PAGE - len(chosen))]],
       "all other pages are what they were", str(said[-1:]))
tap.ok(p.returncode == 0, "the program goes on and ends as it wants",
       f"status {p.returncode} {err[-1000:]}")
poisoned = load_stat(stat).get("total", {}).get("poisoned")
tap.ok(chosen and poisoned == len(chosen), "they are counted", f"poisoned {poisoned}")
tap.end()
