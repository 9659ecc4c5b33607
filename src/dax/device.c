/* SPDX-License-Identifier: BSD-3-Clause */
#include "dax/device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "base/bug.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "base/opt.h"
#include "base/sys.h"

#define PAGE 4096u
#define PMD (2ull << 20)
#define PUD (1ull << 30)
#define LINE 64u

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4u
#endif
#define MFD_HUGE_SHIFT_ 26

struct opening {
	const struct pgmap_dax_config *config;
	struct pgmap_dax *dax;
	const char *path;
	char *error;
	size_t error_len;
};

#define complain(o, ret, ...)                                                  \
	(pg_format((o)->error, (o)->error_len, __VA_ARGS__), (ret))

static int flush_file(struct pgmap_dax *dax, uint64_t at, uint64_t len)
{
	uint64_t from = at & ~(uint64_t)(PAGE - 1);

	return pg_sys(msync, dax->base + from, at + len - from, MS_SYNC) ? -EIO
									 : 0;
}

/* fsync() of a device-dax does nothing: its stores go to the medium when they
 * leave the CPU's caches. */
static int flush_lines(struct pgmap_dax *dax, uint64_t at, uint64_t len)
{
	for (uint64_t i = at & ~(uint64_t)(LINE - 1); i < at + len; i += LINE)
		__builtin_ia32_clflush(dax->base + i);
	__builtin_ia32_mfence();
	return 0;
}

int pg_daxdev_flush(struct pgmap_dax *dax, uint64_t at, uint64_t len)
{
	pg_assert(at <= dax->bytes && len <= dax->bytes - at);
	if (!len)
		return 0;
	if (dax->flush)
		return dax->flush(dax, at, len);
	__asm__ volatile("" ::: "memory");
	return 0;
}

int pgmap_dax_flush(struct pgmap_dax *dax, uint64_t at, uint64_t len)
{
	if (!dax || at > dax->bytes || len > dax->bytes - at)
		return -EINVAL;
	return pg_daxdev_flush(dax, at, len);
}

void pg_daxdev_init(struct pgmap_dax *dax, void *base, uint64_t bytes)
{
	dax->base = base;
	dax->bytes = bytes;
	dax->align = PAGE;
	dax->page_size = PAGE;
	dax->kind = "memory";
	dax->fd = -1;
}

