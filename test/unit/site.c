/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Tests of src/runtime/site.c, on the C library of this machine and on the
 * functions below, which no compiler would write. They are only read.
 */
#include "runtime/site.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/buffers.h"
#include "test.h"

/* "site name, [number]": a function of this file with one system call. */
__asm__(".pushsection .text\n"
	".macro site name\n"
	".globl \\name\n.type \\name, @function\n\\name: .cfi_startproc\n"
	"nop\n"
	".endm\n"
	".macro end\n"
	"ret\n.cfi_endproc\n"
	".endm\n"
	"site plain\n"
	"	mov $9, %eax\n	syscall\n"
	"end\n"
	"site not_wanted\n"
	"	mov $39, %eax\n	syscall\n"
	"end\n"
	"site through_registers\n"
	"	mov $28, %r9d\n	mov %r9d, %ecx\n	call plain\n"
	"1:	mov %ecx, %eax\n	mov $0, %edi\n	syscall\n"
	"	jmp 1b\n"
	"end\n"
	"site futex_through_a_register\n"
	"	mov $202, %r12d\n"
	"1:	mov %r12d, %eax\n	syscall\n	jmp 1b\n"
	"end\n"
	"site from_memory\n"
	"	mov 8(%rsp), %rax\n	syscall\n"
	"end\n"
	"site after_a_call\n"
	"	mov $9, %eax\n	call plain\n	mov %rsp, %rdi\n"
	"	mov %rsp, %rsi\n	syscall\n"
	"end\n"
	/* Who jumps to 1 brings another number. */
	"site joined\n"
	"	test %edi, %edi\n	je 1f\n	mov $39, %eax\n"
	"1:	mov %r8, %r10\n	mov %r9, %rdx\n	syscall\n"
	"end\n"
	"site jumped_into\n"
	"	test %edi, %edi\n	je 1f\n"
	"	mov %r9d, %eax\n"
	"1:	xor %edx, %edx\n	syscall\n	ret\n"
	"end\n"
	"site jumped_into_but_with_a_tail\n"
	"	test %edi, %edi\n	je 1f\n"
	"	mov %r9d, %eax\n"
	"1:	xor %edx, %edx\n	syscall\n"
	"	cmp $-4095, %rax\n"
	"end\n"
	"site jumped_to\n"
	"	mov $11, %eax\n	test %edi, %edi\n	je 1f\n"
	"	mov $9, %eax\n"
	"1:	syscall\n	mov %eax, %edx\n	nop\n"
	"end\n"
	"site jumped_to_from_far\n"
	"	mov %r9d, %eax\n"
	"far_away_label:\n"
	"	xor %edx, %edx\n	syscall\n	ret\n"
	"end\n"
	".space 300, 0x90\n"
	"site far_away\n"
	"	jne far_away_label\n"
	"end\n"
	"site with_a_table\n"
	"	mov %r9d, %eax\n	xor %edx, %edx\n	syscall\n"
	"	cmp $-4095, %rax\n	jmp *%rax\n"
	"end\n"
	"site table_but_one_instruction\n"
	"	mov $9, %eax\n	syscall\n	jmp *%rax\n"
	"end\n"
	"site bound_to_its_place\n"
	"	lea plain(%rip), %rax\n	syscall\n	call plain\n"
	"end\n"
	"site too_short\n"
	"	call plain\n	nop\n	syscall\n	nop\n"
	"end\n"
	"site two_in_a_row\n"
	"	mov $9, %eax\n	syscall\n	mov %edi, %esi\n"
	"	mov %eax, %edi\n	mov $11, %eax\n	syscall\n"
	"end\n"
	"site tail_runs_into_head\n"
	"	mov $11, %eax\n	jmp 1f\n	nop\n"
	"1:	syscall\n	mov $11, %eax\n	syscall\n"
	"end\n"
	".globl sites_end\nsites_end:\n"
	/* libc's clone() ends its unwind data before the system call */
	"site clone_like\n"
	"	mov $56, %eax\n	.cfi_endproc\n"
	"	syscall\n	test %rax, %rax\n	ret\n"
	"	.cfi_startproc\n	nop\n"
	"end\n"
	".popsection");

