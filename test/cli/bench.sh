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

finish
