/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * site.c - find the system calls of a library and decide how to rewrite each.
 *
 * Only code that the unwind table names is decoded, one function at a time
 * from its known start, so that data between functions is never taken for
 * instructions. A function without the bytes 0f 05 is not looked at.
 *
 * What makes a rewrite safe: the jump covers five bytes, and no thread may
 * ever arrive in the middle of them. One instruction of five bytes or more has
 * no middle that code could name; that is nearly every site. Where several
 * instructions are covered, the function must not have a computed jump or a
 * landing pad, none of its branches may lead there, and no byte sequence
 * anywhere in the object may read as a long branch that leads there.
 *
 * The number of a call is followed through registers in the order of the
 * bytes, not of execution. If that is ever wrong, a site is left out or is
 * listed under a wrong number; the program stays right, for the stub looks at
 * the register itself.
 */
#include "runtime/site.h"

#include <capstone/capstone.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/buffers.h"

#define UNKNOWN (-1)
#define NR_REGS 16
#define RAX 0

struct insn {
	uint32_t addr;
	uint32_t nr_from; /* where rax got @nr */
	int32_t nr;	  /* what rax holds before it, or UNKNOWN */
	uint8_t len;
	bool pinned; /* means something else at another address */
	bool syscall;
};

/* One function: [@start, @end) is covered by unwind data; up to @limit, where
 * the next one starts, lies code without (clone.S of glibc) or padding. */
struct function {
	uint32_t start, end, limit;
	bool computed; /* entered at places that no branch names */
};

struct finder {
	const uint8_t *image; /* the file */
	size_t size;
	const Elf64_Phdr *phdr;
	unsigned int nr_phdr;
	csh cs;
	cs_insn *cs_insn;
	struct pg_site_list *list;
	bool buffers; /* calls that use memory, too */

	/* Of the function at hand: */
	struct insn *insn;
	size_t nr_insn, max_insn;
	uint32_t *target; /* where its branches lead */
	size_t nr_target, max_target;
};

static bool is_wanted(const struct finder *f, int32_t nr)
{
	static const int wanted[] = {PG_SITE_WANTED};
	static const int beside[] = {PG_SITE_SIGNAL};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		if (nr == wanted[i])
			return true;
	for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++)
		if (f->buffers && nr == beside[i])
			return true;
	return f->buffers && pg_buffers_has(nr);
}

/* The file bytes behind address @addr up to the end of its segment. */
static const uint8_t *bytes_at(const struct finder *f, uint64_t addr,
			       uint32_t flags, size_t *len)
{
	for (unsigned int i = 0; i < f->nr_phdr; i++) {
		const Elf64_Phdr *p = &f->phdr[i];

		if (p->p_type == PT_LOAD && (p->p_flags & flags) == flags &&
		    addr >= p->p_vaddr && addr - p->p_vaddr < p->p_filesz) {
			*len = (size_t)(p->p_filesz - (addr - p->p_vaddr));
			return f->image + p->p_offset + (addr - p->p_vaddr);
		}
	}
	return NULL;
}

static bool read_bytes(const struct finder *f, uint64_t addr, void *to,
		       size_t n)
{
	size_t len;
	const uint8_t *p = bytes_at(f, addr, PF_R, &len);

	if (!p || len < n)
		return false;
	memcpy(to, p, n);
	return true;
}

/* --- one function -------------------------------------------------------- */

