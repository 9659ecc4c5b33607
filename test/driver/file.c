/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * file.c - what the file driver promises beyond driver.h: whose file it is,
 * space in it, errors of the file system, and processes that die. It sees the
 * inside of the driver.
 */
#include "../../src/driver/file.c"

#undef PAGE
#undef FREE
#include "device.h"

#include <dirent.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#define MB (1ull << 20)
#define NR_SLOTS (1ull << 20)
#define MAX PGMAP_MAX_FOLIO_PAGES

static struct dev dev;
static uint64_t seed;
static char *a, *b, dir[] = "/var/tmp/pgmap-test-XXXXXX", path[200];

static struct file_dev *inside(void)
{
	return dev.priv;
}

static int try_open(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void remove_dir(void)
{
	char name[300];
	struct dirent *e;
	DIR *d = opendir(dir);

	while (d && (e = readdir(d))) {
		snprintf(name, sizeof(name), "%s/%s", dir, e->d_name);
		unlink(name);
	}
	if (d)
		closedir(d);
	rmdir(dir);
}

static int try_open(const char *fmt, ...)
{
	char options[300];
	va_list ap;

	if (!a) {
		seed = test_seed();
		a = pages_new(MAX);
		b = pages_new(MAX);
	}
	va_start(ap, fmt);
	vsnprintf(options, sizeof(options), fmt, ap);
	va_end(ap);
	return dev_open(&dev, &pgmap_file_ops, options, NR_SLOTS);
}

static const char *make_dir(void)
{
	static bool made;

	if (!made) {
		assert_non_null(mkdtemp(dir));
		atexit(remove_dir);
		made = true;
	}
	snprintf(path, sizeof(path), "%s/file", dir);
	return dir;
}

static int nr_names(void)
{
	DIR *d = opendir(dir);
	int n = -2;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void make_file(size_t size)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	CHECK(fd >= 0);
	memset(b, 'x', size);
	CHECK_EQ(write(fd, b, size), size);
	close(fd);
}

static off_t file_size(void)
{
	struct stat st;

	CHECK_EQ(stat(path, &st), 0);
	return st.st_size;
}

static uint64_t media_bytes(void)
{
	struct stat st;

	CHECK_EQ(fstat(inside()->fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static uint64_t used(void)
{
	return pg_load(&inside()->shared->used, relaxed);
}

static int store(uint64_t slot, uint32_t nr)
{
	fill_pages(a, nr, NOISE, &seed);
	return dev_store(&dev, slot, nr, a);
}

static void check_pages(uint64_t slot, uint32_t nr)
{
	CHECK_EQ(dev_load(&dev, slot, nr, b), 0);
	assert_memory_equal(a, b, (size_t)nr * PAGE);
}

TEST(a_file_in_a_directory_has_no_name)
{
	make_dir();
	CHECK_EQ(try_open("%s", dir), 0);
	CHECK_EQ(nr_names(), 0);
	CHECK_EQ(store(0, 16), 0);
	check_pages(0, 16);
	dev_close(&dev);
}

TEST(a_new_file_loses_its_name_at_once)
{
	make_dir();
	CHECK_EQ(try_open("path=%s,size=8M", path), 0);
	CHECK_EQ(nr_names(), 0);
	CHECK_EQ(dev_usage(&dev).limit_bytes, 8 * MB);
	CHECK_EQ(store(0, 16), 0);
	check_pages(0, 16);
	dev_close(&dev);
	CHECK_EQ(nr_names(), 0);
}

TEST(a_file_with_something_in_it_is_left_alone)
{
	make_dir();
	try_open("%s", dir);
	dev_close(&dev);
	make_file(5);
	CHECK_EQ(try_open("%s", path), -EINVAL);
	CHECK(strstr(dev.error, "5 bytes in it, which would be lost"));
	CHECK_EQ(file_size(), 5);
	unlink(path);
}

TEST(an_empty_file_is_used_by_one_and_left_empty)
{
	struct dev first;

	make_dir();
	make_file(0);
	CHECK_EQ(try_open("%s,size=8M", path), 0);
	CHECK_EQ(store(0, 16), 0);
	check_pages(0, 16);
	first = dev;
	CHECK(try_open("%s", path) < 0); /* it has contents now */
	CHECK_EQ(truncate(path, 0), 0);
	CHECK_EQ(try_open("%s", path), -EBUSY);
	CHECK(strstr(dev.error, "in use"));
	dev_close(&first);
	CHECK_EQ(file_size(), 0);
	CHECK_EQ(try_open("%s", path), 0);
	dev_close(&dev);
	unlink(path);
}

TEST(what_cannot_be_a_device_is_refused_with_the_reason)
{
	make_dir();
	CHECK_EQ(try_open("/dev/null"), -EINVAL);
	CHECK(strstr(dev.error, "neither"));
	CHECK_EQ(try_open("%s/no/such", dir), -ENOENT);
	CHECK(strstr(dev.error, "cannot open"));
	CHECK_EQ(try_open("%s,size=4K", dir), -EINVAL);
	CHECK_EQ(try_open("%s,size=100000T", dir), -EINVAL);
	CHECK_EQ(nr_names(), 0);
}

/* Nothing is ever stored there, whatever the driver says. */
TEST(a_mounted_disk_is_refused)
{
	FILE *f = fopen("/proc/self/mounts", "r");
	char disk[200], where[200];
	struct stat st;
	bool found = false;
	int ret;

	while (f && !found &&
	       fscanf(f, "%199s %199s %*[^\n]", disk, where) == 2)
		found = !strncmp(disk, "/dev/", 5) && !stat(disk, &st) &&
			S_ISBLK(st.st_mode) && !access(disk, R_OK | W_OK);
	if (f)
		fclose(f);
	if (!found)
		SKIP("no mounted disk that we may write to");
	ret = try_open("%s", disk);
	if (ret == -EPERM)
		SKIP("disks may not be opened here");
	CHECK_EQ(ret, -EBUSY);
	CHECK(strstr(dev.error, "in use or mounted"));
}

TEST(a_file_system_without_direct_io_will_do)
{
	if (access("/dev/shm", W_OK))
		SKIP("no /dev/shm");
	CHECK_EQ(try_open("/dev/shm,size=8M"), 0);
	CHECK_EQ(store(0, MAX), 0);
	check_pages(0, MAX);
	dev_discard(&dev, 0, MAX);
	dev_close(&dev);
}

TEST(open_survives_the_failure_of_any_mapping)
{
	for (unsigned int nth = 1; nth <= 5; nth++) {
		pg_mem_fail_nth(nth);
		CHECK_EQ(try_open("size=8M"), -ENOMEM);
	}
	pg_mem_fail_nth(6);
	CHECK_EQ(try_open("size=8M"), 0);
	pg_mem_fail_nth(0);
	dev_close(&dev);
}

TEST(discarded_pages_leave_the_file)
{
	CHECK_EQ(try_open("size=256M"), 0);
	for (uint64_t i = 0; i < 32; i++)
		CHECK_EQ(store(i * MAX, MAX), 0);
	CHECK(media_bytes() >= 64 * MB);
	/* Page by page, in two combs. */
	for (uint64_t s = 0; s < 32 * MAX; s += 2)
		dev_discard(&dev, s, 1);
	CHECK_EQ(dev_usage(&dev).media_bytes, 32 * MB);
	for (uint64_t s = 1; s < 32 * MAX; s += 2)
		dev_discard(&dev, s, 1);
	CHECK_EQ(dev_usage(&dev).media_bytes, 0);
	CHECK_EQ(used(), 0);
	/* That is, when there is something to store. */
	CHECK_EQ(store(0, 1), 0);
	CHECK(media_bytes() <= (DIRTY_AT_STORE + 64) * PAGE);
	check_pages(0, 1);
	dev_close(&dev);
}

TEST(freed_blocks_are_used_again_before_the_file_grows)
{
	CHECK_EQ(try_open("size=256M"), 0);
	for (uint64_t round = 0; round < 100; round++) {
		CHECK_EQ(store(0, MAX), 0);
		check_pages(0, MAX);
		dev_discard(&dev, 0, MAX);
	}
	CHECK(pg_load(&inside()->shared->high, relaxed) <= 4 * MAX);
	dev_close(&dev);
}

TEST(a_fragmented_file_takes_a_large_folio_in_pieces)
{
	CHECK_EQ(try_open("size=4M"), 0); /* 1024 blocks */
	for (uint64_t s = 0; s < 1024; s++)
		CHECK_EQ(store(s, 1), 0);
	CHECK_EQ(store(1024, 1), -ENOSPC);
	for (uint64_t s = 0; s < 1024; s += 2)
		dev_discard(&dev, s, 1);
	CHECK_EQ(store(4 * MAX, MAX), 0);
	check_pages(4 * MAX, MAX);
	CHECK_EQ(store(1024, 1), -ENOSPC);
	dev_close(&dev);
}

static struct pgmap_io *big_batch(unsigned int n, char *buf)
{
	static struct pgmap_io io[MAX];

	for (unsigned int i = 0; i < n; i++)
		io[i] = (struct pgmap_io){.slot = (i * 37) % n * 3,
					  .nr = 1,
					  .status = 1,
					  .buf = buf + (size_t)i * PAGE};
	return io;
}

static void big_batches(void)
{
	for (int round = 0; round < 5; round++) {
		fill_pages(a, 500, NOISE, &seed);
		CHECK_EQ(dev.ops->store(dev.priv, big_batch(500, a), 500), 0);
		memset(b, 0, (size_t)500 * PAGE);
		CHECK_EQ(dev.ops->load(dev.priv, big_batch(500, b), 500), 0);
		assert_memory_equal(a, b, (size_t)500 * PAGE);
		dev_discard(&dev, 0, 1500);
	}
}

TEST(a_batch_may_be_larger_than_the_ring)
{
	CHECK_EQ(try_open("size=64M"), 0);
	big_batches();
	printf("# io_uring %s here\n",
	       pg_load(&inside()->no_rings, relaxed) ? "is not" : "works");
	dev_close(&dev);
}

TEST(without_io_uring_everything_works_one_by_one)
{
	CHECK_EQ(try_open("size=64M"), 0);
	pg_store(&inside()->no_rings, 1, relaxed);
	big_batches();
	CHECK(!inside()->lanes[0].ready);
	dev_close(&dev);
}

TEST(a_ring_that_is_gone_is_an_error_and_nothing_else)
{
	CHECK_EQ(try_open("size=64M"), 0);
	big_batches();
	if (!inside()->lanes[0].ready) {
		dev_close(&dev);
		SKIP("no io_uring here");
	}
	fill_pages(a, 500, NOISE, &seed);
	CHECK_EQ(dev.ops->store(dev.priv, big_batch(500, a), 500), 0);
	close(inside()->lanes[0].ring.enter_ring_fd);
	inside()->lanes[0].ring.ring_fd = -1;
	CHECK_EQ(dev.ops->load(dev.priv, big_batch(500, b), 500), -EIO);
	/* Those after it do without. */
	CHECK_EQ(dev.ops->load(dev.priv, big_batch(500, b), 500), 0);
	assert_memory_equal(a, b, (size_t)500 * PAGE);
	dev_close(&dev);
}

TEST(a_file_that_was_cut_short_is_an_io_error)
{
	CHECK_EQ(try_open("size=64M"), 0);
	CHECK_EQ(store(0, MAX), 0);
	CHECK_EQ(ftruncate(inside()->fd, 100 * PAGE), 0);
	check_pages(0, 100);
	CHECK_EQ(dev_load(&dev, 0, MAX, b), -EIO);
	CHECK_EQ(dev_load(&dev, 200, 1, b), -EIO);
	CHECK_EQ(ftruncate(inside()->fd, 64 << 20), 0);
	dev_discard(&dev, 0, MAX);
	CHECK_EQ(store(0, MAX), 0);
	check_pages(0, MAX);
	dev_close(&dev);
}

TEST(a_descriptor_that_is_gone_is_an_io_error)
{
	CHECK_EQ(try_open("size=64M"), 0);
	CHECK_EQ(store(0, 16), 0);
	close(inside()->fd);
	CHECK_EQ(dev_load(&dev, 0, 16, b), -EIO);
	CHECK(store(16, 16) < 0);
	CHECK_EQ(dev_usage(&dev).stored_pages, 16);
	dev_discard(&dev, 0, 16);
	inside()->fd = -1;
	dev_close(&dev);
}

TEST(a_full_file_system_is_a_full_device)
{
	int ret = 0;
	uint64_t n = 0;
	pid_t child;
	int status;

	make_dir();
	CHECK_EQ(try_open("size=8M"), 0); /* for a and b */
	dev_close(&dev);
	child = fork();
	if (child) {
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK(WIFEXITED(status));
		if (WEXITSTATUS(status) == 77)
			SKIP("may not mount a small file system");
		CHECK_EQ(WEXITSTATUS(status), 0);
		return;
	}
	if (unshare(CLONE_NEWNS) ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", dir, "tmpfs", 0, "size=4M"))
		_exit(77);
	if (try_open("%s,size=64M", dir))
		_exit(1);
	for (; !ret && n < 1024; n++)
		ret = store(n * 16, 16);
	if (ret != -ENOSPC || n < 32 || n > 65)
		_exit(2);
	if (dev_usage(&dev).stored_pages != (n - 1) * 16)
		_exit(3);
	if (dev_load(&dev, (n - 2) * 16, 16, b))
		_exit(4);
	/* What is given back can be had again. */
	dev_discard(&dev, 0, 128);
	punch_dirty(inside(), 0);
	_exit(store(n * 16, 16) ? 5 : 0);
}

/* Fork as the runtime does. Return: as fork(). */
static pid_t family_fork(void)
{
	int ready[2], fd = inside()->fd;
	pid_t child;
	char c = 0;

	CHECK_EQ(file_fork(dev.priv, PGMAP_FORK_PREPARE), 0);
	CHECK_EQ(pipe(ready), 0);
	child = fork();
	CHECK(child >= 0);
	if (child) {
		close(ready[1]);
		CHECK_EQ(read(ready[0], &c, 1), 1);
		close(ready[0]);
		return child;
	}
	close(fd);
	if (file_fork(dev.priv, PGMAP_FORK_CHILD) || write(ready[1], &c, 1) < 1)
		_exit(99);
	return 0;
}

/* A block device of 16 MB. Return: false if there is none to be had. */
static bool loop_open(char *name, size_t len, int *loop)
{
	int control = open("/dev/loop-control", O_RDWR), fd, nr;

	make_dir();
	fd = open(path, O_CREAT | O_RDWR, 0600);
	CHECK_EQ(ftruncate(fd, 16 << 20), 0);
	unlink(path);
	nr = ioctl(control, LOOP_CTL_GET_FREE);
	snprintf(name, len, "/dev/loop%d", nr);
	*loop = open(name, O_RDWR);
	if (control >= 0)
		close(control);
	if (nr < 0 || *loop < 0 || ioctl(*loop, LOOP_SET_FD, fd)) {
		close(fd);
		return false;
	}
	close(fd);
	return true;
}

TEST(a_block_device_is_used_by_one_and_as_large_as_it_is)
{
	struct dev first;
	char name[64];
	int loop, status, n = 0;
	pid_t child;

	if (!loop_open(name, sizeof(name), &loop))
		SKIP("may not make a block device");
	CHECK_EQ(try_open("%s,size=17M", name), -EINVAL);
	CHECK(strstr(dev.error, "has 16777216 bytes"));
	CHECK_EQ(try_open("%s", name), 0);
	first = dev;
	CHECK_EQ(try_open("%s", name), -EBUSY);
	dev = first;
	CHECK_EQ(dev_usage(&dev).limit_bytes, 16 * MB);
	while (!store((uint64_t)n * MAX, MAX))
		n++;
	CHECK_EQ(n, 8);
	CHECK_EQ(dev_load(&dev, 7 * MAX, MAX, b), 0);
	dev_discard(&dev, 0, MAX);
	CHECK_EQ(store(0, MAX), 0);
	check_pages(0, MAX);
	child = family_fork();
	if (!child)
		_exit(dev_load(&dev, 0, MAX, b) ||
		      memcmp(a, b, (size_t)MAX * PAGE));
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	dev_close(&dev);
	CHECK_EQ(ioctl(loop, LOOP_CLR_FD), 0);
	close(loop);
}

TEST(a_fork_shares_blocks_until_one_side_stores_again)
{
	pid_t child;
	int status;

	CHECK_EQ(try_open("size=64M"), 0);
	CHECK_EQ(store(0, MAX), 0);
	child = family_fork();
	if (!child) {
		/* Each side counts half of what they share. */
		if (dev_usage(&dev).media_bytes != MAX / 2 * PAGE)
			_exit(3);
		if (used() != MAX || memcmp(a, b, PAGE) == 0 ||
		    dev_load(&dev, 0, MAX, b) ||
		    memcmp(a, b, (size_t)MAX * PAGE))
			_exit(1);
		dev_discard(&dev, 0, MAX / 2);
		if (used() != MAX)
			_exit(2);
		dev_close(&dev);
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	CHECK_EQ(used(), MAX);
	CHECK_EQ(dev_usage(&dev).media_bytes, MAX * PAGE);
	dev_discard(&dev, 0, MAX);
	CHECK_EQ(used(), 0);
	dev_close(&dev);
}

TEST(an_aborted_fork_leaves_no_count)
{
	CHECK_EQ(try_open("size=64M"), 0);
	CHECK_EQ(store(0, MAX), 0);
	for (int i = 0; i < 3000; i++) {
		CHECK_EQ(file_fork(dev.priv, PGMAP_FORK_PREPARE), 0);
		CHECK_EQ(file_fork(dev.priv, PGMAP_FORK_ABORT), 0);
	}
	check_pages(0, MAX);
	dev_discard(&dev, 0, MAX);
	CHECK_EQ(used(), 0);
	dev_close(&dev);
}

TEST(blocks_of_a_process_that_was_killed_are_found)
{
	pid_t child;

	CHECK_EQ(try_open("size=4M"), 0);
	CHECK_EQ(store(0, MAX), 0);
	child = family_fork();
	if (!child) {
		store(MAX, MAX / 2); /* its own */
		for (;;)
			pause();
	}
	/* While it lives, its blocks are its own. */
	dev_discard(&dev, 0, MAX);
	for (int i = 0; i < 1000 && used() < MAX + MAX / 2; i++)
		usleep(10000);
	CHECK_EQ(used(), MAX + MAX / 2);
	CHECK_EQ(store(2 * MAX, MAX), -ENOSPC);
	kill(child, SIGKILL);
	CHECK_EQ(waitpid(child, NULL, 0), child);
	CHECK_EQ(store(2 * MAX, MAX), 0);
	check_pages(2 * MAX, MAX);
	CHECK_EQ(used(), MAX);
	dev_close(&dev);
}

TEST(children_of_children_share_one_file)
{
	int status, depth = 0;
	pid_t child;

	CHECK_EQ(try_open("size=64M"), 0);
	CHECK_EQ(store(0, 64), 0);
	do {
		child = family_fork();
		if (child)
			break;
		if (dev_load(&dev, 0, 64, b) || memcmp(a, b, (size_t)64 * PAGE))
			_exit(1);
		dev_discard(&dev, 0, 32);
		dev_discard(&dev, 0, 64);
		if (store(0, 64))
			_exit(2);
	} while (++depth < 5);
	if (child && waitpid(child, &status, 0) != child)
		_exit(3);
	if (child && status)
		_exit(4);
	if (dev_load(&dev, 0, 64, b) || memcmp(a, b, (size_t)64 * PAGE))
		_exit(5);
	if (!depth)
		reap(inside());
	if (!depth && used() != 64)
		fail_msg("%ju blocks in use", (uintmax_t)used());
	if (depth)
		_exit(0); /* without close, as programs do */
	dev_close(&dev);
}

TEST(many_forks_one_after_the_other_use_up_nothing)
{
	CHECK_EQ(try_open("size=64M"), 0);
	CHECK_EQ(store(0, 64), 0);
	for (uint32_t i = 0; i < 200; i++) {
		pid_t child = family_fork();
		int status;

		if (!child)
			_exit(0);
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK_EQ(status, 0);
	}
	reap(inside());
	dev_discard(&dev, 0, 64);
	CHECK_EQ(used(), 0);
	for (uint32_t h = 1; h < NR_HOLDERS; h++)
		CHECK_EQ(pg_load(&inside()->shared->holders[h], relaxed) &
				 STATE_MASK,
			 0);
	dev_close(&dev);
}

TEST(a_child_that_cannot_reopen_the_file_fails_its_io_and_harms_nobody)
{
	pid_t child;
	int status;

	CHECK_EQ(try_open("size=64M"), 0);
	CHECK_EQ(store(0, 64), 0);
	CHECK_EQ(file_fork(dev.priv, PGMAP_FORK_PREPARE), 0);
	child = fork();
	if (!child) {
		inside()->pid = 0; /* no such directory in /proc */
		if (file_fork(dev.priv, PGMAP_FORK_CHILD) >= 0)
			_exit(1);
		if (dev_load(&dev, 0, 1, b) != -EIO ||
		    dev_store(&dev, 64, 1, a) != -EIO)
			_exit(2);
		dev_discard(&dev, 0, 64);
		dev_close(&dev);
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	check_pages(0, 64);
	CHECK_EQ(used(), 64);
	for (uint32_t i = 0; i < 64; i++)
		CHECK(pg_load(&inside()->counts[inside()->table[i] - 1],
			      relaxed) >= 1);
	dev_discard(&dev, 0, 64);
	dev_close(&dev);
}

TEST_MAIN()