/* A number out of a file of /sys. Return: it; 0 there is none. */
static uint64_t number_of(unsigned int major, unsigned int minor,
			  const char *name)
{
	char path[128], text[32] = "";
	uint64_t value = 0;
	long fd, n;

	pg_format(path, sizeof(path), "/sys/dev/char/%u:%u/%s", major, minor,
		  name);
	fd = pg_sys(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = pg_sys(read, fd, text, sizeof(text) - 1);
	pg_sys(close, fd);
	for (long i = 0; i < n && text[i] >= '0' && text[i] <= '9'; i++)
		value = value * 10 + (uint64_t)(text[i] - '0');
	return value;
}

static int look_at_file(struct opening *o, uint64_t *bytes)
{
	struct pgmap_dax *dax = o->dax;
	struct stat st;
	struct statfs fs;
	unsigned int ma, mi;

	if (pg_sys(fstat, dax->fd, &st) || pg_sys(fstatfs, dax->fd, &fs))
		return complain(o, -EIO, "%s: cannot be looked at", o->path);
	ma = major(st.st_rdev);
	mi = minor(st.st_rdev);
	*bytes = (uint64_t)st.st_size;
	if (S_ISREG(st.st_mode) && fs.f_type == HUGETLBFS_MAGIC) {
		dax->kind = "hugetlb";
		dax->page_size = (uint64_t)fs.f_bsize;
	} else if (S_ISREG(st.st_mode) && fs.f_type == TMPFS_MAGIC) {
		dax->kind = "tmpfs";
	} else if (S_ISREG(st.st_mode)) {
		dax->kind = "file";
		dax->flush = flush_file;
	} else if (S_ISBLK(st.st_mode)) {
		dax->kind = "block";
		dax->flush = flush_file;
		if (pg_sys(ioctl, dax->fd, BLKGETSIZE64, bytes))
			return complain(o, -EIO, "%s: has no size", o->path);
	} else if (S_ISCHR(st.st_mode) && number_of(ma, mi, "size")) {
		dax->kind = "dax";
		dax->flush = flush_lines;
		*bytes = number_of(ma, mi, "size");
		dax->page_size = number_of(ma, mi, "align");
		if (!dax->page_size)
			dax->page_size = PMD;
	} else {
		return complain(o, -ENODEV,
				"%s: is no memory; give a file, a block device "
				"or a /dev/dax",
				o->path);
	}
	return 0;
}

/* All of it has room, now: a store to a page that finds none is a SIGBUS. */
static int take_room(struct opening *o, uint64_t bytes, bool grow)
{
	struct pgmap_dax *dax = o->dax;
	long ret;

	if (dax->readonly || !strcmp(dax->kind, "block") ||
	    !strcmp(dax->kind, "dax"))
		return 0;
	if (grow && pg_sys(ftruncate, dax->fd, bytes))
		return complain(o, -ENOSPC, "%s: cannot have %lu bytes",
				o->path, bytes);
	ret = pg_sys(fallocate, dax->fd, 0, 0, bytes);
	if (ret && ret != -EOPNOTSUPP)
		return complain(o, ret == -ENOSPC ? -ENOSPC : -ENOMEM,
				"%s: no room for %lu bytes%s", o->path, bytes,
				strcmp(dax->kind, "hugetlb")
					? ""
					: "; reserve huge pages in "
					  "/proc/sys/vm/nr_hugepages");
	if (grow && dax->flush && pg_sys(fsync, dax->fd))
		return complain(o, -EIO, "%s: cannot be written", o->path);
	return 0;
}

static int open_memory(struct opening *o)
{
	struct pgmap_dax *dax = o->dax;
	unsigned int flags = MFD_CLOEXEC;
	long fd;

	dax->kind = "memory";
	if (o->config->huge) {
		dax->kind = "hugetlb";
		dax->page_size = o->config->huge;
		flags |= MFD_HUGETLB | (o->config->huge == PMD ? 21u : 30u)
					       << MFD_HUGE_SHIFT_;
	}
	fd = pg_sys(memfd_create, "pgmap-dax", flags);
	if (fd < 0)
		return complain(o, (int)fd, "%s: cannot be made", o->path);
	dax->fd = (int)fd;
	return 0;
}

static int open_path(struct opening *o)
{
	const struct pgmap_dax_config *c = o->config;
	int how = c->flags & PGMAP_DAX_READONLY ? O_RDONLY : O_RDWR;
	int lock = c->flags & PGMAP_DAX_READONLY ? LOCK_SH : LOCK_EX;
	long fd;

	if (c->flags & PGMAP_DAX_CREATE)
		how |= O_CREAT;
	/* Not to wait for the other end of a FIFO. */
	fd = pg_sys(openat, AT_FDCWD, c->path,
		    how | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
	if (fd == -ENOENT)
		return complain(o, -ENOENT, "%s: there is no such file",
				o->path);
	if (fd == -EACCES || fd == -EPERM)
		return complain(o, -EACCES, "%s: not allowed to %s it", o->path,
				how == O_RDONLY ? "read" : "write");
	if (fd < 0)
		return complain(o, (int)fd, "%s: cannot be opened (error %d)",
				o->path, (int)-fd);
	o->dax->fd = (int)fd;
	if (!pg_mutant("dax_device_is_shared") &&
	    pg_sys(flock, fd, lock | LOCK_NB))
		return complain(o, -EBUSY, "%s: in use by another process",
				o->path);
	return 0;
}

/* Where it lies has the colour of its largest pages. */
static int map_it(struct opening *o)
{
	struct pgmap_dax *dax = o->dax;
	uint64_t align = dax->align > PMD ? dax->align : PMD;
	uint64_t room = dax->bytes + align, cut;
	int prot = dax->readonly ? PROT_READ : PROT_READ | PROT_WRITE;
	long at, ret;

	if (room < align)
		return complain(o, -EINVAL, "%s: too large", o->path);
	at = pg_sys(mmap, NULL, room, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pg_sys_failed(at))
		return complain(o, -ENOMEM,
				"%s: no room for it among the "
				"addresses of this process",
				o->path);
	cut = -(uint64_t)at & (align - 1);
	ret = pg_sys(mmap, (uint64_t)at + cut, dax->bytes, prot,
		     MAP_SHARED | MAP_FIXED, dax->fd, 0);
	if (pg_sys_failed(ret)) {
		pg_sys(munmap, at, room);
		return complain(o, ret == -ENOMEM ? -ENOMEM : -ENODEV,
				"%s: cannot be mapped%s", o->path,
				ret == -ENOMEM ? "; there are too few pages "
						 "of its size"
					       : "");
	}
	if (cut)
		pg_sys(munmap, at, cut);
	pg_sys(munmap, (uint64_t)ret + dax->bytes, align - cut);
	dax->base = (unsigned char *)(uintptr_t)ret;
	/* A wish; it is for memory only. */
	if (!dax->flush && strcmp(dax->kind, "hugetlb"))
		pg_sys(madvise, ret, dax->bytes, MADV_HUGEPAGE);
	return 0;
}

static int open_it(struct opening *o)
{
	const struct pgmap_dax_config *c = o->config;
	struct pgmap_dax *dax = o->dax;
	uint64_t there = 0, want = c->bytes;
	bool grow;
	int ret;

	dax->page_size = PAGE;
	ret = c->path ? open_path(o) : open_memory(o);
	if (ret)
		return ret;
	if (c->path) {
		ret = look_at_file(o, &there);
		if (ret)
			return ret;
	}
	grow = there < want && (!c->path || c->flags & PGMAP_DAX_CREATE);
	if (!want)
		want = there;
	if (!want)
		return complain(o, -EINVAL, "%s: is empty; give it a size",
				o->path);
	if (want > there && !grow)
		return complain(o, -EINVAL, "%s: has only %lu bytes of %lu",
				o->path, there, want);
	if (grow && (!strcmp(dax->kind, "block") || !strcmp(dax->kind, "dax")))
		return complain(o, -EINVAL,
				"%s: has %lu bytes, and cannot "
				"grow to %lu",
				o->path, there, want);
	dax->align = c->align ? c->align : dax->page_size;
	if (dax->align < dax->page_size)
		return complain(o, -EINVAL,
				"%s: has pages of %lu bytes; the "
				"alignment cannot be less",
				o->path, dax->page_size);
	if (want % dax->align)
		return complain(o, -EINVAL,
				"%s: %lu bytes are no multiple of "
				"%lu",
				o->path, want, dax->align);
	dax->bytes = want;
	ret = take_room(o, want, grow);
	return ret ? ret : map_it(o);
}

int pgmap_dax_open(const struct pgmap_dax_config *config,
		   struct pgmap_dax **dax, char *error, size_t error_len)
{
	struct opening o = {config, NULL, NULL, error, error_len};
	char none[1];
	int ret;

	if (!error || !error_len) {
		o.error = none;
		o.error_len = sizeof(none);
	}
	if (!dax || !config || config->size != sizeof(*config) ||
	    config->flags & ~(PGMAP_DAX_CREATE | PGMAP_DAX_READONLY) ||
	    (config->huge &&
	     (config->path || (config->huge != PMD && config->huge != PUD))))
		return complain(&o, -EINVAL, "bad configuration");
	if (config->align && config->align != PAGE && config->align != PMD &&
	    config->align != PUD)
		return complain(&o, -EINVAL,
				"an alignment is 4K, 2M or 1G, not %lu",
				config->align);
	o.path = config->path ? config->path : "memory";
	o.dax = pg_mem_map(sizeof(*o.dax));
	if (!o.dax)
		return complain(&o, -ENOMEM, "no memory");
	o.dax->fd = -1;
	o.dax->readonly = config->flags & PGMAP_DAX_READONLY;
	ret = open_it(&o);
	if (ret) {
		pgmap_dax_close(o.dax);
		return ret;
	}
	*dax = o.dax;
	return 0;
}

void pgmap_dax_close(struct pgmap_dax *dax)
{
	if (!dax)
		return;
	if (dax->base)
		pg_sys(munmap, dax->base, dax->bytes);
	if (dax->fd >= 0)
		pg_sys(close, dax->fd);
	pg_mem_unmap(dax, sizeof(*dax));
}

int pgmap_dax_get_info(const struct pgmap_dax *dax, struct pgmap_dax_info *info)
{
	if (!dax || !info || info->size != sizeof(*info))
		return -EINVAL;
	*info = (struct pgmap_dax_info){
		.size = sizeof(*info),
		.kind = dax->kind,
		.address = dax->base,
		.bytes = dax->bytes,
		.align = dax->align,
		.page_size = dax->page_size,
	};
	return 0;
}
