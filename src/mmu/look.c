/* SPDX-License-Identifier: BSD-3-Clause */
#include "mmu/look.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/mem.h"
#include "base/sys.h"
#include "mmu/proc.h"

#define MAPS_BUF ((size_t)64 << 10)
#define BATCH 512u

struct range {
	uintptr_t start, end;
	uint16_t *bits;
};

/* ---- Mappings ---- */

static const char *parse_hex(const char *p, uintptr_t *v)
{
	for (*v = 0;; p++) {
		if (*p >= '0' && *p <= '9')
			*v = *v << 4 | (uintptr_t)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			*v = *v << 4 | (uintptr_t)(*p - 'a' + 10);
		else
			return p;
	}
}

/* "start-end perms offset dev inode   name". False: behind the range. */
static bool note_mapping(const char *p, const char *nl, const struct range *r)
{
	const char *perms, *name;
	uintptr_t start, end, inode;
	uint16_t bits = PG_LOOK_MAPPED;

	p = parse_hex(p, &start);
	p = parse_hex(p + 1, &end);
	perms = p + 1;
	if (start >= r->end)
		return false;
	if (end <= r->start || nl - perms < 4)
		return true;
	if (perms[0] == 'r')
		bits |= PG_LOOK_READ;
	if (perms[1] == 'w')
		bits |= PG_LOOK_WRITE;
	if (perms[2] == 'x')
		bits |= PG_LOOK_EXEC;
	if (perms[3] == 'p')
		bits |= PG_LOOK_PRIVATE;
	p = parse_hex(perms + 5, &inode); /* the offset */
	p = parse_hex(p + 1, &inode);	  /* the device */
	p = parse_hex(p + 1, &inode);
	p = parse_hex(p + 1, &inode); /* decimal, but zero or not is the same */
	if (!inode)
		bits |= PG_LOOK_ANON;
	name = memchr(p, '[', (size_t)(nl - p));
	if (name && nl - name >= 5 &&
	    (!memcmp(name, "[vvar", 5) || !memcmp(name, "[vsys", 5) ||
	     !memcmp(name, "[vdso", 5)))
		bits |= PG_LOOK_SPECIAL;
	start = start > r->start ? start : r->start;
	end = end < r->end ? end : r->end;
	for (; start < end; start += PG_PAGE_SIZE)
		r->bits[(start - r->start) / PG_PAGE_SIZE] |= bits;
	return true;
}

static int note_mappings(const struct range *r)
{
	char *buf = pg_mem_map(MAPS_BUF), *line, *nl;
	bool more = true;
	size_t have = 0;
	long fd, n = -ENOMEM;

	if (!buf)
		return -ENOMEM;
	fd = pg_sys(openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		n = fd;
	while (fd >= 0 && more) {
		n = pg_sys(read, fd, buf + have, MAPS_BUF - have);
		if (n <= 0)
			break;
		have += (size_t)n;
		for (line = buf;
		     more &&
		     (nl = memchr(line, '\n', have - (size_t)(line - buf)));
		     line = nl + 1)
			more = note_mapping(line, nl, r);
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
	}
	if (fd >= 0)
		pg_sys(close, fd);
	pg_mem_unmap(buf, MAPS_BUF);
	return n < 0 ? (int)n : 0;
}

/* ---- Pages ---- */

/* Can a page that is there be written without a fault? One of a file in a
 * private mapping is copied first, and so is what a fork has shared. */
static bool is_writable(uint16_t bits, uint64_t entry)
{
	if (!(bits & PG_LOOK_WRITE))
		return false;
	return !(bits & PG_LOOK_PRIVATE) ||
	       (entry & (PAGEMAP_FILE | PAGEMAP_EXCLUSIVE)) ==
		       PAGEMAP_EXCLUSIVE;
}

static int note_pages(int pagemap, const struct range *r)
{
	uint64_t entry[BATCH];

	for (uintptr_t va = r->start; va < r->end;) {
		size_t nr = (r->end - va) / PG_PAGE_SIZE;
		long n = pg_sys(pread64, pagemap, entry,
				(nr < BATCH ? nr : BATCH) * sizeof(*entry),
				(va >> PG_PAGE_SHIFT) * sizeof(*entry));

		if (n <= 0)
			return n ? (int)n : -EINVAL;
		for (size_t i = 0; i < (size_t)n / sizeof(*entry);
		     i++, va += PG_PAGE_SIZE) {
			uint16_t *b = &r->bits[(va - r->start) / PG_PAGE_SIZE];

			if (!(entry[i] & PAGEMAP_PRESENT))
				continue;
			*b |= PG_LOOK_PRESENT;
			if (!(entry[i] & PAGEMAP_FILE))
				*b |= PG_LOOK_OWN;
			if (is_writable(*b, entry[i]))
				*b |= PG_LOOK_WRITABLE;
		}
	}
	return 0;
}

static void note_kinds(int pagemap, const struct range *r)
{
	struct scan_region region[64];
	struct scan_arg arg = {
		.size = sizeof(arg),
		.start = r->start,
		.end = r->end,
		.vec = (uintptr_t)region,
		.vec_len = sizeof(region) / sizeof(region[0]),
		.all_of = SCAN_PRESENT,
		.any_of = SCAN_ZERO | SCAN_HUGE,
		.returned = SCAN_ZERO | SCAN_HUGE,
	};

	while (arg.start < r->end) {
		long n = pg_sys(ioctl, pagemap, IOC_PAGEMAP_SCAN, &arg);

		for (long i = 0; i < n; i++) {
			uint64_t c = region[i].categories;
			uintptr_t va = region[i].start;

			for (; va < region[i].end; va += PG_PAGE_SIZE) {
				uint16_t *b = &r->bits[(va - r->start) /
						       PG_PAGE_SIZE];

				if (c & SCAN_ZERO)
					*b = (*b | PG_LOOK_ZERO) &
					     (uint16_t)~PG_LOOK_WRITABLE;
				if (c & SCAN_HUGE)
					*b |= PG_LOOK_PMD;
			}
		}
		if (n < (long)arg.vec_len || arg.walk_end <= arg.start)
			break;
		arg.start = arg.walk_end;
	}
}

int pg_look(int pagemap, uintptr_t va, size_t nr, uint16_t *bits)
{
	const struct range r = {va, va + nr * PG_PAGE_SIZE, bits};
	int ret;

	memset(bits, 0, nr * sizeof(*bits));
	ret = note_mappings(&r);
	if (!ret)
		ret = note_pages(pagemap, &r);
	if (!ret)
		note_kinds(pagemap, &r);
	return ret;
}

int pg_look_populate(uintptr_t va, size_t nr, bool write)
{
	long ret = pg_sys(madvise, va, nr * PG_PAGE_SIZE,
			  write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);

	return ret ? -EFAULT : 0;
}