/* Which of the 16 general registers @reg is, or a part of; NR_REGS: none. */
static unsigned int gpr(unsigned int reg)
{
	static const uint16_t name[NR_REGS][5] = {
		{X86_REG_RAX, X86_REG_EAX, X86_REG_AX, X86_REG_AL, X86_REG_AH},
		{X86_REG_RCX, X86_REG_ECX, X86_REG_CX, X86_REG_CL, X86_REG_CH},
		{X86_REG_RDX, X86_REG_EDX, X86_REG_DX, X86_REG_DL, X86_REG_DH},
		{X86_REG_RBX, X86_REG_EBX, X86_REG_BX, X86_REG_BL, X86_REG_BH},
		{X86_REG_RSP, X86_REG_ESP, X86_REG_SP, X86_REG_SPL},
		{X86_REG_RBP, X86_REG_EBP, X86_REG_BP, X86_REG_BPL},
		{X86_REG_RSI, X86_REG_ESI, X86_REG_SI, X86_REG_SIL},
		{X86_REG_RDI, X86_REG_EDI, X86_REG_DI, X86_REG_DIL},
		{X86_REG_R8, X86_REG_R8D, X86_REG_R8W, X86_REG_R8B},
		{X86_REG_R9, X86_REG_R9D, X86_REG_R9W, X86_REG_R9B},
		{X86_REG_R10, X86_REG_R10D, X86_REG_R10W, X86_REG_R10B},
		{X86_REG_R11, X86_REG_R11D, X86_REG_R11W, X86_REG_R11B},
		{X86_REG_R12, X86_REG_R12D, X86_REG_R12W, X86_REG_R12B},
		{X86_REG_R13, X86_REG_R13D, X86_REG_R13W, X86_REG_R13B},
		{X86_REG_R14, X86_REG_R14D, X86_REG_R14W, X86_REG_R14B},
		{X86_REG_R15, X86_REG_R15D, X86_REG_R15W, X86_REG_R15B},
	};

	for (unsigned int i = 0; i < NR_REGS; i++)
		for (unsigned int j = 0; j < 5; j++)
			if (reg != X86_REG_INVALID && name[i][j] == reg)
				return i;
	return NR_REGS;
}

/* What the instruction does to the constants that registers hold. */
static void follow(const cs_insn *in, int32_t value[NR_REGS + 1])
{
	const cs_x86 *x = &in->detail->x86;
	int32_t v = UNKNOWN;

	if (x->op_count == 2 && x->operands[0].type == X86_OP_REG &&
	    x->operands[0].size >= 4) {
		const cs_x86_op *from = &x->operands[1];

		if (in->id == X86_INS_MOV && from->type == X86_OP_IMM)
			v = (int32_t)from->imm;
		else if (in->id == X86_INS_MOV && from->type == X86_OP_REG)
			v = value[gpr(from->reg)];
		else if (in->id == X86_INS_XOR && from->type == X86_OP_REG &&
			 from->reg == x->operands[0].reg)
			v = 0;
	}
	for (unsigned int i = 0; i < in->detail->regs_write_count; i++)
		value[gpr(in->detail->regs_write[i])] = UNKNOWN;
	for (unsigned int i = 0; i < x->op_count; i++)
		if (x->operands[i].type == X86_OP_REG &&
		    (x->operands[i].access & CS_AC_WRITE))
			value[gpr(x->operands[i].reg)] = v;
	/* These leave a result in rax, or what comes next is reached from
	 * somewhere else. Other registers that a call may change are not read
	 * behind it by any compiler. */
	if (in->id == X86_INS_SYSCALL || in->id == X86_INS_CALL ||
	    in->id == X86_INS_JMP || in->id == X86_INS_RET ||
	    in->id == X86_INS_HLT)
		value[RAX] = UNKNOWN;
	value[NR_REGS] = UNKNOWN;
}

static bool is_pinned(const cs_insn *in)
{
	static const uint8_t groups[] = {CS_GRP_JUMP, CS_GRP_CALL,
					 CS_GRP_RET,  CS_GRP_INT,
					 CS_GRP_IRET, CS_GRP_BRANCH_RELATIVE};
	const cs_x86 *x = &in->detail->x86;

	for (unsigned int i = 0; i < in->detail->groups_count; i++)
		if (memchr(groups, in->detail->groups[i], sizeof(groups)))
			return true;
	for (unsigned int i = 0; i < x->op_count; i++)
		if (x->operands[i].type == X86_OP_MEM &&
		    (x->operands[i].mem.base == X86_REG_RIP ||
		     x->operands[i].mem.base == X86_REG_EIP))
			return true;
	return in->id == X86_INS_SYSCALL || in->id == X86_INS_SYSENTER ||
	       in->id == X86_INS_HLT || in->id == X86_INS_UD2 ||
	       in->id == X86_INS_XBEGIN || in->id == X86_INS_ENDBR64;
}

