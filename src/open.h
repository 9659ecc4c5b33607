/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * open.h - an instance with its two threads, for src/runtime.
 *
 * F reads the userfaultfd and serves faults, or, where they are signals, those
 * that are handed to it; K evicts ahead of need and does
 * what others ask of it. They share a descriptor table of their own, which no
 * close() of the program reaches, so everything that uses a descriptor (the
 * MMU, a driver on a file) must run on one of them: pg_host_run().
 */
#ifndef PG_OPEN_H
#define PG_OPEN_H

#include <pgmap/pgmap.h>

#include "core/fault.h"
#include "mmu/mmu.h"

/**
 * struct pg_host_hooks - What the runtime adds to an instance.
 * @started: On F, when all is open; again in a fork child.
 * @holds:   NULL, or the faults of system calls cannot be served: who makes
 *           one holds its buffers there.
 * @signal:  Faults are signals, see pg_uffd_config; the thread that gets one
 *           calls pg_host_fault(). The MMU's descriptors are in the program's
 *           table as well, under the same numbers.
 * @tick:    On K, at least every time as many ns have passed as the last call
 *           returned, and after each piece of work.
 */
struct pg_host_hooks {
	void (*started)(void *ctx, struct pg_mmu *mmu);
	uint64_t (*tick)(void *ctx, struct pgmap_mm *mm);
	void *ctx;
	struct pg_holds *holds;
	bool signal;
};

/** pg_open_check() - Can a budget and a folio size be? @ram_name and
 * @folio_name: what the caller knows them as. Return: 0, or -EINVAL and one
 * line in @error. */
int pg_open_check(uint64_t ram, uint64_t folio_size, const char *ram_name,
		  const char *folio_name, char *error, size_t error_len);

/** pg_open_slots() - Pages for which an instance asks its device for slots: a
 * multiple of this machine's RAM, as slots cost nothing until used. */
uint64_t pg_open_slots(void);

/** pg_host_open() - pgmap_mm_create() with @hooks (copied; may be NULL). */
int pg_host_open(const struct pgmap_mm_config *config,
		 const struct pg_host_hooks *hooks, struct pgmap_mm **mm,
		 char *error, size_t error_len);

/**
 * pg_host_run() - Run @fn(@mm, @arg) on K and wait for it.
 *
 * Context: Any thread but F and K; may hold LOCK_MM for writing: K never waits
 * for that lock. Return: what @fn returned.
 */
int pg_host_run(struct pgmap_mm *mm, int (*fn)(struct pgmap_mm *, void *),
		void *arg);

/**
 * pg_host_fault() - Serve a fault on the thread that made it.
 *
 * What needs descriptors of a driver is done by F.
 * Context: any thread but F and K, with all signals blocked, on a stack of
 *          PG_HOST_STACK bytes; holds no lock. Return: DONE, LOST or FOREIGN.
 */
enum pg_fault_result pg_host_fault(struct pgmap_mm *mm, uintptr_t va,
				   uint32_t flags);
#define PG_HOST_STACK ((size_t)48 << 10)

/** pg_host_owns_fd() - Is one of @first .. @last a descriptor of ours in the
 * program's table? Then both are it, the lowest. */
bool pg_host_owns_fd(const struct pgmap_mm *mm, unsigned int *first,
		     unsigned int *last);

/**
 * pg_host_fork_prepare() - Before the program forks: stop everything.
 *
 * On success LOCK_MM is held for writing, K and F are at rest, and one of the
 * next two must follow. Return: 0, or -EAGAIN: the device cannot fork now.
 */
int pg_host_fork_prepare(struct pgmap_mm *mm);
/** pg_host_fork_parent() - In the parent; @failed: there is no child. */
void pg_host_fork_parent(struct pgmap_mm *mm, bool failed);
/**
 * pg_host_fork_child() - In the child, before anything else of it runs: own
 * userfaultfd, own threads. @shares_fds: its descriptor table is its parent's.
 *
 * Return: 0; 1: it cannot be managed (it may have lost the right to), has been
 * given all its memory, and @mm must not be used any more; or a negative
 * errno: pages that are away cannot be had, and the child must not go on.
 */
int pg_host_fork_child(struct pgmap_mm *mm, bool shares_fds);

#endif
