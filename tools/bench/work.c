/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pgmap-work - the work that `pgmap bench` measures: an ordinary program that
 * knows nothing of pgmap, so each contender runs the very same one.
 *
 * usage: pgmap-work NAME BYTES [FILE]
 *
 * Prints lines "metric NAME UNIT VALUE", in the order of time, and last "sum
 * HEX": what it read and computed, which must not depend on who pages.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define RUN ((size_t)65536) /* data of one kind */
#define ROUNDS 3
#define ZIPF 0.99

static uint64_t sum; /* of what was read and computed */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static uint64_t next(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15u;
	return mix(*state);
}

static void metric(const char *name, const char *unit, double value)
{
	printf("metric %s %s %.6g\n", name, unit, value);
	fflush(stdout);
}

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static double median(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), by_value);
	return v[n / 2];
}

static void *map(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		fprintf(stderr, "pgmap-work: no address space for %zu MB\n",
			len >> 20);
		exit(1);
	}
	/* 4 KB pages for all contenders: with huge ones the first touch, not
	 * the paging, would decide. */
	madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}

/* ---- Data: what programs hold, 64 KB of a kind, by lz4 about 2.2 to 1 ---- */

static void fill_text(char *p, size_t len, uint64_t *rng)
{
	static const char *const words[] = {
		"the",	  "page",    "of",	"memory",  "count", "is",
		"device", "returns", "lock",	"pointer", "and",   "a",
		"caller", "must",    "release", "before",  "it",    "function",
		"in",	  "value",   "struct",	"error",   "to",    "when",
		"list",	  "buffer",  "while",	"not",	   "held",  "address",
		"range",  "number"};
	size_t n = 0;

	while (n < len) {
		uint64_t r = next(rng), phrase = mix(r & 511);

		for (int i = 0; i < 4; i++, phrase >>= 8) {
			for (const char *w = words[phrase & 31]; *w && n < len;)
				p[n++] = *w++;
			if (n < len)
				p[n++] = ' ';
		}
		for (int i = 0; !(r >> 9 & 3) && i < 3 && n < len; i++)
			p[n++] = (char)('0' + (r >> (12 + 4 * i) & 15) % 10);
		if (n < len)
			p[n++] = r >> 60 ? ' ' : '\n';
	}
}

/* Objects: a type, a count, a length, a pointer near by. */
static void fill_heap(char *p, size_t len, uint64_t *rng)
{
	for (size_t n = 0; n + 48 <= len; n += 48) {
		uint64_t r = next(rng),
			 o[6] = {1 + (r & 3),
				 0x55d0c8a01000u + (r >> 2 & 7) * 416,
				 r >> 8 & 63,
				 (r >> 14 & 0xff) * 7,
				 0x7f3a10000000u + ((r >> 30 & 0xfff) << 4),
				 0};

		memcpy(p + n, o, sizeof(o));
	}
}

static void fill_floats(char *p, size_t len, uint64_t *rng)
{
	double x = (double)(next(rng) >> 40);

	for (size_t n = 0; n + 8 <= len; n += 8) {
		x += (double)(next(rng) >> 54) / 64;
		memcpy(p + n, &x, 8);
	}
}

static void fill_random(char *p, size_t len, uint64_t *rng)
{
	for (size_t n = 0; n + 8 <= len; n += 8) {
		uint64_t r = next(rng);

		memcpy(p + n, &r, 8);
	}
}

static void fill(char *p, size_t len)
{
	uint64_t rng = 1;

	for (size_t n = 0; n < len; n += RUN) {
		size_t l = len - n < RUN ? len - n : RUN;

		switch (next(&rng) % 16) {
		case 0: /* zeros, as allocators leave them */
			memset(p + n, 0, l);
			break;
		case 1:
			fill_random(p + n, l, &rng);
			break;
		case 2:
		case 3:
			fill_floats(p + n, l, &rng);
			break;
		case 4:
		case 5:
		case 6:
		case 7:
		case 8:
			fill_text(p + n, l, &rng);
			break;
		default:
			fill_heap(p + n, l, &rng);
			break;
		}
	}
}