/* Room for one more of @size bytes in *@array. */
static bool grow(void **array, size_t *max, size_t nr, size_t size)
{
	size_t more = *max ? *max * 2 : 1024;
	void *p;

	if (nr < *max)
		return true;
	p = realloc(*array, more * size);
	if (!p)
		return false;
	*array = p;
	*max = more;
	return true;
}

/* Decode @fn into f->insn and f->target. */
static int decode(struct finder *f, struct function *fn)
{
	int32_t value[NR_REGS + 1];
	uint32_t nr_from = 0;
	uint64_t addr = fn->start;
	size_t len;
	const uint8_t *code = bytes_at(f, addr, PF_X, &len);

	if (!code)
		return 0;
	if (len > fn->limit - fn->start)
		len = fn->limit - fn->start;
	memset(value, 0xff, sizeof(value));
	f->nr_insn = f->nr_target = 0;
	while (cs_disasm_iter(f->cs, &code, &len, &addr, f->cs_insn)) {
		const cs_insn *in = f->cs_insn;
		const cs_x86 *x = &in->detail->x86;
		struct insn *i;

		if (!grow((void **)&f->insn, &f->max_insn, f->nr_insn,
			  sizeof(*f->insn)) ||
		    !grow((void **)&f->target, &f->max_target, f->nr_target,
			  sizeof(*f->target)))
			return -ENOMEM;
		i = &f->insn[f->nr_insn++];
		i->addr = (uint32_t)in->address;
		i->len = (uint8_t)in->size;
		i->pinned = is_pinned(in);
		i->syscall = in->id == X86_INS_SYSCALL;
		i->nr = value[RAX];
		i->nr_from = nr_from;
		if (i->pinned && x->op_count &&
		    x->operands[0].type == X86_OP_IMM)
			f->target[f->nr_target++] =
				(uint32_t)x->operands[0].imm;
		else if (in->id == X86_INS_JMP || in->id == X86_INS_LJMP)
			fn->computed = true;
		follow(in, value);
		if (value[RAX] != i->nr)
			nr_from = (uint32_t)addr;
	}
	return 0;
}

/* Does a branch of the function lead to [@from, @to]? */
static bool is_target(const struct finder *f, uint32_t from, uint32_t to)
{
	for (size_t i = 0; i < f->nr_target; i++)
		if (f->target[i] >= from && f->target[i] <= to)
			return true;
	return false;
}

/* May the jump cover the first five of the bytes at @start, whose first
 * instruction is @first bytes long? */
static bool may_cover(const struct finder *f, const struct function *fn,
		      uint32_t start, uint32_t first)
{
	if (first >= PG_SITE_JUMP)
		return true;
	return !fn->computed && start + PG_SITE_JUMP <= fn->end &&
	       !is_target(f, start + 1, start + PG_SITE_JUMP - 1);
}

/* Cover whole instructions before the system call at f->insn[@at]. */
static bool cover_head(const struct finder *f, const struct function *fn,
		       size_t at, struct pg_site *s)
{
	uint32_t addr = f->insn[at].addr, len = 0;
	size_t i = at;

	if (is_target(f, addr, addr))
		return false;
	while (len < PG_SITE_JUMP) {
		if (i == 0 || f->insn[--i].pinned)
			return false;
		len += f->insn[i].len;
	}
	if (len > PG_SITE_BYTES ||
	    !may_cover(f, fn, addr - len, f->insn[i].len))
		return false;
	s->kind = PG_SITE_HEAD;
	s->offset = addr - len;
	s->len = (uint8_t)len;
	return true;
}

