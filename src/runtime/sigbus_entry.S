/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sigbus_entry.S - the way back from a signal, and a call on another stack.
 */
	.text
	.globl	pg_sigbus_return
	.hidden	pg_sigbus_return
	.type	pg_sigbus_return, @function
	nop				/* unwinders look at the byte before */
/* In this form debuggers and unwinders know it. */
pg_sigbus_return:
	movq	$15, %rax		/* rt_sigreturn */
	syscall
	.size	pg_sigbus_return, . - pg_sigbus_return

	.globl	pg_sigbus_call_on
	.hidden	pg_sigbus_call_on
	.type	pg_sigbus_call_on, @function
/* void pg_sigbus_call_on(void *top, void (*fn)(void *arg), void *arg) */
pg_sigbus_call_on:
	.cfi_startproc
	push	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	mov	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	mov	%rdi, %rsp
	mov	%rdx, %rdi
	call	*%rsi
	mov	%rbp, %rsp
	pop	%rbp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	pg_sigbus_call_on, . - pg_sigbus_call_on

	.section .note.GNU-stack, "", @progbits
