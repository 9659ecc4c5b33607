#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# pgmap run in between a program and who started it: exit status, signals, job
# control, files and daemons are as without it. PGMAP is the command under
# test.
#
# Functions are called through others, and text for other shells is quoted:
# shellcheck disable=SC2016,SC2317
set -u
pgmap=${PGMAP:?}
# shellcheck source=test/cli/tap.sh
. "$(dirname "$0")/tap.sh"

# within SECONDS CONDITION...: it comes true in time.
within() {
    local n=$(($1 * 50))
    shift
    until "$@"; do
        [ $((n -= 1)) -gt 0 ] || return 1
        sleep 0.02
    done
}

gone() {
    ! kill -0 "$1" 2>/dev/null
}

run=("$pgmap" run -q)

# ---- status ----

for status in 0 1 2 77 255; do
    "${run[@]}" sh -c "exit $status"
    [ $? = $status ]
    report $? "exit status $status is passed on"
done
for sig in SEGV KILL TERM ABRT; do
    (cd "$dir" && ulimit -c 0 && "${run[@]}" sh -c "kill -$sig \$\$") \
        2>/dev/null
    [ $? = $((128 + $(kill -l $sig))) ]
    report $? "a program killed by SIG$sig looks killed by it"
done
(
    trap '' CHLD
    exec "${run[@]}" sh -c 'exit 3'
)
[ $? = 3 ]
report $? "the status is known when SIGCHLD is ignored by the caller"
(
    trap '' HUP
    exec "${run[@]}" sh -c 'kill -HUP $$; exit 4'
)
[ $? = 4 ]
report $? "a signal that the caller ignores is ignored by the program"

# ---- what it says ----

hold=${PGMAP_TEST_BIN:-$(dirname "$pgmap")}/hold
if "$pgmap" check --json >/dev/null 2>&1; then
    "${run[@]}" --json - true >"$dir/json" && grep -q '"exit": 0' "$dir/json"
    report $? "--json - writes to standard output"
fi
"$pgmap" run --ram 16M true 2>"$dir/err" &&
    grep -q 'never came near its budget' "$dir/err"
report $? "a program that needs little is told so"
echo | "$pgmap" run --ram 64M -v "$hold" 24 wait >/dev/null 2>"$dir/err" &&
    grep -q 'device lz4 is open' "$dir/err" &&
    grep -q 'never came near its budget' "$dir/err"
report $? "a program of a third of the budget is watched and left as it is"
"$pgmap" run --ram 16M -v "$hold" 40 >/dev/null 2>"$dir/err" &&
    grep -q 'device lz4 is open' "$dir/err" &&
    grep -q 'is managed from now on' "$dir/err" &&
    grep -q 'first pages have left' "$dir/err"
report $? "-v says when memory begins to be managed and to leave"
"$pgmap" run --ram 16M -vv "$hold" 40 >/dev/null 2>"$dir/err" &&
    grep -q '40960 KB at .*: managed' "$dir/err"
report $? "-vv says which memory is managed"
"$pgmap" run --ram 16M "$hold" 40 >/dev/null 2>"$dir/err" &&
    grep -q 'lz4 saved nothing' "$dir/err" && ! grep -q ': managed' "$dir/err"
report $? "the summary says that the data did not compress"
"$pgmap" run --ram 16M --device mirror:size=1M "$hold" 40 \
    >/dev/null 2>"$dir/err"
grep -q 'above budget .* because the device was full' "$dir/err"
report $? "the summary says by how much and why it was above the budget"

# ---- arguments, environment, files ----

[ "$("${run[@]}" printf '[%s]' 'a b' '' --ram -v)" = '[a b][][--ram][-v]' ]
report $? "arguments arrive as they are"
[ "$("${run[@]}" -- printf '%s' --)" = -- ]
report $? "only the first -- is ours"
[ "$(echo text | "${run[@]}" cat)" = text ]
report $? "standard input and output are the program's"
printf '#!/bin/sh\necho "$0 $1"\n' >"$dir/script"
chmod +x "$dir/script"
[ "$("${run[@]}" "$dir/script" x)" = "$dir/script x" ]
report $? "a script runs"
printf 'echo "plain $1"\n' >"$dir/plain"
chmod +x "$dir/plain"
[ "$("${run[@]}" "$dir/plain" x)" = "plain x" ]
report $? "a file without #! runs in the shell, as execvp() does it"
[ "$(cd "$dir" && PATH=:$PATH "${run[@]}" plain y)" = "plain y" ]
report $? "PATH is searched, an empty part of it is the current folder"
a=$(env -i sh -c 'ls -l /proc/self/fd' | grep -c ' -> ')
b=$("$pgmap" run -q sh -c 'ls -l /proc/self/fd' | grep -c ' -> ')
[ "$a" = "$b" ]
report $? "the program has no more descriptors than without pgmap"
a=$(sh -c 'ulimit -n; umask; ulimit -s')
b=$("${run[@]}" sh -c 'ulimit -n; umask; ulimit -s')
[ "$a" = "$b" ]
report $? "limits and umask are as without pgmap"