/* Cover the system call at f->insn[@at] and whole instructions after it. */
static bool cover_tail(const struct finder *f, const struct function *fn,
		       size_t at, struct pg_site *s)
{
	uint32_t addr = f->insn[at].addr, len = f->insn[at].len;

	for (size_t i = at + 1; len < PG_SITE_JUMP; i++) {
		if (i == f->nr_insn || f->insn[i].pinned)
			return false;
		len += f->insn[i].len;
	}
	if (len > PG_SITE_BYTES || !may_cover(f, fn, addr, f->insn[at].len))
		return false;
	s->kind = PG_SITE_TAIL;
	s->offset = addr;
	s->len = (uint8_t)len;
	return true;
}

static int add_sites(struct finder *f, const struct function *fn)
{
	struct pg_site_list *l = f->list;

	for (size_t i = 0; i < f->nr_insn; i++) {
		const struct insn *in = &f->insn[i];
		struct pg_site s = {.offset = in->addr, .nr = UNKNOWN};

		if (!in->syscall)
			continue;
		if (in->nr >= 0 && in->nr <= INT16_MAX &&
		    !is_target(f, in->nr_from, in->addr))
			s.nr = (int16_t)in->nr;
		if (s.nr != UNKNOWN && !is_wanted(f, s.nr))
			continue;
		/* Behind the unwind data bytes may be anything: believe only
		 * the plain form with a number that is wanted. */
		if (in->addr >= fn->end &&
		    (s.nr == UNKNOWN || in->nr_from != in->addr))
			continue;
		if (cover_head(f, fn, i, &s) || cover_tail(f, fn, i, &s))
			if (!read_bytes(f, s.offset, s.bytes, s.len))
				return -ENOEXEC;
		if (l->nr_sites == PG_SITE_MAX)
			return -E2BIG;
		l->sites[l->nr_sites++] = s;
	}
	return 0;
}

static int find_in_function(struct finder *f, struct function *fn)
{
	size_t len;
	const uint8_t *code = bytes_at(f, fn->start, PF_X, &len);
	int ret;

	if (!code)
		return 0;
	if (len > fn->limit - fn->start)
		len = fn->limit - fn->start;
	if (!memmem(code, len, "\x0f\x05", 2))
		return 0;
	ret = decode(f, fn);
	return ret ? ret : add_sites(f, fn);
}

/* --- the list of functions: .eh_frame_hdr and .eh_frame ------------------ */

/* Encodings of DWARF pointers, as every x86-64 linker writes them. */
#define PE_UDATA4 0x03
#define PE_PCREL_SDATA4 0x1b
#define PE_DATAREL_SDATA4 0x3b

static bool skip_leb128(const uint8_t **p, const uint8_t *end)
{
	while (*p < end)
		if (!(*(*p)++ & 0x80))
			return true;
	return false;
}

/* Read of the CIE at @addr what the FDEs need: do they carry a pointer to
 * landing pads? False if it is of a form we do not know, or of a signal frame
 * ("S"), whose unwind data starts a byte before its code. */
static bool read_cie(const struct finder *f, uint64_t addr, bool *has_lsda)
{
	size_t len;
	const uint8_t *p = bytes_at(f, addr, PF_R, &len), *end, *aug;
	bool pcrel = false;
	uint32_t cie_len;

	*has_lsda = false;
	if (!p || len < 9)
		return false;
	memcpy(&cie_len, p, 4);
	if (cie_len > len - 4 || cie_len < 5)
		return false;
	end = p + 4 + cie_len;
	aug = p + 9; /* behind length, id and version */
	p = memchr(aug, 0, (size_t)(end - aug));
	if (!p || *aug != 'z')
		return false;
	p++;
	/* code and data alignment, return register, length of what follows */
	for (int i = 0; i < 4; i++)
		if (!skip_leb128(&p, end))
			return false;
	while (*++aug) {
		if (p == end)
			return false;
		if (*aug == 'R')
			pcrel = *p++ == PE_PCREL_SDATA4;
		else if (*aug == 'L' && ++p)
			*has_lsda = true;
		else if (*aug == 'P' && end - p >= 5 && (*p & 0x0f) == 0x0b)
			p += 5;
		else
			return false;
	}
	return pcrel;
}

