/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pgmap-victim - what would have to be loaded and stored if another block left
 * first? The work of `pgmap bench` is recorded page by page, and the record is
 * replayed against policies under the rules that pgmap lives by:
 *
 * - A page that is present is touched without notice. What is known is which
 *   pages were loaded, when, and whether as part of a stream of faults.
 * - A page leaves in two steps. In *standby* it is off the page table, but in
 *   RAM still: a touch brings it back at the price of a move, and tells that
 *   it is in use. What has been in standby long enough goes to the device.
 * - Of what went to the device a mark is left: when, and from which list.
 *
 * OPT, LRU and CLOCK see more than that. They are there as bounds. What came
 * of it is in doc/eviction.md.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/trace.h"
#include "out.h"

#define NONE UINT32_MAX
#define EPOCHS 248u
#define NEVER UINT32_MAX
#define NR_STREAMS 16
#define MOST_AHEAD 1024u /* pages loaded ahead of a stream */
#define PAGE 4096u
/* What --scan reads, behind a gap that nothing is loaded ahead across. */
#define SCAN_PAGES (1u << 16)
#define SCAN_GAP (1u << 12)

enum state { HOLE, PRESENT, STANDBY, AWAY };
/* What leaves together: all that is in RAM of a block; what was loaded
 * together; a page. */
enum unit { BY_BLOCK, BY_LOAD, BY_PAGE };
/* Q: what is new, or all; M: what is known to be used again; S: standby. */
enum list { OFF, Q, M, S, NR_LISTS };

/**
 * struct node - A unit, under the number of its first page; in standby, under
 * that number + nr_pages.
 */
struct node {
	uint32_t prev, next;
	uint8_t list, from; /* from: Q or M, of one in standby */
	bool used;	    /* touched since the hand of CLOCK passed */
	uint64_t mask;	    /* pages, from the start of the block */
};

struct page {
	uint8_t state;
	bool dirty;
	uint8_t left_from; /* Q or M; OFF: was never away */
	uint32_t node;
	uint8_t left_at; /* epoch() then */
	uint32_t use;	 /* OPT: the record that touches it next */
};

struct count {
	uint64_t loads, loaded; /* from the device: times, pages */
	uint64_t outs;		/* moves out of the page table: a run each */
	uint64_t stored;	/* pages */
	uint64_t backs;		/* moves back from standby: a run each */
};

struct policy {
	const char *name;
	unsigned int reserve; /* 1/1000 of the budget: kept free */
	unsigned int standby; /* 1/1000 of the budget */
	unsigned int share;   /* %, of Q or of M: see the functions */
	/* The list for what was loaded, or came back from standby. @p: with the
	 * unit's mark; alone: it is one page, and all of its unit. */
	enum list (*join)(const struct page *p, bool alone);
	enum list (*back)(const struct page *p, bool alone);
	uint32_t (*victim)(void);
	bool sees_use;
};

static struct {
	double load_page, load_block, move, out, store_block;
	uint64_t ram;
	unsigned int block; /* pages */
	enum unit unit;
	bool store_early;  /* on the way to standby, not after it */
	unsigned int scan; /* a page of another scan for so many touches */
} opt = {12, 30, 6, 5, 100, 0, 16, BY_BLOCK, false, 0};

static const struct policy *policy;
static struct trace trace;
static uint32_t *next_use; /* by record */

static struct {
	struct page *page;
	struct node *node;
	uint32_t head[NR_LISTS], tail[NR_LISTS];
	uint64_t nr[NR_LISTS]; /* pages in each */
	uint64_t units[NR_LISTS];
	uint64_t left[NR_LISTS]; /* pages that were moved out of each */
	uint64_t budget, target; /* target: of Q; ARC's p */
	uint32_t *tree;		 /* OPT: units by next use; see far_set() */
	struct stream {
		uint64_t page, end;
		uint32_t window;
	} stream[NR_STREAMS];
	unsigned int nr_streams;
	struct count count;
} s;

/* ---- Lists ---- */

static unsigned int pages_of(uint64_t mask)
{
	return (unsigned int)__builtin_popcountll(mask);
}

static unsigned int runs_of(uint64_t mask)
{
	return pages_of(mask & ~(mask << 1));
}

static uint32_t block_of(uint32_t page)
{
	return page - page % opt.block;
}

