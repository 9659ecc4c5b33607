/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * control.h - the page range that all processes of a tree share, and how a
 * process gets it.
 *
 * `pgmap run` makes a memfd with one struct pg_control in it, sealed at its
 * size. Each process of the tree maps it: it reads there what was configured,
 * counts in a slot of its own, and sees what the others use of the budget.
 * `pgmap stat` maps the same range, read-only.
 *
 * The memfd travels over an abstract unix socket whose name is in the
 * environment (PG_CONTROL_ENV); so does, the other way, a duplicate of each
 * process's userfaultfd, which the parent holds while the process lives.
 *
 * Everything in the range can be written by any process of the tree, so a
 * reader trusts no number in it: lengths and indexes are bounded where they
 * are used. Nobody ever waits for another process through it, except for the
 * short time in which a slot is folded, and then not for a dead one.
 *
 * A slot belongs to one process from the compare-and-set of its pid from 0
 * until it is folded: its counters are then added to those of `ended`, its
 * gauges stop counting, and it is free. Folded are slots of dead processes,
 * by whoever notices first, and the slot that the same pid had before exec.
 */
#ifndef PG_CONTROL_H
#define PG_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <pgmap/run.h>
#include <pgmap/stat.h>

#include "base/atomic.h"
#include "runtime/site.h"

#define PG_CONTROL_ENV "PGMAP_CONTROL"
#define PG_CONTROL_MEMFD "pgmap-control"
#define PG_CONTROL_MAGIC 0x706c6f72746e6370ull
#define PG_CONTROL_VERSION 1u
#define PG_CONTROL_PROCS 256u
#define PG_CONTROL_NAME_MAX 64u
#define PG_CONTROL_SAID 32u
#define PG_CONTROL_LINE 252u

/** struct pg_control_stat - struct pgmap_stat and what was left alone, shared.
 * Written by one process (and by whoever folds), read by all; relaxed. */
struct pg_control_stat {
#define X(name, unit, doc) pg_atomic64 name;
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
	pg_atomic64 fault_hist[PGMAP_HIST_BUCKETS];
	struct {
#define X(name, doc) pg_atomic64 name;
		PGMAP_LEFT_ALONE(X)
#undef X
	} left;
};

/** enum pg_control_state - What a process does about its memory. */
enum pg_control_state {
	PG_CONTROL_JOINED,   /* far from the budget: nothing */
	PG_CONTROL_MANAGED,  /* its memory is managed */
	PG_CONTROL_UNMANAGED /* it cannot be; see pg_control_unmanaged() */
};

/**
 * struct pg_control_proc - The slot of one process.
 * @pid:      0: free. Release-store to 0 frees it; compare-and-set takes it.
 * @state:    enum pg_control_state.
 * @pressure: Futex word for the process's evicting thread: pages that the
 *            other processes ask it to give up. Anybody adds and wakes; the
 *            process takes what it served off.
 * @was_managed: It is counted in nr_managed, maybe before an exec.
 * @start:    Start time of the process in clock ticks since boot, as in
 *            /proc/PID/stat, to tell it from a later one with the same pid;
 *            0 when not known.
 * @reach:    While it is not managed: bytes that can become resident, that is
 *            what is mapped private and writable. The process writes it.
 * @resident: Of that, what is. Its evicting thread writes it, or for a process
 *            that has none the parent, now and then.
 */
struct pg_control_proc {
	_Alignas(64) pg_atomic32 pid;
	pg_atomic32 state;
	pg_atomic32 pressure;
	pg_atomic32 was_managed;
	pg_atomic64 start;
	char comm[16];
	pg_atomic64 reach;
	pg_atomic64 resident;
	_Alignas(64) struct pg_control_stat stat;
};

/**
 * struct pg_control_image - The system-call sites of one ELF file.
 * @path: As the parent found it. What is loaded may be another file: compare
 *        the build id of @list.
 */
struct pg_control_image {
	char path[256];
	struct pg_site_list list;
};

enum pg_control_image_index {
	PG_CONTROL_LIBC,
	PG_CONTROL_LD,
	/* Libraries with system calls of their own; empty where not needed. */
	PG_CONTROL_URING,
	PG_CONTROL_AIO,
	PG_CONTROL_VDSO, /* where it has to ask the kernel */
	PG_CONTROL_IMAGES
};

