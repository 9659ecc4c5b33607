#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# A check that nobody has seen fail is no check: each rule of scripts/tidy.py
# and scripts/symbols.py is broken once in a copy of the tree.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=test/cli/tap.sh
. "$(dirname "$0")/tap.sh"
tree=$dir/tree
mkdir "$tree"

# The tree as it would be merged, without what git ignores.
(cd "$here" && tar -cf - --exclude=./build --exclude=./.git \
    --exclude=__pycache__ .) | tar -xf - -C "$tree"

# sees WORDS: does tidy.py print them, and fail?
sees() {
    local out
    out=$("$here/scripts/tidy.py" "$tree") && return 1
    grep -qF -- "$1" <<<"$out"
}

# plant FILE LINE WORDS: a line at the end of a file makes tidy.py say WORDS.
plant() {
    local f=$tree/$1 new=
    mkdir -p "$(dirname "$f")"
    [ -e "$f" ] || new=yes
    [ -n "$new" ] || cp "$f" "$tree/saved"
    printf '%s\n' "$2" >>"$f"
    sees "$3"
    report $? "$1: $3"
    if [ -n "$new" ]; then
        rm "$f"
    else
        mv "$tree/saved" "$f"
    fi
}

out=$("$here/scripts/tidy.py" "$tree")
report $? "the tree is clean"
[ -z "$out" ] || echo "# ${out//$'\n'/$'\n'# }"

plant src/base/mem.c '#include "core/folio.h"' "src/base may not include"
plant src/base/mem.c '#include <pgmap/pgmap.h>' "src/base may not include"
plant src/core/folio.c '#include "driver/driver.h"' "src/core may not include"
plant src/core/folio.c '#include "mmu/uffd.h"' "src/core may not include"
plant src/core/folio.c '#include <time.h>' "core may not include <time.h>"
plant src/core/folio.c '#include <pgmap/run.h>' "src/core may not include"
plant src/mmu/soft.c '#include "core/pt.h"' "src/mmu may not include"
plant src/driver/lz4.c '#include "core/device.h"' "src/driver may not include"
plant src/driver/lz4.c '#include <pgmap/pgmap.h>' "src/driver may not include"
plant src/runtime/adopt.c '#include "core/pt.h"' "src/runtime may not include"
plant preload/preload.c '#include "core/mm.h"' "preload may not include"
plant tools/pgmap.c '#include "base/log.h"' "tools may not include"
plant tools/explore/run.c '#include "driver/driver.h"' \
    "tools/explore may not include"
plant include/pgmap/stat.h '#include "base/log.h"' "may not include base/log.h"
plant src/core/pt.c '#include <stdatomic.h>' "may not include <stdatomic.h>"
plant src/mmu/uffd.c '#include <stdatomic.h>' "only base/atomic.h may include"
plant src/mmu/uffd.c 'int x = atomic_load(&y);' "use base/atomic.h"
plant src/core/fault.c 'int x = dev->ops->load(p, io, 1);' "only device.c may"
plant src/core/fault.c 'int x = m->ops->take(m, 0, b, 1, d);' "only pt.c may"
plant src/core/fault.c 'assert(x);' "use pg_assert"
plant src/run.c 'errno = 0;' "return a negative errno"
plant tools/pgmap.c 'strcpy(a, b);' "use the bounded form"
plant src/base/log.c 'char *x = malloc(1);' "use base/mem.h"
plant src/core/mm.c 'free(x);' "use base/mem.h"
plant src/driver/file.c 'int x = errno;' "use base/sys.h"
plant src/mmu/uffd.c 'snprintf(a, 1, "b");' "use base/log.h"
plant src/runtime/adopt.c 'pthread_self();' "use base/lock.h"
plant src/runtime/hook.c 'static __thread int x;' "no thread-local storage"
plant src/open.c 'char *x = getenv("A");' "in the command"
plant src/base/new.c '/* nothing */' "first line is not the SPDX line"
plant src/base/new.c '/* nothing */' "not in meson.build"
plant test/unit/new.c '/* nothing */' "not in meson.build"
plant test/cli/new.sh '# nothing' "not in meson.build"
plant scripts/new.py '# nothing' "lack the SPDX line"
plant README.md "$(printf 'T%s' 'ODO: write this')" "finish it before"
plant README.md "$(printf '@%s' '@ 5 us')" "still to be measured"
plant doc/semantics.md 'R999. A rule.' "no test named R999_"
plant doc/semantics.md 'R999. A rule.' "no mutant for R999"
plant test/unit/opt.c 'TEST(R998_a_test)' "no rule R998"
plant test/unit/opt.c 'TEST(N998_a_test)' "no rule N998"
plant src/core/pt.c 'int x = pg_mutant("nobody");' "not in test/mutations.txt"
plant test/mutations.txt 'nobody unit/pt R1_x' 'no pg_mutant("nobody")'
plant test/mutations.txt 'nobody unit/pt R1_no_such_test' "no test R1_no"
plant test/mutations.txt 'nobody' "want MUTANT PROGRAM TEST"

# symbols.py, on libraries of three lines.
mkdir -p "$tree/s/include/pgmap"
cd "$tree/s" || exit 1
declare_public() { echo "int pgmap_a(void);" >include/pgmap/a.h; }

# libraries CODE EXTRA_FLAG...: LIB.a, IN.a, LIB.so and PRE.so from it.
libraries() {
    printf '%s\n' "$1" >a.c
    shift
    rm -f ./*.a ./*.so
    cc -fPIC -w -c a.c -o a.o && ar rc LIB.a a.o && cp LIB.a IN.a &&
        cc -shared a.o -o LIB.so &&
        cc -shared a.o -o PRE.so -Wl,-z,now \
            -Wl,--version-script,"$here/preload/preload.map" "$@"
}

# symbols WORDS: symbols.py says WORDS and fails; "" is to pass.
symbols() {
    local out rc
    out=$("$here/scripts/symbols.py" . LIB.a IN.a LIB.so PRE.so)
    rc=$?
    if [ -z "$1" ]; then
        report $rc "symbols.py: nothing to say"
    else
        [ $rc = 1 ] && grep -qF -- "$1" <<<"$out"
        report $? "symbols.py: $1"
    fi
}

declare_public
libraries 'int pgmap_a(void) { return 0; }'
symbols ""
libraries 'int pgmap_a(void) { return 0; } int bare;'
symbols "bare: not static, so"
libraries 'int pgmap_a(void) { return 0; } int pgmap_b(void) { return 0; }'
symbols "pgmap_b: in pgmap.map, not declared"
libraries 'int pg_b;'
symbols "pgmap_a: declared in include/, not in pgmap.map"
libraries 'void *malloc(long); int pgmap_a(void) { return !malloc(1); }'
symbols "malloc: must not be called inside other programs"
libraries '#include <errno.h>
int pgmap_a(void) { return errno; }'
symbols "__errno_location: must not be called"
libraries 'static __thread int x; int pgmap_a(void) { return x++; }'
symbols "has thread-local storage"
libraries 'int pgmap_a(void) { return 0; }' -Wl,-z,lazy
symbols "is not linked with -z now"
libraries 'int pgmap_a(void) { return 0; }' -Wl,--no-as-needed -lm
symbols "PRE.so: needs libm"
libraries 'int pgmap_a(void) { return 0; }'
cp LIB.so PRE.so
symbols "pgmap_a: exported by PRE.so"

finish