static void take(uint32_t n)
{
	struct node *u = &s.node[n];

	*(u->prev == NONE ? &s.head[u->list] : &s.node[u->prev].next) = u->next;
	*(u->next == NONE ? &s.tail[u->list] : &s.node[u->next].prev) = u->prev;
	s.nr[u->list] -= pages_of(u->mask);
	s.units[u->list]--;
	u->list = OFF;
}

/* To the end: who came last leaves last. */
static void put(uint32_t n, enum list list)
{
	struct node *u = &s.node[n];

	u->list = (uint8_t)list;
	u->next = NONE;
	u->prev = s.tail[list];
	*(u->prev == NONE ? &s.head[list] : &s.node[u->prev].next) = n;
	s.tail[list] = n;
	s.nr[list] += pages_of(u->mask);
	s.units[list]++;
}

/* ---- OPT: a tournament of all units, who is used last wins ---- */

static void far_set(uint32_t n, uint32_t use)
{
	uint32_t i = trace.nr_pages + n;

	s.tree[i] = use;
	for (i /= 2; i; i /= 2)
		s.tree[i] = s.tree[2 * i] > s.tree[2 * i + 1]
				    ? s.tree[2 * i]
				    : s.tree[2 * i + 1];
}

/* A unit is used when the first of its pages is; out of RAM: 0. */
static void far_update(uint32_t n)
{
	uint32_t use = NEVER;
	uint64_t mask = s.node[n].list == OFF ? 0 : s.node[n].mask;

	for (uint64_t m = mask; m; m &= m - 1) {
		uint32_t p = block_of(n) + (uint32_t)__builtin_ctzll(m);

		if (s.page[p].use < use)
			use = s.page[p].use;
	}
	far_set(n, mask ? use : 0);
}

static uint32_t farthest(void)
{
	uint32_t i = 1;

	while (i < trace.nr_pages)
		i = 2 * i + (s.tree[2 * i] < s.tree[2 * i + 1]);
	return i - trace.nr_pages;
}

/* ---- Policies ---- */

/* Marks have room for a number below EPOCHS: pages that left from the list, in
 * sixteenths of the budget. After EPOCHS an old mark looks young again. */
static uint8_t epoch(unsigned int list)
{
	return (uint8_t)(s.left[list] * 16 / s.budget % EPOCHS);
}

/* Pages that left the list of @p since it did. */
static uint64_t distance(const struct page *p)
{
	unsigned int since =
		(epoch(p->left_from) + EPOCHS - p->left_at) % EPOCHS;

	return p->left_from == OFF ? UINT64_MAX : since * s.budget / 16;
}

static enum list join_q(const struct page *p, bool alone)
{
	(void)p;
	(void)alone;
	return Q;
}

static enum list back_m(const struct page *p, bool alone)
{
	(void)p;
	(void)alone;
	return M;
}

static uint32_t oldest(void)
{
	return s.head[Q];
}

/* CLOCK with the bits that a kernel has. LRU moves what is touched. */
static uint32_t unused(void)
{
	while (s.node[s.head[Q]].used) {
		uint32_t n = s.head[Q];

		s.node[n].used = false;
		take(n);
		put(n, Q);
	}
	return s.head[Q];
}

/* S3-FIFO: what comes back to Q while it is remembered goes to M. */
static enum list s3_join(const struct page *p, bool alone)
{
	(void)alone;
	return p->left_from == Q && distance(p) <= s.budget ? M : Q;
}

/* Q is small: a part of the budget. */
static uint32_t s3_victim(void)
{
	bool q =
		s.head[M] == NONE ||
		(s.head[Q] != NONE && s.nr[Q] * 100 > s.budget * policy->share);

	return s.head[q ? Q : M];
}

/* 2Q by refault distance, as Linux has it: what comes back before the budget
 * has turned over goes to M; what is too much in M is put on trial in Q. */
static enum list refault_join(const struct page *p, bool alone)
{
	(void)alone;
	return distance(p) <= s.budget ? M : Q;
}

static uint32_t refault_victim(void)
{
	while (s.nr[M] * 100 > s.budget * policy->share || s.head[Q] == NONE) {
		uint32_t n = s.head[M];

		take(n);
		put(n, Q);
	}
	return s.head[Q];
}

/* As core/evict.c does it: the same, but only what came alone, and it counts
 * units, not knowing how many pages they have. */
static enum list pgmap_join(const struct page *p, bool alone)
{
	return alone ? refault_join(p, alone) : Q;
}