static uint64_t read_all(const char *p, size_t len)
{
	uint64_t s[4] = {0}, w[4];

	for (size_t n = 0; n + 32 <= len; n += 32) {
		memcpy(w, p + n, 32);
		for (int i = 0; i < 4; i++)
			s[i] += w[i];
	}
	return s[0] + 3 * s[1] + 5 * s[2] + 7 * s[3];
}

/* ---- stream ---- */

static void change_all(char *p, size_t len)
{
	for (size_t n = 0; n + 8 <= len; n += 8) {
		uint64_t w;

		memcpy(&w, p + n, 8);
		w ^= 1;
		memcpy(p + n, &w, 8);
	}
}

static void stream(size_t len)
{
	char *p = map(len), *from = map(RUN * 16);
	double t[ROUNDS], began;

	fill(p, len);
	fill(from, RUN * 16);
	sum += read_all(p, len); /* to where it stays */
	for (int i = 0; i < ROUNDS; i++) {
		began = now();
		sum += read_all(p, len);
		t[i] = (double)len / (now() - began) / 1e9;
	}
	metric("read", "GB/s", median(t, ROUNDS));
	for (int i = 0; i < ROUNDS; i++) {
		began = now();
		change_all(p, len);
		t[i] = (double)len / (now() - began) / 1e9;
	}
	metric("modify", "GB/s", median(t, ROUNDS));
	for (int i = 0; i < ROUNDS; i++) {
		began = now();
		for (size_t n = 0; n < len; n += RUN)
			memcpy(p + n, from + (n / RUN + (size_t)i) % 16 * RUN,
			       len - n < RUN ? len - n : RUN);
		t[i] = (double)len / (now() - began) / 1e9;
	}
	metric("write", "GB/s", median(t, ROUNDS));
	sum += read_all(p, len);
}

/* ---- random ---- */

/* Gray et al., "Quickly generating billion-record synthetic databases". */
struct zipf {
	uint64_t n;
	double alpha, zetan, eta, half;
};

static void zipf_init(struct zipf *z, uint64_t n)
{
	double zeta2 = 1 + pow(0.5, ZIPF);

	z->n = n;
	z->zetan = 0;
	for (uint64_t i = 1; i <= n; i++)
		z->zetan += 1 / pow((double)i, ZIPF);
	z->alpha = 1 / (1 - ZIPF);
	z->eta = (1 - pow(2 / (double)n, 1 - ZIPF)) / (1 - zeta2 / z->zetan);
	z->half = pow(0.5, ZIPF);
}

/* The popular ones are spread over all: a hash, not the rank. */
static uint64_t zipf_next(const struct zipf *z, uint64_t *rng)
{
	double u = (double)(next(rng) >> 11) / 9007199254740992.0;
	double uz = u * z->zetan;
	uint64_t rank;

	if (uz < 1)
		rank = 0;
	else if (uz < 1 + z->half)
		rank = 1;
	else
		rank = (uint64_t)((double)z->n *
				  pow(z->eta * u - z->eta + 1, z->alpha));
	return mix(rank % z->n) % z->n;
}

/* One of the accesses to memory that are measured, at place @i of @nr. */
typedef void access_fn(char *p, uint64_t i, uint64_t *s);

static void read_page(char *p, uint64_t i, uint64_t *s)
{
	*s += read_all(p + i * PAGE, PAGE);
}

static void write_word(char *p, uint64_t i, uint64_t *s)
{
	uint64_t w;

	memcpy(&w, p + i * PAGE + i % 512 * 8, 8);
	w++;
	memcpy(p + i * PAGE + i % 512 * 8, &w, 8);
	*s += w;
}

/* @z: NULL for uniform. Return: us for one access. */
static double accesses(char *p, const struct zipf *z, uint64_t nr, uint64_t ops,
		       access_fn *fn, uint64_t *rng)
{
	double began = now();

	for (uint64_t i = 0; i < ops; i++)
		fn(p, z ? zipf_next(z, rng) : next(rng) % nr, &sum);
	return (now() - began) * 1e6 / (double)ops;
}

