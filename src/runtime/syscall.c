/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * syscall.c - rewrite the system calls of libc and ld.so inside the program.
 *
 *   libc            stub                            syscall_entry.S
 *   jmp stub  -->   <what the jump covered>
 *                   wanted? no  --> native
 *                   yes         ------------------> save all, call the hook
 *   syscall   <--   native: jmp                <--  NATIVE
 *   ...       <--   done:   jmp                <--  DONE
 *
 * A HEAD site makes native calls with libc's own instruction, so that a
 * debugger, a profiler, a seccomp filter or an unwinder finds a blocked call
 * where it always was, and the kernel restarts an interrupted one there.
 *
 * What happens when a call is made
 * - in a vfork child, or in the child of posix_spawn: the stub uses the
 *   child's stack only while it runs, below the caller's red zone, and a
 *   native clone or vfork has left nothing there. The hook runs in the other
 *   process's memory, see pg_call_hook_t.
 * - in a signal handler that interrupted a stub or a hook: each call has its
 *   own frame and there is no state beside it, so stubs nest.
 * - and a handler leaves the stub by siglongjmp(): nothing to clean up here.
 *   The hook must not hold a lock then: it blocks signals first.
 * - on a small stack: pg_syscall_stack() says what is used: 2.6 KB where
 *   there is AVX-512, else 1.5 KB, far below what libc grants to a thread at
 *   least. A signal handler that maps memory on an alternate stack of 2 KB
 *   (MINSIGSTKSZ) has no room for it.
 * - by a thread with asynchronous cancellation: its signal can arrive anywhere
 *   but while the hook blocks signals. The entry code carries unwind data, so
 *   unwinding goes on in libc's function. In a stub there is none; it ends
 *   the walk, libc then leaves the thread at once and the cleanup handlers of
 *   outer C++ frames do not run. That window is six instructions.
 *   With deferred cancellation, what is said above holds for those of the
 *   calls we see that are cancellation points: vmsplice(), and, where all
 *   calls are seen that use memory, most of them; see hook.c.
 * - in a thread that libc does not know: nothing here needs thread-local
 *   storage, errno or a stack protector.
 *
 * Not seen: libraries with system call instructions of their own, programs
 * that are linked statically, a second libc in another link-map namespace, and
 * vfork(). What such calls do to managed memory we do not learn.
 */
#include "runtime/syscall.h"

#include <assert.h>
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/atomic.h"
#include "base/mem.h"
#include "runtime/syscall_entry.h"

#define PAGE 4096u
#define NEAR ((int64_t)0x7fe00000) /* reach of a jump, less the object */

/* The code of one site; syscall_entry.S has its form. */
struct stub {
	uint8_t head[16];  /* HEAD: the covered instructions, up to its end */
	uint8_t code[32];  /* the look at the number */
	uint8_t native[8]; /* jump to the system call; TAIL: make it here */
	uint8_t done[24];  /* TAIL: the rest of the covered; jump back */
	void (*entry)(void);
	const uint8_t *table;
	uintptr_t ip; /* behind the system call */
	uint64_t unused;
};

static_assert(offsetof(struct stub, code) == STUB_CODE &&
		      offsetof(struct stub, native) == STUB_NATIVE &&
		      offsetof(struct stub, done) == STUB_DONE &&
		      offsetof(struct stub, entry) == STUB_ENTRY &&
		      offsetof(struct stub, table) == STUB_TABLE &&
		      offsetof(struct stub, ip) == STUB_IP &&
		      sizeof(struct stub) == STUB_SIZE,
	      "syscall_entry.h says otherwise");
static_assert(PG_SITE_BYTES <= sizeof(((struct stub *)0)->head) &&
		      PG_SITE_BYTES - 2 + PG_SITE_JUMP <=
			      sizeof(((struct stub *)0)->done),
	      "a stub is too small");
static_assert(NR_IOCTL == SYS_ioctl && NR_SETSOCKOPT == SYS_setsockopt,
	      "syscall_entry.h says otherwise");

/* Of syscall_entry.S. */
extern const uint8_t pg_syscall_stub[], pg_syscall_stub_end[];
void pg_syscall_entry(void);
int pg_syscall_dispatch(struct pg_call *call);

