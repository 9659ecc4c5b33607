/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * run.h - run an unmodified program with its cold memory on a device, and
 * look at one that runs so.
 *
 * pgmap_run() starts the program with the preload runtime, holds a duplicate
 * of each process's userfaultfd, and gathers what the processes count. The
 * counters of a tree live in one shared page range (a memfd) that every
 * process of the tree maps; that is also what pgmap_attach() reads.
 */
#ifndef PGMAP_RUN_H
#define PGMAP_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <pgmap/stat.h>

#ifdef __cplusplus
extern "C" {
#endif

/** enum pgmap_run_fault - System calls that use memory which is away. */
enum pgmap_run_fault {
	PGMAP_FAULT_AUTO,   /* THREAD with the permission for it, else HOLD */
	PGMAP_FAULT_THREAD, /* their faults are served like any others */
	PGMAP_FAULT_HOLD,   /* their buffers are brought and held before; needs
			     * no permission */
	PGMAP_FAULT_SIGNAL  /* as HOLD; the program's own faults are signals,
			     * and each thread serves its own */
};

/**
 * struct pgmap_run_config - What to run, and how.
 * @size:       sizeof(struct pgmap_run_config), set by the caller.
 * @ram:        Budget in bytes for managed memory of the whole tree.
 * @device:     "NAME[:OPTIONS]" as for driver open.
 * @folio_size: Bytes that move together: a power of two, 4 KB .. 2 MB.
 * @log_level:  0 errors, 1 warnings, 2 information, 3 debug.
 * @fault:      How system calls on absent pages work: enum pgmap_run_fault.
 * @dmirror:    Show the program /dev/hmm_dmirror0 to 3, devices that mirror its
 *              memory. Needs faults of system calls (THREAD) and device mirror.
 * @preload:    Path of the preload runtime, or NULL: look beside the pgmap
 *              command, then where it was installed.
 * @argv:       Program (looked up in PATH) and arguments; ends with NULL.
 */
struct pgmap_run_config {
	size_t size;
	uint64_t ram;
	const char *device;
	uint64_t folio_size;
	int log_level;
	int fault;
	bool dmirror;
	const char *preload;
	char *const *argv;
};

/** Why some memory was left alone: X(name, what the user reads) */
#define PGMAP_LEFT_ALONE(X)                                                    \
	X(small, "mappings below the size that is worth managing")             \
	X(stacks, "thread stacks and thread-local storage")                    \
	X(early, "mapped before the runtime started")                          \
	X(locked, "locked in memory by the program (mlock)")                   \
	X(special, "huge pages, or memory with special fork behaviour")        \
	X(foreign, "watched by the program's own userfaultfd")                 \
	X(pinned, "pinned for I/O when it was to leave")                       \
	X(refused, "the kernel refused to watch it")

/** struct pgmap_left_alone - Bytes that were never managed, by reason. */
struct pgmap_left_alone {
#define X(name, doc) uint64_t name;
	PGMAP_LEFT_ALONE(X)
#undef X
};

/**
 * struct pgmap_run_result - How it went.
 * @size:       sizeof(struct pgmap_run_result), set by the caller.
 * @status:     As from waitpid().
 * @nr_procs:   Processes that were part of the tree.
 * @nr_managed: Of them, those that came near the budget and were managed.
 * @total:      Counters, summed over all processes; peaks are of the sum.
 * @left:       What was left alone, the most of any moment, summed.
 * @unmanaged:  One line on processes that could not be managed and why, or "".
 * @peak_tree:  Anonymous bytes in RAM at most, managed or not, as sampled.
 */
struct pgmap_run_result {
	size_t size;
	int status;
	uint32_t nr_procs;
	uint32_t nr_managed;
	struct pgmap_stat total;
	struct pgmap_left_alone left;
	char unmanaged[256];
	uint64_t peak_tree;
};

/**
 * pgmap_run() - Run a program to its end.
 * @error: Out, on failure: one line that names the cause and the way out.
 *
 * Everything that can be checked is checked before the program starts: the
 * device and its options, the budget, what @fault needs, that the
 * program exists and can be preloaded (dynamic, not setuid). Signals that end
 * a program (INT, TERM, HUP, QUIT) are passed on to it.
 *
 * Context: One at a time; it installs signal handlers while it runs.
 * Return: 0 when the program ran, whatever its status; otherwise it was not
 *         started: -EINVAL bad configuration; -ENOENT no such program;
 *         -EACCES not executable; -ENOEXEC static, setuid or of another
 *         architecture; -ENODEV device or library missing; -EPERM no right
 *         to use userfaultfd; another negative errno of what failed.
 */
int pgmap_run(const struct pgmap_run_config *config,
	      struct pgmap_run_result *result, char *error, size_t error_len);

/** struct pgmap_proc_stat - One process of a tree. */
struct pgmap_proc_stat {
	size_t size;
	pid_t pid;
	bool managed; /* it came near the budget */
	bool alive;
	char comm[16];
	struct pgmap_stat stat;
	struct pgmap_left_alone left;
};

struct pgmap_attach; /* a look at a running tree */

/**
 * pgmap_attach() - Look at the tree that a process belongs to.
 * @pid: A process that `pgmap run` started, one below it, or pgmap run itself.
 *
 * Return: 0; -ESRCH no such process; -ENOENT it is not under pgmap; -EACCES;
 *         -EPROTO another version of pgmap; -ENOMEM.
 */
int pgmap_attach(pid_t pid, struct pgmap_attach **at);
void pgmap_detach(struct pgmap_attach *at);
/** pgmap_attach_total() - Counters of the tree. @st->size set by the caller.
 * Return: 0 or -EINVAL. */
int pgmap_attach_total(struct pgmap_attach *at, struct pgmap_stat *st);
/** pgmap_attach_proc() - The @i-th process. @ps->size set by the caller.
 * Return: 0, -ENOENT behind the last, -EINVAL. */
int pgmap_attach_proc(struct pgmap_attach *at, unsigned int i,
		      struct pgmap_proc_stat *ps);

/** struct pgmap_device_info - A driver of this build. */
struct pgmap_device_info {
	size_t size;
	const char *name;
	const char *summary;
	const char *options;
};

/** pgmap_device_info_get() - The @i-th driver of this build.
 * Return: 0, -ENOENT behind the last, -EINVAL. */
int pgmap_device_info_get(unsigned int i, struct pgmap_device_info *info);
/** pgmap_device_try() - Open and close "NAME[:OPTIONS]".
 * Return: 0 or what open said, @error as there. */
int pgmap_device_try(const char *device, char *error, size_t error_len);

/**
 * struct pgmap_machine - What this machine allows.
 * @userfaultfd:   0 or the negative errno that pgmap_run() would meet.
 * @kernel_faults: Faults of system calls are served, too.
 * @why:           The one line of advice when one of these is not so, or "".
 */
struct pgmap_machine {
	size_t size;
	int userfaultfd;
	bool by_device;
	bool kernel_faults;
	bool move;
	bool poison;
	bool events;
	bool signal;
	char why[256];
};

int pgmap_machine_get(struct pgmap_machine *machine);

#ifdef __cplusplus
}
#endif
#endif
