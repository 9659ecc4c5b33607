/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Hostile images: a sound store, parts of it overwritten, sums made right.
 * Opening it must be refused or give a store that is sound in memory, and with
 * which anything can be done. An access outside the image is a crash.
 *
 * usage: fuzz-store [--seconds N] [INPUT...]
 *
 * Runs the inputs, then, for N seconds, such as it makes of them; the one that
 * crashed is kept in fuzz-store.crash. With -DPG_LIBFUZZER it is a target of
 * libFuzzer.
 *
 * An input: a byte (1: sums of records are made right, 2: of superblocks), a
 * byte that chooses the operations that follow, 6 of no meaning; then, as often
 * as wanted, where (u32), how many bytes (u32, modulo 9), and which (u64).
 */
#include <fcntl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "store.h"

#define BYTES (256u * 1024)
#define HALF (32u * 1024)
#define HEAD 8u
#define PATCH 16u
#define MAX_PATCHES 16u
#define MAX_INPUT (HEAD + MAX_PATCHES * PATCH)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static unsigned char *mem;
static unsigned char sound[BYTES];
static uint64_t nr_inputs, nr_opened;

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz-store: %s\n", what);
	abort();
}

static void quiet(const char *line, size_t len)
{
	(void)line;
	(void)len;
}

/* Both halves have been used, and files share, have holes, are gone. */
static void make_sound(void)
{
	uint64_t seed = 12345;
	struct pgmap_dax dax = {0};
	struct pgmap_store *s;

	pg_log_set(PG_LOG_ERROR, 2, quiet);
	mem = mmap(NULL, BYTES + 2 * BLOCK, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(mem != MAP_FAILED, "no memory");
	mem += BLOCK;
	must(!mprotect(mem, BYTES, PROT_READ | PROT_WRITE), "no memory");
	pg_daxdev_init(&dax, mem, BYTES);
	must(!pgmap_store_format(&dax, HALF), "no store can be made");
	must(!pgmap_store_open(&dax, &s, NULL, 0), "it cannot be opened");
	while (s->journal.generation < 3 || s->journal.seq < 30) {
		struct op op = op_random(&seed);

		if (op.type != OP_SNAPSHOT || s->journal.generation < 3)
			store_do(s, &op);
	}
	must(!pgmap_store_close(s), "it cannot be closed");
	memcpy(sound, mem, BYTES);
}

static void fix_super(uint64_t at)
{
	struct pg_super *s = (struct pg_super *)(void *)(mem + at);

	s->sum = pg_hash(&s->id, sizeof(*s) - offsetof(struct pg_super, id)).lo;
}

static void fix_records(void)
{
	for (unsigned int half = 0; half < 2; half++) {
		uint64_t at = 0;

		while (at <= HALF - PG_RECORD_ALIGN) {
			struct pg_record *r =
				(void *)(mem + BLOCK + half * HALF + at);

			if (r->bytes < PG_RECORD_ALIGN ||
			    r->bytes > HALF - at || r->bytes % PG_RECORD_ALIGN)
				break;
			r->sum = pg_hash(&r->id,
					 r->bytes -
						 offsetof(struct pg_record, id))
					 .lo;
			at += r->bytes;
		}
	}
}

static void use(struct pgmap_store *s, uint64_t seed)
{
	struct pgmap_file_info info = {.size = sizeof(info)};
	struct pg_report report = {0};
	uint64_t cursor = 0;
	unsigned char data[256];
	size_t n;

	must(!pg_store_check(s, &report), "it is not sound in memory");
	while (!pgmap_store_next(s, &cursor, &info)) {
		struct pgmap_file *f;
		struct pgmap_extent x = {.size = sizeof(x)};

		must(!pgmap_file_open(s, info.name, 0, &f),
		     "a file that is there is not there");
		pgmap_file_read(f, 0, data, sizeof(data), &n);
		pgmap_file_read(f, info.bytes - sizeof(data), data,
				sizeof(data), &n);
		pgmap_file_extent(f, info.bytes / 2, &x);
		pgmap_file_close(f);
	}
	for (unsigned int i = 0; i < 24; i++) {
		struct op op = op_random(&seed);

		store_do(s, &op);
	}
	must(!pg_store_check(s, &report), "what was done is not sound");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct pgmap_dax dax = {0};
	struct pgmap_store *s;
	char error[256] = "";
	int ret;

	if (!mem)
		make_sound();
	if (len < HEAD)
		return 0;
	memcpy(mem, sound, BYTES);
	for (size_t i = HEAD; i + PATCH <= len && i < MAX_INPUT; i += PATCH) {
		uint32_t where[2];

		memcpy(where, data + i, sizeof(where));
		memcpy(mem + where[0] % (BYTES - 8), data + i + 8,
		       where[1] % 9);
	}
	if (data[0] & 1)
		fix_records();
	if (data[0] & 2) {
		fix_super(0);
		fix_super(BYTES - BLOCK);
	}
	pg_daxdev_init(&dax, mem, BYTES);
	nr_inputs++;
	dax.readonly = true;
	must(!mprotect(mem, BYTES, PROT_READ), "mprotect");
	ret = pgmap_store_check(&dax, NULL, NULL);
	must(!ret || ret == -EUCLEAN, "an error that is not -EUCLEAN");
	must(!mprotect(mem, BYTES, PROT_READ | PROT_WRITE), "mprotect");
	dax.readonly = false;
	ret = pgmap_store_open(&dax, &s, NULL, 0);
	must(!ret || ret == -EUCLEAN, "an error that is not -EUCLEAN");
	if (ret)
		return 0;
	nr_opened++;
	use(s, data[1] * 2u + 1);
	pgmap_store_close(s);
	must(!pgmap_store_open(&dax, &s, error, sizeof(error)), error);
	pgmap_store_close(s);
	return 0;
}

#ifndef PG_LIBFUZZER
static uint8_t input[MAX_INPUT];
static size_t input_len;

static void keep(int sig)
{
	int fd = open("fuzz-store.crash", O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (write(fd, input, input_len) < 0)
		_exit(2);
	signal(sig, SIG_DFL);
	raise(sig);
}

static uint64_t interesting(uint64_t *seed)
{
	static const uint64_t values[] = {
		0,	    1,		2,	    16,		17,
		18,	    62,		63,	    64,		255,
		256,	    HALF,	BLOCK,	    1ull << 31, UINT32_MAX,
		1ull << 40, 1ull << 51, 1ull << 63, UINT64_MAX,
	};
	uint64_t r = test_random(seed) >> 16;

	return r & 1 ? values[r / 2 % (sizeof(values) / sizeof(values[0]))]
		     : r / 2 % 128;
}

/* Of the input: another one, mostly in what the store reads. */
static void mutate(uint64_t *seed)
{
	uint64_t r = test_random(seed) >> 8;
	size_t nr = 1 + r % 3;

	if (input_len < HEAD || r & 64) {
		memset(input, 0, sizeof(input));
		input_len = HEAD;
	}
	input[0] = (uint8_t)(r >> 8 & 7 ? 3 : r >> 11);
	input[1] = (uint8_t)(r >> 16);
	while (nr-- && input_len + PATCH <= MAX_INPUT) {
		uint32_t where[2];
		uint64_t value = interesting(seed);

		r = test_random(seed) >> 8;
		where[0] = (uint32_t)(r >> 8) % HALF / 4;
		where[0] += r & 7 ? BLOCK + (uint32_t)(r >> 3 & 1) * HALF : 0;
		if (r & 16)
			where[0] = where[0] % 64 | (r & 7 ? BLOCK : 0);
		if (r & 32)
			where[0] &= ~7u;
		where[1] = r & 64 ? 8 : (uint32_t)(r >> 7) % 9;
		memcpy(input + input_len, where, sizeof(where));
		memcpy(input + input_len + 8, &value, sizeof(value));
		input_len += PATCH;
	}
}

int main(int argc, char **argv)
{
	static const int crashes[] = {SIGABRT, SIGBUS,	SIGFPE,
				      SIGILL,  SIGSEGV, SIGALRM};
	bool timed = argc > 2 && !strcmp(argv[1], "--seconds");
	time_t end = time(NULL) + (timed ? atoi(argv[2]) : 0);
	uint64_t seed = test_seed();
	int nr_files = argc - (timed ? 3 : 1), from = 0;

	argv += timed ? 3 : 1;
	for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		signal(crashes[i], keep);
	for (int i = 0; i < nr_files || time(NULL) < end; i++) {
		/* Every now and then from a file again. */
		if (i < nr_files || !(i & 63)) {
			FILE *f = nr_files ? fopen(argv[from++ % nr_files], "r")
					   : NULL;

			must(f || i >= nr_files, "an input cannot be read");
			input_len = f ? fread(input, 1, sizeof(input), f) : 0;
			if (f)
				fclose(f);
		}
		if (i >= nr_files)
			mutate(&seed);
		alarm(10);
		LLVMFuzzerTestOneInput(input, input_len);
	}
	alarm(0);
	printf("# %ju images, %ju of them opened\n", (uintmax_t)nr_inputs,
	       (uintmax_t)nr_opened);
	return 0;
}
#endif