/**
 * struct pg_control - All of the range.
 *
 * The first part is written once, before the first process starts.
 */
struct pg_control {
	uint64_t magic;
	uint32_t version;
	uint32_t struct_size;
	uint64_t stat_size; /* sizeof(struct pgmap_stat) of the writer */
	uint64_t budget;    /* bytes, whole tree */
	uint32_t folio_order;
	int32_t log_level;
	pg_atomic32 supervisor; /* pid of who holds it: `pgmap run` */
	uint32_t hold;		/* 1: faults of system calls are not served */
	uint32_t signal;	/* 1: and faults are signals */
	uint32_t dmirror;	/* 1: there are /dev/hmm_dmirror0 to 3 */
	uint64_t pid_ns; /* inode of its pid namespace; pids are of that one */
	char device[256];
	char name[PG_CONTROL_NAME_MAX]; /* socket, abstract, no leading NUL */
	char preload[256];		/* path of the preload runtime */
	struct pg_control_image image[PG_CONTROL_IMAGES];

	/* From here on, shared and written by all. */
	_Alignas(64) pg_atomic32 folder; /* pid of who folds a slot, or 0 */
	pg_atomic32 fold_seq;		 /* odd while somebody folds */
	pg_atomic32 high;		 /* slots [0, high) may be in use */
	pg_atomic32 forking;		 /* children that have no slot yet */
	pg_atomic32 nr_procs;		 /* processes that ever joined */
	pg_atomic32 nr_managed;		 /* of them, managed at some time */
	pg_atomic32 nr_unmanaged;	 /* calls of pg_control_unmanaged() */
	pg_atomic32 unmanaged_taken;	 /* 1 taken, 2 text is complete */
	char unmanaged[192];		 /* the first reason */
	/* Lines for the user, which the parent prints: our threads have none
	 * of the program's descriptors. */
	pg_atomic32 nr_said; /* ever; the next goes to said[nr % SAID] */
	struct {
		pg_atomic32 len; /* 0: empty; release by who says, acquire */
		char text[PG_CONTROL_LINE];
	} said[PG_CONTROL_SAID];
	/* Highest sums over the live processes that the parent has seen. */
	_Alignas(64) pg_atomic64 peak_managed;
	pg_atomic64 peak_resident;
	pg_atomic64 peak_away;
	pg_atomic64 peak_device_host;
	pg_atomic64 peak_device_media;
	pg_atomic64 peak_tree; /* managed or not; see pg_control_resident() */
	struct pg_control_proc ended; /* what folded slots had counted */
	struct pg_control_proc procs[PG_CONTROL_PROCS];
};

/* ---- In the program. Raw system calls only; any thread; no libc state. ----
 */

/**
 * pg_control_join() - Get the range of the tree that this process belongs to.
 * @name: Value of PG_CONTROL_ENV, @name_len bytes.
 *
 * Leaves no descriptor open. Takes 2 s at most, when the parent is stuck.
 * Return: 0; -ENOENT or -ECONNREFUSED the parent is gone; -EPROTO another
 *         version; -EPERM refused, not of this tree; -EXDEV in another pid
 *         namespace; -ETIMEDOUT; -ENOMEM; -EINVAL; what a call said.
 */
int pg_control_join(const char *name, size_t name_len,
		    struct pg_control **control);

/**
 * pg_control_claim() - Take a slot for this process.
 * @pid: The caller, as getpid(); asked, not found, so that a fork child may
 *       call this before it has told libc.
 *
 * Used after pg_control_join() and in a fork child. A slot that @pid had
 * before (exec, or an earlier process) is folded first. The slot is all zeros
 * but for pid, start and comm.
 * Return: 0 or -ENOSPC: all slots are taken by live processes; this process
 *         goes on unmanaged and says so with pg_control_unmanaged().
 */
int pg_control_claim(struct pg_control *control, int pid,
		     struct pg_control_proc **proc);

/**
 * pg_control_fork_begin() - Before a fork: a process is coming.
 *
 * Without it a program that forks a daemon and ends at once would seem to have
 * left nothing behind. pg_control_fork_end() follows, in the child after
 * pg_control_claim() whatever that said, or in the parent when there is no
 * child.
 */
void pg_control_fork_begin(struct pg_control *control);
void pg_control_fork_end(struct pg_control *control);

