/* SPDX-License-Identifier: BSD-3-Clause */
/* pgmap - the command-line tool: finds the subcommand and runs it. */
#include <stdio.h>
#include <string.h>

#include "cmd.h"

static const struct cmd *const cmds[] = {
	&cmd_run,   &cmd_stat,	  &cmd_dax, &cmd_check,
	&cmd_bench, &cmd_explore, NULL,
};

static void help(void)
{
	printf("usage: pgmap <command> [options]\n\n");
	for (size_t i = 0; cmds[i]; i++)
		printf("  %-8s %s\n", cmds[i]->name, cmds[i]->summary);
	printf("\n`pgmap <command> --help` tells more, `man pgmap` most.\n");
}

static int finish(int ret)
{
	if (fflush(stdout) || ferror(stdout)) {
		perror("pgmap: stdout");
		return ret ? ret : 1;
	}
	return ret;
}

static int run(const struct cmd *c, int argc, char **argv)
{
	if (c->usage && argc > 1 &&
	    (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")))
		return finish(fputs(c->usage, stdout) < 0);
	return finish(c->run(argc, argv));
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;

	if (!name) {
		fprintf(stderr, "pgmap: no command is given; see pgmap help\n");
		return 2;
	}
	if (!strcmp(name, "help") || !strcmp(name, "--help") ||
	    !strcmp(name, "-h")) {
		help();
		return finish(0);
	}
	if (!strcmp(name, "--version")) {
		printf("pgmap %s\n", PG_VERSION);
		return finish(0);
	}
	for (size_t i = 0; cmds[i]; i++)
		if (!strcmp(cmds[i]->name, name))
			return run(cmds[i], argc - 1, argv + 1);
	fprintf(stderr, "pgmap: no command is called '%s'; see pgmap help\n",
		name);
	return 2;
}
