/* SPDX-License-Identifier: BSD-3-Clause */
/* pgmap explore - all interleavings of the core. See pgmap-explore(1). */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "beside.h"
#include "cmd.h"

#ifdef PG_HAVE_EXPLORE
/* A program of its own: it has the core compiled in another way. */
static int run(int argc, char **argv)
{
	char path[PATH_MAX];

	(void)argc;
	if (beside(path, sizeof(path), "pgmap-explore"))
		return 2;
	execv(path, argv);
	fprintf(stderr, "pgmap: cannot run %s: %s\n", path, strerror(errno));
	return 2;
}
#else
static int run(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	fprintf(stderr, "pgmap: a build with a sanitizer has no explore; "
			"configure one with -Db_sanitize=none\n");
	return 2;
}
#endif

const struct cmd cmd_explore = {
	.name = "explore",
	.summary = "try all interleavings of pgmap's core",
	.run = run,
};