#define FUNCTIONS(F)                                                           \
	F(plain)                                                               \
	F(not_wanted)                                                          \
	F(through_registers)                                                   \
	F(futex_through_a_register)                                            \
	F(from_memory)                                                         \
	F(after_a_call)                                                        \
	F(joined)                                                              \
	F(jumped_into)                                                         \
	F(jumped_into_but_with_a_tail)                                         \
	F(jumped_to)                                                           \
	F(jumped_to_from_far)                                                  \
	F(far_away)                                                            \
	F(with_a_table)                                                        \
	F(table_but_one_instruction)                                           \
	F(bound_to_its_place)                                                  \
	F(too_short)                                                           \
	F(two_in_a_row)                                                        \
	F(tail_runs_into_head)                                                 \
	F(clone_like)
#define DECLARE(f) void f(void);
FUNCTIONS(DECLARE)
void sites_end(void);

static struct pg_site_list list;

static int find_base(struct dl_phdr_info *info, size_t size, void *base)
{
	(void)size;
	*(uintptr_t *)base = info->dlpi_addr;
	return 1; /* the program comes first */
}

/* The @nth site of function @f, NULL if there is none. */
static const struct pg_site *site_of(void (*f)(void), unsigned int nth)
{
	uintptr_t base, end = UINTPTR_MAX;

	if (!list.nr_sites)
		CHECK_EQ(pg_site_find("/proc/self/exe", false, &list), 0);
	dl_iterate_phdr(find_base, &base);
#define NEXT(g)                                                                \
	if ((uintptr_t)g > (uintptr_t)f && (uintptr_t)g < end)                 \
		end = (uintptr_t)g;
	FUNCTIONS(NEXT)
	for (uint32_t i = 0; i < list.nr_sites; i++) {
		uintptr_t at = base + list.sites[i].offset;

		if (at >= (uintptr_t)f && at < end && at < (uintptr_t)f + 64 &&
		    nth-- == 0)
			return &list.sites[i];
	}
	return NULL;
}

static void check_site(void (*f)(void), enum pg_site_kind kind, int nr, int len)
{
	const struct pg_site *s = site_of(f, 0);

	CHECK(s != NULL);
	CHECK_EQ(s->kind, kind);
	CHECK_EQ(s->nr, nr);
	if (kind != PG_SITE_NONE)
		CHECK_EQ(s->len, len);
	CHECK(!site_of(f, 1));
}

TEST(the_instruction_that_names_the_number_is_covered)
{
	const uint8_t mov_9_eax[] = {0xb8, 9, 0, 0, 0};

	check_site(plain, PG_SITE_HEAD, 9, 5);
	CHECK_EQ(memcmp(site_of(plain, 0)->bytes, mov_9_eax, 5), 0);
	check_site(clone_like, PG_SITE_HEAD, 56, 5);
}

TEST(numbers_that_nobody_wants_are_not_listed)
{
	CHECK(!site_of(not_wanted, 0));
	CHECK(!site_of(futex_through_a_register, 0));
}

TEST(a_number_is_followed_through_registers_while_it_is_certain)
{
	check_site(through_registers, PG_SITE_HEAD, 28, 5);
}

TEST(a_number_that_is_not_certain_is_unknown)
{
	check_site(from_memory, PG_SITE_HEAD, -1, 5);
	check_site(after_a_call, PG_SITE_HEAD, -1, 6);
	check_site(joined, PG_SITE_HEAD, -1, 6);
}

TEST(a_place_that_something_jumps_into_is_not_covered)
{
	check_site(jumped_into, PG_SITE_NONE, -1, 0);
	check_site(jumped_into_but_with_a_tail, PG_SITE_TAIL, -1, 8);
	check_site(jumped_to, PG_SITE_TAIL, -1, 5);
	check_site(jumped_to_from_far, PG_SITE_NONE, -1, 0);
}

TEST(a_computed_jump_allows_only_one_covered_instruction)
{
	check_site(with_a_table, PG_SITE_NONE, -1, 0);
	check_site(table_but_one_instruction, PG_SITE_HEAD, 9, 5);
}

TEST(instructions_that_mean_another_thing_elsewhere_are_not_moved)
{
	check_site(bound_to_its_place, PG_SITE_NONE, -1, 0);
	check_site(too_short, PG_SITE_NONE, -1, 0);
}