/* What the entry saves of the vector registers; set by the first install. */
#define HIDDEN __attribute__((visibility("hidden")))
extern uint64_t pg_syscall_vector_size;
extern uint32_t pg_syscall_vector_level;
extern bool pg_syscall_vector_use; /* the CPU tells what is in use */
HIDDEN uint64_t pg_syscall_vector_size;
HIDDEN uint32_t pg_syscall_vector_level;
HIDDEN bool pg_syscall_vector_use;

/* Is a call wanted, by the low byte of its number. Numbers that share a byte
 * with a wanted one go to the hook and are answered NATIVE. */
static uint8_t wanted[256];

/* Are all of ioctl and setsockopt wanted? */
extern uint8_t pg_syscall_want_all;
HIDDEN uint8_t pg_syscall_want_all;

static _Atomic(pg_call_hook_t) hook;

void pg_syscall_set_hook(pg_call_hook_t h)
{
	static const int numbers[] = {PG_SITE_WANTED};

	pg_store(&hook, h, release);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		*(volatile uint8_t *)&wanted[numbers[i] & 0xff] = h != NULL;
}

void pg_syscall_want(long nr)
{
	if (nr == SYS_ioctl || nr == SYS_setsockopt)
		*(volatile uint8_t *)&pg_syscall_want_all = 1;
	*(volatile uint8_t *)&wanted[nr & 0xff] = 1;
}

/* Called by the entry, with the program's vector registers saved. */
HIDDEN int pg_syscall_dispatch(struct pg_call *call)
{
	pg_call_hook_t h = pg_load(&hook, acquire);
	struct pg_call was = *call;

	if (!h || h(call) == PG_CALL_NATIVE)
		return PG_CALL_NATIVE;
	memcpy(call->arg, was.arg, sizeof(was.arg));
	return PG_CALL_DONE;
}

size_t pg_syscall_stack(void)
{
	return 128 /* red zone */ + 3 * 8 + sizeof(struct pg_call) + 16 +
	       (size_t)pg_syscall_vector_size + 63 /* alignment */ +
	       256 /* dispatch, in any build */;
}

/* Choose what the entry saves: every vector register that the system lets
 * programs use. */
static int probe_vectors(void)
{
	const uint32_t avx = 0x6, avx512 = 0xe6; /* bits of XCR0 */
	uint32_t a, b, c, d, xcr0 = 0, high;

	if (pg_syscall_vector_size)
		return 0; /* asked before; each question is slow in a VM */

	if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE))
		__asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
	pg_syscall_vector_level = LEVEL_SSE;
	pg_syscall_vector_size = 16 * 64;
	if ((xcr0 & avx) == avx)
		pg_syscall_vector_level = LEVEL_AVX;
	if ((xcr0 & avx512) == avx512) {
		if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
		    !(b & bit_AVX512BW))
			return -EOPNOTSUPP; /* only Xeon Phi */
		pg_syscall_vector_level = LEVEL_AVX512;
		pg_syscall_vector_size = 32 * 64 + 8 * 8;
	}
	pg_syscall_vector_use =
		__get_cpuid_count(0xd, 1, &a, &b, &c, &d) && (a & 4);
	return 0;
}

/* --- the object in memory ------------------------------------------------ */

static bool has_one_thread(void)
{
	struct stat st;

	/* A directory has a link per entry, and two of its own. */
	return pg_sys(stat, "/proc/self/task", &st) == 0 && st.st_nlink == 3;
}

/* Is [@addr, @addr + @len) text of the object? */
static bool is_text(const Elf64_Phdr *phdr, unsigned int n, uint64_t addr,
		    uint64_t len)
{
	for (unsigned int i = 0; i < n; i++)
		if (phdr[i].p_type == PT_LOAD && (phdr[i].p_flags & PF_X) &&
		    addr >= phdr[i].p_vaddr &&
		    addr + len <= phdr[i].p_vaddr + phdr[i].p_filesz)
			return true;
	return false;
}

