/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmd.h - a subcommand of the pgmap tool: one file, tools/cmd_<name>.c, one
 * struct cmd, one line in tools/pgmap.c, one page man/pgmap-<name>.1.scd.
 */
#ifndef CMD_H
#define CMD_H

struct cmd {
	const char *name;
	/* One line of `pgmap help`. */
	const char *summary;
	/* All of `pgmap <name> --help`. NULL: run() tells it. */
	const char *usage;
	/* Bad usage is told in one line on stderr that begins with "pgmap: ".
	 * Return: the exit status: 0, 1 it failed, 2 bad usage. */
	int (*run)(int argc, char **argv);
};

extern const struct cmd cmd_bench;
extern const struct cmd cmd_check;
extern const struct cmd cmd_dax;
extern const struct cmd cmd_explore;
extern const struct cmd cmd_run;
extern const struct cmd cmd_stat;

#endif