static void measure(const char *name, char *p, const struct zipf *z,
		    uint64_t nr, access_fn *fn)
{
	uint64_t ops = nr / 2 + 1, rng = 5;
	double t[ROUNDS];

	accesses(p, z, nr, ops, fn, &rng);
	for (int i = 0; i < ROUNDS; i++)
		t[i] = accesses(p, z, nr, ops, fn, &rng);
	metric(name, "us", median(t, ROUNDS));
}

static void random_pages(size_t len)
{
	uint64_t nr = len / PAGE;
	char *p = map(len);
	struct zipf z;

	zipf_init(&z, nr);
	fill(p, len);
	measure("read", p, NULL, nr, read_page);
	measure("zipf-read", p, &z, nr, read_page);
	measure("zipf-write", p, &z, nr, write_word);
	measure("write", p, NULL, nr, write_word);
	sum += read_all(p, len);
}

/* ---- hash join: a table of keys and rows, open addressing ---- */

struct row {
	uint64_t key, value[3];
};

static struct row *find(struct row *table, uint64_t mask, uint64_t key)
{
	uint64_t i = mix(key) & mask;

	while (table[i].key && table[i].key != key)
		i = (i + 1) & mask;
	return &table[i];
}

/* us for one probe. */
static double probes(struct row *table, uint64_t mask, uint64_t nr,
		     const struct zipf *z, uint64_t ops, uint64_t *rng)
{
	double began = now();

	for (uint64_t i = 0; i < ops; i++) {
		uint64_t k = 1 + (z ? zipf_next(z, rng) : next(rng) % nr);

		sum += find(table, mask, k)->value[0];
	}
	return (now() - began) * 1e6 / (double)ops;
}

static void hash_join(size_t len)
{
	uint64_t size = 1, nr, rng = 9, ops;
	struct row *table;
	struct zipf z;
	double t[ROUNDS];

	while (2 * size * sizeof(*table) <= len)
		size *= 2;
	nr = size / 2;
	ops = len / PAGE / 2 + 1;
	table = map(size * sizeof(*table));
	/* Built in the order of the table, as a radix join does: a build in
	 * the order of the keys would take the whole time. */
	for (uint64_t part = 0; part < 64; part++)
		for (uint64_t k = 1; k <= nr; k++)
			if ((mix(k) & (size - 1)) / (size / 64) == part)
				*find(table, size - 1, k) = (struct row){
					k, {k * 3, k ^ 0xffff, k / 10}};
	zipf_init(&z, nr);
	probes(table, size - 1, nr, NULL, ops, &rng);
	for (int i = 0; i < ROUNDS; i++)
		t[i] = probes(table, size - 1, nr, NULL, ops, &rng);
	metric("probe", "us", median(t, ROUNDS));
	probes(table, size - 1, nr, &z, ops, &rng);
	for (int i = 0; i < ROUNDS; i++)
		t[i] = probes(table, size - 1, nr, &z, ops, &rng);
	metric("zipf-probe", "us", median(t, ROUNDS));
}

/* ---- sort ---- */

static void swap_words(uint64_t *a, uint64_t *b)
{
	uint64_t t = *a;

	*a = *b;
	*b = t;
}

static void sort_few(uint64_t *a, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		uint64_t v = a[i];
		size_t k = i;

		for (; k && a[k - 1] > v; k--)
			a[k] = a[k - 1];
		a[k] = v;
	}
}

/* Hoare's quicksort, the middle of three as the pivot: what the sort of a C++
 * library does to keys without order. */
static void sort_words(uint64_t *a, size_t n)
{
	while (n > 24) {
		uint64_t *lo = a, *hi = a + n - 1, *mid = a + n / 2, pivot;

		if (*mid < *lo)
			swap_words(mid, lo);
		if (*hi < *mid) {
			swap_words(hi, mid);
			if (*mid < *lo)
				swap_words(mid, lo);
		}
		pivot = *mid;
		for (;;) {
			while (*lo < pivot)
				lo++;
			while (pivot < *hi)
				hi--;
			if (lo >= hi)
				break;
			swap_words(lo++, hi--);
		}
		/* Both sides are shorter than the whole: a[n-1] >= pivot. */
		sort_words(a, (size_t)(lo - a));
		n -= (size_t)(lo - a);
		a = lo;
	}
	sort_few(a, n);
}