static uint32_t pgmap_victim(void)
{
	while (s.units[M] * 100 > (s.units[Q] + s.units[M]) * policy->share) {
		uint32_t n = s.head[M];

		take(n);
		put(n, Q);
	}
	return s.head[Q];
}

/* ARC: the target of Q follows which list's marks are hit. */
static enum list arc_join(const struct page *p, bool alone)
{
	uint64_t other = p->left_from == Q ? M : Q, step;

	(void)alone;
	if (p->left_from == OFF || distance(p) + s.nr[p->left_from] > s.budget)
		return Q;
	step = s.nr[other] / (s.nr[p->left_from] + 1);
	if (step < 1)
		step = 1;
	if (step > s.budget / 64)
		step = s.budget / 64;
	if (p->left_from == Q)
		s.target =
			s.target + step > s.budget ? s.budget : s.target + step;
	else
		s.target = s.target < step ? 0 : s.target - step;
	return M;
}

static uint32_t arc_victim(void)
{
	bool q = s.head[M] == NONE || (s.head[Q] != NONE && s.nr[Q] > s.target);

	return s.head[q ? Q : M];
}

/* A sixteenth of the budget is ready for the next loads: idle, or standby, as
 * the name says. */
static const struct policy policies[] = {
	{"OPT (bound)", 0, 0, 0, join_q, join_q, farthest, true},
	{"LRU (bound)", 0, 0, 0, join_q, join_q, oldest, true},
	{"CLOCK (bound)", 0, 0, 0, join_q, join_q, unused, true},
	{"FIFO", 62, 0, 0, join_q, join_q, oldest, false},
	{"CLOCK 1/16", 0, 62, 0, join_q, join_q, oldest, false},
	{"CLOCK 1/8", 0, 125, 0, join_q, join_q, oldest, false},
	{"CLOCK 1/4", 0, 250, 0, join_q, join_q, oldest, false},
	{"S3-FIFO", 62, 0, 10, s3_join, back_m, s3_victim, false},
	{"S3-FIFO 1/16", 0, 62, 10, s3_join, back_m, s3_victim, false},
	{"ARC", 62, 0, 0, arc_join, back_m, arc_victim, false},
	{"ARC 1/16", 0, 62, 0, arc_join, back_m, arc_victim, false},
	{"2Q", 62, 0, 50, refault_join, back_m, refault_victim, false},
	{"2Q 1/16", 0, 62, 50, refault_join, back_m, refault_victim, false},
	{"pgmap", 62, 0, 50, pgmap_join, pgmap_join, pgmap_victim, false},
	{"pgmap 1/16", 0, 62, 50, pgmap_join, pgmap_join, pgmap_victim, false},
};
#define NR_POLICIES (sizeof(policies) / sizeof(policies[0]))
#define OPT_POLICY (&policies[0])
#define LRU_POLICY (&policies[1])
#define FIFO 3 /* number of what others are compared with */

/* ---- Out ---- */

static void store(uint32_t n, uint32_t first)
{
	for (uint64_t m = s.node[n].mask; m; m &= m - 1) {
		struct page *p = &s.page[first + (uint32_t)__builtin_ctzll(m)];

		s.count.stored += p->dirty;
		p->dirty = false;
	}
}

/* A unit in standby goes to the device. */
static void leave(uint32_t n)
{
	uint32_t first = block_of(n - trace.nr_pages);

	store(n, first);
	take(n);
	for (uint64_t m = s.node[n].mask; m; m &= m - 1)
		s.page[first + (uint32_t)__builtin_ctzll(m)].state = AWAY;
}

static void mark(struct page *p, uint8_t from)
{
	p->left_from = from;
	p->left_at = epoch(from);
}

static void to_standby(uint32_t n)
{
	struct node *u = &s.node[n], *to = &s.node[n + trace.nr_pages];
	uint32_t first = block_of(n);

	if (to->list != OFF)
		leave(n + trace.nr_pages);
	*to = (struct node){.from = u->list, .mask = u->mask};
	take(n);
	put(n + trace.nr_pages, S);
	s.count.outs += runs_of(u->mask);
	if (opt.store_early)
		store(n + trace.nr_pages, first);
	s.left[to->from] += pages_of(u->mask);
	mark(&s.page[first], to->from);
	for (uint64_t m = u->mask; m; m &= m - 1) {
		struct page *p = &s.page[first + (uint32_t)__builtin_ctzll(m)];

		p->state = STANDBY;
		p->node = n + trace.nr_pages;
		if (opt.unit != BY_BLOCK)
			mark(p, to->from);
	}
	u->mask = 0;
	if (policy == OPT_POLICY)
		far_update(n);
}