# ---- what it says ----

"$pgmap" run true >"$dir/out" 2>"$dir/err"
[ ! -s "$dir/out" ] && grep -q '^pgmap: true with a budget of' "$dir/err"
report $? "the summary is on stderr"
"${run[@]}" true >"$dir/out" 2>&1
[ ! -s "$dir/out" ]
report $? "--quiet says nothing"
"$pgmap" run --summary "$dir/sum" true 2>"$dir/err"
[ ! -s "$dir/err" ] && grep -q '^pgmap: true' "$dir/sum"
report $? "--summary writes it to a file instead"
if "$pgmap" check --json >/dev/null 2>&1; then
    "${run[@]}" --ram 64M --device mirror --json "$dir/json" sh -c 'exit 5'
    [ $? = 5 ] && python3 - "$dir/json" <<'END'
import json, sys
j = json.load(open(sys.argv[1]))
assert j["exit"] == 5 and j["ram"] == 64 << 20 and j["device"] == "mirror"
assert j["processes"] >= 1 and j["total"]["budget"] == 64 << 20
assert "stacks" in j["left_alone"] and j["total"]["io_errors"] == 0
END
    report $? "--json writes the same as an object"
fi

# ---- signals ----

# The program says which signals it gets; `ready` and `got` are files.
cat >"$dir/signals.py" <<'END'
import os, signal, sys, time
folder, ends = sys.argv[1], signal.SIGTERM
def got(sig, frame):
    with open(folder + "/got", "a") as f:
        f.write(signal.Signals(sig).name + "\n")
    if sig == ends:
        sys.exit(9)
for s in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM,
          signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
    signal.signal(s, got)
with open(folder + "/soon", "w") as f:
    f.write(str(os.getpid()))
os.rename(folder + "/soon", folder + "/ready")
while True:
    time.sleep(1)
END
rm -f "$dir/got" "$dir/ready"
# Asynchronous commands of a script have SIGINT and SIGQUIT ignored; python
# catches them nevertheless.
"${run[@]}" python3 "$dir/signals.py" "$dir" &
pid=$!
within 20 test -s "$dir/ready"
report $? "a program that catches signals starts"
for sig in INT HUP QUIT USR1 USR2 WINCH; do
    kill -$sig $pid
    within 5 grep -qs "SIG$sig" "$dir/got"
    report $? "SIG$sig sent to pgmap arrives"
done
kill -TERM $pid
wait $pid
[ $? = 9 ]
report $? "SIGTERM arrives, and the program's answer to it is the status"
[ "$(sort "$dir/got" | uniq -d)" = "" ]
report $? "each arrived once"

"${run[@]}" sleep 60 &
pid=$!
sleep 0.3
kill -TERM $pid
wait $pid 2>/dev/null
[ $? = 143 ]
report $? "SIGTERM ends a program that does not catch it"

"${run[@]}" sh -c 'echo $$ >'"$dir/pid"'; exec sleep 60' &
pid=$!
within 5 test -s "$dir/pid"
kill -KILL $pid
wait $pid 2>/dev/null
kill -0 "$(cat "$dir/pid")"
report $? "a program goes on when pgmap is killed"
kill "$(cat "$dir/pid")"
within 5 gone "$(cat "$dir/pid")"

# ---- a terminal ----

cat >"$dir/terminal.py" <<'END'
"""A shell's part: pgmap run is a job in the foreground of a new terminal."""
import os, pty, signal, sys, time
pgmap, folder, what = sys.argv[1:]

