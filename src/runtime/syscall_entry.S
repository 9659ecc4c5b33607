/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * syscall_entry.S - from a rewritten system call to C and back.
 *
 * A system call changes rax, rcx and r11 and nothing else: not the flags, not
 * a vector register, not the 128 bytes below the stack pointer. So these three
 * are all that is free here until the rest is saved, and the first look at a
 * call uses only instructions that leave the flags alone (mov, lea, jrcxz).
 *
 * A call that is let through ends in the stub's "native" part with every
 * register and the stack as the program left them; no word of ours is on any
 * stack. That is what clone() with a new stack needs.
 */

#include "runtime/syscall_entry.h"

	.section .rodata
	.globl	pg_syscall_stub, pg_syscall_stub_end
	.hidden	pg_syscall_stub, pg_syscall_stub_end
	.balign	16
/*
 * The form of a stub; struct stub of syscall.c fills in a copy of it.
 */
pg_syscall_stub:
	.org	pg_syscall_stub + STUB_CODE	/* what the jump covered */
	movzbl	%al, %ecx
	mov	.Ltable(%rip), %r11
	movzbl	(%r11, %rcx), %ecx
	lea	.Lnative(%rip), %r11
	jrcxz	.Lnative
	jmp	*.Lentry(%rip)
	.org	pg_syscall_stub + STUB_NATIVE
.Lnative:
	.org	pg_syscall_stub + STUB_DONE
.Ldone:
	.org	pg_syscall_stub + STUB_ENTRY
.Lentry:
	.org	pg_syscall_stub + STUB_TABLE
.Ltable:
	.org	pg_syscall_stub + STUB_SIZE
pg_syscall_stub_end:

/* Offsets from the frame pointer, below struct pg_call. */
#define MXCSR -16
#define UPPER -8
#define UPPER_IN_USE 0x44 /* XINUSE: AVX, ZMM_Hi256 */

/* To or from the stack: registers 0 to 15 in the width of @regs. */
	.macro	LOW way, insn, regs
	.irp	i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	.ifc	\way, save
	\insn	%\regs\i, 64*\i(%rsp)
	.else
	\insn	64*\i(%rsp), %\regs\i
	.endif
	.endr
	.endm

/* Registers 16 to 31 and the masks. */
	.macro	HIGH way
	.irp	i, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	.ifc	\way, save
	vmovaps	%zmm\i, 64*\i(%rsp)
	.else
	vmovaps	64*\i(%rsp), %zmm\i
	.endif
	.endr
	.irp	i, 0, 1, 2, 3, 4, 5, 6, 7
	.ifc	\way, save
	kmovq	%k\i, 2048+8*\i(%rsp)
	.else
	kmovq	2048+8*\i(%rsp), %k\i
	.endif
	.endr
	.endm

	.text
	.globl	pg_syscall_entry
	.hidden	pg_syscall_entry
	.type	pg_syscall_entry, @function
/*
 * In: r11 the stub's "native" part, rcx free, all else the program's.
 */
pg_syscall_entry:
	.cfi_startproc
	.cfi_def_cfa %rsp, 0		/* CFA: the program's stack pointer */
	.cfi_undefined %rip
	cltq				/* the kernel looks at eax only */
	movzbl	pg_syscall_want_all(%rip), %ecx
	jrcxz	1f
	jmp	.Lhook
1:
	lea	-NR_IOCTL(%rax), %ecx
	jrcxz	.Lioctl
	lea	-NR_SETSOCKOPT(%rax), %ecx
	jrcxz	.Lsetsockopt
	jmp	.Lhook
.Lioctl:
	mov	$-UFFDIO_REGISTER_NR, %ecx
	lea	(%rcx, %rsi), %ecx
	jrcxz	.Lhook
	jmp	*%r11
.Lsetsockopt:
	lea	-LEVEL_SOCKET(%rsi), %ecx
	jrcxz	1f
	jmp	*%r11
