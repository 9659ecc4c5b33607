/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * adopt.c - 64 MB behind ordinary pointers, of which 16 MB are in RAM.
 *
 *   cc adopt.c $(pkg-config --cflags --libs pgmap) && ./a.out [DEVICE]
 *
 * If the loader does not find libpgmap.so.0: run ldconfig as root after the
 * installation, or name its folder, as in
 *   LD_LIBRARY_PATH=$(pkg-config --variable=libdir pgmap) ./a.out
 */
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#include <pgmap/pgmap.h>

#define SIZE ((size_t)64 << 20)

int main(int argc, char **argv)
{
	struct pgmap_mm_config config = {
		.size = sizeof(config),
		.ram = 16 << 20,
		.device = argc > 1 ? argv[1] : "lz4",
		.folio_size = 64 << 10,
	};
	struct pgmap_stat st = {.size = sizeof(st)};
	struct pgmap_mm *mm;
	char error[256];
	uint64_t *p, wrong = 0;

	if (pgmap_mm_create(&config, &mm, error, sizeof(error))) {
		fprintf(stderr, "adopt: %s\n", error);
		return 1;
	}
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || pgmap_mm_adopt(mm, p, SIZE))
		return 1;
	for (size_t i = 0; i < SIZE / sizeof(*p); i++)
		p[i] = i;
	for (size_t i = 0; i < SIZE / sizeof(*p); i++)
		wrong += p[i] != i;
	pgmap_stat_get(mm, &st);
	printf("%ju wrong, %ju pages evicted, %ju loaded\n", (uintmax_t)wrong,
	       (uintmax_t)st.evictions, (uintmax_t)st.loads);
	pgmap_mm_destroy(mm);
	return wrong != 0 || st.evictions == 0;
}