static void make_room(unsigned int nr)
{
	uint64_t standby = s.budget * policy->standby / 1000;
	uint64_t budget = s.budget - s.budget * policy->reserve / 1000;

	while (s.nr[Q] + s.nr[M] + s.nr[S] + nr > budget) {
		while (s.nr[S] <= standby && s.nr[Q] + s.nr[M])
			to_standby(policy->victim());
		leave(s.head[S]);
	}
}

/* ---- In ---- */

/* Pages @mask of the block at @first are there now. */
static void arrive(uint32_t first, uint64_t mask, enum list list)
{
	while (mask) {
		uint64_t now = mask;
		uint32_t n = first;

		if (opt.unit == BY_PAGE)
			now &= -mask;
		if (opt.unit != BY_BLOCK)
			n += (uint32_t)__builtin_ctzll(now);
		/* By block, it may be in a list already, and stays there. */
		if (s.node[n].list == OFF) {
			s.node[n].mask = 0;
			s.node[n].used = false;
			put(n, list);
		}
		s.node[n].mask |= now;
		s.nr[s.node[n].list] += pages_of(now);
		for (uint64_t m = now; m; m &= m - 1) {
			struct page *p =
				&s.page[first + (uint32_t)__builtin_ctzll(m)];

			p->state = PRESENT;
			p->node = n;
		}
		if (policy == OPT_POLICY)
			far_update(n);
		mask &= ~now;
	}
}

static uint64_t in_state(uint32_t first, enum state state)
{
	uint64_t mask = 0;

	for (unsigned int i = 0; i < opt.block; i++)
		if (s.page[first + i].state == state)
			mask |= (uint64_t)1 << i;
	return mask;
}

static void load(uint32_t page, bool whole)
{
	uint32_t first = block_of(page);
	uint64_t mask =
		whole ? in_state(first, AWAY) : (uint64_t)1 << (page - first);
	const struct page *p = &s.page[opt.unit == BY_BLOCK ? first : page];
	enum list list = policy->join(p, pages_of(mask) == 1);

	make_room(pages_of(mask));
	s.count.loads++;
	s.count.loaded += pages_of(mask);
	arrive(first, mask, list);
}

static void fill(uint32_t page)
{
	uint32_t first = block_of(page);
	uint64_t mask = in_state(first, HOLE);

	make_room(pages_of(mask));
	for (uint64_t m = mask; m; m &= m - 1)
		s.page[first + (uint32_t)__builtin_ctzll(m)].dirty = true;
	arrive(first, mask, policy->join(&s.page[page], false));
}

/* The run around the page: one move. The rest of its unit stays in standby. */
static void bring_back(uint32_t page)
{
	uint32_t n = s.page[page].node, first = block_of(page);
	struct node *u = &s.node[n];
	uint64_t run = (uint64_t)1 << (page - first), more = run;

	while (more) {
		run |= more;
		more = (run << 1 | run >> 1) & u->mask & ~run;
	}
	s.count.backs++;
	s.nr[S] -= pages_of(run);
	u->mask &= ~run;
	if (!u->mask)
		take(n);
	arrive(first, run,
	       policy->back(&s.page[opt.unit == BY_BLOCK ? first : page],
			    pages_of(run) == 1));
}

/* ---- Streams of faults, as core/fault.c has them ---- */

static void ahead(struct stream *t, uint64_t page)
{
	uint64_t most = s.budget / 16, window = 2 * t->window, start;

	if (most > MOST_AHEAD)
		most = MOST_AHEAD;
	if (window < opt.block)
		window = opt.block;
	if (window > most)
		window = most;
	start = (page / opt.block + 1) * opt.block;
	if (start < t->end)
		start = t->end;
	window -= window % opt.block;
	if (!window)
		return;
	start += opt.block;
	t->window = (uint32_t)window;
	t->end = start + window;
	for (; start < t->end && start < trace.nr_pages; start += opt.block) {
		uint64_t away = in_state((uint32_t)start, AWAY);

		if (away)
			load((uint32_t)start + (uint32_t)__builtin_ctzll(away),
			     true);
	}
}

