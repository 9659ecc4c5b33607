/* SPDX-License-Identifier: BSD-3-Clause */
/* preload.c - the entry point of libpgmap-preload.so. */
#include "runtime/runtime.h"

/* ld.so passes what main() gets. */
__attribute__((constructor)) static void start(int argc, char **argv,
					       char **envp)
{
	(void)argc, (void)argv;
	pg_runtime_start(envp);
}
