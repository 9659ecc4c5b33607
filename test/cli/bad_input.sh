#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Bad input gives one line that names the cause, exit status 2, and no program
# is started. PGMAP is the command under test.
set -u
pgmap=${PGMAP:?}
# shellcheck source=test/cli/tap.sh
. "$(dirname "$0")/tap.sh"
chmod 755 "$dir"

# refused STATUS WORDS NAME COMMAND...: it ends with STATUS after one line on
# stderr that has WORDS, and `touch $dir/ran` did not run.
refused() {
    local status=$1 words=$2 name=$3 rc bad=0
    shift 3
    rm -f "$dir/ran"
    timeout 20 "$@" >"$dir/out" 2>"$dir/err" </dev/null
    rc=$?
    [ $rc = "$status" ] || bad="exit status $rc, not $status"
    [ "$(wc -l <"$dir/err")" = 1 ] || bad="not one line on stderr"
    grep -q '^pgmap: ' "$dir/err" || bad="no 'pgmap: '"
    grep -qiF -- "$words" "$dir/err" || bad="not said: $words"
    [ -s "$dir/out" ] && bad="something on stdout"
    [ -e "$dir/ran" ] && bad="the program was started"
    [ "$bad" = 0 ] || sed "s/^/# $bad: /" "$dir/err"
    [ "$bad" = 0 ]
    report $? "$name"
}

run=("$pgmap" run -q)
program=(touch "$dir/ran")

# The program of these tests does run when nothing is wrong.
"${run[@]}" "${program[@]}" 2>"$dir/err" && [ -e "$dir/ran" ]
report $? "good input is accepted"

refused 2 "no command" "no command" "$pgmap"
refused 2 "'frobnicate'" "unknown command" "$pgmap" frobnicate
refused 2 "no program" "no program" "$pgmap" run
refused 2 "no program" "no program after --" "$pgmap" run --ram 64M --
refused 2 "--what" "unknown option" "${run[@]}" --what "${program[@]}"
refused 2 "-Z" "unknown short option" "${run[@]}" -Z "${program[@]}"
refused 2 "--ram takes" "option without its value" "$pgmap" run --ram

refused 2 "auto, thread, hold or signal" "unknown --fault" \
    "${run[@]}" --fault sigsegv "${program[@]}"

refused 2 "leave out --device" "--dmirror on another device" \
    "${run[@]}" --dmirror --device lz4 "${program[@]}"
refused 2 "needs --fault thread" "--dmirror with --fault hold" \
    "${run[@]}" --dmirror --fault hold "${program[@]}"

for size in "" lots -5 64Q 0x40M 1e9 64MBB nan; do
    refused 2 "is not a size" "--ram '$size'" \
        "${run[@]}" --ram "$size" "${program[@]}"
done
refused 2 "is not a size" "--ram beyond 64 bits" \
    "${run[@]}" --ram 99999999999T "${program[@]}"
refused 2 "is not a size" "--folio four" \
    "${run[@]}" --folio four "${program[@]}"
refused 2 "at least 10240K" "--ram 4M" "${run[@]}" --ram 4M "${program[@]}"
refused 2 "at least 10240K" "--ram 0" "${run[@]}" --ram 0 "${program[@]}"
refused 2 "at least 73728K" "--ram 64M with folios of 2M" \
    "${run[@]}" --ram 64M --folio 2M "${program[@]}"
for size in 0 1K 3K 12K 4M; do
    refused 2 "power of two from 4K to 2M" "--folio $size" \
        "${run[@]}" --folio $size "${program[@]}"
done

refused 2 "no device is called 'floppy'" "unknown device" \
    "${run[@]}" --device floppy "${program[@]}"
refused 2 "no device is called ''" "empty device" \
    "${run[@]}" --device "" "${program[@]}"
refused 2 "device mirror: " "unknown device option" \
    "${run[@]}" --device mirror:colour=blue "${program[@]}"
refused 2 "device mirror: " "bad value of a device option" \
    "${run[@]}" --device mirror:size=much "${program[@]}"
refused 2 "too long" "device options without end" \
    "${run[@]}" --device "mirror:size=$(printf '1%.0s' {1..500})" \
    "${program[@]}"

refused 2 "given twice" "two devices" \
    "${run[@]}" --device lz4 --device mirror "${program[@]}"
if "$pgmap" run -q --device "file:$dir" true 2>/dev/null; then
    refused 2 "there is no device /dev/no-such-disk" "a disk that is not there" \
        "${run[@]}" --device file:/dev/no-such-disk "${program[@]}"
    [ ! -e /dev/no-such-disk ]
    report $? "and no file is made in its place"
    refused 2 "no such file or directory (error 2); make the directory" \
        "a folder that is not there" \
        "${run[@]}" --device file:/no/such/folder/file "${program[@]}"
fi
if "$pgmap" run -q --device lz4 true 2>/dev/null; then
    # shellcheck disable=SC2016 # for the other shell
    refused 2 "MB of address space: raise the limit (ulimit -v)" \
        "too little address space" \
        sh -c 'ulimit -v 300000; exec "$@"' - "${run[@]}" "${program[@]}"
