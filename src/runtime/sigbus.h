/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sigbus.h - faults that arrive as SIGBUS, in a program that knows nothing of
 * it.
 *
 * The kernel must be able to deliver the signal whenever the program touches
 * memory, or it ends the process. So to the kernel SIGBUS is never blocked and
 * its handler is ours; what the program asked for is kept here, and it sees
 * what it would have seen. Each thread has an alternate stack of ours, because
 * the memory that the program uses as a stack may be away.
 */
#ifndef PG_SIGBUS_H
#define PG_SIGBUS_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/syscall.h"

/** pg_sigbus_init() - Take SIGBUS over. Context: there is one thread. Return: 0
 * or -ENOMEM, with nothing changed. */
int pg_sigbus_init(void);

/** pg_sigbus_thread() - Give the calling thread what it needs, if it has not
 * got it. Context: at each call of the program that we see. */
void pg_sigbus_thread(void);

/** pg_sigbus_expect() - A thread whose thread pointer is @tp is about to start:
 * what was known of another one there is void. */
void pg_sigbus_expect(uintptr_t tp);

/** pg_sigbus_exit() - End the calling thread. */
_Noreturn void pg_sigbus_exit(int status);

/** pg_sigbus_call() - Make a call that is about signals, if it is about SIGBUS,
 * or might be. What it uses is held. Return: as a hook. */
int pg_sigbus_call(struct pg_call *call);

/** pg_sigbus_forked() - In a fork child. */
void pg_sigbus_forked(void);

/** pg_sigbus_exec() - Tell the kernel what the program to come inherits;
 * @undo: the call has failed. Touches no memory of the program. */
void pg_sigbus_exec(bool undo);

/** pg_sigbus_give_up() - From now on nothing is managed: the kernel may have
 * the calling thread's mask. */
void pg_sigbus_give_up(void);

#endif
