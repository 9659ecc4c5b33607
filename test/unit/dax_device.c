/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dax/device.h"
#include "test.h"

#define MB (1ull << 20)

static char error[256];

static int try_open(const char *path, uint64_t bytes, uint64_t align,
		    unsigned int flags, struct pgmap_dax **dax)
{
	struct pgmap_dax_config config = {
		.size = sizeof(config),
		.path = path,
		.bytes = bytes,
		.align = align,
		.flags = flags,
	};

	error[0] = 0;
	*dax = NULL;
	return pgmap_dax_open(&config, dax, error, sizeof(error));
}

static void said(const char *what)
{
	if (!strstr(error, what))
		fail_msg("\"%s\" does not tell \"%s\"", error, what);
}

/* A name for a file that is not there, on a disk or, @memory, on tmpfs. */
static void temporary(char path[64], bool memory)
{
	int fd;

	snprintf(path, 64, "%s/pgmap-dax-XXXXXX", memory ? "/dev/shm" : "/tmp");
	fd = mkstemp(path);
	CHECK(fd >= 0);
	close(fd);
	unlink(path);
}

TEST(a_file_of_either_kind_is_made_mapped_and_kept)
{
	for (int memory = 0; memory < 2; memory++) {
		struct pgmap_dax_info info = {.size = sizeof(info)};
		struct pgmap_dax *dax;
		char path[64];

		temporary(path, memory);
		CHECK_EQ(try_open(path, 4 * MB, 2 * MB, PGMAP_DAX_CREATE, &dax),
			 0);
		CHECK_EQ(pgmap_dax_get_info(dax, &info), 0);
		CHECK_EQ(info.bytes, 4 * MB);
		CHECK_EQ(info.align, 2 * MB);
		CHECK_EQ((uintptr_t)info.address % (2 * MB), 0);
		strcpy((char *)info.address + 4 * MB - 8, "kept");
		CHECK_EQ(pgmap_dax_flush(dax, 4 * MB - 8, 8), 0);
		CHECK_EQ(pgmap_dax_flush(dax, 4 * MB - 8, 9), -EINVAL);
		CHECK_EQ(pgmap_dax_flush(dax, UINT64_MAX, 9), -EINVAL);
		pgmap_dax_close(dax);
		CHECK_EQ(try_open(path, 0, 0, PGMAP_DAX_READONLY, &dax), 0);
		CHECK_EQ(pgmap_dax_get_info(dax, &info), 0);
		CHECK_EQ(info.bytes, 4 * MB);
		assert_string_equal((char *)info.address + 4 * MB - 8, "kept");
		pgmap_dax_close(dax);
		unlink(path);
	}
}

TEST(a_device_is_one_process_s_unless_it_is_only_read)
{
	struct pgmap_dax *dax, *other;
	char path[64];

	temporary(path, true);
	CHECK_EQ(try_open(path, MB, 0, PGMAP_DAX_CREATE, &dax), 0);
	CHECK_EQ(try_open(path, 0, 0, 0, &other), -EBUSY);
	said("in use");
	CHECK_EQ(try_open(path, 0, 0, PGMAP_DAX_READONLY, &other), -EBUSY);
	pgmap_dax_close(dax);
	CHECK_EQ(try_open(path, 0, 0, PGMAP_DAX_READONLY, &dax), 0);
	CHECK_EQ(try_open(path, 0, 0, PGMAP_DAX_READONLY, &other), 0);
	pgmap_dax_close(other);
	CHECK_EQ(try_open(path, 0, 0, 0, &other), -EBUSY);
	pgmap_dax_close(dax);
	unlink(path);
}

TEST(each_bad_device_has_its_line)
{
	struct pgmap_dax *dax;
	char path[64];

	temporary(path, true);
	CHECK_EQ(try_open(path, 0, 0, 0, &dax), -ENOENT);
	said("no such file");
	CHECK_EQ(try_open(path, 0, 0, PGMAP_DAX_CREATE, &dax), -EINVAL);
	said("is empty; give it a size");
	CHECK_EQ(try_open(path, MB, 0, 0, &dax), -EINVAL);
	said("has only 0 bytes");
	CHECK_EQ(try_open(path, MB, 12345, PGMAP_DAX_CREATE, &dax), -EINVAL);
	said("an alignment is 4K, 2M or 1G");
	CHECK_EQ(try_open(path, MB + 1, 0, PGMAP_DAX_CREATE, &dax), -EINVAL);
	said("no multiple of 4096");
	CHECK_EQ(try_open(path, MB, 2 * MB, PGMAP_DAX_CREATE, &dax), -EINVAL);
	said("no multiple of 2097152");
	CHECK_EQ(try_open(path, 1ull << 60, 0, PGMAP_DAX_CREATE, &dax),
		 -ENOSPC);
	unlink(path);
	CHECK_EQ(try_open("/dev/null", 0, 0, 0, &dax), -ENODEV);
	said("is no memory");
	CHECK(try_open("/", 0, 0, PGMAP_DAX_READONLY, &dax) < 0);
	CHECK_EQ(mkfifo(path, 0600), 0);
	CHECK_EQ(try_open(path, 0, 0, 0, &dax), -ENODEV);
	unlink(path);
	CHECK_EQ(try_open(NULL, MB, 0, 64, &dax), -EINVAL);
}

TEST(memory_is_a_device_too)
{
	struct pgmap_dax_info info = {.size = sizeof(info)};
	struct pgmap_dax *dax;

	CHECK_EQ(try_open(NULL, MB, 0, 0, &dax), 0);
	CHECK_EQ(pgmap_dax_get_info(dax, &info), 0);
	assert_string_equal(info.kind, "memory");
	memset(info.address, 1, MB);
	CHECK_EQ(pgmap_dax_flush(dax, 0, MB), 0);
	pgmap_dax_close(dax);
	pgmap_dax_close(NULL);
}

TEST(huge_pages_are_mapped_as_such_or_refused_with_the_way_out)
{
	struct pgmap_dax_info info = {.size = sizeof(info)};
	struct pgmap_dax_config config = {
		.size = sizeof(config),
		.bytes = 4 * MB,
		.huge = 2 * MB,
	};
	struct pgmap_dax *dax;
	int ret = pgmap_dax_open(&config, &dax, error, sizeof(error));

	if (ret) {
		said("nr_hugepages");
		SKIP("this machine has no huge pages to give");
	}
	CHECK_EQ(pgmap_dax_get_info(dax, &info), 0);
	CHECK_EQ(info.page_size, 2 * MB);
	CHECK_EQ(info.align, 2 * MB);
	memset(info.address, 1, 4 * MB);
	pgmap_dax_close(dax);
}

TEST_MAIN()
