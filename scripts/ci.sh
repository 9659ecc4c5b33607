#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# What CI runs, and `make check` on any machine.
#
# usage: scripts/ci.sh [STEP...]     all steps without an argument
#
# Builds go to build/<name> and are kept, so a second run is faster. Every step
# is run, whatever became of those before it. The last line says how many test
# cases, and steps that are no tests, passed, failed and were skipped.
set -u
cd "$(dirname "$0")/.." || exit 2

results=build/results
began=$SECONDS

# Run a command as one check of its own.
check() {
    local name=$1
    shift
    printf '\n== %s (%d s since the start)\n' "$name" $((SECONDS - began))
    if "$@"; then
        echo "pass $name" >>$results/checks
    else
        echo "fail $name" >>$results/checks
        return 1
    fi
}

# configure NAME COMPILER OPTION...: a build folder, warnings are errors.
configure() {
    local name=$1 cc=$2
    shift 2
    local again=
    [ -f "build/$name/build.ninja" ] && again=--reconfigure
    CC=$cc meson setup $again "build/$name" -Dwerror=true "$@" >"$results/$name.log" ||
        { tail -n 20 "$results/$name.log"; return 1; }
}

build() {
    check "$1: configure" configure "$@" &&
        check "$1: build" ninja -C "build/$1" --quiet
}

# tests NAME SUITE: its cases are counted one by one.
tests() {
    printf '\n== %s: %s tests (%d s since the start)\n' "$1" "$2" \
        $((SECONDS - began))
    local log=build/$1/meson-logs/testlog-$2.json
    rm -f "$log"
    meson test -C "build/$1" --no-rebuild --suite "$2" --logbase "testlog-$2" \
        --print-errorlogs
    if [ -f "$log" ]; then
        cp "$log" "$results/$1-$2.json"
    else
        echo "fail $1: $2 tests did not run" >>$results/checks
    fi
}

step_text() {
    check clang-format clang_format
    check codespell codespell
    check shellcheck shell_check
}

clang_format() {
    find include src preload tools examples test -name '*.[ch]' -print0 |
        xargs -0 clang-format --dry-run -Werror
}

shell_check() {
    # shellcheck disable=SC2046 # no file of ours has a blank in its name
    shellcheck -x $(grep -lrE '^#!/bin/(ba)?sh' scripts test .ci)
}

step_gcc() {
    build gcc gcc || return
    tests gcc fast
    tests gcc cli
    tests gcc uffd
}

step_clang() {
    build clang clang || return
    tests clang fast
    check "headers stand alone" headers
}

# Each public header by itself, as strict C and as C++.
headers() {
    local h lang
    for h in include/pgmap/*.h; do
        for lang in c:c11 c++:c++11; do
            clang -x "${lang%:*}" -std="${lang#*:}" -Iinclude -pedantic -Wall \
                -Wextra -Wno-unused-function -Werror -fsyntax-only "$h" ||
                return
        done
    done
}

# What a distribution would build, without what is optional, and installed.
step_release() {
    build release-plain gcc --buildtype=release --auto-features=disabled \
        --prefix="$PWD/build/installed" || return
    tests release-plain fast
    check "install" installed
}

installed() {
    local to=$PWD/build/installed pc
    rm -rf "$to"
    meson install -C build/release-plain --quiet || return
    pc=$(find "$to" -name pkgconfig)
    # shellcheck disable=SC2046 # flags are split on purpose
    PKG_CONFIG_PATH=$pc gcc -o "$to/example" examples/adopt.c \
        $(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs pgmap) &&
        LD_LIBRARY_PATH=${pc%/pkgconfig} "$to/example" mirror &&
        "$to/bin/pgmap" run --device mirror -- true
}

step_asan() {
    build asan clang -Db_sanitize=address,undefined -Db_lundef=false || return
    tests asan fast
    tests asan uffd
}

step_tsan() {
    build tsan clang -Db_sanitize=thread -Db_lundef=false || return
    tests tsan fast
}

# Which branches of core the fast tests take.
step_coverage() {
    build coverage gcc -Db_coverage=true -Dc_args=-fprofile-update=atomic ||
        return
    find build/coverage -name '*.gcda' -delete
    tests coverage fast
    printf '\n== coverage (%d s since the start)\n' $((SECONDS - began))
    scripts/coverage.py build/coverage | tee $results/coverage.tap
}

step_mutation() {
    build mutation gcc -Dmutation=true || return
    printf '\n== mutation (%d s since the start)\n' $((SECONDS - began))
    scripts/mutate.py build/mutation | tee $results/mutation.tap
}

# Real programs under pgmap: the longest, so the last.
step_programs() {
    [ -f build/gcc/build.ninja ] || build gcc gcc || return
    tests gcc programs
}

# Linux's own tests of device-private memory. Their source is a package of 140 MB
# for each version.
step_conformance() {
    [ -f build/gcc/build.ninja ] || build gcc gcc || return
    local version
    for version in 6.12 6.1; do
        check "conformance: hmm-tests of Linux $version" \
            scripts/conformance build/gcc "$version"
    done
}

steps="text gcc clang release asan tsan coverage mutation programs conformance"
if [ $# = 0 ]; then
    # shellcheck disable=SC2086 # a list
    set -- $steps
fi
for s in "$@"; do
    if ! declare -F "step_$s" >/dev/null; then
        echo "ci.sh: no step '$s'; there are: $steps" >&2
        exit 2
    fi
done
rm -rf $results
mkdir -p $results
: >$results/checks
export ASAN_OPTIONS=${ASAN_OPTIONS-detect_leaks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS-halt_on_error=1:print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS-halt_on_error=1}
for s in "$@"; do
    "step_$s"
done
printf '\n== all of it (%d s)\n' $((SECONDS - began))
exec scripts/count.py $results
