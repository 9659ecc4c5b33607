/* SPDX-License-Identifier: BSD-3-Clause */
/* The kernel's paging, set up for a comparison and taken down after it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/bench.h"
#include "number_in.h"

#define GROUP_V1 "/sys/fs/cgroup/memory"
#define GROUP_V2 "/sys/fs/cgroup"

static int say(const char *what, const char *why)
{
	fprintf(stderr, "pgmap: bench: %s: %s\n", what, why);
	return -1;
}

static int write_to(const char *dir, const char *name, const char *text)
{
	char path[256];
	size_t len = strlen(text);
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : write(fd, text, len);
	if (fd >= 0)
		close(fd);
	return n == (ssize_t)len ? 0 : -1;
}

static int write_number(const char *dir, const char *name, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	return write_to(dir, name, text);
}

static uint64_t number_at(const char *dir, const char *name, const char *key)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return number_in(path, key);
}

static bool is_v1(void)
{
	return !access(GROUP_V1 "/memory.limit_in_bytes", F_OK);
}

static int open_group(struct peer *p, uint64_t limit)
{
	if (!is_v1())
		write_to(GROUP_V2, "cgroup.subtree_control", "+memory");
	snprintf(p->group, sizeof(p->group), "%s/pgmap-bench-%d",
		 is_v1() ? GROUP_V1 : GROUP_V2, (int)getpid());
	if (mkdir(p->group, 0755)) {
		p->group[0] = '\0';
		return say("no memory control group can be made",
			   strerror(errno));
	}
	if (write_number(p->group,
			 is_v1() ? "memory.limit_in_bytes" : "memory.max",
			 limit))
		return say(p->group, "the limit cannot be set: is the memory "
				     "controller on?");
	return 0;
}

static int make_swap(struct peer *p, const char *path)
{
	int status, flags = SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK;
	pid_t pid = fork();

	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 1);
		dup2(null, 2);
		execlp("mkswap", "mkswap", path, (char *)NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		return say(path, "mkswap failed; is util-linux installed?");
	if (swapon(path, flags))
		return say(path, strerror(errno));
	snprintf(p->swap, sizeof(p->swap), "%s", path);
	return 0;
}

/* A device of our own; on a kernel that cannot add one, the first if unused. */
static int open_zram(struct peer *p, uint64_t size)
{
	char dir[64];
	uint64_t nr = number_in("/sys/class/zram-control/hot_add", NULL);

	p->added = nr != UINT64_MAX;
	p->zram = p->added ? (int)nr : 0;
	snprintf(dir, sizeof(dir), "/sys/block/zram%d", p->zram);
	snprintf(p->disk, sizeof(p->disk), "/dev/zram%d", p->zram);
	if (access(dir, F_OK)) {
		p->zram = -1;
		return say("no zram", "the kernel has none: modprobe zram");
	}
	if (number_at(dir, "disksize", NULL)) {
		p->zram = -1;
		return say(p->disk, "is in use");
	}
	if (write_to(dir, "comp_algorithm", "lz4"))
		return say(p->disk, "does not know lz4");
	if (write_number(dir, "disksize", size))
		return say(p->disk, "its size cannot be set");
	/* Where nobody makes device nodes. */
	if (access(p->disk, F_OK)) {
		char dev[32] = "";
		unsigned int major, minor;
		FILE *f;

		snprintf(dir, sizeof(dir), "/sys/block/zram%d/dev", p->zram);
		f = fopen(dir, "re");
		if (!f || !fgets(dev, sizeof(dev), f) ||
		    sscanf(dev, "%u:%u", &major, &minor) != 2 ||
		    mknod(p->disk, S_IFBLK | 0600,
			  (dev_t)(major << 8 | minor))) {
			if (f)
				fclose(f);
			return say(p->disk, "has no device node");
		}
		fclose(f);
	}
	return make_swap(p, p->disk);
}

static int open_file(struct peer *p, uint64_t size)
{
	const char *tmp = getenv("TMPDIR");
	int fd;

	snprintf(p->file, sizeof(p->file), "%s/pgmap-bench-%d.swap",
		 tmp ? tmp : "/var/tmp", (int)getpid());
	fd = open(p->file, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0) {
		int err = errno;

		say(p->file, strerror(err));
		p->file[0] = '\0';
		return -1;
	}
	/* Written out: swap must have no holes. */
	errno = posix_fallocate(fd, 0, (off_t)size);
	close(fd);
	if (errno)
		return say(p->file, strerror(errno));
	return make_swap(p, p->file);
}

int peer_open(struct peer *p, enum peer_kind kind, uint64_t limit,
	      uint64_t size)
{
	int ret = 0;

	*p = (struct peer){.kind = kind, .zram = -1};
	if (kind == PEER_NONE)
		return 0;
	if (geteuid())
		return say("--against", "only root can set swap up");
	/* Twice: the kernel keeps slots of pages that are back in RAM. */
	ret = kind == PEER_ZRAM ? open_zram(p, 2 * size)
				: open_file(p, 2 * size);
	if (!ret)
		ret = open_group(p, limit);
	if (ret)
		peer_close(p);
	return ret;
}

int peer_enter(const struct peer *p)
{
	return p->group[0] ? write_to(p->group, "cgroup.procs", "0") : 0;
}

uint64_t peer_kills(const struct peer *p)
{
	return p->group[0] ? number_at(p->group,
				       is_v1() ? "memory.oom_control"
					       : "memory.events",
				       "oom_kill")
			   : 0;
}

void peer_close(struct peer *p)
{
	char dir[64];

	if (p->swap[0] && swapoff(p->swap))
		say(p->swap, "swapoff failed, it is still in use");
	if (p->zram >= 0) {
		snprintf(dir, sizeof(dir), "/sys/block/zram%d", p->zram);
		write_to(dir, "reset", "1");
		if (p->added)
			write_number("/sys/class/zram-control", "hot_remove",
				     (uint64_t)p->zram);
	}
	if (p->file[0])
		unlink(p->file);
	/* The kernel needs a moment to forget the last process. */
	for (int i = 0; p->group[0] && rmdir(p->group) && i < 100; i++)
		usleep(20000);
	*p = (struct peer){.zram = -1};
}
