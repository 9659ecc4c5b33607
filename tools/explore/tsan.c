/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tsan.c - what instrumented code calls.
 *
 * The compiler's -fsanitize=thread announces every access to memory that
 * another thread might see, and makes a call of every atomic operation. This
 * file is the library behind those calls, in place of the sanitizer's own: so
 * nothing that the code does can pass the explorer by.
 */
#include <string.h>

#include "explore/engine.h"

#define PC __builtin_return_address(0)

static void plain_read(const volatile void *p, size_t size, const void *pc)
{
	if (x.quiet)
		return;
	x.quiet = true;
	x_access((uintptr_t)p, size, A_READ, pc);
	x.quiet = false;
}

static void plain_write(const volatile void *p, size_t size, const void *pc)
{
	if (x.quiet)
		return;
	x.quiet = true;
	x_access((uintptr_t)p, size, A_WRITE, pc);
	x_save((uintptr_t)p, size);
	if (x.running)
		x_overwritten((uintptr_t)p, size);
	x.quiet = false;
}

void __tsan_init(void);
void __tsan_init(void)
{
}

void __tsan_func_entry(const void *pc);
void __tsan_func_entry(const void *pc)
{
	struct x_thread *t = &x.thread[x.me];

	if (t->depth < sizeof(t->frame) / sizeof(t->frame[0]))
		t->frame[t->depth] = pc;
	t->depth++;
}

void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
	x.thread[x.me].depth--;
}

#define PLAIN(size)                                                            \
	void __tsan_read##size(const void *p);                                 \
	void __tsan_read##size(const void *p)                                  \
	{                                                                      \
		plain_read(p, size, PC);                                       \
	}                                                                      \
	void __tsan_write##size(void *p);                                      \
	void __tsan_write##size(void *p)                                       \
	{                                                                      \
		plain_write(p, size, PC);                                      \
	}                                                                      \
	void __tsan_unaligned_read##size(const void *p);                       \
	void __tsan_unaligned_read##size(const void *p)                        \
	{                                                                      \
		plain_read(p, size, PC);                                       \
	}                                                                      \
	void __tsan_unaligned_write##size(void *p);                            \
	void __tsan_unaligned_write##size(void *p)                             \
	{                                                                      \
		plain_write(p, size, PC);                                      \
	}                                                                      \
	void __tsan_volatile_read##size(const volatile void *p);               \
	void __tsan_volatile_read##size(const volatile void *p)                \
	{                                                                      \
		plain_read(p, size, PC);                                       \
	}                                                                      \
	void __tsan_volatile_write##size(volatile void *p);                    \
	void __tsan_volatile_write##size(volatile void *p)                     \
	{                                                                      \
		plain_write(p, size, PC);                                      \
	}

PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

void __tsan_read_range(const void *p, size_t size);
void __tsan_read_range(const void *p, size_t size)
{
	plain_read(p, size, PC);
}

void __tsan_write_range(void *p, size_t size);
void __tsan_write_range(void *p, size_t size)
{
	plain_write(p, size, PC);
}

/* One call of an operation: the engine is not instrumented, but it copies
 * memory, which comes here, too (below). */
#define QUIETLY(type, call)                                                    \
	do {                                                                   \
		bool quiet_ = x.quiet;                                         \
		type ret_;                                                     \
                                                                               \
		x.quiet = true;                                                \
		ret_ = (type)(call);                                           \
		x.quiet = quiet_;                                              \
		return ret_;                                                   \
	} while (0)

#define UPDATE(bits, name, how)                                                \
	uint##bits##_t __tsan_atomic##bits##_##name(                           \
		volatile uint##bits##_t *p, uint##bits##_t v, int order);      \
	uint##bits##_t __tsan_atomic##bits##_##name(                           \
		volatile uint##bits##_t *p, uint##bits##_t v, int order)       \
	{                                                                      \
		QUIETLY(uint##bits##_t,                                        \
			x_update((uintptr_t)p, bits / 8, how, v, order, PC));  \
	}

#define CAS(bits, name)                                                        \
	int __tsan_atomic##bits##_compare_exchange_##name(                     \
		volatile uint##bits##_t *p, uint##bits##_t *expected,          \
		uint##bits##_t v, int order, int failure);                     \
	int __tsan_atomic##bits##_compare_exchange_##name(                     \
		volatile uint##bits##_t *p, uint##bits##_t *expected,          \
		uint##bits##_t v, int order, int failure)                      \
	{                                                                      \
		uint##bits##_t found;                                          \
		bool quiet = x.quiet;                                          \
                                                                               \
		x.quiet = true;                                                \
		found = (uint##bits##_t)x_cas((uintptr_t)p, bits / 8,          \
					      *expected, v, order, failure,    \
					      PC);                             \
		x.quiet = quiet;                                               \
		if (found == *expected)                                        \
			return 1;                                              \
		*expected = found;                                             \
		return 0;                                                      \
	}

