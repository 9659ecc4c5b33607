/* SPDX-License-Identifier: BSD-3-Clause */
#include "runtime/runtime.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>

#include "base/log.h"
#include "runtime/sigbus.h"

struct pg_runtime pg_rt;

/* Take our variables out of the environment, so that the program sees what it
 * would have seen. Return: the name of the control socket, or NULL. */
static const char *hide_environment(char **env)
{
	const char *name = NULL;
	char **to = env;

	for (; *env; env++) {
		if (!strncmp(*env, PG_CONTROL_ENV "=",
			     sizeof(PG_CONTROL_ENV))) {
			name = *env + sizeof(PG_CONTROL_ENV);
			continue;
		}
		if (!strncmp(*env, "LD_PRELOAD=", 11)) {
			/* Ours is the first; what follows is the user's. */
			char *v = *env + 11;
			size_t n = strcspn(v, ": ");

			if (n < sizeof(pg_rt.preload))
				memcpy(pg_rt.preload, v, n);
			if (!v[n])
				continue;
			memmove(v, v + n + 1, strlen(v + n + 1) + 1);
		}
		*to++ = *env;
	}
	*to = NULL;
	return name;
}

struct object {
	uintptr_t base;
	const uint8_t *id;
	uint32_t id_len;
};

static void object_of(const struct dl_phdr_info *info, struct object *o)
{
	o->base = info->dlpi_addr;
	o->id_len = 0;
	for (int i = 0; i < info->dlpi_phnum && !o->id_len; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];

		if (p->p_type == PT_NOTE)
			o->id_len = pg_site_build_id(
				(const uint8_t *)(o->base + p->p_vaddr),
				p->p_memsz, &o->id);
	}
}

struct install {
	struct pg_syscall_patch patch[PG_CONTROL_IMAGES];
	bool done[PG_CONTROL_IMAGES];
	int ret;
};

static int install_one(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct install *in = arg;
	struct object o;

	(void)size;
	object_of(info, &o);
	for (int i = 0; i < PG_CONTROL_IMAGES; i++) {
		const struct pg_site_list *list = &pg_rt.control->image[i].list;

		if (in->done[i] || !o.id_len || o.id_len != list->id_len ||
		    memcmp(o.id, list->id, o.id_len))
			continue;
		in->ret = pg_syscall_install(o.base, list, &in->patch[i]);
		in->done[i] = !in->ret;
		return in->ret;
	}
	return 0;
}

static const char *install_layer(void)
{
	static struct install in;

	dl_iterate_phdr(install_one, &in);
	if (!in.ret && in.done[PG_CONTROL_LIBC]) {
		pg_hook_init();
		return NULL;
	}
	for (int i = 0; i < PG_CONTROL_IMAGES; i++)
		if (in.done[i])
			pg_syscall_remove(&in.patch[i]);
	switch (in.ret) {
	case 0:
		return "it has another C library than the one pgmap run found";
	case -EBUSY:
		return "it had threads before the runtime started";
	case -EOPNOTSUPP:
		return "the CPU or system has no XSAVE";
	default:
		return "its C library cannot be rewritten";
	}
}

static void say(const char *line, size_t len)
{
	pg_control_say(pg_rt.control, line, len);
}

void pg_runtime_start(char **environ_)
{
	const char *name, *why;

	if (getauxval(AT_SECURE))
		return;
	name = hide_environment(environ_);
	if (!name)
		return;
	pg_rt.name_len = strnlen(name, sizeof(pg_rt.name) - 1);
	memcpy(pg_rt.name, name, pg_rt.name_len);
	if (pg_control_join(pg_rt.name, pg_rt.name_len, &pg_rt.control))
		return; /* `pgmap run` is gone: a program like any other */
	pg_log_set((enum pg_log_level)pg_rt.control->log_level, -1, say);
	pg_rt.pid = (pid_t)pg_sys(getpid);
	if (pg_control_claim(pg_rt.control, pg_rt.pid, &pg_rt.proc)) {
		pg_control_unmanaged(pg_rt.control, NULL, pg_rt.pid,
				     "too many processes");
		return;
	}
	pg_adopt_init();
	if (pg_rt.control->hold) {
		static struct pg_holds holds;

		if (pg_holds_init(&holds)) {
			pg_control_unmanaged(pg_rt.control, pg_rt.proc,
					     pg_rt.pid, "no memory");
			return;
		}
		pg_rt.holds = &holds;
	}
	why = install_layer();
	if (!why && pg_rt.control->signal) {
		pg_rt.signal = !pg_sigbus_init();
		if (!pg_rt.signal) {
			pg_store(&pg_rt.off, 1, relaxed);
			why = "no memory";
		}
	}
	if (why)
		pg_control_unmanaged(pg_rt.control, pg_rt.proc, pg_rt.pid, why);
}