/* Is the object at @base the one whose sites @list has? */
static bool is_same(uintptr_t base, const struct pg_site_list *list)
{
	const Elf64_Ehdr *e = (const void *)base;
	const Elf64_Phdr *phdr = (const void *)(base + e->e_phoff);
	bool same_id = false;

	if (memcmp(e->e_ident, ELFMAG, SELFMAG) != 0)
		return false;
	for (unsigned int i = 0; i < e->e_phnum; i++) {
		const uint8_t *id = NULL;

		if (phdr[i].p_type == PT_NOTE &&
		    pg_site_build_id((const void *)(base + phdr[i].p_vaddr),
				     phdr[i].p_filesz, &id) == list->id_len &&
		    list->id_len && memcmp(id, list->id, list->id_len) == 0)
			same_id = true;
	}
	if (!same_id || list->nr_sites > PG_SITE_MAX)
		return false;
	for (uint32_t i = 0; i < list->nr_sites; i++) {
		const struct pg_site *s = &list->sites[i];
		const uint8_t *text = (const void *)(base + s->offset);

		if (s->kind == PG_SITE_NONE)
			continue;
		if (s->len < PG_SITE_JUMP || s->len > PG_SITE_BYTES ||
		    !is_text(phdr, e->e_phnum, s->offset, s->len + 2u) ||
		    memcmp(text, s->bytes, s->len) != 0 ||
		    memcmp(s->kind == PG_SITE_HEAD ? text + s->len : text,
			   "\x0f\x05", 2) != 0)
			return false;
	}
	return true;
}

/* --- writing ------------------------------------------------------------- */

/* The one way that bytes get into executable pages. The kernel writes to a
 * private copy, as it does for a debugger; the mapping stays as it is. */
static int poke(int mem, uintptr_t addr, const void *bytes, size_t len)
{
	long n = pg_sys(pwrite64, mem, bytes, len, addr);

	return n == (long)len ? 0 : -EIO;
}

/* A jump at @from to @to. */
static void put_jump(uint8_t out[PG_SITE_JUMP], uintptr_t from, uintptr_t to)
{
	int32_t rel = (int32_t)(to - (from + PG_SITE_JUMP));

	out[0] = 0xe9;
	memcpy(out + 1, &rel, sizeof(rel));
}

static bool is_near(uintptr_t stubs, uintptr_t base)
{
	int64_t distance = (int64_t)(stubs - base);

	return distance > -NEAR && distance < NEAR;
}

/* Map memory for stubs that the object's text can jump to: where the kernel
 * likes, else at the first free place around the object, below it first: a
 * heap grows upwards. */
static int map_stubs(uintptr_t base, size_t size, void **stubs)
{
	const int64_t step = 16 << 20;
	long p = 0;

	for (int64_t d = 0; d<NEAR; d = d> 0 ? -d : -d + step) {
		p = pg_sys(mmap, d ? base + (uintptr_t)d : 0, size,
			   PROT_READ | PROT_EXEC,
			   MAP_PRIVATE | MAP_ANONYMOUS |
				   (d ? MAP_FIXED_NOREPLACE : 0),
			   -1, 0);
		if (pg_sys_failed(p) && p != -EEXIST && p != -EPERM &&
		    p != -EINVAL)
			return (int)p;
		if (!pg_sys_failed(p) && is_near((uintptr_t)p, base)) {
			*stubs = (void *)p;
			return 0;
		}
		if (!pg_sys_failed(p))
			pg_sys(munmap, p, size);
	}
	return -ENOSPC;
}

/* Fill in the stub that will be at @at for a site at @text. */
static void fill_stub(struct stub *stub, const struct stub *at, uintptr_t text,
		      const struct pg_site *s)
{
	uintptr_t call = s->kind == PG_SITE_HEAD ? text + s->len : text;
	const uint8_t nop6[] = {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00};
	size_t rest = 0;

	memcpy(stub, pg_syscall_stub, sizeof(*stub));
	if (s->kind == PG_SITE_HEAD) {
		memcpy((uint8_t *)stub + offsetof(struct stub, code) - s->len,
		       s->bytes, s->len);
		put_jump(stub->native, (uintptr_t)at->native, call);
	} else {
		memcpy(stub->native, s->bytes, 2);
		memcpy(stub->native + 2, nop6, sizeof(nop6));
		rest = s->len - 2u;
		memcpy(stub->done, s->bytes + 2, rest);
	}
	put_jump(stub->done + rest, (uintptr_t)at->done + rest,
		 call + 2 + rest);
	stub->entry = pg_syscall_entry;
	stub->table = wanted;
	stub->ip = call + 2;
}