static void sort(size_t len)
{
	size_t n = len / sizeof(uint64_t);
	uint64_t *a = map(len), rng = 3;
	double began;

	for (size_t i = 0; i < n; i++)
		a[i] = next(&rng) >> 16;
	began = now();
	sort_words(a, n);
	metric("sort", "s", now() - began);
	for (size_t i = 1; i < n; i++) {
		if (a[i - 1] > a[i]) {
			fprintf(stderr, "pgmap-work: not sorted at %zu\n", i);
			exit(1);
		}
		sum = sum * 31 + a[i];
	}
}

/* ---- bfs: a graph of Chakrabarti's R-MAT, as Graph500 has it ---- */

struct graph {
	uint64_t nr, edges; /* vertices: a power of two */
};

static struct graph graph_of(size_t len)
{
	struct graph g = {.nr = 1};

	/* An offset, a parent and 24 edges for each vertex, about. */
	while (g.nr * 2 * (8 + 4 + 24 * 4) <= len)
		g.nr *= 2;
	g.edges = (len - g.nr * (8 + 4)) / 4;
	return g;
}

/* Vertex names without order, as in real data: a bijection. */
static uint32_t scramble(uint64_t v, uint64_t nr)
{
	v = (v * 0x9e3779b97f4a7c15u) & (nr - 1);
	v ^= v >> 11;
	return (uint32_t)((v * 0xbf58476d1ce4e5b9u) & (nr - 1));
}

static void edge(const struct graph *g, uint64_t *rng, uint32_t *from,
		 uint32_t *to)
{
	uint64_t u = 0, v = 0, r = 0;
	int left = 0;

	for (uint64_t b = 1; b < g->nr; b *= 2, left--, r >>= 8) {
		unsigned int q;

		if (!left) {
			r = next(rng);
			left = 8;
		}
		q = r & 255; /* 0.57, 0.19, 0.19, 0.05 */
		if (q >= 146) {
			u |= q >= 195 ? b : 0;
			v |= q < 195 || q >= 243 ? b : 0;
		}
	}
	*from = scramble(u, g->nr);
	*to = scramble(v, g->nr);
}

/* Made by a process that no limit binds; the one that is measured reads it. */
static int make_graph(size_t len, const char *path)
{
	struct graph g = graph_of(len);
	uint64_t *first = map((g.nr + 1) * 8), *at = map(g.nr * 8), rng = 7;
	uint32_t *to = map(g.edges * 4), a, b;
	FILE *f = fopen(path, "we");

	for (uint64_t i = 0; i < g.edges; i++) {
		edge(&g, &rng, &a, &b);
		first[a + 1]++;
	}
	for (uint64_t v = 0; v < g.nr; v++) {
		first[v + 1] += first[v];
		at[v] = first[v];
	}
	rng = 7;
	for (uint64_t i = 0; i < g.edges; i++) {
		edge(&g, &rng, &a, &b);
		to[at[a]++] = b;
	}
	if (!f || fwrite(&g, sizeof(g), 1, f) != 1 ||
	    fwrite(first, 8, g.nr + 1, f) != g.nr + 1 ||
	    fwrite(to, 4, g.edges, f) != g.edges || fclose(f)) {
		fprintf(stderr, "pgmap-work: %s: %s\n", path, strerror(errno));
		return 1;
	}
	return 0;
}

static void read_in(FILE *f, void *p, size_t len)
{
	if (fread(p, 1, len, f) == len)
		return;
	fprintf(stderr, "pgmap-work: the graph's file is too short\n");
	exit(1);
}

