# SPDX-License-Identifier: BSD-3-Clause
"""Run an unmodified program plainly and under pgmap, and compare.

A test of this folder prepares an input from a fixed seed, runs its program
plainly, then under `pgmap run` once for each device, and asks of every run:

- the output and the exit status are those of the plain run, byte for byte;
- the device worked: enough was evicted, something was loaded, nothing lost;
- nearly all private anonymous memory was managed;
- managed memory in RAM, seen from outside, stayed within the budget.

Environment: PGMAP is the command under test, PGMAP_TEST_BIN the folder of the
programs that are built here. PGMAP_TEST_SCALE (1) scales sizes and budget,
PGMAP_TEST_DEVICES ("lz4 file") picks devices, PGMAP_TEST_CACHE is where inputs
are kept between runs, PGMAP_TEST_KEEP=1 leaves the files of a run behind,
PGMAP_TEST_TIMEOUT (480) is how many seconds a run may take.
PGMAP_TEST_FAULT is what --fault is to be.
With PGMAP_TEST_NOBODY the whole test runs as the user nobody, who must have no
right to serve the kernel's page faults.
Results are TAP on standard output.
"""
import atexit, glob, json, os, random, shutil, signal, subprocess, sys
import tempfile, threading, time, zlib

MB = 1 << 20
PAGE = 4096
SCALE = float(os.environ.get("PGMAP_TEST_SCALE", "1"))
DEVICES = os.environ.get("PGMAP_TEST_DEVICES", "lz4 file").split()
PGMAP = os.environ.get("PGMAP", "pgmap")
BIN = os.environ.get("PGMAP_TEST_BIN", ".")
SOURCE = os.path.dirname(os.path.abspath(__file__))
RAM = max(16 * MB, int(64 * MB * SCALE))
TIMEOUT = int(os.environ.get("PGMAP_TEST_TIMEOUT", "480"))
NOBODY = bool(os.environ.get("PGMAP_TEST_NOBODY"))
FAULT = [f"--fault={f}" for f in [os.environ.get("PGMAP_TEST_FAULT")] if f]
# What may be resident beyond 105 % of the budget: pages that threads fault in
# while the evictor is on its way.
FIXED = 8 * MB
# Of standard error, where a test fails.
LAST_LINES = 15


def system_python():
    """The distribution's python3, not a wrapper script of the user's."""
    return "/usr/bin/python3" if os.path.exists("/usr/bin/python3") \
        else sys.executable


def become_nobody():
    """For good; before anything is written. What is kept is the right to lock
    memory, in place of a higher limit."""
    if os.getuid() == 0:
        os.environ.update(HOME="/tmp", USER="nobody", LOGNAME="nobody")
        os.execvp("setpriv", [
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
            "--inh-caps=-all,+ipc_lock", "--ambient-caps=-all,+ipc_lock",
            "--", system_python(), *sys.argv])
    with open("/proc/sys/vm/unprivileged_userfaultfd") as f:
        allowed = f.read().strip() != "0"
    if allowed or os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        sys.exit("everybody may serve page faults here: set "
                 "vm.unprivileged_userfaultfd to 0, and /dev/userfaultfd to "
                 "mode 600")
    if not os.access(PGMAP, os.X_OK):
        sys.exit(f"{PGMAP} cannot be run by nobody: build in a folder that "
                 "everybody may enter")


if NOBODY:
    become_nobody()


def scaled(n):
    """A size or a count for this run."""
    return max(1, int(n * SCALE))


def workdir():
    """A folder that is gone when the test ends."""
    path = tempfile.mkdtemp(prefix="pgmap-test-")
    if not os.environ.get("PGMAP_TEST_KEEP"):
        atexit.register(shutil.rmtree, path, True)
    return path


def cached(name, make):
    """The path of an input that make(file) writes, once for all runs of this
    version of the test."""
    top = os.environ.get("PGMAP_TEST_CACHE") or os.path.join(
        tempfile.gettempdir(), f"pgmap-test-input-{os.getuid()}")
    os.makedirs(top, mode=0o700, exist_ok=True)
    with open(sys.argv[0], "rb") as f:
        version = zlib.crc32(f.read())
    stem, ext = os.path.splitext(name)
    path = os.path.join(top, f"{stem}-{SCALE:g}-{version:08x}{ext}")
    if not os.path.exists(path):
        for old in glob.glob(os.path.join(top, f"{stem}-{SCALE:g}-*{ext}")):
            os.unlink(old)
        part = f"{path}.{os.getpid()}"
        with open(part, "wb") as f:
            make(f)
        os.rename(part, path)
    return path


