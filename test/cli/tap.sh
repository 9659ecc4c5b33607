# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Sourced by the tests of this folder: cases as TAP, and a folder that goes when
# the test ends. A test ends with `finish`.
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
nr=0
failed=0

# report STATUS NAME: a case, passed if STATUS is 0; else with $dir/err.
report() {
    nr=$((nr + 1))
    if [ "$1" = 0 ]; then
        echo "ok $nr - $2"
        return
    fi
    failed=1
    echo "not ok $nr - $2"
    [ ! -f "$dir/err" ] || sed 's/^/# /' "$dir/err"
}

# skip NAME WHY
skip() {
    nr=$((nr + 1))
    echo "ok $nr - $1 # SKIP $2"
}

finish() {
    echo "1..$nr"
    exit $failed
}
