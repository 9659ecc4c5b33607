#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# pgmap dax: files go in and come out, and what is wrong is told in one line.
# PGMAP is the command under test.
set -u
pgmap=${PGMAP:?}
# shellcheck source=test/cli/tap.sh
. "$(dirname "$0")/tap.sh"

dev=$dir/device
dax() {
    "$pgmap" dax "$@" 2>"$dir/err"
}

# refused STATUS TEXT ARGUMENT...: one line that says TEXT.
refused() {
    local status=$1 text=$2
    shift 2
    dax "$@" >"$dir/out"
    [ $? = "$status" ] && [ "$(wc -l <"$dir/err")" = 1 ] &&
        grep -q "^pgmap: .*$text" "$dir/err"
    report $? "dax ${1-}: $text"
}

head -c 3000000 /dev/urandom >"$dir/bytes"
dax create --size 8M "$dev" && [ "$(stat -c %s "$dev")" = 8388608 ]
report $? "create makes the file"
dax put "$dev" a "$dir/bytes" && dax put "$dev" b <"$dir/bytes"
report $? "put takes a file, and standard input"
dax get "$dev" a | cmp - "$dir/bytes" && dax get "$dev" b "$dir/b" &&
    cmp "$dir/b" "$dir/bytes"
report $? "get gives it back, both ways"
dax rm "$dev" b && dax cp "$dev" a c && dax cp "$dev" a d &&
    dax get "$dev" d | cmp - "$dir/bytes"
report $? "three files share blocks that would not fit twice more"
dax truncate "$dev" c 1M && dax get "$dev" c | cmp -n 1048576 - "$dir/bytes" &&
    [ "$(dax get "$dev" c | wc -c)" = 1048576 ]
report $? "truncate cuts one of them"
dax get "$dev" a | cmp - "$dir/bytes"
report $? "the others stay"
dax punch "$dev" c 4K 8K && [ -z "$(dax get "$dev" c |
    tail -c +4097 | head -c 8192 | tr -d '\0')" ]
report $? "punch makes zeros"
echo new | dax put "$dev" c && [ "$(dax get "$dev" c)" = new ]
report $? "put replaces a file"
dax mv "$dev" c a && [ "$(dax get "$dev" a)" = new ]
report $? "mv replaces a file"
[ "$(dax ls "$dev" | awk '{print $NF}' | tr '\n' ' ')" = "a d " ]
report $? "ls tells all names in order"
dax fsck "$dev" | grep -q sound
report $? "fsck finds nothing"

if dax ls --json "$dev" >"$dir/json"; then
    dax ls --json "$dev" | python3 -c '
import json, sys
files = {f["name"]: f for f in json.load(sys.stdin)["files"]}
sys.exit(not (files["d"]["bytes"] == 3000000 and files["a"]["bytes"] == 4))'
    report $? "ls --json"
    dax stat --json "$dev" | python3 -c '
import json, sys
s = json.load(sys.stdin)
sys.exit(not (s["files"] == 2 and s["clean"] == 1 and s["free"] > 0))'
    report $? "stat --json"
    dax fsck --json "$dev" | python3 -c '
import json, sys
s = json.load(sys.stdin)
sys.exit(not (s["sound"] and s["damage"] == []))'
    report $? "fsck --json"
else
    skip "JSON" "this build has none"
fi
dax stat "$dev" | grep -q "^files *2" && dax stat "$dev" d | grep -q "^extents"
report $? "stat of the store, and of a file"

refused 1 "there is a store on it; --force" create "$dev"
refused 1 "no such file in the store" get "$dev" nothing
refused 1 "no such file in the store" rm "$dev" nothing
refused 1 "is there already" cp "$dev" a d
refused 1 "no file can be called so" mv "$dev" a x/y
refused 1 "no such file" ls "$dir/nothing"
refused 1 "is no memory" ls /dev/zero
refused 2 "takes DEVICE NAME SIZE" truncate "$dev" a
refused 2 "is a size such as 64M" truncate "$dev" a much
refused 2 "takes" ls --force "$dev"
refused 2 "no command 'list'" list "$dev"
refused 2 "takes a command"
refused 1 "no space is left" put "$dev" e /dev/zero
dax fsck "$dev" >/dev/null && [ "$(dax ls "$dev" | wc -l)" = 2 ]
report $? "what did not fit has left nothing behind"
: >"$dir/empty"
refused 1 "is empty; give it a size" create "$dir/empty"
head -c 65536 /dev/zero >"$dir/small"
refused 1 "too small" create "$dir/small"
head -c 1048576 /dev/zero >"$dir/zeros"
refused 1 "superblock" ls "$dir/zeros"

sleep 100 8<"$dev" &
sleeper=$!
flock -x "$dev" sleep 5 &
locker=$!
while flock -n -x "$dev" true; do sleep 0.02; done
refused 1 "in use by another process" ls "$dev"
kill $locker $sleeper
wait 2>/dev/null
while ! flock -n -x "$dev" true; do sleep 0.02; done

printf '\377' | dd of="$dev" bs=1 seek=4200 conv=notrunc 2>/dev/null
dax fsck "$dev" >"$dir/out"
[ $? = 1 ] && grep -q "damaged" "$dir/out"
report $? "fsck finds damage"
refused 1 "damaged" ls "$dev"
dax create --force "$dev" && [ -z "$(dax ls "$dev")" ]
report $? "create --force makes a new store"
"$pgmap" dax --help | grep -q "usage: pgmap dax create"
report $? "it explains itself"

finish