class Tap:
    """Prints what was found; ends the program with the verdict."""

    def __init__(self):
        self.nr = self.failed = 0

    def ok(self, good, what, detail=""):
        self.nr += 1
        self.failed += not good
        print(f"{'' if good else 'not '}ok {self.nr} - {what}")
        if detail:
            self.note(detail)
        sys.stdout.flush()
        return good

    def skip(self, what, why):
        self.nr += 1
        print(f"ok {self.nr} - {what} # SKIP {why}", flush=True)

    def note(self, text):
        for line in str(text).splitlines():
            print(f"# {line}", flush=True)

    def end(self):
        print(f"1..{self.nr}", flush=True)
        sys.exit(self.failed != 0)


def skip_all(why):
    print(f"1..0 # SKIP {why}")
    sys.exit(0)


def need(*programs):
    """Skip the test where a program is not installed."""
    for p in programs:
        if not shutil.which(p):
            if os.environ.get("PGMAP_TEST_NO_SKIP"):
                sys.exit(f"{p} is not installed")
            skip_all(f"{p} is not installed")


class Samples:
    """What `pss` wrote: one list per column, in KB."""

    def __init__(self, path):
        with open(path) as f:
            lines = f.read().splitlines()
        names = lines[0].split()
        rows = [l.split() for l in lines[1:] if not l.startswith("end")]
        rows = [[int(x) for x in r] for r in rows if len(r) == len(names)]
        self.nr = len(rows)
        self.column = {n: [r[i] for r in rows] for i, n in enumerate(names)}
        self.end = dict(w.split("=") for w in lines[-1].split()[1:]) \
            if lines[-1].startswith("end") else {}

    def peak(self, *names):
        """The highest sum of some columns at one time, in bytes."""
        return 1024 * max(map(sum, zip(*(self.column[n] for n in names))),
                          default=0)

    def cost(self):
        ms, cost = self.column["ms"], self.column["cost_us"]
        if len(ms) < 2:
            return "too short to sample"
        gap = max(b - a for a, b in zip(ms, ms[1:]))
        return (f"{self.nr} samples, every {ms[-1] / (len(ms) - 1):.0f} ms, "
                f"longest gap {gap} ms, {sum(cost) / len(cost) / 1000:.1f} ms "
                f"each, {100 * sum(cost) / 1000 / max(1, ms[-1]):.0f} % of a "
                f"CPU")


class Run:
    """How a program went. status is as a shell shows it; -1: timed out, and
    where says what each of its threads was doing."""

    def __init__(self):
        self.status = None
        self.where = ""
        self.seconds = 0.0
        self.differs = None
        self.stderr = ""
        self.samples = None
        self.stat = {}

    def counter(self, name):
        return int(self.stat.get("total", {}).get(name, 0))


    def end(self):
        """How it ended, in words."""
        if self.status == -1:
            return f"still running after {TIMEOUT} s"
        nr = -self.status if self.status < 0 else self.status - 128
        try:
            return f"{self.status}, {signal.Signals(nr).name}"
        except ValueError:
            return f"{self.status}"

    def said(self):
        """The end of its standard error."""
        return "\n".join(self.stderr.splitlines()[-LAST_LINES:])


def read(path):
    try:
        with open(path, errors="replace") as f:
            return f.read().strip()
    except OSError as e:
        return e.strerror


def where_threads_are(session):
    """What each thread of a session is doing, in which call of the kernel."""
    text = []
    for task in sorted(glob.glob("/proc/[0-9]*/task/[0-9]*")):
        stat = read(task + "/stat").rpartition(")")[2].split()
        if len(stat) < 4 or stat[3] != str(session):
            continue
        text.append(f"{task[6:]} {read(task + '/comm')}: state {stat[0]}, "
                    f"{stat[11]} + {stat[12]} ticks, call "
                    f"{read(task + '/syscall')}, {read(task + '/wchan')}")
        text += ["  " + l for l in read(task + "/stack").splitlines()[:8]]
    return "\n".join(text)


def pss_command(samples, pgmap):
    return [os.path.join(BIN, "pss"), *(["--pgmap"] if pgmap else []),
            "-o", samples, "--"]