/* Return: the fault belongs to a stream; what follows is to be loaded. */
static struct stream *stream_of(uint64_t page)
{
	for (int i = 0; i < NR_STREAMS; i++) {
		struct stream *t = &s.stream[i];
		uint64_t end = t->end > t->page ? t->end : t->page;

		if (t->page && page + opt.block >= t->page &&
		    page <= end + opt.block)
			return t;
	}
	return NULL;
}

static void fault(uint32_t page)
{
	struct stream *t = stream_of(page);
	bool goes_on = t;
	uint64_t was;

	if (!t) {
		t = &s.stream[s.nr_streams++ % NR_STREAMS];
		*t = (struct stream){0};
	}
	was = t->page;
	t->page = page;
	load(page, goes_on);
	if (goes_on && page / opt.block > was / opt.block)
		ahead(t, page);
	else if (goes_on && page < was)
		t->window = 0;
}

/* ---- Replay ---- */

static struct page *touch(uint32_t nr)
{
	struct page *p = &s.page[nr];

	switch (p->state) {
	case HOLE:
		fill(nr);
		break;
	case AWAY:
		fault(nr);
		break;
	case STANDBY:
		bring_back(nr);
		break;
	default:
		break;
	}
	return p;
}

/* Of a touched page, for those who see that. What was loaded ahead of a stream
 * may have driven it out again. */
static void see(const struct page *p)
{
	if (!policy->sees_use || p->state != PRESENT)
		return;
	s.node[p->node].used = true;
	if (policy == LRU_POLICY && p->node != s.tail[Q]) {
		take(p->node);
		put(p->node, Q);
	}
	if (policy == OPT_POLICY)
		far_update(p->node);
}

/* Beside the work, somebody reads through what is used by nobody else. */
static void scan(size_t i)
{
	uint32_t nth = (uint32_t)(i / opt.scan) % SCAN_PAGES;
	struct page *p = touch(trace.nr_pages - SCAN_PAGES + nth);

	p->use = (uint32_t)i + SCAN_PAGES * opt.scan;
	see(p);
}

static void replay_one(size_t i)
{
	struct page *p;

	if (opt.scan && i % opt.scan == 0)
		scan(i);
	p = touch(trace.touch[i] >> 1);
	p->dirty |= trace.touch[i] & 1;
	if (policy == OPT_POLICY)
		p->use = next_use[i];
	see(p);
}

static double ms(const struct count *c)
{
	double more = (opt.load_block - opt.load_page) / 15;

	return ((double)c->loads * opt.load_page +
		(double)(c->loaded - c->loads) * more +
		(double)c->outs * opt.out +
		(double)c->stored * opt.store_block / 16 +
		(double)c->backs * opt.move) /
	       1e3;
}

static void start(const struct policy *with)
{
	struct page *page = s.page;
	struct node *node = s.node;
	uint32_t *tree = s.tree;

	policy = with;
	memset(&s, 0, sizeof(s));
	memset(page, 0, trace.nr_pages * sizeof(*page));
	memset(node, 0, 2 * (size_t)trace.nr_pages * sizeof(*node));
	memset(tree, 0, 2 * (size_t)trace.nr_pages * sizeof(*tree));
	s.page = page;
	s.node = node;
	s.tree = tree;
	s.budget = opt.ram / PAGE;
	for (int i = 0; i < NR_LISTS; i++)
		s.head[i] = s.tail[i] = NONE;
	for (uint32_t p = 0; p < trace.nr_pages; p++)
		page[p].use = NEVER;
	for (uint32_t i = 0; opt.scan && i < SCAN_PAGES; i++)
		page[trace.nr_pages - SCAN_PAGES + i] =
			(struct page){.state = AWAY, .use = i * opt.scan};
	if (policy != OPT_POLICY)
		return;
	for (size_t i = trace.nr; i-- > 0;) {
		uint32_t *use = &page[trace.touch[i] >> 1].use;

		next_use[i] = *use;
		*use = (uint32_t)i;
	}
}

static void replay(const struct policy *with, struct count *c)
{
	size_t i = 0;

	start(with);
	for (unsigned int k = 0; k < trace.nr_phases; k++) {
		const struct trace_phase *ph = &trace.phase[k];

		for (; i < ph->begin; i++)
			replay_one(i);
		memset(&s.count, 0, sizeof(s.count));
		for (; i < ph->end; i++)
			replay_one(i);
		c[k] = s.count;
	}
}