/** pg_control_managed() - Say that @proc's memory is managed from now on. */
void pg_control_managed(struct pg_control *control,
			struct pg_control_proc *proc);

/** pg_control_unmanaged() - Say that this process cannot be managed, and why:
 * one line without the pid. @proc may be NULL. The first reason of the tree
 * is shown in the summary, the rest are counted. */
void pg_control_unmanaged(struct pg_control *control,
			  struct pg_control_proc *proc, int pid,
			  const char *why);

/** pg_control_say() - Have the parent print a line. When it is far behind, the
 * oldest lines are lost. */
void pg_control_say(struct pg_control *control, const char *line, size_t len);

/**
 * pg_control_send_fd() - Give the parent a duplicate of @fd to hold until this
 * process has ended. Context: a thread whose descriptor table has @fd; 2 s at
 * most. Return: 0, or as pg_control_join().
 */
int pg_control_send_fd(const char *name, size_t name_len, int fd);

/** pg_control_publish() - Copy a snapshot (its @st->size is not looked at)
 * into a slot. @left may be NULL. */
void pg_control_publish(struct pg_control_proc *proc,
			const struct pgmap_stat *st,
			const struct pgmap_left_alone *left);

/* ---- Anywhere; bounded whatever the range holds. ---- */

/** pg_control_resident() - Return: what all live processes but @except (may be
 * NULL) take of the budget, in bytes: present + pool of a managed one, what is
 * resident of another. */
uint64_t pg_control_resident(struct pg_control *control,
			     const struct pg_control_proc *except);

/** pg_control_reach() - Return: the same, but of a process that is not managed
 * all that can become resident before anybody looks. */
uint64_t pg_control_reach(struct pg_control *control,
			  const struct pg_control_proc *except);

/** pg_control_share() - Return: bytes of the budget that are for @proc: what
 * the others leave of it, and at least an equal part of what those leave that
 * are not managed, down to which the others then shrink. */
uint64_t pg_control_share(struct pg_control *control,
			  const struct pg_control_proc *proc);

/** pg_control_snapshot() - A slot's numbers in plain structs; @left may be
 * NULL. Sets @st->size. */
void pg_control_snapshot(const struct pg_control_proc *proc,
			 struct pgmap_stat *st, struct pgmap_left_alone *left);

/**
 * pg_control_total() - The tree: live processes and ended ones.
 *
 * Counters are sums over all, levels sums over the live, a peak is the highest
 * of: the sums that the parent sampled, the sum now, each process's own.
 */
void pg_control_total(const struct pg_control *control, struct pgmap_stat *st,
		      struct pgmap_left_alone *left);

/* ---- In the parent; the range is the caller's own mapping. ---- */

/** pg_control_sample() - Raise the peaks of sums to the sums as of now.
 * Return: bytes managed (present + away) now. */
uint64_t pg_control_sample(struct pg_control *control);

/** pg_control_hear() - Take the next line that was said after @seen of them.
 * Return: its length, 0 if there is none. */
size_t pg_control_hear(struct pg_control *control, uint32_t *seen,
		       char text[PG_CONTROL_LINE]);

/** pg_control_fold() - Fold @proc if it still belongs to the process @pid that
 * started at @start (0: whatever its start). */
void pg_control_fold(struct pg_control *control, struct pg_control_proc *proc,
		     int pid, uint64_t start);

/** pg_control_reap() - Fold the slots of processes that are gone. Return: was
 * there one? */
bool pg_control_reap(struct pg_control *control);

/** pg_control_find() - Return: the slot of @pid, or NULL. */
struct pg_control_proc *pg_control_find(const struct pg_control *control,
					int pid);

/** pg_control_start_time() - Return: field 22 of /proc/@pid/stat, or 0. Raw
 * system calls only. @pid 0: this process. */
uint64_t pg_control_start_time(int pid);

/** struct pg_control_message - What goes over the socket, both ways. */
struct pg_control_message {
	uint64_t magic;
	uint32_t version;
	uint32_t struct_size;
	uint32_t kind;	/* enum pg_control_message_kind */
	int32_t status; /* of an answer */
};

enum pg_control_message_kind {
	PG_CONTROL_JOIN = 1, /* answered with the memfd */
	PG_CONTROL_HOLD	     /* carries a descriptor */
};

#endif
