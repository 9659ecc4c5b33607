#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""redis-server with 200 MB of data, a BGSAVE in the middle, and both
redis-benchmark and a rewrite of half the keys while the snapshot is taken.

DEBUG DIGEST of the data set, before and after, is that of a plain server; the
snapshot, loaded by a plain server, has the digest of the moment of the fork.
"""
import os
import random
import shutil
import signal
import socket
import subprocess
import time

from harness import (DEVICES, MB, RAM, TIMEOUT, Run, Samples, Tap, cached,
                     check_device_worked, check_resident, describe, load_stat,
                     need, pgmap_command, pss_command, scaled, sentences,
                     workdir)


def command(*words):
    words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def data_set(f):
    text = [s.encode() for s in sentences(4000, 900, length=(30, 60))]
    rnd = random.Random(4)
    for i in range(scaled(60000)):
        f.write(command("SET", f"s:{i}", b" ".join(
            (str(i).encode(), *rnd.choices(text, k=5)))))
        if i % 6 == 0:
            f.write(command("HSET", f"h:{i}", *(
                w for n in range(12) for w in (f"field-{n}",
                                               rnd.choice(text)))))
        if i % 12 == 0:
            f.write(command("RPUSH", f"l:{i}", *rnd.choices(text, k=10)))
            f.write(command("SADD", f"t:{i}", *range(i, i + 600, 3)))
            f.write(command("ZADD", f"z:{i}", *(
                w for n in range(40) for w in (n * i % 997,
                                               rnd.choice(text)[:40]))))


def changes(f):
    for i in range(0, scaled(60000), 2):
        f.write(command("SETRANGE", f"s:{i}", i % 1000, f"<changed {i}>"))
        if i % 12 == 0:
            f.write(command("HSET", f"h:{i}", f"field-{i % 9}", i))
            f.write(command("LPOP", f"l:{i}"))


class Server:
    """A redis-server, plain or below a prefix, and one connection to it."""

    def __init__(self, folder, prefix=()):
        self.path = os.path.join(folder, "socket")
        self.folder = folder
        argv = [*prefix, "redis-server", "--port", "0", "--unixsocket",
                self.path, "--dir", folder, "--save", "",
                "--enable-debug-command", "local", "--loglevel", "warning"]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            start_new_session=True)
        self.connection = self.connect()
        self.replies = self.connection.makefile("rb")
        while b"LOADING" in self.ask("PING"):
            time.sleep(0.05)

    def connect(self):
        deadline = time.monotonic() + 20
        while True:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(TIMEOUT)
            try:
                s.connect(self.path)
                return s
            except OSError:
                s.close()
                if self.process.poll() is not None or \
                        time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError("the server did not start: " +
                                       self.process.stderr.read().decode())
                time.sleep(0.02)

    def ask(self, *words):
        self.connection.sendall(command(*words))
        line = self.replies.readline()
        if line[:1] == b"$" and line != b"$-1\r\n":
            return self.replies.read(int(line[1:]) + 2)[:-2]
        return line.strip()

    def client(self, *argv, **kw):
        return subprocess.Popen([argv[0], "-s", self.path, *argv[1:]],
                                stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, **kw)

    def pipe(self, path):
        with open(path, "rb") as f:
            return self.client("redis-cli", "--pipe", stdin=f)

    def digest(self):
        return self.ask("DEBUG", "DIGEST").decode()

    def persistence(self):
        text = self.ask("INFO", "persistence").decode()
        return dict(l.split(":", 1) for l in text.split("\r\n") if ":" in l)

    def stop(self):
        self.connection.sendall(command("SHUTDOWN", "NOSAVE"))
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


def finish(client):
    try:
        out = client.communicate(timeout=TIMEOUT)[0]
    except subprocess.TimeoutExpired:
        client.kill()
        return f"{client.args[0]} still runs after {TIMEOUT} s"
    good = not client.returncode and \
        ("--pipe" not in client.args or "errors: 0" in out)
    return "" if good else out or f"{client.args[0]} failed"


def life(folder, prefix, inputs):
    """All that happens to a server. Return: what was seen, by name."""
    seen = {"trouble": ""}
    begin = time.monotonic()
    server = Server(folder, prefix)
    try:
        seen["trouble"] += finish(server.pipe(inputs[0]))
        seen["digest of the data"] = server.digest()
        server.ask("BGSAVE")
        bench = server.client("redis-benchmark", "--dbnum", "1", "-q", "-t",
                              "set,get,incr,lpush,lpop,sadd,hset,zadd", "-n",
                              str(scaled(20000)), "-r", "4000", "-d", "300")
        change = server.pipe(inputs[1])
        seen["trouble"] += finish(change) + finish(bench)
        deadline = time.monotonic() + TIMEOUT
        while server.persistence()["rdb_bgsave_in_progress"] != "0":
            if time.monotonic() > deadline:
                raise RuntimeError(f"BGSAVE still runs after {TIMEOUT} s")
            time.sleep(0.1)
        seen["state of the snapshot"] = \
            server.persistence()["rdb_last_bgsave_status"]
        server.ask("SELECT", 1)
        server.ask("FLUSHDB")
        server.ask("SELECT", 0)
        seen["digest after the changes"] = server.digest()
        seen["number of keys"] = server.ask("DBSIZE").decode()
        seen["exit status"] = server.stop()
    except (OSError, RuntimeError, ValueError) as e:
        seen["trouble"] += f"{type(e).__name__}: {e}"
    finally:
        if server.process.poll() is None:
            server.kill()
    seen["stderr"] = server.process.stderr.read().decode(errors="replace")
    return seen, time.monotonic() - begin


def snapshot_digest(folder):
    server = Server(folder)
    digest = server.digest()
    server.stop()
    return digest


def one_process_peak(samples):
    """Before the fork and after: copying on write depends on timing."""
    c = samples.column
    return 1024 * max(a for a, n in zip(c["program_anon"], c["procs"])
                      if n == 1)


need("redis-server", "redis-cli", "redis-benchmark")
tap = Tap()
work = workdir()
inputs = (cached("redis_data.txt", data_set), cached("redis_changes.txt", changes))

os.mkdir(os.path.join(work, "plain"))
plain = Run()
pss = os.path.join(work, "plain.pss")
want, plain.seconds = life(os.path.join(work, "plain"),
                           pss_command(pss, False), inputs)
plain.samples = Samples(pss)
anon = one_process_peak(plain.samples)
tap.ok(want.get("exit status") == 0 and not want["trouble"],
       f"plain: exit status {want.get('exit status')}",
       f"{plain.seconds:.1f} s, {anon / MB:.0f} MB anonymous, "
       f"{plain.samples.cost()} {want['trouble'] or want['stderr']}")
tap.ok(anon > 2 * RAM, "plain: the program needs more than twice the budget",
       f"{anon / MB:.0f} MB, budget {RAM / MB:.0f} MB")
tap.ok(snapshot_digest(os.path.join(work, "plain")) ==
       want["digest of the data"],
       "plain: the snapshot has the digest of the moment of the fork")
for device in DEVICES:
    folder = os.path.join(work, device)
    os.mkdir(folder)
    run = Run()
    pss = os.path.join(work, device + ".pss")
    stat = os.path.join(work, device + ".json")
    got, run.seconds = life(
        folder, pss_command(pss, True) + pgmap_command(device, stat), inputs)
    run.samples, run.stat = Samples(pss), load_stat(stat)
    tap.note(describe(device, run, plain))
    for what in want:
        if what != "stderr":
            tap.ok(got.get(what) == want[what],
                   f"{device}: {what} is that of the plain server",
                   f"{got.get(what)}, want {want[what]}"
                   if got.get(what) != want[what] else "")
    if got["trouble"]:
        tap.note(got["stderr"][-2000:])
    try:
        digest = snapshot_digest(folder)
    except RuntimeError as e:
        digest = str(e)
    tap.ok(digest == want["digest of the data"],
           f"{device}: the snapshot has the digest of the moment of the fork",
           digest)
    check_device_worked(tap, device, run, anon)
    check_resident(tap, device, run)
    shutil.rmtree(folder)
tap.end()