def pgmap_command(device, stat, ram=None, more=()):
    return [PGMAP, "run", "--ram", f"{(ram or RAM) // 1024}K", "--device",
            device, "--json", stat, "--quiet", *FAULT, *more, "--"]


def first_difference(pipe, path):
    """Read all of pipe. Return: where it departs from the file, or None."""
    at, differs = 0, None
    with open(path, "rb") as f:
        while True:
            got = pipe.read(MB)
            want = f.read(len(got)) if got else f.read(1)
            if differs is None and got != want:
                same = next((i for i, (a, b) in enumerate(zip(got, want))
                             if a != b), min(len(got), len(want)))
                differs = at + same
            at += len(got)
            if not got:
                return differs


def execute(argv, run, stdin=None, env=None, cwd=None, save=None,
            compare=None, timeout=TIMEOUT):
    """Run argv to its end. Its output goes to the file save, or is compared
    with the file compare as it comes."""
    timed_out = threading.Event()
    begin = time.monotonic()
    with tempfile.TemporaryFile() as err, \
            open(stdin or os.devnull, "rb") as inp, \
            open(save or os.devnull, "wb") as out:
        p = subprocess.Popen(argv, stdin=inp, stderr=err, env=env, cwd=cwd,
                             stdout=subprocess.PIPE if compare else out,
                             start_new_session=True)

        def expire():
            timed_out.set()
            run.where = where_threads_are(p.pid)
            os.killpg(p.pid, signal.SIGKILL)

        timer = threading.Timer(timeout, expire)
        timer.start()
        if compare:
            run.differs = first_difference(p.stdout, compare)
        p.wait()
        timer.cancel()
        err.seek(0)
        run.stderr = err.read().decode(errors="replace")
    run.seconds = time.monotonic() - begin
    run.status = -1 if timed_out.is_set() else p.returncode
    return run


def load_stat(path):
    try:
        with open(path) as f:
            return json.load(f)
    except (OSError, ValueError):
        return {}


def run_plain(argv, work, **kw):
    run = Run()
    samples = os.path.join(work, "plain.pss")
    execute(pss_command(samples, False) + argv, run,
            save=os.path.join(work, "plain.out"), **kw)
    run.samples = Samples(samples)
    return run


def run_pgmap(argv, work, device, **kw):
    run = Run()
    samples = os.path.join(work, device + ".pss")
    stat = os.path.join(work, device + ".json")
    execute(pss_command(samples, True) + pgmap_command(device, stat) + argv,
            run, compare=os.path.join(work, "plain.out"), **kw)
    run.samples = Samples(samples)
    run.stat = load_stat(stat)
    return run


def left_alone(run):
    left = run.stat.get("left_alone", {})
    some = [f"{k} {v / MB:.1f} MB" for k, v in left.items() if v]
    return ", ".join(some) or "nothing"


def check_device_worked(tap, name, run, plain_anon, min_share=0.9):
    """Did the device hold what had no room, and was all of it managed?"""
    need_evicted = max(0, plain_anon - RAM) // PAGE
    tap.ok(run.counter("evictions") >= need_evicted,
           f"{name}: evicted what had no room in RAM",
           f"{run.counter('evictions')} pages, {need_evicted} needed")
    tap.ok(run.counter("loads") > 0, f"{name}: pages were loaded again",
           f"{run.counter('loads')} loads, {run.counter('faults')} faults")
    share = run.counter("peak_managed") / max(1, plain_anon)
    tap.ok(share >= min_share,
           f"{name}: {100 * min_share:.0f} % of private anonymous memory "
           f"is managed",
           f"{100 * share:.1f} %: {run.counter('peak_managed') / MB:.0f} of "
           f"{plain_anon / MB:.0f} MB; left alone: "
           f"{left_alone(run)}")
    lost = run.counter("poisoned") + run.counter("io_errors")
    tap.ok(run.stat and not lost, f"{name}: nothing was lost",
           f"poisoned {run.counter('poisoned')}, "
           f"io_errors {run.counter('io_errors')}")


