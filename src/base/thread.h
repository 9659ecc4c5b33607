/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * thread.h - threads that libc does not know.
 *
 * A thread made by pthread_create would make libc take the slow, locked paths
 * of a multithreaded process in a program that has one thread, would be
 * counted and signalled by it, and would share the program's descriptors,
 * which programs close. These threads have a stack and a thread block of
 * their own, all signals blocked, and may use nothing of libc that needs
 * errno, malloc, stdio or thread-local storage (sched_getcpu() does). They do
 * not end the process when the program's last thread leaves by the system
 * call exit instead of exit_group. Sanitizer builds use pthreads
 * instead: their run-time needs to know every thread.
 */
#ifndef PG_THREAD_H
#define PG_THREAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"

struct pg_thread {
	pg_atomic32 tid;  /* its thread id; 0: not running. kernel clears it */
	void *stack;	  /* base/mem.h memory: stack and thread block */
	uint64_t pthread; /* sanitizer builds */
	void (*body)(void *arg);
	void *arg;
};

/**
 * pg_thread_start() - Run @body(@arg) on a new thread.
 * @t:         Zeroed; must stay until pg_thread_join().
 * @own_files: Give it an empty descriptor table of its own, and a working
 *             directory that the program does not change. The table is empty
 *             before this returns, so nothing of the program is kept open.
 *
 * Context: Any thread, inside a system call of the program too.
 * Return: 0, -ENOMEM, or what clone() said.
 */
int pg_thread_start(struct pg_thread *t, void (*body)(void *), void *arg,
		    bool own_files);

/** pg_thread_start_keeping() - As pg_thread_start() with a descriptor table of
 * its own, in which the @nr descriptors of @keep, in rising order, stay. */
int pg_thread_start_keeping(struct pg_thread *t, void (*body)(void *),
			    void *arg, const int *keep, unsigned int nr);

/** pg_thread_join() - Wait until it has returned, and free its stack. */
void pg_thread_join(struct pg_thread *t);

/** pg_thread_forget() - In a fork child: the thread does not exist here; free
 * its stack. */
void pg_thread_forget(struct pg_thread *t);

#endif
