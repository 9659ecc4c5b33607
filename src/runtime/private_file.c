/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * private_file.c - the program's own pages inside private mappings of files.
 *
 * Such a page is as anonymous as any other (R87), but the kernel watches no
 * mapping of an ordinary file. So where a device is to have some, each run of
 * them is replaced by an anonymous mapping with the same bytes. What the
 * program has not written stays the file's.
 *
 * A store by another thread between the copy and the replacement would be lost,
 * so this is done for a process with one thread only.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mutant.h"
#include "core/mm.h"
#include "runtime/runtime.h"

#define CHUNK 128u

/* F and K are there, too. */
#define THREADS_OF_ONE 3

static int replace(uintptr_t va, size_t len, uint16_t bits)
{
	int prot = (bits & PG_LOOK_READ ? PROT_READ : 0) |
		   (bits & PG_LOOK_WRITE ? PROT_WRITE : 0);
	long to = pg_sys(mmap, 0, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long ret;

	if (pg_sys_failed(to))
		return (int)to;
	memcpy((void *)to, (const void *)va, len);
	ret = pg_sys(mprotect, to, len, prot);
	if (!ret)
		ret = pg_sys(mremap, to, len, len,
			     MREMAP_MAYMOVE | MREMAP_FIXED, va);
	if (!pg_sys_failed(ret))
		return 0;
	pg_sys(munmap, to, len);
	return (int)ret;
}

static bool is_own_copy(uint16_t bits)
{
	const uint16_t all = PG_LOOK_READ | PG_LOOK_PRIVATE | PG_LOOK_OWN;

	return (bits & all) == all && !(bits & (PG_LOOK_ANON | PG_LOOK_EXEC)) &&
	       !pg_mutant("files_keep_copies");
}

static int replace_runs(uintptr_t va, const uint16_t *bits, size_t nr)
{
	size_t i = 0, run;
	int ret = 0;

	for (; i < nr && !ret; i += run) {
		run = 1;
		if (!is_own_copy(bits[i]))
			continue;
		while (i + run < nr && is_own_copy(bits[i + run]) &&
		       !((bits[i + run] ^ bits[i]) & PG_LOOK_WRITE))
			run++;
		ret = replace(va + i * PG_PAGE_SIZE, run * PG_PAGE_SIZE,
			      bits[i]);
	}
	return ret;
}

int pg_private_file_replace(struct pgmap_mm *mm, uintptr_t start, uintptr_t end)
{
	int ret = 0;

	while (start < end && !ret) {
		size_t nr = (end - start) / PG_PAGE_SIZE;
		uint16_t bits[CHUNK];

		if (nr > CHUNK)
			nr = CHUNK;
		ret = pg_mmu_look(mm->mmu, start, nr, bits);
		for (size_t i = 0; i < nr && !ret; i++)
			if (is_own_copy(bits[i])) {
				if (pg_adopt_threads() > THREADS_OF_ONE)
					return -EBUSY;
				ret = replace_runs(start, bits, nr);
				break;
			}
		start += nr * PG_PAGE_SIZE;
	}
	return ret;
}