/* ---- Command line ---- */

static void usage(void)
{
	fprintf(stderr,
		"usage: pgmap-victim [OPTION...] WORK BYTES [FILE]\n"
		"WORK BYTES [FILE]: as for pgmap-work\n"
		"--ram SIZE         budget; default: a quarter of BYTES\n"
		"--block PAGES      power of two, to 64; default 16\n"
		"--unit block|load|page  what leaves together\n"
		"--store early|late on the way to standby, or after it\n"
		"--scan N           beside it, a page of a scan for each N "
		"touches\n"
		"--cost LOAD_PAGE,LOAD_BLOCK,MOVE_BACK,OUT,STORE_BLOCK\n"
		"                   us; default 12,30,6,5,100\n");
	exit(2);
}

static void parse(int argc, char **argv)
{
	static const struct option names[] = {
		{"ram", required_argument, NULL, 'r'},
		{"block", required_argument, NULL, 'b'},
		{"unit", required_argument, NULL, 'u'},
		{"store", required_argument, NULL, 's'},
		{"cost", required_argument, NULL, 'c'},
		{"scan", required_argument, NULL, 'n'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "+", names, NULL)) != -1) {
		bool ok = false;

		switch (c) {
		case 'r':
			ok = !out_parse_size(optarg, &opt.ram);
			break;
		case 'b':
			opt.block = (unsigned int)strtoul(optarg, NULL, 10);
			ok = opt.block && opt.block <= 64 &&
			     !(opt.block & (opt.block - 1));
			break;
		case 'u':
			opt.unit = *optarg == 'b'   ? BY_BLOCK
				   : *optarg == 'l' ? BY_LOAD
						    : BY_PAGE;
			ok = strchr("blp", *optarg);
			break;
		case 's':
			opt.store_early = *optarg == 'e';
			ok = strchr("el", *optarg);
			break;
		case 'n':
			opt.scan = (unsigned int)strtoul(optarg, NULL, 10);
			ok = opt.scan;
			break;
		case 'c':
			ok = sscanf(optarg, "%lf,%lf,%lf,%lf,%lf",
				    &opt.load_page, &opt.load_block, &opt.move,
				    &opt.out, &opt.store_block) == 5;
			break;
		}
		if (!ok)
			usage();
	}
	if (argc - optind < 2)
		usage();
	if (!opt.ram)
		opt.ram = strtoul(argv[optind + 1], NULL, 10) / 4;
}

static void print(unsigned int phase, size_t i, const struct count *c,
		  const struct count *fifo)
{
	printf("%-11s %-17s %8" PRIu64 " %8" PRIu64 " %8" PRIu64 " %8" PRIu64
	       " %8" PRIu64 " %8.0f %6.2f\n",
	       trace.phase[phase].name, policies[i].name, c->loads, c->loaded,
	       c->outs, c->stored, c->backs, ms(c), ms(c) / ms(fifo));
}

int main(int argc, char **argv)
{
	static struct count c[NR_POLICIES][TRACE_PHASES];

	parse(argc, argv);
	if (trace_record(argc - optind + 1, argv + optind - 1, &trace))
		return 1;
	trace.nr_pages += opt.scan ? SCAN_GAP + SCAN_PAGES : 0;
	s.page = malloc(trace.nr_pages * sizeof(*s.page));
	s.node = malloc(2 * (size_t)trace.nr_pages * sizeof(*s.node));
	s.tree = malloc(2 * (size_t)trace.nr_pages * sizeof(*s.tree));
	next_use = malloc(trace.nr * sizeof(*next_use));
	if (!s.page || !s.node || !s.tree || !next_use) {
		fprintf(stderr, "pgmap-victim: no memory to replay in\n");
		return 1;
	}
	for (size_t i = 0; i < NR_POLICIES; i++)
		replay(&policies[i], c[i]);
	printf("%-11s %-17s %8s %8s %8s %8s %8s %8s %6s\n", "phase", "policy",
	       "loads", "loaded", "outs", "stored", "back", "ms", "/FIFO");
	for (unsigned int k = 0; k < trace.nr_phases; k++)
		for (size_t i = 0; i < NR_POLICIES; i++)
			print(k, i, &c[i][k], &c[FIFO][k]);
	return 0;
}
