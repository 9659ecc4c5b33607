/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bench.h - the parts of `pgmap bench`.
 *
 * core.c, map.c, micro.c and migrate.c measure the library in this process,
 * the last two in the form of line.c. compare.c runs the work of work.c, a
 * program of its own, by turns under pgmap and under a peer that peer.c sets
 * up.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <pgmap/pagemap.h>

/** bench_ms() - A clock in ms. */
double bench_ms(clockid_t clock);
/** bench_by_value() - Order of doubles, for qsort(). */
int bench_by_value(const void *a, const void *b);
/** bench_resident() - Bytes of this process in RAM, exactly. */
uint64_t bench_resident(void);
/** bench_grown_since() - How many more than @before. */
uint64_t bench_grown_since(uint64_t before);
/** bench_no_fault() - For maps whose pages nobody touches. */
int bench_no_fault(struct pgmap_fault *fault);

/** bench_map_memory() - Private memory, 2 MB aligned, of huge pages or surely
 * not. Return: NULL: no memory. */
char *bench_map_memory(size_t size, bool huge);
/** bench_unmap() - NULL is fine. */
void bench_unmap(char *p, size_t size);

#define BENCH_SIZE 24
/** bench_size() - "64 KB", "2 MB" into @buf: whole numbers. Return: @buf. */
const char *bench_size(char buf[BENCH_SIZE], uint64_t bytes);

/** struct bench_lines - A table, or a list for programs. */
struct bench_lines {
	bool json;
	const char *title;
	const char *unit;
	const char *low, *high; /* what these are called */
};

/** struct bench_line - What one thing takes. @of: what @ratio compares it with;
 * NULL: nothing. @goal: of @ratio; 0: nobody has set one. */
struct bench_line {
	const char *what;
	double median, low, high;
	const char *of;
	double ratio, goal;
};

void bench_lines_begin(const struct bench_lines *t);
void bench_line(const struct bench_lines *t, const struct bench_line *l);
void bench_lines_end(const struct bench_lines *t);

/** bench_core() and others that measure in this process.
 * @only: Bytes to migrate at once; 0: a row of sizes.
 * Return: the exit status. */
int bench_core(bool json);
int bench_map(bool json);
int bench_micro(bool json);
int bench_migrate(bool json, uint64_t only);

/** enum peer_kind - Who does the paging that pgmap is compared with. */
enum peer_kind { PEER_NONE, PEER_SWAP, PEER_ZRAM };

/**
 * struct peer - The kernel's own paging, for one process at a time.
 * @group: Folder of the memory control group; empty: no limit.
 */
struct peer {
	enum peer_kind kind;
	char group[128];
	char disk[64];	/* the zram device */
	int zram;	/* its number; -1: none */
	bool added;	/* it was not there before */
	char file[256]; /* the swap file */
	char swap[256]; /* what swapon() was given */
};

/**
 * peer_open() - Set swap and a control group up. Needs root.
 * @limit: Bytes of RAM for the process; @size: bytes that it will use.
 *
 * Return: 0; or -1, said in one line on stderr, and all taken down again.
 */
int peer_open(struct peer *p, enum peer_kind kind, uint64_t limit,
	      uint64_t size);
/** peer_enter() - In the process to be limited, before exec. Return: 0 or -1
 * and errno. */
int peer_enter(const struct peer *p);
/** peer_kills() - How often the kernel has killed in the group for memory. */
uint64_t peer_kills(const struct peer *p);
/** peer_close() - Take all down. Says what it could not. */
void peer_close(struct peer *p);

struct compare {
	const char *work; /* as pgmap-work knows it */
	uint64_t size, ram, folio;
	const char *device;
	const char *fault; /* --fault of pgmap run */
	enum peer_kind peer;
	unsigned int runs;
	bool json;
};

/** bench_compare() - Return: the exit status. */
int bench_compare(const struct compare *c);

#endif
