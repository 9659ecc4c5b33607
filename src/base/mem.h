/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mem.h - memory of pgmap's own.
 *
 * Everything that runs in a fault, in an eviction or in a driver takes its
 * memory here: private anonymous mappings that are never managed, zero-filled,
 * backed only where touched. fork() copies them as it does any memory. They lie
 * far from the program's own, so that what it writes behind its buffers does
 * not end here.
 */
#ifndef PG_MEM_H
#define PG_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * pg_mem_map() - Reserve zero-filled memory that is backed when touched.
 * @size: Bytes; rounded up to a page.
 *
 * Context: Any; four system calls. The mapping is listed, so that
 *          pg_mem_is_own() knows it. It is never backed by huge pages.
 * Return: page-aligned memory, or NULL when there is none.
 */
void *pg_mem_map(size_t size);

/** pg_mem_map_aligned() - As pg_mem_map(), at a multiple of @align (a power of
 * two of at least a page). */
void *pg_mem_map_aligned(size_t size, size_t align);

/** pg_mem_unmap() - Give back what pg_mem_map() gave; NULL is fine. */
void pg_mem_unmap(void *p, size_t size);

/** pg_mem_drop() - Give the pages of a part back; it reads as zeros again.
 * @p and @size are multiples of a page. */
void pg_mem_drop(void *p, size_t size);

/** pg_mem_place() - Return: a good address for a mapping of @len bytes that is
 * made past pg_mem_map(), far from the program's. */
uintptr_t pg_mem_place(size_t len);

/** pg_mem_mapped() - Return: bytes that are mapped now, backed or not. */
uint64_t pg_mem_mapped(void);

/** pg_mem_unlock() - After mlockall(): only the program's memory is meant. */
void pg_mem_unlock(void);

/** pg_mem_is_own() - Does [@addr, @addr + @len) touch memory of pgmap's own?
 * While another thread maps or unmaps it may say yes where it should say no;
 * it never says no to memory of ours that can be accessed.
 * Context: any thread; lock-free. */
bool pg_mem_is_own(uintptr_t addr, size_t len);
/** pg_mem_first_own() - As pg_mem_is_own(). @own, @end: the mapping of ours
 * that begins first of those that it touches. */
bool pg_mem_first_own(uintptr_t addr, size_t len, uintptr_t *own,
		      uintptr_t *end);

/** pg_mem_fail_nth() - Tests: make the @nth call of pg_mem_map() from now
 * fail, once; 0 switches it off. Return: calls that were left before one would
 * have failed; 0: it has, or there was none to. */
unsigned int pg_mem_fail_nth(unsigned int nth);

#endif