def resident(samples):
    """Managed memory in RAM at each sample, seen from outside, in bytes; less
    what moved while the sample was taken, which it may have seen twice.

    Where the machine was busy with something else in the middle of one, what
    was seen is of different times, and the counters are as old: left out."""
    cost = samples.column["cost_us"]
    longest = max(100000, 10 * sorted(cost)[len(cost) // 2]) if cost else 0
    return [1024 * max(0, watched - moved) for watched, moved, us in
            zip(samples.column["program_watched"], samples.column["moved"],
                cost) if us <= longest]


def check_resident(tap, name, run):
    """Managed memory in RAM, seen from outside, is within the budget."""
    peak = max(resident(run.samples), default=0)
    limit = RAM * 105 // 100 + FIXED
    tap.ok(0 < peak <= limit, f"{name}: managed memory in RAM is in budget",
           f"{peak / MB:.1f} MB at most, {limit / MB:.1f} MB allowed "
           f"({run.samples.peak('program_watched') / MB:.1f} MB with what "
           f"moved, {run.counter('peak_resident') / MB:.1f} MB by its own "
           f"count); {run.samples.cost()}")


def describe(name, run, plain):
    s = run.samples
    return (f"{name}: {run.seconds:.1f} s (plain {plain.seconds:.1f} s), Pss "
            f"{s.peak('program_pss', 'supervisor_pss') / MB:.0f} MB "
            f"(plain {plain.samples.peak('program_pss') / MB:.0f} MB), device "
            f"{run.counter('peak_device_host') / MB:.0f} MB RAM + "
            f"{run.counter('peak_device_media') / MB:.0f} MB outside, "
            f"processes {run.stat.get('processes')}, of them "
            f"{run.stat.get('managed_processes')} managed")


def same_file(a, b):
    try:
        with open(a, "rb") as f:
            return first_difference(f, b) is None
    except OSError:
        return False


def compare(argv, files=(), stdin=None, env=None, prepare=None,
            min_share=0.9, same_stderr=True, expect=0):
    """The whole test of a program whose results are its standard output, its
    exit status and the files it writes.

    files: names below the folder the program runs in, which prepare(folder)
    may fill first. "@WORK@" in argv is that folder.
    """
    tap = Tap()
    work = workdir()

    def folder(name):
        path = os.path.join(work, name)
        os.mkdir(path)
        if prepare:
            prepare(path)
        return path

    cwd = folder("plain")
    plain = run_plain(argv, work, stdin=stdin, env=env, cwd=cwd)
    anon = plain.samples.peak("program_anon")
    tap.ok(plain.status == expect,
           f"plain: exit status {plain.status}",
           f"{plain.seconds:.1f} s, {anon / MB:.0f} MB anonymous, "
           f"{plain.samples.cost()}")
    if plain.status != expect:
        tap.note(plain.stderr[-2000:])
        tap.end()
    tap.ok(anon > 2 * RAM, "plain: the program needs more than twice the "
           "budget", f"{anon / MB:.0f} MB, budget {RAM / MB:.0f} MB")
    for device in DEVICES:
        cwd = folder(device)
        run = run_pgmap(argv, work, device, stdin=stdin, env=env, cwd=cwd)
        tap.note(describe(device, run, plain))
        if not tap.ok(run.status == plain.status,
                      f"{device}: exit status is that of the plain run",
                      "" if run.status == plain.status
                      else f"{run.end()}; want {plain.status}"):
            tap.note(run.said())
            tap.note(run.where)
        tap.ok(run.differs is None,
               f"{device}: output is that of the plain run, byte for byte",
               "" if run.differs is None
               else f"first difference at byte {run.differs}")
        for f in files:
            tap.ok(same_file(os.path.join(cwd, f),
                             os.path.join(work, "plain", f)),
                   f"{device}: {f} is that of the plain run, byte for byte")
        if same_stderr:
            tap.ok(run.stderr == plain.stderr,
                   f"{device}: nothing else on standard error",
                   run.said() if run.stderr != plain.stderr else "")
        check_device_worked(tap, device, run, anon, min_share)
        check_resident(tap, device, run)
        shutil.rmtree(cwd)
    tap.end()


# Text that looks like what programs print: words of a fixed vocabulary.
def vocabulary(n, seed=1):
    rnd = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    return ["".join(rnd.choices(letters, k=rnd.randint(2, 10)))
            for _ in range(n)]


def sentences(n, words, seed=2, length=(6, 16)):
    vocab, rnd = vocabulary(words), random.Random(seed)
    return [" ".join(rnd.choices(vocab, k=rnd.randint(*length)))
            for _ in range(n)]
