#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The last line of `make check` must be right: no failed, crashed or missing
# test may be lost in it. Logs with known contents are summed up.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
nr=0
failed=0

# log NAME RESULT STDOUT [STDERR]: a line as meson writes it.
log() {
    python3 -c 'import json, sys
print(json.dumps(dict(zip(("name", "result", "stdout", "stderr"),
                          sys.argv[1:]))))' "$@" >>"$dir/gcc-fast.json"
}

# sums NAME STATUS LINE...: lines that count.py must print, the last one last.
# One that begins with "!" it must not print.
sums() {
    local name=$1 want=$2 out rc good=0 line
    shift 2
    out=$("$here/scripts/count.py" "$dir")
    rc=$?
    [ $rc = "$want" ] || good=1
    for line in "$@"; do
        case $line in
        !*) grep -qxF -- "${line#!}" <<<"$out" && good=1 ;;
        *) grep -qxF -- "$line" <<<"$out" || good=1 ;;
        esac
    done
    [ "$(tail -n 1 <<<"$out")" = "$line" ] || good=1
    nr=$((nr + 1))
    if [ $good = 0 ]; then
        echo "ok $nr - $name"
    else
        failed=1
        echo "not ok $nr - $name"
        echo "# status $rc, ${out//$'\n'/$'\n'# }"
    fi
    rm -f "$dir"/*
    : >"$dir/checks"
}

case_line() { printf '[ RUN      ] %s\n[ %8s ] %s\n' "$2" "$1" "$2"; }

: >"$dir/checks"
sums "nothing ran is a failure" 1 "0 passed, 0 failed, 0 skipped"

log a OK "$(case_line OK one; case_line OK two)"
sums "each case of a cmocka program counts" 0 "2 passed, 0 failed, 0 skipped"

log a FAIL "$(case_line OK one; case_line 'FAILED ' two)"
sums "a failed case is named" 1 "FAILED: gcc-fast: a: two" \
    "1 passed, 1 failed, 0 skipped"

log a ERROR "$(case_line OK one; echo '[ RUN      ] two')"
sums "a case that crashed has failed" 1 "FAILED: gcc-fast: a: two" \
    "1 passed, 1 failed, 0 skipped"

log a TIMEOUT "$(case_line OK one)"
sums "a program that hung between cases has failed" 1 \
    "FAILED: gcc-fast: a: timeout" "1 passed, 1 failed, 0 skipped"

log a FAIL ""
sums "a program without a case that failed has failed" 1 \
    "FAILED: gcc-fast: a" "0 passed, 1 failed, 0 skipped"

log a OK "$(echo '[ RUN      ] one'; echo 'SKIP: no device'
    echo '[  SKIPPED ] one')"
log b SKIP "no userfaultfd"
log c OK "ok 1 - three # SKIP no node
ok 2 - four"
log d SKIP "1..0 # SKIP no java"
sums "a skip has its reason" 0 "skipped: gcc-fast: a: one: no device" \
    "skipped: gcc-fast: b: no userfaultfd" \
    "skipped: gcc-fast: c: three: no node" \
    "skipped: gcc-fast: d: no java" "1 passed, 0 failed, 4 skipped"

log a ERROR "ok 1 - x
not ok 2 - y
1..2"
sums "TAP counts case by case" 1 "FAILED: gcc-fast: a: y" \
    "1 passed, 1 failed, 0 skipped"

log a ERROR "ok 1 - x
# of x
not ok 2 - y
# 139, want 0
#
#   as it said it
ok 3 - z
# of z
1..3" "$(printf '%s\n' {1..20})"
sums "a failed case of TAP tells why" 1 "FAILED: gcc-fast: a: y" \
    "    139, want 0" "      as it said it" "    6" "    20" \
    "!    of x" "!    of z" "!    5" \
    "2 passed, 1 failed, 0 skipped"
log a FAIL "$(case_line OK one; case_line 'FAILED ' two
    case_line 'FAILED ' three)" "[   LINE   ] --- unit_a.c:7: error"
sums "a failed program's standard error is shown once" 1 \
    "FAILED: gcc-fast: a: two" "    [   LINE   ] --- unit_a.c:7: error" \
    "FAILED: gcc-fast: a: three" "1 passed, 2 failed, 0 skipped"

printf 'pass gcc: build\nfail clang: build\n' >"$dir/checks"
sums "a step that is no test counts" 1 "FAILED: clang: build" \
    "1 passed, 1 failed, 0 skipped"

: >"$dir/mutation.tap"
sums "an empty mutation run is a failure" 1 "FAILED: mutation: nothing ran" \
    "0 passed, 1 failed, 0 skipped"

echo "1..$nr"
exit $failed