TEST(neighbours_do_not_want_the_same_bytes)
{
	const struct pg_site *a = site_of(two_in_a_row, 0);
	const struct pg_site *b = site_of(two_in_a_row, 1);

	CHECK(a && a->kind == PG_SITE_HEAD && a->nr == 9);
	CHECK(b && b->kind == PG_SITE_HEAD && b->nr == 11);
	CHECK(b->offset >= a->offset + a->len + 2u);
	a = site_of(tail_runs_into_head, 0);
	b = site_of(tail_runs_into_head, 1);
	CHECK(a && a->kind == PG_SITE_TAIL);
	CHECK(b && b->kind == PG_SITE_NONE);
}

/* --- the C library ------------------------------------------------------- */

static const char *const kind_name[] = {"none", "head", "tail"};

static void print_sites(const char *path)
{
	printf("# %s\n", path);
	for (uint32_t i = 0; i < list.nr_sites; i++) {
		const struct pg_site *s = &list.sites[i];

		printf("# %8x %s nr %4d len %2u ", s->offset,
		       kind_name[s->kind], s->nr, s->len);
		for (int k = 0; k < s->len; k++)
			printf(" %02x", s->bytes[k]);
		printf("\n");
	}
}

/* List the sites of library @name, which is loaded; its handle. */
static void *sites_of(const char *name)
{
	struct timespec from, to;
	struct link_map *map;
	void *library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
	double ms;

	CHECK(library != NULL);
	CHECK_EQ(dlinfo(library, RTLD_DI_LINKMAP, &map), 0);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	CHECK_EQ(pg_site_find(map->l_name, false, &list), 0);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
	ms = (double)(to.tv_sec - from.tv_sec) * 1e3 +
	     (double)(to.tv_nsec - from.tv_nsec) / 1e6;
	printf("# %s: %u sites in %.1f ms\n", map->l_name, list.nr_sites, ms);
	if (getenv("PGMAP_VERBOSE"))
		print_sites(map->l_name);
	return library;
}

static bool can_be_rewritten(int nr, uintptr_t from, uintptr_t to)
{
	for (uint32_t i = 0; i < list.nr_sites; i++) {
		const struct pg_site *s = &list.sites[i];

		if (s->kind != PG_SITE_NONE && s->nr == nr &&
		    s->offset >= from && s->offset < to)
			return true;
	}
	return false;
}

TEST(every_call_of_libc_that_uses_memory_can_be_rewritten)
{
	static const char *const names[] = {"libc.so.6",
					    "ld-linux-x86-64.so.2"};
	static const int some[] = {SYS_read,	SYS_openat, SYS_newfstatat,
				   SYS_recvmsg, SYS_futex,  SYS_rt_sigaction};
	struct link_map *map;
	uint32_t few;

	for (size_t i = 0; i < 2; i++) {
		void *library = sites_of(names[i]);

		few = list.nr_sites;
		CHECK_EQ(dlinfo(library, RTLD_DI_LINKMAP, &map), 0);
		CHECK_EQ(pg_site_find(map->l_name, true, &list), 0);
		CHECK(list.nr_sites > few);
		for (uint32_t k = 0; k < list.nr_sites; k++) {
			const struct pg_site *s = &list.sites[k];

			CHECK(s->nr != SYS_rt_sigreturn && s->nr != SYS_vfork);
			CHECK(s->kind != PG_SITE_NONE ||
			      (s->nr >= 0 && !pg_buffers_has(s->nr)));
		}
		for (size_t k = 0; k < sizeof(some) / sizeof(*some) && !i; k++)
			CHECK(can_be_rewritten(some[k], 0, UINT32_MAX));
		dlclose(library);
	}
}