static void bfs(const char *path)
{
	FILE *f = fopen(path, "re");
	uint64_t *first, head = 0, tail = 0, edges = 0;
	uint32_t *to, *parent, *queue;
	struct graph g;
	double began;

	if (!f) {
		fprintf(stderr, "pgmap-work: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	read_in(f, &g, sizeof(g));
	first = map((g.nr + 1) * 8);
	to = map(g.edges * 4);
	parent = map(g.nr * 4);
	queue = map(g.nr * 4);
	read_in(f, first, (g.nr + 1) * 8);
	read_in(f, to, g.edges * 4);
	fclose(f);
	began = now();
	/* From a hub: the vertex that R-MAT calls 0. */
	queue[tail++] = scramble(0, g.nr);
	parent[queue[0]] = queue[0] + 1;
	while (head < tail) {
		uint32_t v = queue[head++];

		for (uint64_t i = first[v]; i < first[v + 1]; i++) {
			if (parent[to[i]])
				continue;
			parent[to[i]] = v + 1;
			queue[tail++] = to[i];
		}
		edges += first[v + 1] - first[v];
	}
	metric("bfs", "MTEPS", (double)edges / (now() - began) / 1e6);
	sum = edges * 31 + tail;
	for (uint64_t i = 0; i < tail; i++)
		sum += (uint64_t)parent[queue[i]] * (i + 1);
}

/* ---- threads ---- */

struct worker {
	pthread_t thread;
	char *p;
	uint64_t nr, ops, rng, sum;
	unsigned int word;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	for (uint64_t i = 0; i < w->ops; i++) {
		uint64_t r = next(&w->rng), at = r % w->nr;

		/* A quarter writes: each thread to a word of its own in the
		 * page, so that the sum does not depend on who was first. */
		if (r >> 62)
			w->sum += read_all(w->p + at * PAGE + 64, PAGE - 64);
		else
			((uint64_t *)(void *)(w->p + at * PAGE))[w->word] +=
				r >> 32;
	}
	return NULL;
}

static double threads_take(char *p, uint64_t nr, uint64_t ops, unsigned int n)
{
	static uint64_t nth;
	struct worker w[8] = {0};
	double began = now();

	for (unsigned int i = 0; i < n; i++) {
		w[i] = (struct worker){.p = p,
				       .nr = nr,
				       .ops = ops / n,
				       .rng = mix(++nth),
				       .word = i % 8};
		if (pthread_create(&w[i].thread, NULL, work, &w[i])) {
			fprintf(stderr, "pgmap-work: no thread\n");
			exit(1);
		}
	}
	for (unsigned int i = 0; i < n; i++) {
		pthread_join(w[i].thread, NULL);
		sum += w[i].sum;
	}
	return (double)ops / (now() - began);
}

static void threads(size_t len)
{
	static const unsigned int nr_threads[] = {1, 2, 4};
	uint64_t nr = len / PAGE, ops = nr / 8 * 4;
	char *p = map(len), name[16];
	double t[ROUNDS];

	fill(p, len);
	for (int k = 0; k < 3; k++) {
		threads_take(p, nr, ops, nr_threads[k]);
		for (int i = 0; i < ROUNDS; i++)
			t[i] = threads_take(p, nr, ops, nr_threads[k]);
		snprintf(name, sizeof(name), "threads-%u", nr_threads[k]);
		metric(name, "op/s", median(t, ROUNDS));
	}
	sum += read_all(p, len);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*fn)(size_t len);
	} works[] = {{"stream", stream},
		     {"random", random_pages},
		     {"hash", hash_join},
		     {"sort", sort},
		     {"threads", threads}};
	size_t len = argc > 2 ? strtoul(argv[2], NULL, 10) & ~(PAGE - 1) : 0;
	bool known = false;

	if (len >= 1 << 20) {
		if (argc == 4 && !strcmp(argv[1], "make-graph"))
			return make_graph(len, argv[3]);
		known = argc == 4 && !strcmp(argv[1], "bfs");
		if (known)
			bfs(argv[3]);
		for (size_t i = 0; i < sizeof(works) / sizeof(works[0]); i++)
			if (argc == 3 && !strcmp(argv[1], works[i].name)) {
				works[i].fn(len);
				known = true;
			}
	}
	if (!known) {
		fprintf(stderr, "usage: pgmap-work NAME BYTES [FILE]\n");
		return 2;
	}
	printf("sum %016lx\n", (unsigned long)sum);
	return 0;
}
