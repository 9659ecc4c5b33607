/* SPDX-License-Identifier: BSD-3-Clause */
/* pgmap check - what this machine allows. See pgmap-check(1). */
#include <errno.h>
#include <pgmap/run.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "cmd.h"
#include "out.h"

static const char *yes(bool b)
{
	return b ? "yes" : "no";
}

static void line(const char *what, const char *value, const char *note)
{
	printf("%-30s %-4s %s\n", what, value, note);
}

static void print_machine(const struct pgmap_machine *m)
{
	struct utsname u;

	if (!uname(&u))
		printf("%-30s %s %s\n", "kernel", u.sysname, u.release);
	line("userfaultfd", yes(!m->userfaultfd),
	     m->userfaultfd ? m->why
	     : m->by_device ? "through /dev/userfaultfd"
			    : "through the system call");
	line("system calls on absent pages", yes(m->kernel_faults),
	     m->userfaultfd || m->kernel_faults
		     ? ""
		     : "their buffers are held in RAM instead");
	if (!m->userfaultfd && !m->kernel_faults)
		line("", "", m->why);
	line("pages are moved, not copied", yes(m->move),
	     m->move ? "" : "Linux 6.8 or later is faster");
	line("lost pages raise SIGBUS", yes(m->poison),
	     m->poison ? "" : "Linux 6.6 or later is needed for that");
	line("events of address spaces", yes(m->events), "");
}

static void print_devices(struct out_json *o, bool *lz4)
{
	struct pgmap_device_info info = {.size = sizeof(info)};

	if (o)
		out_json_list(o, "devices");
	else
		printf("\ndevices: --device NAME[:OPTIONS], as lz4:4G or "
		       "file:/mnt/fast,size=20G\n");
	for (unsigned int i = 0; !pgmap_device_info_get(i, &info); i++) {
		char error[256] = "", name[64];
		int ret = pgmap_device_try(info.name, error, sizeof(error));
		struct out_json *d;

		if (!strcmp(info.name, "lz4"))
			*lz4 = !ret;
		if (o) {
			d = out_json_append(o, "devices");
			out_json_string(d, "name", info.name);
			out_json_string(d, "summary", info.summary);
			out_json_string(d, "options", info.options);
			out_json_bool(d, "available", !ret);
			out_json_string(d, "why", error);
			continue;
		}
		snprintf(name, sizeof(name), "device %s", info.name);
		line(name, yes(!ret), ret ? error : info.summary);
		if (info.options[0])
			line("", "", info.options);
	}
}

static int json(const struct pgmap_machine *m, bool *lz4)
{
	struct out_json *o = out_json_new();
	struct utsname u;

	if (!o)
		return 2;
	out_json_string(o, "version", PG_VERSION);
	out_json_string(o, "kernel", uname(&u) ? "" : u.release);
	out_json_bool(o, "userfaultfd", !m->userfaultfd);
	out_json_bool(o, "by_device", m->by_device);
	out_json_bool(o, "kernel_faults", m->kernel_faults);
	out_json_bool(o, "move", m->move);
	out_json_bool(o, "poison", m->poison);
	out_json_bool(o, "events", m->events);
	out_json_string(o, "why", m->why);
	print_devices(o, lz4);
	out_json_bool(o, "can_run", !m->userfaultfd);
	if (out_json_write(o, stdout)) {
		fprintf(stderr, "pgmap: cannot write the JSON\n");
		return 1;
	}
	return m->userfaultfd ? 1 : 0;
}

static int run(int argc, char **argv)
{
	struct pgmap_machine m = {.size = sizeof(m)};
	bool lz4 = false;

	if (argc > 2 || (argc == 2 && strcmp(argv[1], "--json"))) {
		fprintf(stderr, "pgmap: check takes [--json] only; see pgmap "
				"check --help\n");
		return 2;
	}
	pgmap_machine_get(&m);
	if (argc == 2)
		return json(&m, &lz4);
	print_machine(&m);
	print_devices(NULL, &lz4);
	if (m.userfaultfd)
		printf("\npgmap run cannot work here: %s\n", m.why);
	else if (!lz4)
		printf("\npgmap run can work here, with --device and one of "
		       "the devices above.\n");
	else
		printf("\npgmap run can work here.\n");
	return m.userfaultfd ? 1 : 0;
}

const struct cmd cmd_check = {
	.name = "check",
	.summary = "tell what this machine allows, and what to change",
	.usage = "usage: pgmap check [--json]\n\n"
		 "Exit status 0 if pgmap run can work here, else 1.\n",
	.run = run,
};