fi

refused 2 "no program called 'no-such-program-here'" "program not in PATH" \
    "${run[@]}" no-such-program-here
refused 2 "/no/such/program" "program that does not exist" \
    "${run[@]}" /no/such/program
refused 2 "no program called ''" "program with an empty name" "${run[@]}" ""
refused 2 "is not a program" "a folder" "${run[@]}" "$dir"
printf 'echo\n' >"$dir/plain"
refused 2 "may not be executed" "a file without the x bit" \
    "${run[@]}" "$dir/plain"
PATH=$dir:$PATH refused 2 "may not be executed" "the same, found in PATH" \
    "${run[@]}" plain

printf '#!/no/such/interpreter\ntouch %s/ran\n' "$dir" >"$dir/script"
chmod +x "$dir/script"
refused 2 "/no/such/interpreter" "a script without its interpreter" \
    "${run[@]}" "$dir/script"
printf '#!%s/loop\n' "$dir" >"$dir/loop"
chmod +x "$dir/loop"
refused 2 "too many scripts" "a script that is its own interpreter" \
    "${run[@]}" "$dir/loop"
printf '#! \n' >"$dir/none"
chmod +x "$dir/none"
refused 2 "names no interpreter" "a script that names no interpreter" \
    "${run[@]}" "$dir/none"

# An ELF header of a 32-bit ARM program.
{
    printf '\177ELF\001\001\001'
    head -c 9 /dev/zero
    printf '\002\000\050\000'
    head -c 80 /dev/zero
} >"$dir/arm"
chmod +x "$dir/arm"
refused 2 "another architecture" "a program for another processor" \
    "${run[@]}" "$dir/arm"

printf 'int main(void) { return 0; }\n' >"$dir/main.c"
if cc -static -o "$dir/static" "$dir/main.c" 2>/dev/null; then
    refused 2 "statically linked" "a static program" "${run[@]}" "$dir/static"
    printf '#!%s/static\n' "$dir" >"$dir/by_static"
    chmod +x "$dir/by_static"
    refused 2 "statically linked" "a script whose interpreter is static" \
        "${run[@]}" "$dir/by_static"
else
    skip "a static program" "cc -static does not work here"
fi

if [ "$(id -u)" = 0 ]; then
    cp "$(type -P touch)" "$dir/suid"
    chown 65534 "$dir/suid"
    chmod 4755 "$dir/suid"
    refused 2 "setuid" "a setuid program" "${run[@]}" "$dir/suid" "$dir/ran"
else
    refused 2 "setuid" "a setuid program" "${run[@]}" "$(type -P su)"
fi

# As a user who may not use userfaultfd.
nobody=()
[ "$(id -u)" = 0 ] &&
    nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
cp "$pgmap" "$dir/pgmap"
if [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 1 ] ||
    "${nobody[@]}" test -w /dev/userfaultfd; then
    skip "no permission for userfaultfd" "everybody may use it here"
elif ! "${nobody[@]}" "$dir/pgmap" --version >"$dir/out" 2>&1; then
    skip "no permission for userfaultfd" "another user cannot run the command"
else
    chmod 777 "$dir"
    refused 2 "userfaultfd" "no permission for userfaultfd" \
        "${nobody[@]}" "$dir/pgmap" run -q --fault thread "${program[@]}"
    chmod 755 "$dir"
    "${nobody[@]}" "$dir/pgmap" check >"$dir/out" 2>&1 &&
        grep -q 'no   their buffers are held' "$dir/out"
    report $? "check says what is done without it"
fi

if "$dir/pgmap" run -q true 2>/dev/null; then
    skip "the runtime is missing" "pgmap is installed here"
else
    refused 2 "libpgmap-preload.so" "the runtime is missing" \
        "$dir/pgmap" run -q "${program[@]}"
    mkdir "$dir/with space"
    cp "$pgmap" "$(dirname "$pgmap")/libpgmap-preload.so" "$dir/with space"
    refused 2 "without spaces" "the runtime in a path with a space" \
        "$dir/with space/pgmap" run -q "${program[@]}"
fi

refused 2 "cannot write" "--summary to nowhere" \
    "${run[@]}" --summary /no/such/folder/file "${program[@]}"
if "$pgmap" check --json >/dev/null 2>&1; then
    refused 2 "cannot write" "--json to nowhere" \
        "${run[@]}" --json /no/such/folder/file "${program[@]}"
fi

refused 2 "takes [--json] PID" "stat without a process" "$pgmap" stat
refused 2 "takes [--json] PID" "stat of two processes" "$pgmap" stat 1 2
for pid in zero 1x 0 -1 99999999999999999999; do
    refused 2 "pgmap: " "stat $pid" "$pgmap" stat $pid
done
refused 1 "no such process" "stat of no process" "$pgmap" stat 2147483647
refused 1 "not run under pgmap" "stat of a process that is not under pgmap" \
    "$pgmap" stat $$
refused 2 "takes [--json] only" "check of something" "$pgmap" check all

finish
