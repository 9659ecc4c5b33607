#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# `pgmap bench` runs its work under pgmap and under a peer, compares what they
# computed, and leaves the machine as it was. PGMAP is the command under test.
set -u
pgmap=${PGMAP:?}
# shellcheck source=test/cli/tap.sh
. "$(dirname "$0")/tap.sh"

may_run=true
"$pgmap" check --json >/dev/null 2>"$dir/why" || may_run=
for work in stream random hash sort bfs threads; do
    name="$work gives a median of both, and their ratio"
    [ "$may_run" ] || {
        skip "$name" "no userfaultfd"
        continue
    }
    "$pgmap" bench $work --size 24M --ram 12M --folio 16K --pairs 1 \
        --device mirror >"$dir/out" 2>"$dir/err" &&
        grep -Eq '^[a-z0-9-]+ +[A-Za-z/]+ +[0-9.e+]+ .* [0-9.]+ \(' "$dir/out"
    report $? "$name"
done

# lines JSON-FILE LINES: as many, in order of size, each ratio that of its peer.
lines() {
    python3 - "$@" <<'END'
import json, sys
lines = json.load(open(sys.argv[1]))
assert len(lines) == int(sys.argv[2]), f"{len(lines)} lines"
for l in lines:
    low = l.get("p99", l.get("min"))
    print(l)
    assert 0 < l["median"] <= l["max"] and 0 < low <= l["max"], l
    size = " ".join(l["what"].split()[:2])
    for p in lines:
        if l["of"] and p["what"] in (l["of"], f"{size} {l['of']}"):
            assert abs(l["median"] / p["median"] / l["ratio"] - 1) < .05, l
            break
    else:
        assert l["of"] in (None, "memcpy"), f"{l}: of what?"
for what in sys.argv[3:]:
    assert any(what == l["what"] for l in lines), f"no line: {what}"
END
}
if [ "$may_run" ]; then
    "$pgmap" bench micro --json >"$dir/out" 2>"$dir/err" &&
        lines "$dir/out" 40 'system call' 'kernel fault' '4 KB hole fault' \
            '4 KB mirror: fault of a page' '64 KB lz4: fault of the rest' \
            '2 MB move out' '2 MB install' '64 KB lz4: store' \
            '4 KB mirror: load' >>"$dir/err" 2>&1
    report $? "micro gives each step for each folio size, and what it is a ratio of"
    "$pgmap" bench migrate --size 4M --json >"$dir/out" 2>"$dir/err" &&
        lines "$dir/out" 6 '4 MB in 4 KB, to the mirror' \
            '4 MB in 2 MB, back to RAM' >>"$dir/err" 2>&1 &&
        [ "$(grep -c '"goal": 0.8' "$dir/out")" = 2 ]
    report $? "migrate gives both ways for each folio size, beside memcpy"
    "$pgmap" bench migrate --size 512K >"$dir/out" 2>"$dir/err" &&
        grep -Eq '^512 KB in 2 MB, to the mirror .* GB/s +[0-9.]+ of memcpy$' "$dir/out"
    report $? "migrate prints a table for people"
else
    skip 'micro gives each step for each folio size' 'no userfaultfd'
    skip 'migrate gives both ways for each folio size' 'no userfaultfd'
    skip 'migrate prints a table for people' 'no userfaultfd'
fi

before=$(
    cat /proc/swaps
    ls /sys/block /sys/fs/cgroup /sys/fs/cgroup/memory 2>/dev/null
)
for peer in swap zram; do
    name="the kernel's $peer is set up, pages, and is taken down again"
    if ! [ "$may_run" ] || [ "$(id -u)" != 0 ]; then
        skip "$name" "not root"
        continue
    fi
    TMPDIR=/var/tmp "$pgmap" bench sort --size 96M --ram 64M --pairs 1 \
        --against $peer --yes --json >"$dir/out" 2>"$dir/err"
    rc=$?
    # What the kernel refuses, or kills with swap to spare, is not ours.
    if [ $rc != 0 ] && grep -Eq 'no zram|no memory control|Invalid arg|not perm|kernel killed' \
        "$dir/err"; then
        skip "$name" "$(tail -n 1 "$dir/err")"
        continue
    fi
    [ $rc = 0 ] && grep -q "\"against\": \"$peer\"" "$dir/out" &&
        [ "$before" = "$(
            cat /proc/swaps
            ls /sys/block /sys/fs/cgroup /sys/fs/cgroup/memory 2>/dev/null
        )" ] && ! ls /var/tmp/pgmap-bench-* >"$dir/err" 2>&1
    report $? "$name"
done

refuse() {
    local words=$1
    shift
    "$pgmap" bench "$@" >"$dir/out" 2>"$dir/err"
    [ $? = 2 ] && [ "$(wc -l <"$dir/err")" = 1 ] && grep -q "$words" "$dir/err"
    report $? "bench $* is refused: $words"
}
refuse 'say --yes' sort --against zram
refuse 'none, swap or zram' sort --against paging
refuse 'is not a size' sort --ram much
refuse 'from 1M to 1T' sort --size 4K
refuse 'from 1 to 32' sort --pairs 0
refuse 'no option' sort --fast
refuse 'say what to measure' sorting
refuse 'takes only --json' map --size 1G
refuse 'takes only --json' micro --size 1G
refuse 'takes only --size and --json' migrate --ram 1G
refuse 'out of range' migrate --size 1000

finish
