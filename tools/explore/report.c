/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * report.c - schedules for people: who did what, where, to what.
 *
 * Lines are kept only while a failed execution is run again. Places in the
 * code come from addr2line, if it is there; variables from the symbol table.
 */
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "explore/engine.h"

#define NR_LINES 20000u
#define NR_PLAIN 100000u
#define NR_NAMES 64u
#define NR_PLACES 1024u
#define MOST_FRAMES 5u
/* Lines of a long schedule; each takes two. */
#define MOST_FIRST 60u
#define MOST_LAST 120u
#define TEXT 240

static struct line {
	int thread;
	bool shown;
	const void *frame[MOST_FRAMES]; /* innermost first */
	uintptr_t addr;
	char text[80];
} * lines;
static size_t nr_lines;

static struct plain {
	int thread;
	const void *pc;
	uintptr_t addr;
	size_t size;
	enum x_access kind;
} * plain;
static size_t nr_plain;

static struct {
	uintptr_t addr;
	size_t size;
	char name[40];
} names[NR_NAMES];
static unsigned int nr_names;

static struct {
	const void *pc;
	char text[TEXT];
} places[NR_PLACES];
static unsigned int nr_places;

void x_trace_begin(void)
{
	nr_lines = 0;
	nr_plain = 0;
	if (lines)
		return;
	lines = malloc(NR_LINES * sizeof(*lines));
	plain = malloc(NR_PLAIN * sizeof(*plain));
	if (!lines || !plain) {
		fprintf(stderr, "pgmap-explore: no memory\n");
		exit(2);
	}
}

void x_trace_line(const void *pc, uintptr_t addr, const char *fmt, ...)
{
	const struct x_thread *t = &x.thread[x.me];
	struct line *l;
	unsigned int n = t->depth;
	va_list ap;

	if (nr_lines == NR_LINES || !x.running)
		return;
	l = &lines[nr_lines++];
	memset(l, 0, sizeof(*l));
	l->thread = x.me;
	l->addr = addr;
	l->frame[0] = pc;
	if (n > sizeof(t->frame) / sizeof(t->frame[0]))
		n = sizeof(t->frame) / sizeof(t->frame[0]);
	for (unsigned int i = 1; i < MOST_FRAMES && n; i++)
		l->frame[i] = t->frame[--n];
	va_start(ap, fmt);
	vsnprintf(l->text, sizeof(l->text), fmt, ap);
	va_end(ap);
}

void x_trace_plain(const void *pc, uintptr_t addr, size_t size,
		   enum x_access kind)
{
	if (nr_plain < NR_PLAIN)
		plain[nr_plain++] = (struct plain){x.me, pc, addr, size, kind};
}

const void *x_trace_conflict(int thread, uintptr_t addr, size_t size,
			     enum x_access kind)
{
	if (!x.tracing)
		return NULL;
	for (size_t i = nr_plain; i-- > 0;)
		if (plain[i].thread == thread && plain[i].kind == kind &&
		    addr < plain[i].addr + plain[i].size &&
		    plain[i].addr < addr + size)
			return plain[i].pc;
	return NULL;
}

/* A buffer for a result; a caller may hold a few at a time. */
static char *buffer(void)
{
	static char buf[8][TEXT];
	static unsigned int n;

	return buf[n++ % 8];
}

/* ---- Variables ---- */

void x_forget_names(void)
{
	nr_names = 0;
}

void x_name(const volatile void *p, size_t size, const char *name)
{
	if (nr_names == NR_NAMES)
		return;
	names[nr_names].addr = (uintptr_t)p;
	names[nr_names].size = size;
	snprintf(names[nr_names].name, sizeof(names[0].name), "%s", name);
	nr_names++;
}

static int note_bias(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	*(uintptr_t *)arg = info->dlpi_addr;
	return 1; /* the first is the program itself */
}

static uintptr_t bias(void)
{
	static uintptr_t b;

	if (!b)
		dl_iterate_phdr(note_bias, &b);
	return b;
}

static const char *image(void)
{
	static const char *p;
	struct stat st;
	int fd;

	if (p)
		return p;
	fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && !fstat(fd, &st))
		p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd,
			 0);
	if (fd >= 0)
		close(fd);
	if (p == MAP_FAILED)
		p = NULL;
	return p;
}

/* The variable of our symbol table that @addr is in. */
static const char *symbol(uintptr_t addr, uintptr_t *offset)
{
	const char *p = image();
	const Elf64_Ehdr *h = (const void *)p;
	const Elf64_Shdr *s;

	if (!p)
		return NULL;
	s = (const void *)(p + h->e_shoff);
	for (unsigned int i = 0; i < h->e_shnum; i++) {
		const Elf64_Sym *sym = (const void *)(p + s[i].sh_offset);
		const char *str = p + s[s[i].sh_link].sh_offset;

		if (s[i].sh_type != SHT_SYMTAB)
			continue;
		for (size_t k = 0; k < s[i].sh_size / sizeof(*sym); k++) {
			uintptr_t at = sym[k].st_value + bias();

			if (ELF64_ST_TYPE(sym[k].st_info) != STT_OBJECT ||
			    addr - at >= sym[k].st_size)
				continue;
			*offset = addr - at;
			return str + sym[k].st_name;
		}
	}
	return NULL;
}