#define ATOMIC(bits)                                                           \
	uint##bits##_t __tsan_atomic##bits##_load(                             \
		const volatile uint##bits##_t *p, int order);                  \
	uint##bits##_t __tsan_atomic##bits##_load(                             \
		const volatile uint##bits##_t *p, int order)                   \
	{                                                                      \
		QUIETLY(uint##bits##_t,                                        \
			x_load((uintptr_t)p, bits / 8, order, PC));            \
	}                                                                      \
	void __tsan_atomic##bits##_store(volatile uint##bits##_t *p,           \
					 uint##bits##_t v, int order);         \
	void __tsan_atomic##bits##_store(volatile uint##bits##_t *p,           \
					 uint##bits##_t v, int order)          \
	{                                                                      \
		bool quiet = x.quiet;                                          \
                                                                               \
		x.quiet = true;                                                \
		x_store((uintptr_t)p, bits / 8, v, order, PC);                 \
		x.quiet = quiet;                                               \
	}                                                                      \
	UPDATE(bits, exchange, RMW_SET)                                        \
	UPDATE(bits, fetch_add, RMW_ADD)                                       \
	UPDATE(bits, fetch_sub, RMW_SUB)                                       \
	UPDATE(bits, fetch_and, RMW_AND)                                       \
	UPDATE(bits, fetch_or, RMW_OR)                                         \
	UPDATE(bits, fetch_xor, RMW_XOR)                                       \
	UPDATE(bits, fetch_nand, RMW_NAND)                                     \
	CAS(bits, strong)                                                      \
	CAS(bits, weak)                                                        \
	uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(             \
		volatile uint##bits##_t *p, uint##bits##_t expected,           \
		uint##bits##_t v, int order, int failure);                     \
	uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(             \
		volatile uint##bits##_t *p, uint##bits##_t expected,           \
		uint##bits##_t v, int order, int failure)                      \
	{                                                                      \
		QUIETLY(uint##bits##_t,                                        \
			x_cas((uintptr_t)p, bits / 8, expected, v, order,      \
			      failure, PC));                                   \
	}

ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
	x.quiet = true;
	x_fence(order, PC);
	x.quiet = false;
}

void __tsan_atomic_signal_fence(int order);
void __tsan_atomic_signal_fence(int order)
{
	(void)order;
}

/* ---- Copies: the linker sends every call of these here (--wrap) ---- */

void *__real_memcpy(void *to, const void *from, size_t n);
void *__wrap_memcpy(void *to, const void *from, size_t n);
void *__wrap_memcpy(void *to, const void *from, size_t n)
{
	plain_read(from, n, PC);
	plain_write(to, n, PC);
	return __real_memcpy(to, from, n);
}

void *__real_memmove(void *to, const void *from, size_t n);
void *__wrap_memmove(void *to, const void *from, size_t n);
void *__wrap_memmove(void *to, const void *from, size_t n)
{
	plain_read(from, n, PC);
	plain_write(to, n, PC);
	return __real_memmove(to, from, n);
}

void *__real_memset(void *to, int c, size_t n);
void *__wrap_memset(void *to, int c, size_t n);
void *__wrap_memset(void *to, int c, size_t n)
{
	plain_write(to, n, PC);
	return __real_memset(to, c, n);
}

int __real_memcmp(const void *a, const void *b, size_t n);
int __wrap_memcmp(const void *a, const void *b, size_t n);
int __wrap_memcmp(const void *a, const void *b, size_t n)
{
	plain_read(a, n, PC);
	plain_read(b, n, PC);
	return __real_memcmp(a, b, n);
}

/* Newer compilers call these for the copies in instrumented code. */
void *__tsan_memcpy(void *to, const void *from, size_t n);
void *__tsan_memcpy(void *to, const void *from, size_t n)
{
	return __wrap_memcpy(to, from, n);
}

void *__tsan_memmove(void *to, const void *from, size_t n);
void *__tsan_memmove(void *to, const void *from, size_t n)
{
	return __wrap_memmove(to, from, n);
}

void *__tsan_memset(void *to, int c, size_t n);
void *__tsan_memset(void *to, int c, size_t n)
{
	return __wrap_memset(to, c, n);
}