static uintptr_t stub_start(const struct pg_site *s, const struct stub *at)
{
	uintptr_t start = (uintptr_t)at->code;

	return s->kind == PG_SITE_HEAD ? start - s->len : start;
}

/* Write the stubs of all sites, in one go. */
static int write_stubs(int mem, const struct pg_syscall_patch *p)
{
	const struct pg_site_list *list = p->list;
	const struct stub *at = p->stubs;
	struct stub *stub = pg_mem_map(p->stubs_size);
	int ret;

	if (!stub)
		return -ENOMEM;
	for (uint32_t i = 0; i < list->nr_sites; i++)
		if (list->sites[i].kind != PG_SITE_NONE)
			fill_stub(&stub[i], &at[i],
				  p->base + list->sites[i].offset,
				  &list->sites[i]);
	ret = poke(mem, (uintptr_t)at, stub, p->stubs_size);
	pg_mem_unmap(stub, p->stubs_size);
	return ret;
}

/* Write the jumps of the sites from @i on that lie close together, with what
 * is between them. Return: 0 with @i behind them, or an error. */
static int write_jumps(int mem, const struct pg_syscall_patch *p, uint32_t *i)
{
	const struct pg_site *first = &p->list->sites[*i];
	const struct stub *stubs = p->stubs;
	uintptr_t text = p->base + first->offset;
	uint8_t run[PAGE];
	size_t len = 0;

	for (; *i < p->list->nr_sites; (*i)++) {
		const struct pg_site *s = &p->list->sites[*i];
		size_t at = s->offset - first->offset;

		if (at + PG_SITE_JUMP > sizeof(run))
			break;
		if (s->kind == PG_SITE_NONE)
			continue;
		memcpy(run + len, (const void *)(text + len),
		       at + PG_SITE_JUMP - len);
		len = at + PG_SITE_JUMP;
		put_jump(run + at, text + at, stub_start(s, &stubs[*i]));
	}
	return len ? poke(mem, text, run, len) : 0;
}

static int restore(int mem, uintptr_t base, const struct pg_site *s)
{
	if (s->kind == PG_SITE_NONE)
		return 0;
	return poke(mem, base + s->offset, s->bytes, PG_SITE_JUMP);
}

/* Code was changed through other addresses than it runs at. */
static void serialize(void)
{
	uint32_t a, b, c, d;

	__cpuid(0, a, b, c, d);
}

static int open_mem(void)
{
	return (int)pg_sys(openat, AT_FDCWD, "/proc/self/mem",
			   O_RDWR | O_CLOEXEC);
}

int pg_syscall_install(uintptr_t base, const struct pg_site_list *list,
		       struct pg_syscall_patch *patch)
{
	uint32_t i = 0;
	int mem, ret;

	if (!has_one_thread())
		return -EBUSY;
	ret = probe_vectors();
	if (ret)
		return ret;
	if (!is_same(base, list))
		return -ESTALE;
	mem = open_mem();
	if (mem < 0)
		return mem;
	*patch = (struct pg_syscall_patch){.base = base, .list = list};
	patch->stubs_size = list->nr_sites * sizeof(struct stub);
	patch->stubs_size += PAGE - patch->stubs_size % PAGE;
	ret = map_stubs(base, patch->stubs_size, &patch->stubs);
	if (ret)
		goto err_close;
	ret = write_stubs(mem, patch);
	while (!ret && i < list->nr_sites)
		ret = write_jumps(mem, patch, &i);
	if (ret)
		goto err_restore;
	serialize();
	pg_sys(close, mem);
	return 0;

err_restore:
	while (i-- > 0)
		restore(mem, base, &list->sites[i]);
	serialize();
	pg_sys(munmap, patch->stubs, patch->stubs_size);
err_close:
	pg_sys(close, mem);
	return ret;
}

void pg_syscall_remove(struct pg_syscall_patch *patch)
{
	int mem = open_mem();

	if (mem < 0)
		return;
	for (uint32_t i = 0; i < patch->list->nr_sites; i++)
		if (restore(mem, patch->base, &patch->list->sites[i])) {
			pg_sys(close, mem);
			return; /* the stubs are still in use */
		}
	serialize();
	pg_sys(close, mem);
	pg_sys(munmap, patch->stubs, patch->stubs_size);
}
