/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A program with devices that mirror its memory: run by `pgmap run --dmirror`.
 * It knows nothing of pgmap but the files in /dev.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

#define PAGE ((size_t)4096)
#define NR 64

struct command {
	uint64_t addr, ptr, npages, cpages, faults;
};

enum {
	READ,
	WRITE,
	TO_DEVICE,
	TO_SYSTEM,
	SNAPSHOT,
	EXCLUSIVE,
	CHECK_EXCLUSIVE,
	RELEASE
};

static char other[NR * PAGE];
static struct command last;

static int command(int fd, unsigned int nr, void *va, size_t pages)
{
	last = (struct command){.addr = (uintptr_t)va,
				.ptr = (uintptr_t)other,
				.npages = pages};
	return ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 'H', nr, sizeof(last)),
		     &last)
		       ? -errno
		       : 0;
}

static int device(int unit)
{
	char name[] = "/dev/hmm_dmirror0";
	int fd;

	name[sizeof(name) - 2] = (char)('0' + unit);
	fd = open(name, O_RDWR);
	CHECK(fd >= 0);
	return fd;
}

static char *map(void)
{
	char *p = mmap(NULL, NR * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	for (size_t i = 0; i < NR; i++)
		p[i * PAGE + i] = (char)(i + 1);
	return p;
}

static void check_filled(const char *p)
{
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(p[i * PAGE + i], i + 1);
}

/* How many pages the kernel has there. */
static size_t present(const char *p)
{
	uint64_t entry[NR];
	int fd = open("/proc/self/pagemap", O_RDONLY);
	size_t n = 0;

	CHECK_EQ(pread(fd, entry, sizeof(entry),
		       (off_t)((uintptr_t)p / PAGE * 8)),
		 sizeof(entry));
	close(fd);
	for (size_t i = 0; i < NR; i++)
		n += entry[i] >> 63;
	return n;
}

TEST(R86_what_is_on_a_private_unit_is_absent_and_comes_back_when_touched)
{
	int fd = device(0);
	char *p = map();

	CHECK_EQ(present(p), NR);
	CHECK_EQ(command(fd, TO_DEVICE, p, NR), 0);
	CHECK_EQ(last.cpages, NR);
	CHECK_EQ(present(p), 0);
	check_filled(other);
	check_filled(p);
	CHECK_EQ(present(p), NR);
	munmap(p, NR * PAGE);
	close(fd);
}

TEST(R2_what_is_on_a_coherent_unit_is_used_there)
{
	int fd = device(2);
	char *p = map();

	CHECK_EQ(command(fd, TO_DEVICE, p, NR), 0);
	CHECK_EQ(present(p), NR);
	CHECK_EQ(command(fd, SNAPSHOT, p, NR), 0);
	CHECK_EQ(other[3], 0x42);
	p[3 * PAGE] = 9;
	CHECK_EQ(command(fd, SNAPSHOT, p, NR), 0);
	CHECK_EQ(other[3], 0x42);
	CHECK_EQ(command(fd, TO_SYSTEM, p, NR), 0);
	CHECK_EQ(last.cpages, NR);
	munmap(p, NR * PAGE);
	close(fd);
}

TEST(R175_one_round_of_faults_fills_the_table)
{
	int fd = device(0);
	char *p = map();

	CHECK_EQ(command(fd, READ, p, NR), 0);
	CHECK_EQ(last.faults, 1);
	CHECK_EQ(last.cpages, NR);
	check_filled(other);
	CHECK_EQ(command(fd, READ, p, NR), 0);
	CHECK_EQ(last.faults, 0);
	munmap(p, NR * PAGE);
	close(fd);
}

TEST(R101_a_release_brings_back_what_the_unit_has)
{
	int fd = device(0), second = device(1);
	char *p = map();

	CHECK_EQ(command(fd, TO_DEVICE, p, NR / 2), 0);
	CHECK_EQ(command(second, TO_DEVICE, p + NR / 2 * PAGE, NR / 2), 0);
	CHECK_EQ(present(p), 0);
	CHECK_EQ(command(fd, RELEASE, p, 1), 0);
	CHECK_EQ(present(p), NR / 2);
	close(second);
	CHECK_EQ(present(p), NR);
	check_filled(p);
	munmap(p, NR * PAGE);
	close(fd);
}

TEST(R171_the_device_writes_where_the_page_is)
{
	int fd = device(0);
	char *p = map();

	CHECK_EQ(command(fd, TO_DEVICE, p, NR), 0);
	for (size_t i = 0; i < NR; i++)
		other[i * PAGE + i] = (char)(i + 2);
	CHECK_EQ(command(fd, WRITE, p, NR), 0);
	CHECK_EQ(last.faults, 0);
	CHECK_EQ(present(p), 0);
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(p[i * PAGE + i], i + 2);
	munmap(p, NR * PAGE);
	close(fd);
}

TEST(N32_what_was_unmapped_is_not_read_again)
{
	int fd = device(0);
	char *p = map(), *q;

	CHECK_EQ(command(fd, READ, p, NR), 0);
	munmap(p, NR * PAGE);
	CHECK_EQ(command(fd, READ, p, NR), -EFAULT);
	q = mmap(p, NR * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(q == p);
	CHECK_EQ(command(fd, READ, p, NR), 0);
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(other[i * PAGE + i], 0);
	CHECK_EQ(command(fd, TO_DEVICE, p, NR), 0);
	CHECK_EQ(madvise(p, NR * PAGE, MADV_DONTNEED), 0);
	p[0] = 4;
	CHECK_EQ(command(fd, READ, p, NR), 0);
	CHECK_EQ(other[0], 4);
	munmap(p, NR * PAGE);
	close(fd);
}

TEST(R98_what_may_not_be_written_any_more_is_not)
{
	int fd = device(0);
	char *p = map();

	CHECK_EQ(command(fd, WRITE, p, NR), 0);
	CHECK_EQ(command(fd, TO_DEVICE, p, NR), 0);
	CHECK_EQ(mprotect(p, NR * PAGE, PROT_READ), 0);
	CHECK_EQ(command(fd, WRITE, p, NR), -EPERM);
	CHECK_EQ(command(fd, READ, p, NR), 0);
	CHECK_EQ(mprotect(p, NR * PAGE, PROT_NONE), 0);
	CHECK_EQ(command(fd, READ, p, NR), -EFAULT);
	munmap(p, NR * PAGE);
	close(fd);
}

TEST(R99_what_is_away_moves_with_its_mapping)
{
	int fd = device(0);
	char *p = map(), *q;

	CHECK_EQ(command(fd, TO_DEVICE, p, NR), 0);
	q = mremap(p, NR * PAGE, 2 * NR * PAGE, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED);
	CHECK_EQ(present(q), 0);
	CHECK_EQ(command(fd, READ, q, NR), 0);
	check_filled(other);
	check_filled(q);
	munmap(q, 2 * NR * PAGE);
	close(fd);
}

TEST(R177_what_a_device_has_for_itself_is_absent_until_it_is_touched)
{
	int fd = device(0);
	char *p = map();

	CHECK_EQ(command(fd, EXCLUSIVE, p, NR), 0);
	CHECK_EQ(last.cpages, NR);
	check_filled(other);
	CHECK_EQ(present(p), 0);
	CHECK_EQ(command(fd, CHECK_EXCLUSIVE, p, NR), -EPERM);
	for (size_t i = 0; i + 1 < NR; i++)
		p[i * PAGE + i]++;
	CHECK_EQ(command(fd, CHECK_EXCLUSIVE, p, NR), -EPERM);
	CHECK_EQ(p[(NR - 1) * PAGE + NR - 1], NR);
	CHECK_EQ(command(fd, CHECK_EXCLUSIVE, p, NR), 0);
	munmap(p, NR * PAGE);
	close(fd);
}

TEST(R96_a_child_has_its_own_pages_and_needs_its_own_mirror)
{
	int fd = device(0), status = 0;
	char *p = map();
	pid_t pid;

	CHECK_EQ(command(fd, TO_DEVICE, p, NR), 0);
	pid = fork();
	if (!pid) {
		bool ok = command(fd, READ, p, NR) == -EFAULT;

		fd = open("/dev/hmm_dmirror0", O_RDWR);
		ok = ok && !command(fd, READ, p, NR) && other[PAGE + 1] == 2;
		memset(other, 9, sizeof(other));
		ok = ok && !command(fd, WRITE, p, NR) && p[PAGE + 1] == 9;
		_exit(!ok);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	check_filled(p);
	munmap(p, NR * PAGE);
	close(fd);
}

TEST(R87_own_pages_of_a_private_file_mapping_move_and_the_files_do_not)
{
	int fd = device(0), file = memfd_create("file", 0);
	char *p;

	CHECK_EQ(ftruncate(file, NR * PAGE), 0);
	CHECK_EQ(pwrite(file, "file", 4, 5 * PAGE), 4);
	p = mmap(NULL, NR * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	CHECK(p != MAP_FAILED);
	for (size_t i = 0; i < 4; i++)
		p[i * PAGE] = (char)(i + 1);
	CHECK_EQ(command(fd, TO_DEVICE, p, 4), 0);
	CHECK_EQ(last.cpages, 4);
	CHECK_EQ(command(fd, TO_DEVICE, p + 5 * PAGE, 1), -ENOENT);
	for (size_t i = 0; i < 4; i++)
		CHECK_EQ(p[i * PAGE], i + 1);
	CHECK_EQ(memcmp(p + 5 * PAGE, "file", 4), 0);
	munmap(p, NR * PAGE);
	close(file);
	close(fd);
}

TEST(R72_bad_ranges_and_commands_are_refused)
{
	int fd = device(0);
	char *p = map();

	CHECK_EQ(command(fd, READ, p + 1, 1), -EINVAL);
	CHECK_EQ(command(fd, READ, p, 0), -EINVAL);
	CHECK_EQ(command(fd, READ, p, SIZE_MAX / 2), -EINVAL);
	CHECK_EQ(command(fd, 99, p, 1), -EINVAL);
	CHECK_EQ(munmap(p + PAGE, PAGE), 0);
	CHECK_EQ(command(fd, TO_DEVICE, p, 2), -EINVAL);
	CHECK_EQ(ioctl(fd,
		       _IOC(_IOC_READ | _IOC_WRITE, 'H', READ, sizeof(last)),
		       8),
		 -1);
	CHECK_EQ(errno, EFAULT);
	munmap(p, NR * PAGE);
	close(fd);
	CHECK_EQ(command(fd, READ, p, 1), -EBADF);
}

TEST(the_name_of_a_device_may_lie_across_two_pages)
{
	char *p = map(), *name = p + PAGE - 9;
	int fd;

	memcpy(name, "/dev/hmm_dmirror1", 18);
	fd = open(name, O_RDWR);
	CHECK(fd >= 0);
	close(fd);
	munmap(p, NR * PAGE);
}

static _Atomic(bool) stop;

static void *hammer(void *arg)
{
	_Atomic(uint64_t) *word = arg;

	while (!stop)
		(*word)++;
	return NULL;
}

/* Each store is in RAM, or on the device, or in between: never lost. */
TEST(R76_no_store_is_lost_while_a_page_goes_to_and_fro)
{
	int fd = device(0);
	char *p = map();
	_Atomic(uint64_t) *word = (void *)p;
	uint64_t was = 0, now;
	pthread_t thread;

	*word = 0;
	stop = false;
	CHECK_EQ(pthread_create(&thread, NULL, hammer, p), 0);
	for (size_t i = 0; i < 500; i++) {
		int ret = command(fd, i % 2 ? READ : TO_DEVICE, p, 4);

		CHECK(!ret || ret == -ENOENT || ret == -EBUSY);
		if (ret)
			continue;
		memcpy(&now, other, sizeof(now));
		CHECK(now >= was);
		was = now;
	}
	stop = true;
	pthread_join(thread, NULL);
	CHECK(*word >= was);
	munmap(p, NR * PAGE);
	close(fd);
}

TEST_MAIN()