TEST(every_call_of_libc_that_changes_memory_can_be_rewritten)
{
	const struct {
		const char *name;
		int nr;
	} wanted[] = {
		{"mmap", SYS_mmap},
		{"munmap", SYS_munmap},
		{"mremap", SYS_mremap},
		{"brk", SYS_brk},
		{"madvise", SYS_madvise},
		{"mprotect", SYS_mprotect},
		{"_Fork", SYS_clone},
		{"clone", SYS_clone},
		{"execve", SYS_execve},
		{"mlock", SYS_mlock},
		{"munlock", SYS_munlock},
		{"mlockall", SYS_mlockall},
		{"ioctl", SYS_ioctl},
		{"vmsplice", SYS_vmsplice},
		{"_exit", SYS_exit_group},
		{"execveat", SYS_execveat},
		{"setsockopt", SYS_setsockopt},
		{"syscall", -1},
	};
	void *libc = sites_of("libc.so.6");

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		void *f = dlsym(libc, wanted[i].name);
		const ElfW(Sym) * symbol;
		Dl_info info;
		uintptr_t at;

		if (!f)
			fail_msg("no %s", wanted[i].name);
		CHECK(dladdr1(f, &info, (void **)(uintptr_t)&symbol,
			      RTLD_DL_SYMENT));
		at = (uintptr_t)f - (uintptr_t)info.dli_fbase;
		if (!can_be_rewritten(wanted[i].nr, at, at + symbol->st_size))
			fail_msg("%s cannot be rewritten", wanted[i].name);
	}
	/* which has no public name */
	CHECK(can_be_rewritten(SYS_clone3, 0, UINTPTR_MAX));
	for (uint32_t i = 0; i < list.nr_sites; i++)
		CHECK(list.sites[i].kind != PG_SITE_NONE);
	dlclose(libc);
}

TEST(every_call_of_ld_so_that_changes_memory_can_be_rewritten)
{
	dlclose(sites_of("ld-linux-x86-64.so.2"));
	CHECK(can_be_rewritten(SYS_mmap, 0, UINTPTR_MAX));
	CHECK(can_be_rewritten(SYS_munmap, 0, UINTPTR_MAX));
	CHECK(can_be_rewritten(SYS_mprotect, 0, UINTPTR_MAX));
	CHECK(can_be_rewritten(SYS_brk, 0, UINTPTR_MAX));
}

/* --- bad input ----------------------------------------------------------- */

TEST(what_is_not_a_library_is_refused)
{
	CHECK_EQ(pg_site_find("/nowhere", false, &list), -ENOENT);
	CHECK_EQ(pg_site_find("/proc", false, &list), -ENOEXEC);
	CHECK_EQ(pg_site_find("/dev/null", false, &list), -ENOEXEC);
	CHECK_EQ(pg_site_find("/etc/passwd", false, &list), -ENOEXEC);
}

TEST(a_damaged_library_is_survived)
{
	uint64_t seed = test_seed();
	char path[64];
	struct stat st;
	uint8_t *good, *bad;
	int fd, file;

	fd = open("/proc/self/exe", O_RDONLY);
	CHECK(fd >= 0 && fstat(fd, &st) == 0);
	good = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	CHECK(good != MAP_FAILED);
	file = memfd_create("damaged", 0);
	CHECK_EQ(ftruncate(file, st.st_size), 0);
	bad = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		   file, 0);
	CHECK(bad != MAP_FAILED);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	for (int round = 0; round < 300; round++) {
		const ElfW(Ehdr) *e = (const void *)good;
		const ElfW(Phdr) *p = (const void *)(good + e->e_phoff);
		size_t from = 0,
		       len = (size_t)e->e_phoff + e->e_phnum * sizeof(*p);
		size_t size = (size_t)st.st_size;

		/* headers, then the unwind data, then anything; or an end */
		for (int i = 0; i < e->e_phnum; i++)
			if (round % 3 == 1 && p[i].p_type == PT_GNU_EH_FRAME) {
				from = p[i].p_offset;
				len = p[i].p_filesz + 4096;
			}
		if (round % 3 == 2)
			len = size;
		if (round % 4 == 3)
			size = test_random(&seed) % size;
		CHECK_EQ(ftruncate(file, st.st_size), 0);
		memcpy(bad, good, (size_t)st.st_size);
		for (int i = 0; i < 1 + round % 8; i++)
			bad[(from + test_random(&seed) % len) %
			    (size_t)st.st_size] = (uint8_t)test_random(&seed);
		CHECK_EQ(ftruncate(file, (off_t)size), 0);
		pg_site_find(path, false, &list);
		CHECK(list.nr_sites <= PG_SITE_MAX);
		for (uint32_t i = 0; i < list.nr_sites; i++)
			CHECK(list.sites[i].kind == PG_SITE_NONE ||
			      (list.sites[i].len >= PG_SITE_JUMP &&
			       list.sites[i].len <= PG_SITE_BYTES));
	}
	munmap(bad, (size_t)st.st_size);
	munmap(good, (size_t)st.st_size);
	close(file);
	close(fd);
	list.nr_sites = 0;
}

TEST_MAIN()