/* Read the FDE at @addr into @fn. False: not a function that we can use. */
static bool read_fde(const struct finder *f, uint64_t addr, uint32_t start,
		     struct function *fn)
{
	struct {
		uint32_t len, cie;
		int32_t begin;
		uint32_t range;
	} fde;
	bool has_lsda;

	if (!read_bytes(f, addr, &fde, sizeof(fde)) || fde.cie == 0 ||
	    fde.cie > addr + 4 || fde.range > UINT32_MAX - start ||
	    !read_cie(f, addr + 4 - fde.cie, &has_lsda) ||
	    (uint32_t)((int64_t)addr + 8 + fde.begin) != start)
		return false;
	*fn = (struct function){.start = start, .end = start + fde.range};
	if (has_lsda) {
		uint8_t aug_len;
		int32_t lsda;

		fn->computed = !read_bytes(f, addr + 16, &aug_len, 1) ||
			       aug_len != 4 ||
			       !read_bytes(f, addr + 17, &lsda, 4) || lsda != 0;
	}
	return true;
}

static int find_in_functions(struct finder *f, uint64_t hdr)
{
	struct {
		uint8_t version, frame, count, table;
		int32_t eh_frame;
		uint32_t nr;
	} h;
	int64_t prev = -1;

	if (!read_bytes(f, hdr, &h, sizeof(h)))
		return -ENOEXEC;
	if (h.version != 1 || h.frame != PE_PCREL_SDATA4 ||
	    h.count != PE_UDATA4 || h.table != PE_DATAREL_SDATA4)
		return -ENODATA;
	for (uint32_t i = 0; i < h.nr; i++) {
		/* Two entries: this function, and where the next one starts. */
		int32_t e[2][2] = {{0}, {INT32_MAX}};
		struct function fn;
		int64_t start, next;
		size_t len;
		int ret;

		if (!read_bytes(f, hdr + 12 + 8ull * i, e,
				i + 1 < h.nr ? 16 : 8))
			return -ENOEXEC;
		start = (int64_t)hdr + e[0][0];
		next = (int64_t)hdr + e[1][0];
		if (start <= prev || start > UINT32_MAX)
			return -ENOEXEC;
		prev = start;
		if (next <= start || next > UINT32_MAX)
			next = UINT32_MAX;
		if (!bytes_at(f, (uint64_t)start, PF_X, &len) ||
		    !read_fde(f, (uint64_t)((int64_t)hdr + e[0][1]),
			      (uint32_t)start, &fn))
			continue;
		fn.limit = (uint32_t)next;
		if (fn.end > fn.limit)
			fn.end = fn.limit;
		ret = find_in_function(f, &fn);
		if (ret)
			return ret;
	}
	return 0;
}

/* --- the object ---------------------------------------------------------- */

static void drop(struct pg_site *s)
{
	if (s->kind == PG_SITE_HEAD)
		s->offset += s->len;
	s->kind = PG_SITE_NONE;
}

/* Functions of one source function refer to each other by long branches (hot
 * and cold parts): give up a site where any bytes look like one that leads
 * into the middle of the jump. */
static void drop_entered(struct pg_site_list *l, const uint8_t *code,
			 uint64_t addr, size_t len)
{
	for (size_t i = 1; i + 4 < len; i++) {
		int64_t to;
		int32_t rel;

		if (code[i] != 0xe9 &&
		    !((code[i] & 0xf0) == 0x80 && code[i - 1] == 0x0f))
			continue;
		memcpy(&rel, code + i + 1, 4);
		to = (int64_t)(addr + i + 5) + rel;
		for (uint32_t k = 0; k < l->nr_sites; k++) {
			struct pg_site *s = &l->sites[k];

			if (s->kind != PG_SITE_NONE && to > s->offset &&
			    to < (int64_t)s->offset + PG_SITE_JUMP)
				drop(s);
		}
	}
}

