/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * threads.c - threads that read, change, free and allocate blocks all over a
 * large heap.
 *
 *   threads MB THREADS STEPS
 *
 * Each thread owns blocks of 1 KB to 256 KB and knows what must be in them.
 * Besides, all threads count up words that they share: no count may be lost.
 * What it prints depends on the arguments only.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARED_WORDS (4u << 20)
#define THREADS_MAX 16

struct block {
	uint64_t *word;
	uint32_t nr_words;
	uint32_t seed;
};

struct worker {
	pthread_t thread;
	uint64_t random;
	uint64_t size;
	uint64_t steps;
	uint64_t sum;
	struct block *blocks;
	size_t nr_blocks;
};

static _Atomic uint32_t *shared;

static uint64_t next(uint64_t *x)
{
	*x ^= *x >> 12;
	*x ^= *x << 25;
	*x ^= *x >> 27;
	return *x * 0x2545f4914f6cdd1dull;
}

static uint64_t expected(const struct block *b, uint32_t i)
{
	return ((uint64_t)b->seed << 32 | i) * 0x9e3779b97f4a7c15ull;
}

static void wrong(const struct worker *w, const struct block *b, uint32_t i)
{
	printf("WRONG: block of seed %" PRIu32 ", word %" PRIu32 " at %p is "
	       "%" PRIx64 ", want %" PRIx64 " (thread %#" PRIx64 ")\n",
	       b->seed, i, (void *)&b->word[i], b->word[i], expected(b, i),
	       (uint64_t)w->thread);
	fflush(stdout);
	abort();
}

static void check(const struct worker *w, const struct block *b)
{
	for (uint32_t i = 0; i < b->nr_words; i++)
		if (b->word[i] != expected(b, i))
			wrong(w, b, i);
}

static uint64_t block_size(uint64_t *random)
{
	return 1024u << (next(random) >> 32) % 9;
}

static void fill(struct block *b, uint32_t seed, uint64_t size)
{
	b->seed = seed;
	b->nr_words = (uint32_t)(size / sizeof(*b->word));
	b->word = malloc(size);
	if (!b->word) {
		puts("no memory");
		exit(3);
	}
	for (uint32_t i = 0; i < b->nr_words; i++)
		b->word[i] = expected(b, i);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t have = 0;

	while (have < w->size) {
		uint64_t size = block_size(&w->random);

		w->blocks = realloc(w->blocks,
				    (w->nr_blocks + 1) * sizeof(*w->blocks));
		fill(&w->blocks[w->nr_blocks++], (uint32_t)next(&w->random),
		     size);
		have += size;
	}
	for (uint64_t n = 0; n < w->steps; n++) {
		uint64_t r = next(&w->random) >> 16;
		struct block *b = &w->blocks[r % w->nr_blocks];
		uint32_t i = (uint32_t)next(&w->random) % b->nr_words;

		if (b->word[i] != expected(b, i))
			wrong(w, b, i);
		w->sum += b->word[i];
		atomic_fetch_add_explicit(&shared[(r * 31) % SHARED_WORDS], 1,
					  memory_order_relaxed);
		if (n % 64 == 0) {
			check(w, b);
			free(b->word);
			fill(b, (uint32_t)r, block_size(&w->random));
		} else if (n % 8 == 0) {
			b->word[i] = 0;
			b->word[i] = expected(b, i);
		}
	}
	for (size_t k = 0; k < w->nr_blocks; k++) {
		check(w, &w->blocks[k]);
		w->sum += w->blocks[k].seed;
		if (k % 2)
			free(w->blocks[k].word);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static struct worker workers[THREADS_MAX];
	uint64_t size, counted = 0;
	unsigned int nr;

	if (argc != 4)
		return 2;
	size = strtoull(argv[1], NULL, 10) << 20;
	nr = (unsigned int)atoi(argv[2]);
	if (nr < 1 || nr > THREADS_MAX)
		return 2;
	shared = calloc(SHARED_WORDS, sizeof(*shared));
	if (!shared)
		return 3;
	for (unsigned int t = 0; t < nr; t++) {
		workers[t].random = t * 7919 + 1;
		workers[t].size = size / nr;
		workers[t].steps = strtoull(argv[3], NULL, 10) / nr;
		pthread_create(&workers[t].thread, NULL, work, &workers[t]);
	}
	for (unsigned int t = 0; t < nr; t++) {
		pthread_join(workers[t].thread, NULL);
		printf("thread %u: %zu blocks, sum %016" PRIx64 "\n", t,
		       workers[t].nr_blocks, workers[t].sum);
	}
	for (uint32_t i = 0; i < SHARED_WORDS; i++)
		counted += shared[i];
	printf("counted %" PRIu64 "\n", counted);
	return 0;
}