def wait_for(path, text=""):
    end = time.time() + 20
    while time.time() < end:
        if os.path.exists(path) and text in open(path).read():
            return
        time.sleep(0.02)
    sys.exit("nothing in " + path)

def state(pid):
    return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]

def wait_state(pid, states):
    end = time.time() + 10
    while time.time() < end:
        if state(pid) in states:
            return
        time.sleep(0.02)
    sys.exit(f"{pid} is {state(pid)}, not {states}")

shell, master = pty.fork()
if shell:
    end = time.time() + 50
    while time.time() < end:
        try:
            if what == "interrupt" and os.path.exists(folder + "/key"):
                os.unlink(folder + "/key")
                os.write(master, b"\x03")
            if what == "stop" and os.path.exists(folder + "/key"):
                os.unlink(folder + "/key")
                os.write(master, b"\x1a")
        except FileNotFoundError:
            pass
        done, status = os.waitpid(shell, os.WNOHANG)
        if done:
            sys.exit(os.waitstatus_to_exitcode(status))
        time.sleep(0.02)
    os.kill(shell, signal.SIGKILL)
    sys.exit("too slow")

signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(pgmap, [pgmap, "run", "-q", "python3", folder + "/signals.py",
                     folder])
wait_for(folder + "/ready")
program = int(open(folder + "/ready").read())
open(folder + "/key", "w").close()
if what == "interrupt":
    wait_for(folder + "/got", "SIGINT")
    time.sleep(0.3)
    assert open(folder + "/got").read() == "SIGINT\n"
if what == "stop":
    pid, status = os.waitpid(job, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    assert state(program) == "T" and state(job) == "T"
    os.kill(-job, signal.SIGCONT)
    wait_state(program, "SR")
    wait_state(job, "SR")
    # And by pgmap's process id alone.
    os.kill(program, signal.SIGSTOP)
    pid, status = os.waitpid(job, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    os.kill(job, signal.SIGCONT)
    wait_state(program, "SR")
os.kill(job, signal.SIGTERM)
pid, status = os.waitpid(job, 0)
sys.exit(0 if os.waitstatus_to_exitcode(status) == 9 else 1)
END
for what in interrupt stop; do
    rm -f "$dir/got" "$dir/ready" "$dir/key"
    timeout 60 python3 "$dir/terminal.py" "$pgmap" "$dir" $what \
        >"$dir/out" 2>&1
    rc=$?
    [ $rc = 0 ] || sed 's/^/# /' "$dir/out"
    [ $rc = 0 ]
    case $what in
    interrupt) report $? "Ctrl-C reaches the program once" ;;
    stop) report $? "Ctrl-Z stops program and pgmap, and both continue" ;;
    esac
done

# ---- what outlives the program ----

SECONDS=0
out=$("${run[@]}" sh -c '
    (exec >/dev/null 2>&1 </dev/null; sleep 3; echo finished >'"$dir"'/late) &
    echo $! >'"$dir"'/daemon; echo first')
[ "$out" = first ] && [ $SECONDS -lt 2 ]
report $? "pgmap ends with the program, not with a daemon that it started"
within 5 grep -qs finished "$dir/late"
report $? "the daemon goes on"
holds() {
    pgrep -f "$pgmap run -q sh -c .*$dir/late" >/dev/null
}
not_held() {
    ! holds
}
within 5 not_held
report $? "nothing is left when the daemon has ended"

# ---- stat ----

"${run[@]}" --ram 99M sh -c 'echo $$ >'"$dir/pid2"'; sleep 60; :' &
pid=$!
within 5 test -s "$dir/pid2"
program=$(cat "$dir/pid2")
sleep 0.3
for p in $pid "$program" "$(pgrep -P "$program" | head -1)"; do
    "$pgmap" stat "$p" >"$dir/out" 2>"$dir/err" &&
        grep -q '^budget  *99.0 MB' "$dir/out"
    report $? "stat finds the tree by process $p of it"
done
if "$pgmap" stat --json $pid >"$dir/out" 2>/dev/null; then
    python3 - "$dir/out" "$program" <<'END'
import json, sys
j = json.load(open(sys.argv[1]))
assert j["total"]["budget"] == 99 << 20
assert int(sys.argv[2]) in [p["pid"] for p in j["processes"]]
END
    report $? "stat --json lists the process"
fi
pkill -P "$program"
wait $pid
report $? "looking changes nothing"

finish