/* Two sites may lie so close that they want the same bytes. */
static void drop_overlaps(struct pg_site_list *l)
{
	uint64_t end = 0;

	for (uint32_t i = 0; i < l->nr_sites; i++) {
		struct pg_site *s = &l->sites[i];

		if (s->kind != PG_SITE_NONE && s->offset < end)
			drop(s);
		if (s->kind != PG_SITE_NONE)
			end = (uint64_t)s->offset + s->len +
			      (s->kind == PG_SITE_HEAD ? 2 : 0);
	}
}

static int open_elf(struct finder *f)
{
	const Elf64_Ehdr *e = (const void *)f->image;

	if (f->size < sizeof(*e) || memcmp(e->e_ident, ELFMAG, SELFMAG) ||
	    e->e_ident[EI_CLASS] != ELFCLASS64 || e->e_machine != EM_X86_64 ||
	    e->e_phentsize != sizeof(Elf64_Phdr) || e->e_phoff % 8 ||
	    e->e_phoff > f->size ||
	    e->e_phnum > (f->size - e->e_phoff) / sizeof(Elf64_Phdr))
		return -ENOEXEC;
	f->phdr = (const void *)(f->image + e->e_phoff);
	f->nr_phdr = e->e_phnum;
	for (unsigned int i = 0; i < f->nr_phdr; i++) {
		const Elf64_Phdr *p = &f->phdr[i];

		if (p->p_offset > f->size ||
		    p->p_filesz > f->size - p->p_offset ||
		    p->p_vaddr > UINT32_MAX || p->p_filesz > UINT32_MAX)
			return -ENOEXEC;
	}
	return 0;
}

static int find(struct finder *f)
{
	struct pg_site_list *l = f->list;
	uint64_t hdr = 0;
	int ret = open_elf(f);

	if (ret)
		return ret;
	for (unsigned int i = 0; i < f->nr_phdr; i++) {
		const Elf64_Phdr *p = &f->phdr[i];
		const uint8_t *id;

		if (p->p_type == PT_GNU_EH_FRAME)
			hdr = p->p_vaddr;
		if (p->p_type == PT_NOTE && !l->id_len) {
			l->id_len = pg_site_build_id(f->image + p->p_offset,
						     p->p_filesz, &id);
			if (l->id_len)
				memcpy(l->id, id, l->id_len);
		}
	}
	if (!l->id_len)
		return -ENOEXEC;
	if (!hdr)
		return -ENODATA;
	ret = find_in_functions(f, hdr);
	if (ret)
		return ret;
	drop_overlaps(l);
	for (unsigned int i = 0; i < f->nr_phdr; i++) {
		const Elf64_Phdr *p = &f->phdr[i];

		if (p->p_type == PT_LOAD && (p->p_flags & PF_X))
			drop_entered(l, f->image + p->p_offset, p->p_vaddr,
				     p->p_filesz);
	}
	return 0;
}

int pg_site_find(const char *path, bool buffers, struct pg_site_list *list)
{
	struct finder f = {.list = list, .buffers = buffers};
	struct stat st;
	void *image;
	int fd, ret;

	memset(list, 0, sizeof(*list));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size <= 0) {
		close(fd);
		return -ENOEXEC;
	}
	image = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	ret = image == MAP_FAILED ? -errno : 0;
	close(fd);
	if (ret)
		return ret;
	f.image = image;
	f.size = (size_t)st.st_size;
	ret = -ENOMEM;
	if (cs_open(CS_ARCH_X86, CS_MODE_64, &f.cs) == CS_ERR_OK) {
		cs_option(f.cs, CS_OPT_DETAIL, CS_OPT_ON);
		f.cs_insn = cs_malloc(f.cs);
		if (f.cs_insn)
			ret = find(&f);
		if (f.cs_insn)
			cs_free(f.cs_insn, 1);
		cs_close(&f.cs);
	}
	free(f.insn);
	free(f.target);
	munmap(image, f.size);
	return ret;
}