const char *x_what(uintptr_t addr)
{
	const char *name = NULL;
	size_t best = SIZE_MAX;
	uintptr_t offset = 0;
	char *b = buffer();

	for (unsigned int i = 0; i < nr_names; i++)
		if (addr - names[i].addr < names[i].size &&
		    names[i].size < best) {
			best = names[i].size;
			name = names[i].name;
			offset = addr - names[i].addr;
		}
	if (!name)
		name = symbol(addr, &offset);
	if (name && offset)
		snprintf(b, TEXT, "%s+%lu", name, (unsigned long)offset);
	else if (name)
		snprintf(b, TEXT, "%s", name);
	else
		snprintf(b, TEXT, "memory at 0x%lx", (unsigned long)addr);
	return b;
}

/* ---- Places ---- */

const char *x_short_path(const char *path)
{
	static const char *const folder[] = {"/src/", "/tools/", "/include/"};
	const char *best = path;

	for (size_t i = 0; i < sizeof(folder) / sizeof(folder[0]); i++)
		for (const char *p = path; (p = strstr(p, folder[i])); p++)
			if (p + 1 > best)
				best = p + 1;
	return best;
}

/* What addr2line says of one address: function, place, and again for each
 * function it was inlined into. */
static void read_place(FILE *f, char *text)
{
	char function[120], place[300];
	size_t n = 0;

	if (!fgets(function, sizeof(function), f) ||
	    !fgets(place, sizeof(place), f))
		return;
	function[strcspn(function, "\n")] = '\0';
	place[strcspn(place, " \n")] = '\0';
	n = (size_t)snprintf(text, TEXT, "%s %s", function,
			     x_short_path(place));
	while (n < TEXT && fgets(function, sizeof(function), f) &&
	       fgets(place, sizeof(place), f)) {
		function[strcspn(function, "\n")] = '\0';
		n += (size_t)snprintf(text + n, TEXT - n, " < %s", function);
	}
}

const char *x_where(const void *pc)
{
	uintptr_t addr = (uintptr_t)pc - bias() - 1;
	char command[160], *text;
	FILE *f;

	if (!x.tracing || !pc)
		return "";
	for (unsigned int i = 0; i < nr_places; i++)
		if (places[i].pc == pc)
			return places[i].text;
	text = nr_places < NR_PLACES ? places[nr_places].text : buffer();
	if (nr_places < NR_PLACES)
		places[nr_places++].pc = pc;
	snprintf(text, TEXT, "at 0x%lx", (unsigned long)addr);
	snprintf(command, sizeof(command),
		 "addr2line -f -i -e /proc/%d/exe 0x%lx 2>/dev/null",
		 (int)getpid(), (unsigned long)addr);
	f = popen(command, "r"); /* a program of the user's own path */
	if (f) {
		read_place(f, text);
		pclose(f);
	}
	return text;
}

/* The functions of an outer frame, without the place. */
static void print_callers(FILE *to, const struct line *l)
{
	for (unsigned int i = 1; i < MOST_FRAMES && l->frame[i]; i++) {
		const char *w = x_where(l->frame[i]), *rest;

		if (!strncmp(w, "entry ", 6) || !strncmp(w, "at 0x", 5))
			return;
		rest = strstr(w, " < ");
		fprintf(to, " < %.*s%s", (int)strcspn(w, " "), w,
			rest ? rest : "");
	}
}

/* Do others have to do with what it is about? */
static bool is_shared(const struct line *l)
{
	for (size_t i = 0; i < nr_lines; i++)
		if (lines[i].addr == l->addr && lines[i].thread != l->thread)
			return true;
	return !l->addr;
}

static bool is_last_of_thread(size_t i)
{
	for (size_t k = i + 1; k < nr_lines; k++)
		if (lines[k].thread == lines[i].thread)
			return false;
	return true;
}

static void print_line(FILE *to, const struct line *l, bool other)
{
	fprintf(to, "%s T%d  %s%s%s\n", other ? "->" : "  ", l->thread,
		l->addr ? x_what(l->addr) : "", l->addr ? ": " : "", l->text);
	fprintf(to, "          %s", x_where(l->frame[0]));
	print_callers(to, l);
	fprintf(to, "\n");
}

/* What is printed: @all, or what others have to do with. */
static size_t choose_lines(bool all)
{
	size_t n = 0;

	for (size_t i = 0; i < nr_lines; i++) {
		lines[i].shown =
			all || is_shared(&lines[i]) || is_last_of_thread(i);
		n += lines[i].shown;
	}
	return n;
}

void x_trace_print(FILE *to, bool all)
{
	size_t n = choose_lines(all), left_out = 0, nr = 0;
	bool tracing = x.tracing;
	int last = -1;

	if (!all && n > MOST_FIRST + MOST_LAST)
		left_out = n - MOST_FIRST - MOST_LAST;
	x.tracing = true;
	for (size_t i = 0; i < nr_lines; i++) {
		const struct line *l = &lines[i];

		if (!l->shown)
			continue;
		nr++;
		if (left_out && nr == MOST_FIRST + 1)
			fprintf(to, "   ... %zu more; --trace prints them\n",
				left_out);
		if (nr <= MOST_FIRST || nr > MOST_FIRST + left_out)
			print_line(to, l, last >= 0 && l->thread != last);
		last = l->thread;
	}
	x.tracing = tracing;
}
