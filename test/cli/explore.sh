#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# pgmap explore finds what is wrong, says it readably, and can repeat it. PGMAP
# is the command under test. What it finds in scenarios that are right is in
# the suite fast.
set -u
pgmap=${PGMAP:?}
# shellcheck source=test/cli/tap.sh
. "$(dirname "$0")/tap.sh"

if "$pgmap" explore --list 2>&1 | grep -q sanitizer; then
    echo "1..0 # SKIP a build with a sanitizer has no explorer"
    exit 0
fi

# explore STATUS OPTION...: into $dir/out and $dir/err.
explore() {
    local status=$1
    shift
    timeout 100 "$pgmap" explore "$@" >"$dir/out" 2>"$dir/err" </dev/null
    [ $? = "$status" ] && return
    echo "# pgmap explore $*: not $status"
    return 1
}

# The part of a report that says what is wrong.
why() {
    sed -n '/^   [^ T]/,/to repeat/p' "$dir/out" | grep -v 'to repeat'
}

[ "$("$pgmap" explore --list | wc -l)" -gt 20 ] &&
    "$pgmap" explore --list | sed '1,/wrong on purpose/d' |
        grep -q '^example_data_race '
report $? "--list has the scenarios, and the examples apart"

explore 0 R8_R10_a_map_that_was_found_stays &&
    grep -q '^R8_R10.* [0-9]* executions .* complete$' "$dir/out"
report $? "a scenario that is right is complete"

explore 0 --test R8_R10_a_map &&
    grep -q '^\[       OK \] R8_R10_a_map_that_was_found_stays$' "$dir/out"
report $? "--test prints each scenario as a case"

explore 0 --bound 1 R8_R10_a_map && grep -q ' bounded: 1 pre' "$dir/out" &&
    ! grep -q complete "$dir/out"
report $? "a bounded search is not called complete"

# What must be said of each example that is wrong on purpose.
while read -r name words; do
    explore 1 "$name" && grep -qF "FAILED" "$dir/out" &&
        grep -qF -- "$words" "$dir/out"
    report $? "$name: $words"

    [ "$(wc -l <"$dir/out")" -lt 400 ] &&
        [ "$(grep -v 'to repeat' "$dir/out" | wc -L)" -lt 400 ]
    report $? "$name: the report has an end"

    first=$(why)
    schedule=$(sed -n 's/.*--replay \([^ ]*\) .*/\1/p' "$dir/out")
    explore 1 --replay "$schedule" "$name" && [ -n "$first" ] &&
        [ "$(why)" = "$first" ]
    report $? "$name: the schedule fails again in the same way"
done <<'END'
example_data_race data race on message
example_lost_wake_up deadlock: nobody can go on
example_stale_value not so: x_note(0, 1) == 1
example_many_switches not so: pg_load(&ready, relaxed) != 2
example_endless livelock
END

# The last report was of a schedule too long to read.
grep -q '^   \.\.\. [0-9]* more' "$dir/out"
report $? "the middle of a long schedule is left out"
explore 1 --trace --replay "$schedule" example_endless &&
    [ "$(wc -l <"$dir/out")" -gt 1000 ]
report $? "--trace prints it"

# Not every schedule of a wrong program goes wrong.
explore 0 --replay 10 --trace example_data_race &&
    grep -q 'nothing is wrong' "$dir/out"
report $? "another schedule of the same is right"
explore 1 --replay 1z0 example_data_race &&
    grep -q 'the schedule does not fit' "$dir/out"
report $? "a schedule of another program is refused"

explore 0 --strong example_stale_value
report $? "a stale value is found in the weak model only"

explore 1 --random 1000 --seed 7 example_lost_wake_up &&
    cp "$dir/out" "$dir/first" &&
    explore 1 --random 1000 --seed 7 example_lost_wake_up &&
    cmp -s <(grep repeat "$dir/out") <(grep repeat "$dir/first")
report $? "a random search finds it, and its seed repeats it"

# refused WORDS OPTION...: one line, exit status 2.
refused() {
    local words=$1
    shift
    explore 2 "$@" && [ "$(wc -l <"$dir/err")" = 1 ] &&
        grep -q '^pgmap: ' "$dir/err" && grep -qF -- "$words" "$dir/err" &&
        [ ! -s "$dir/out" ]
    report $? "refused: $*"
}

refused "no scenario is called 'frobnicate'" frobnicate
refused "--frobnicate" --frobnicate
refused "wants a number" --bound many R8
refused "wants a number" --random -1 R8
refused "wants seconds" --time-limit 1h R8
refused "whole name of a scenario" --replay 010
refused "whole name of a scenario" --replay 010 R8
"$pgmap" explore --help | grep -q 'usage: pgmap explore'
report $? "--help"

finish