1:	lea	-OPTION_ZEROCOPY(%rdx), %ecx
	jrcxz	.Lhook
	jmp	*%r11

.Lhook:
	mov	%rsp, %rcx
	.cfi_def_cfa_register %rcx
	lea	-128(%rsp), %rsp	/* the red zone */
	pushfq
	cld
	push	%rbp
	.cfi_offset %rbp, -144
	push	%rbx
	.cfi_offset %rbx, -152
	mov	%r11, %rbx
	/* struct pg_call, from its end */
	push	STUB_IP-STUB_NATIVE(%r11)
	.cfi_offset %rip, -160
	push	%rcx			/* sp */
	push	$0			/* ret */
	push	%r9
	push	%r8
	push	%r10
	push	%rdx
	push	%rsi
	push	%rdi
	push	%rax			/* nr */
	mov	%rsp, %rbp
	.cfi_def_cfa %rbp, 232

	/*
	 * Vector registers, by hand: XSAVE and XRSTOR do the same in ten times
	 * the time. Clean upper halves of the first sixteen stay clean, or the
	 * program's SSE code would be slow from here on; where the CPU does
	 * not tell, they count as used.
	 */
	sub	$16, %rsp
	stmxcsr	MXCSR(%rbp)
	sub	pg_syscall_vector_size(%rip), %rsp
	and	$-64, %rsp
	mov	$UPPER_IN_USE, %eax
	cmpb	$0, pg_syscall_vector_use(%rip)
	je	1f
	mov	$1, %ecx
	xgetbv
1:	and	$UPPER_IN_USE, %eax
	mov	%eax, UPPER(%rbp)
	mov	pg_syscall_vector_level(%rip), %ecx
	cmp	$LEVEL_AVX, %ecx
	jb	.Lsave_xmm
	je	2f
	HIGH	save
2:	test	%eax, %eax
	jz	.Lsave_xmm
	cmp	$LEVEL_AVX, %ecx
	je	3f
	LOW	save, vmovaps, zmm
	jmp	.Lsaved
3:	LOW	save, vmovaps, ymm
	jmp	.Lsaved
.Lsave_xmm:
	LOW	save, movaps, xmm
.Lsaved:
	mov	%rbp, %rdi
	call	pg_syscall_dispatch
	mov	%eax, %edx
	mov	pg_syscall_vector_level(%rip), %ecx
	cmp	$LEVEL_AVX, %ecx
	jb	.Lrestore_xmm
	je	2f
	HIGH	restore
2:	vzeroupper
	cmpl	$0, UPPER(%rbp)
	je	.Lrestore_xmm
	cmp	$LEVEL_AVX, %ecx
	je	3f
	LOW	restore, vmovaps, zmm
	jmp	.Lrestored
3:	LOW	restore, vmovaps, ymm
	jmp	.Lrestored
.Lrestore_xmm:
	LOW	restore, movaps, xmm
.Lrestored:
	ldmxcsr	MXCSR(%rbp)

	/* Where to: native, or done with the result in rax. */
	test	%edx, %edx
	lea	STUB_DONE-STUB_NATIVE(%rbx), %r11
	cmovz	%rbx, %r11
	mov	%rbp, %rsp
	pop	%rax			/* pop and mov leave the flags */
	pop	%rdi
	pop	%rsi
	pop	%rdx
	pop	%r10
	pop	%r8
	pop	%r9
	cmovnz	(%rsp), %rax		/* ret */
	mov	8(%rsp), %rcx		/* sp */
	mov	24(%rsp), %rbx
	mov	32(%rsp), %rbp
	.cfi_def_cfa %rcx, 0
	lea	40(%rsp), %rsp
	popfq
	mov	%rcx, %rsp
	.cfi_same_value %rbx		/* a signal may overwrite */
	.cfi_same_value %rbp		/* what is below */
	.cfi_undefined %rip
	jmp	*%r11
	.cfi_endproc
	.size	pg_syscall_entry, . - pg_syscall_entry

	.section .note.GNU-stack, "", @progbits
