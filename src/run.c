/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * run.c - the parent of a tree: checks everything, starts the program, holds
 * what must outlive its processes, gathers what they count; and the look at
 * such a tree from outside.
 *
 * It runs in the `pgmap` command, never inside the program. The program is a
 * child in the same process group, so that a terminal's signals and job
 * control reach it as they would without us; the parent takes its own signals
 * from a descriptor and passes on those that somebody sent to it alone.
 *
 * The parent ends with the program. If processes of the tree are still alive
 * then (a daemon), a background process takes over the socket and the
 * descriptors until they have ended too.
 */
#include <pgmap/driver.h>
#include <pgmap/run.h>

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/sys.h"
#include "driver/driver.h"
#include "mmu/uffd.h"
#include "open.h"
#include "runtime/buffers.h"
#include "runtime/control.h"
#include "runtime/site.h"

#ifndef PG_PRELOAD_DIR
#define PG_PRELOAD_DIR "/usr/local/lib"
#endif
#define PRELOAD_FILE "libpgmap-preload.so"

#define TICK_MANAGED_MS 10
#define TICK_IDLE_MS 100
#define PEER_MAX 64
#define PEER_NS 500000000ull
#define FORK_NS 500000000ull
#define TRACK_MAX (2 * PG_CONTROL_PROCS)
#define HELD_MAX 4
#define SCRIPT_LEVELS 5

/* struct peer - A process that has connected and not yet asked. */
struct peer {
	int fd;
	uint64_t end_ns;
};

/* struct track - A process of the tree, and what is held for it. */
struct track {
	int pid;
	int pidfd;
	uint64_t start;
	int nr_held;
	int held[HELD_MAX];
};

struct run {
	const struct pgmap_run_config *config;
	char *error;
	size_t error_len;
	char program[PATH_MAX]; /* what is executed */
	char ld[PATH_MAX];	/* the dynamic loader it names */
	char preload[PATH_MAX];
	struct pg_control *control;
	int memfd;
	int listen;
	int sigfd;
	sigset_t old_mask;
	struct sigaction old_chld;
	pid_t child; /* 0 once it has ended */
	bool stopped;
	bool hold;   /* faults of system calls are not served */
	bool signal; /* faults are signals */
	int status;
	uint64_t held_checked_ns;
	uint64_t small_checked_ns;
	uint32_t heard; /* lines printed */
	char last[PG_CONTROL_LINE];
	size_t last_len;
	int nr_peers;
	struct peer peers[PEER_MAX];
	int nr_tracks;
	struct track tracks[TRACK_MAX];
};

__attribute__((format(printf, 3, 4))) static int fail(struct run *r, int err,
						      const char *fmt, ...)
{
	va_list ap;

	if (r->error && r->error_len) {
		va_start(ap, fmt);
		vsnprintf(r->error, r->error_len, fmt, ap);
		va_end(ap);
		r->error[strcspn(r->error, "\n")] = '\0';
	}
	return err;
}

/* ---- devices, and what the machine allows ---- */

/* Drivers whose library was not there when pgmap was built. */
#ifndef PG_DRIVERS_MISSING
#define PG_DRIVERS_MISSING
#endif
/* clang-format off */
static const struct missing {
	const char *name, *libs;
} missing[] = {
#define X(name, libs) {#name, libs},
	PG_DRIVERS_MISSING
#undef X
	{NULL, NULL},
};
/* clang-format on */

int pgmap_device_info_get(unsigned int i, struct pgmap_device_info *info)
{
	const struct pgmap_device_ops *ops = pg_driver_next(NULL);

	if (!info || info->size != sizeof(*info))
		return -EINVAL;
	while (ops && i) {
		ops = pg_driver_next(ops);
		i--;
	}
	if (ops) {
		info->name = ops->name;
		info->summary = ops->summary;
		info->options = ops->options;
		return 0;
	}
	for (const struct missing *m = missing; m->name; m++, i--) {
		if (i)
			continue;
		info->name = m->name;
		info->summary = "not in this build";
		info->options = "";
		return 0;
	}
	return -ENOENT;
}

/* "file, lz4, mirror" */
static void list_drivers(char *buf, size_t len)
{
	const struct pgmap_device_ops *ops = NULL;
	size_t n = 0;

	buf[0] = '\0';
	while ((ops = pg_driver_next(ops)) && n < len)
		n += (size_t)snprintf(buf + n, len - n, "%s%s", n ? ", " : "",
				      ops->name);
}

int pgmap_device_try(const char *device, char *error, size_t error_len)
{
	struct run r = {.error = error, .error_len = error_len};
	const struct pgmap_device_ops *ops;
	char name[32], text[200] = "";
	size_t len;
	struct pgmap_device_args args = {.nr_slots = pg_open_slots(),
					 .error = text,
					 .error_len = sizeof(text)};
	void *priv = NULL;
	int ret;

	if (!device)
		return fail(&r, -EINVAL, "no device is named");
	len = strcspn(device, ":");
	snprintf(name, sizeof(name), "%.*s", (int)(len < 31 ? len : 31),
		 device);
	ops = len < sizeof(name) ? pg_driver_find(name) : NULL;
	for (const struct missing *m = missing; !ops && m->name; m++)
		if (!strcmp(m->name, name))
			return fail(&r, -ENODEV,
				    "device %s is not in this build: install "
				    "%s with its headers and build pgmap again",
				    name, m->libs);
	if (!ops) {
		list_drivers(text, sizeof(text));
		return fail(&r, -ENODEV,
			    "no device is called '%s'; this build has: %s",
			    name, text);
	}
	if (strlen(device) >= sizeof(((struct pg_control *)0)->device))
		return fail(&r, -EINVAL, "device %s: the options are too long",
			    name);
	args.options = device[len] ? device + len + 1 : "";
	ret = ops->open(&args, &priv);
	if (ret < 0)
		return fail(&r, ret, "device %s: %s", name,
			    text[0] ? text : strerror(-ret));
	ops->close(priv);
	return 0;
}

int pgmap_machine_get(struct pgmap_machine *machine)
{
	struct pg_uffd_features f = {0};

	if (!machine || machine->size != sizeof(*machine))
		return -EINVAL;
	machine->why[0] = '\0';
	machine->userfaultfd =
		pg_uffd_probe(&f, machine->why, sizeof(machine->why));
	machine->by_device = f.device;
	machine->kernel_faults = f.kernel;
	machine->move = f.move;
	machine->poison = f.poison;
	machine->events = f.events;
	machine->signal = f.signal;
	return 0;
}

/* ---- checks before the start ---- */

static int check_config(struct run *r)
{
	const struct pgmap_run_config *c = r->config;
	char why[256];
	int ret;

	if (!c || c->size != sizeof(*c) || !c->argv || !c->argv[0])
		return fail(r, -EINVAL, "no program is named");
	ret = pg_open_check(c->ram, c->folio_size, "--ram", "--folio", why,
			    sizeof(why));
	if (ret)
		return fail(r, ret, "%s", why);
	if (c->dmirror && (strncmp(c->device, "mirror", 6) ||
			   (c->device[6] && c->device[6] != ':')))
		return fail(r, -EINVAL,
			    "the devices of --dmirror keep their pages on "
			    "device mirror: leave out --device, or write "
			    "--device mirror");
	ret = pgmap_device_try(c->device, r->error, r->error_len);
	return ret;
}

static int check_machine(struct run *r)
{
	struct pgmap_machine m = {.size = sizeof(m)};

	pgmap_machine_get(&m);
	if (m.userfaultfd)
		return fail(r, m.userfaultfd, "%s",
			    m.why[0] ? m.why : strerror(-m.userfaultfd));
	if (r->config->fault == PGMAP_FAULT_THREAD && !m.kernel_faults)
		return fail(r, -EPERM, "%s; or leave out --fault", m.why);
	if (r->config->fault == PGMAP_FAULT_SIGNAL && !m.signal)
		return fail(r, -EOPNOTSUPP,
			    "the userfaultfd of this kernel cannot raise "
			    "signals: leave out --fault signal");
	r->signal = r->config->fault == PGMAP_FAULT_SIGNAL;
	r->hold = r->signal || r->config->fault == PGMAP_FAULT_HOLD ||
		  !m.kernel_faults;
	if (r->config->dmirror && r->hold)
		return fail(r, -EPERM, "--dmirror needs --fault thread%s%s",
			    m.why[0] ? ": " : "", m.why);
	return 0;
}

/* As execvp(): a name with a slash is a path, others are looked up. */
static int find_program(struct run *r, const char *name)
{
	const char *dirs = getenv("PATH"), *end;
	bool denied = false;
	struct stat st;

	if (strchr(name, '/')) {
		if (snprintf(r->program, sizeof(r->program), "%s", name) >=
		    (int)sizeof(r->program))
			return fail(r, -ENAMETOOLONG,
				    "the path of the program is too long");
		return 0;
	}
	if (!dirs)
		dirs = "/bin:/usr/bin";
	for (; *name; dirs = end + 1) {
		int len, n;

		end = strchrnul(dirs, ':');
		len = (int)(end - dirs);
		n = snprintf(r->program, sizeof(r->program), "%.*s%s%s",
			     len < PATH_MAX ? len : 0, dirs, len ? "/" : "./",
			     name);
		if (n < (int)sizeof(r->program) && !stat(r->program, &st) &&
		    S_ISREG(st.st_mode)) {
			if (!eaccess(r->program, X_OK))
				return 0;
			denied = true;
		}
		if (!*end)
			break;
	}
	return denied ? fail(r, -EACCES,
			     "%s is in PATH but may not be executed", name)
		      : fail(r, -ENOENT, "there is no program called '%s'",
			     name);
}

/* Would the kernel give the program rights that its caller lacks? Then the
 * loader ignores LD_PRELOAD. */
static bool gains_rights(const char *path, const struct stat *st)
{
	struct statvfs fs;

	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ||
	    (!statvfs(path, &fs) && (fs.f_flag & ST_NOSUID)))
		return false;
	if ((st->st_mode & S_ISUID) && st->st_uid != geteuid())
		return true;
	if ((st->st_mode & S_ISGID) && (st->st_mode & S_IXGRP) &&
	    st->st_gid != getegid())
		return true;
	return geteuid() && getxattr(path, "security.capability", NULL, 0) > 0;
}

static int check_elf(struct run *r, const char *path, int fd,
		     const Elf64_Ehdr *eh)
{
	bool found = false;

	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_machine != EM_X86_64)
		return fail(r, -ENOEXEC,
			    "%s is for another architecture; pgmap runs "
			    "64-bit x86 programs",
			    path);
	for (unsigned int i = 0; i < eh->e_phnum && i < 128; i++) {
		Elf64_Phdr ph;
		size_t len;

		if (pread(fd, &ph, sizeof(ph),
			  (off_t)(eh->e_phoff + i * sizeof(ph))) !=
		    (ssize_t)sizeof(ph))
			break;
		if (ph.p_type != PT_INTERP)
			continue;
		len = ph.p_filesz < PATH_MAX - 1 ? ph.p_filesz : PATH_MAX - 1;
		if (pread(fd, r->ld, len, (off_t)ph.p_offset) != (ssize_t)len)
			break;
		r->ld[len] = '\0';
		found = true;
	}
	if (!found)
		return fail(r, -ENOEXEC,
			    "%s is statically linked, so the runtime cannot be "
			    "loaded into it; use a dynamically linked build",
			    path);
	if (!strstr(r->ld, "ld-linux-x86-64"))
		return fail(r, -ENOEXEC,
			    "%s uses another C library (%.80s); pgmap needs a "
			    "program built for glibc",
			    path, r->ld);
	return 0;
}

/* One file that exec would load; for a script, its interpreter after it. */
static int check_program(struct run *r, const char *path, int level)
{
	char head[512], *interp;
	struct stat st;
	ssize_t n;
	int fd, ret;

	if (stat(path, &st))
		return fail(r, -errno, "cannot run %s: %s", path,
			    strerror(errno));
	if (!S_ISREG(st.st_mode))
		return fail(r, -EACCES, "%s is not a program", path);
	if (eaccess(path, X_OK))
		return fail(r, -errno,
			    "%s may not be executed: %s; see its permissions",
			    path, strerror(errno));
	if (gains_rights(path, &st))
		return fail(r, -ENOEXEC,
			    "%s is setuid, setgid or has file capabilities, so "
			    "the runtime cannot be loaded into it; run pgmap "
			    "as the user it changes to",
			    path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail(r, -errno,
			    "cannot read %s to see whether the runtime can be "
			    "loaded into it: %s",
			    path, strerror(errno));
	memset(head, 0, sizeof(head));
	n = read(fd, head, sizeof(head) - 1);
	if (n >= (ssize_t)sizeof(Elf64_Ehdr) && !memcmp(head, ELFMAG, SELFMAG))
		ret = check_elf(r, path, fd, (const void *)head);
	else
		ret = 1;
	close(fd);
	if (ret <= 0)
		return ret;
	if (level >= SCRIPT_LEVELS)
		return fail(r, -ELOOP, "%s: too many scripts that run scripts",
			    path);
	if (head[0] != '#' || head[1] != '!')
		/* As execvp() does with a file that the kernel refuses. */
		return check_program(r, "/bin/sh", level + 1);
	interp = head + 2 + strspn(head + 2, " \t");
	interp[strcspn(interp, " \t\n")] = '\0';
	if (!*interp)
		return fail(r, -ENOEXEC, "%s names no interpreter after #!",
			    path);
	return check_program(r, interp, level + 1);
}

static int find_preload(struct run *r)
{
	char found[PATH_MAX] = "", *slash;
	ssize_t n;

	if (r->config->preload) {
		snprintf(found, sizeof(found), "%s", r->config->preload);
	} else {
		n = readlink("/proc/self/exe", found,
			     sizeof(found) - sizeof(PRELOAD_FILE) - 1);
		found[n > 0 ? n : 0] = '\0';
		slash = strrchr(found, '/');
		if (slash)
			memcpy(slash + 1, PRELOAD_FILE, sizeof(PRELOAD_FILE));
		if (!slash || access(found, R_OK))
			snprintf(found, sizeof(found), "%s/%s", PG_PRELOAD_DIR,
				 PRELOAD_FILE);
	}
	if (!realpath(found, r->preload) || access(r->preload, R_OK))
		return fail(r, -errno,
			    "cannot load the runtime %s: %s; install pgmap or "
			    "keep " PRELOAD_FILE " beside the command",
			    found, strerror(errno));
	if (strpbrk(r->preload, " \t:") ||
	    strlen(r->preload) >= sizeof(r->control->preload))
		return fail(r, -EINVAL,
			    "the loader cannot take the runtime from %s: move "
			    "it to a short path without spaces and colons",
			    r->preload);
	return 0;
}

/* ---- the shared range ---- */

static int read_image(struct run *r, const char *path,
		      struct pg_control_image *image)
{
	int ret;

	if (strlen(path) >= sizeof(image->path))
		return fail(r, -ENAMETOOLONG, "the path %s is too long", path);
	memcpy(image->path, path, strlen(path) + 1);
	ret = pg_site_find(path, r->hold || r->config->dmirror, &image->list);
	if (ret == -ENODATA || ret == -ENOEXEC || ret == -E2BIG)
		return fail(r, ret,
			    "cannot tell where %s makes its system calls; use "
			    "the C library of the distribution",
			    path);
	if (ret)
		return fail(r, ret, "cannot read %s: %s", path, strerror(-ret));
	for (uint32_t i = 0; i < image->list.nr_sites && r->hold; i++) {
		const struct pg_site *s = &image->list.sites[i];

		if (s->kind == PG_SITE_NONE &&
		    (s->nr < 0 || pg_buffers_has(s->nr)))
			return fail(r, -ENOTSUP,
				    "a system call of %s cannot be seen (at "
				    "%#x): get the permission for --fault "
				    "thread, see pgmap check",
				    path, s->offset);
	}
	return 0;
}

static int own_libc(struct dl_phdr_info *info, size_t size, void *arg)
{
	const char *base = strrchr(info->dlpi_name, '/');

	(void)size;
	return base && !strcmp(base, "/libc.so.6") &&
	       realpath(info->dlpi_name, arg);
}

/* The kernel maps the same into every process. */
static int read_vdso(struct run *r)
{
	const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR);
	const Elf64_Ehdr *e = (const void *)vdso;
	size_t size =
		vdso ? e->e_shoff + (size_t)e->e_shnum * e->e_shentsize : 0;
	char path[64];
	int fd, ret;

	if (!vdso)
		return 0;
	fd = memfd_create("vdso", MFD_CLOEXEC);
	if (fd < 0 || write(fd, vdso, size) != (ssize_t)size) {
		ret = fail(r, -errno, "cannot copy the vDSO: %s",
			   strerror(errno));
	} else {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ret = read_image(r, path, &r->control->image[PG_CONTROL_VDSO]);
	}
	if (fd >= 0)
		close(fd);
	return ret;
}

/* What starts asynchronous I/O past libc. Where it cannot be read, the program
 * cannot load it either. */
static int read_others(struct run *r, const char *libc)
{
	static const char *const names[PG_CONTROL_IMAGES] = {
		[PG_CONTROL_URING] = "liburing.so.2",
		[PG_CONTROL_AIO] = "libaio.so.1",
	};
	char path[PATH_MAX];
	int ret = 0;

	for (int i = 0; i < PG_CONTROL_IMAGES && !ret; i++) {
		if (!names[i])
			continue;
		snprintf(path, sizeof(path), "%.*s/%s",
			 (int)(strrchr(libc, '/') - libc), libc, names[i]);
		if (!access(path, R_OK))
			ret = read_image(r, path, &r->control->image[i]);
	}
	return ret;
}

/* The libc that goes with a loader lies beside it; where it does not, take
 * the one that this command uses. The runtime compares before it trusts. */
static int read_images(struct run *r)
{
	char ld[PATH_MAX], libc[PATH_MAX], *slash;
	int ret;

	if (!realpath(r->ld, ld))
		return fail(r, -errno,
			    "the loader %s of the program: %s; install the C "
			    "library it was built for",
			    r->ld, strerror(errno));
	ret = read_image(r, ld, &r->control->image[PG_CONTROL_LD]);
	if (ret)
		return ret;
	memcpy(libc, ld, sizeof(libc));
	slash = strrchr(libc, '/');
	snprintf(slash, sizeof(libc) - (size_t)(slash - libc), "/libc.so.6");
	if (access(libc, R_OK) && !dl_iterate_phdr(own_libc, libc))
		return fail(r, -ENOENT, "there is no libc.so.6 beside %s", ld);
	ret = read_image(r, libc, &r->control->image[PG_CONTROL_LIBC]);
	if (!ret && r->hold)
		ret = read_others(r, libc);
	return ret || !r->hold ? ret : read_vdso(r);
}

static uint64_t pid_ns(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) ? 0 : st.st_ino;
}

static int make_control(struct run *r)
{
	const struct pgmap_run_config *cf = r->config;
	struct pg_control *c;
	uint64_t random[2];

	r->memfd =
		memfd_create(PG_CONTROL_MEMFD, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (r->memfd < 0 || ftruncate(r->memfd, sizeof(*c)) ||
	    fcntl(r->memfd, F_ADD_SEALS,
		  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return fail(r, -errno, "cannot make the shared counters: %s",
			    strerror(errno));
	c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED, r->memfd,
		 0);
	if (c == MAP_FAILED)
		return fail(r, -errno, "cannot map the shared counters: %s",
			    strerror(errno));
	r->control = c;
	c->magic = PG_CONTROL_MAGIC;
	c->version = PG_CONTROL_VERSION;
	c->struct_size = sizeof(*c);
	c->stat_size = sizeof(struct pgmap_stat);
	c->budget = cf->ram;
	c->folio_order =
		(uint32_t)__builtin_ctzll(cf->folio_size / PGMAP_PAGE_SIZE);
	c->log_level = cf->log_level;
	c->hold = r->hold;
	c->signal = r->signal;
	c->dmirror = cf->dmirror;
	pg_store(&c->supervisor, (uint32_t)getpid(), relaxed);
	c->pid_ns = pid_ns();
	snprintf(c->device, sizeof(c->device), "%s", cf->device);
	memcpy(c->preload, r->preload, strlen(r->preload) + 1);
	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return fail(r, -EIO, "the kernel gives no random numbers");
	snprintf(c->name, sizeof(c->name), "pgmap-%d-%016llx%016llx",
		 (int)getpid(), (unsigned long long)random[0],
		 (unsigned long long)random[1]);
	return read_images(r);
}

static int make_socket(struct run *r)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t len = strlen(r->control->name);

	memcpy(addr.sun_path + 1, r->control->name, len);
	r->listen = socket(AF_UNIX,
			   SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (r->listen < 0 ||
	    bind(r->listen, (const struct sockaddr *)&addr,
		 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
			     len)) ||
	    listen(r->listen, 256))
		return fail(r, -errno, "cannot listen for the program: %s",
			    strerror(errno));
	return 0;
}

/* ---- who belongs to the tree ---- */

static int parent_of(int pid)
{
	char path[32], text[512], *p;
	ssize_t n;
	int fd, ppid;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	p = strrchr(text, ')');
	return p && sscanf(p + 1, " %*c %d", &ppid) == 1 ? ppid : 0;
}

static bool is_slot_owner(const struct pg_control *c, int pid)
{
	const struct pg_control_proc *p = pg_control_find(c, pid);
	uint64_t start = p ? pg_load(&p->start, acquire) : 0;

	return p && (!start || start == pg_control_start_time(pid));
}

/* A process below the program, or below one that has a slot: forked children
 * take theirs without asking, so also a daemon whose parents are gone has. */
static bool is_of_tree(const struct run *r, int pid)
{
	for (int i = 0; pid > 1 && i < 64; i++) {
		if (pid == r->child || is_slot_owner(r->control, pid))
			return true;
		pid = parent_of(pid);
	}
	return false;
}

/* ---- processes that live ---- */

/* Does the address space behind a userfaultfd still exist? The page asked for
 * is the last one, where nothing can be mapped. */
static bool uffd_is_gone(int fd)
{
	struct uffdio_zeropage z = {
		.range = {.start = 0x7fffffffe000, .len = PGMAP_PAGE_SIZE}};

	return ioctl(fd, UFFDIO_ZEROPAGE, &z) < 0 && errno == ESRCH;
}

static void drop_held(struct track *t, bool all)
{
	int n = 0;

	for (int i = 0; i < t->nr_held; i++) {
		if (all || uffd_is_gone(t->held[i]))
			close(t->held[i]);
		else
			t->held[n++] = t->held[i];
	}
	t->nr_held = n;
}

static struct track *find_track(struct run *r, int pid)
{
	for (int i = 0; i < r->nr_tracks; i++)
		if (r->tracks[i].pid == pid)
			return &r->tracks[i];
	return NULL;
}

/* Return: NULL when it is gone, or there are too many. */
static struct track *track(struct run *r, int pid)
{
	struct track *t = find_track(r, pid);
	int pidfd;

	if (t || r->nr_tracks == TRACK_MAX)
		return t;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return NULL;
	t = &r->tracks[r->nr_tracks++];
	*t = (struct track){.pid = pid,
			    .pidfd = pidfd,
			    .start = pg_control_start_time(pid)};
	return t;
}

/* The process behind @t has ended. */
static void untrack(struct run *r, struct track *t)
{
	struct pg_control_proc *p = pg_control_find(r->control, t->pid);

	if (p)
		pg_control_fold(r->control, p, t->pid, t->start);
	drop_held(t, true);
	close(t->pidfd);
	*t = r->tracks[--r->nr_tracks];
}

/* Print what the processes have to say. */
static void hear(struct run *r)
{
	char line[PG_CONTROL_LINE];
	size_t n;

	while ((n = pg_control_hear(r->control, &r->heard, line))) {
		/* What several processes say is said once. */
		if (n == r->last_len && !memcmp(line, r->last, n))
			continue;
		memcpy(r->last, line, n);
		r->last_len = n;
		if (write(STDERR_FILENO, line, n) < 0)
			break;
	}
}

/* Anonymous bytes in RAM, of /proc/PID/statm. */
static uint64_t resident_of(int pid)
{
	unsigned long long all = 0, shared = 0;
	char path[32];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fscanf(f, "%*u %llu %llu", &all, &shared) != 2)
		all = shared = 0;
	fclose(f);
	return all > shared ? (all - shared) * PGMAP_PAGE_SIZE : 0;
}

/* A process that is not managed may have no thread that counts for it. */
static void look_at_small(struct run *r, uint64_t now)
{
	struct pg_control *c = r->control;

	if (now - r->small_checked_ns < TICK_IDLE_MS * 1000000u)
		return;
	r->small_checked_ns = now;
	for (int i = 0; i < r->nr_tracks; i++) {
		struct pg_control_proc *p =
			pg_control_find(c, r->tracks[i].pid);

		if (p && pg_load(&p->state, relaxed) != PG_CONTROL_MANAGED)
			pg_store(&p->resident, resident_of(r->tracks[i].pid),
				 relaxed);
	}
}

static void look_at_slots(struct run *r)
{
	struct pg_control *c = r->control;
	uint32_t high = pg_load(&c->high, acquire);
	uint64_t now = pg_now_ns();
	bool gone = false;

	/* Children that forked have taken slots without telling us. */
	for (uint32_t i = 0; i < high && i < PG_CONTROL_PROCS; i++) {
		int pid = (int)pg_load(&c->procs[i].pid, acquire);

		if (pid > 0 && !track(r, pid))
			gone = true;
	}
	if (gone)
		pg_control_reap(c);
	look_at_small(r, now);
	pg_control_sample(c);
	hear(r);
	if (now - r->held_checked_ns < 1000000000u)
		return;
	r->held_checked_ns = now;
	for (int i = 0; i < r->nr_tracks; i++)
		drop_held(&r->tracks[i], false);
}

/* ---- the socket ---- */

static int hold(struct run *r, int pid, int fd)
{
	char path[32], link[64] = "";
	struct track *t;

	if (fd < 0)
		return -EBADF;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (readlink(path, link, sizeof(link) - 1) < 0 ||
	    strcmp(link, "anon_inode:[userfaultfd]"))
		return -EBADF;
	t = track(r, pid);
	if (!t)
		return -ESRCH;
	/* After exec the descriptor of the old address space is useless. */
	drop_held(t, false);
	if (t->nr_held == HELD_MAX)
		return -EMFILE;
	t->held[t->nr_held++] = fd;
	return 0;
}

union fd_message {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

static void answer(struct run *r, int fd, int status, bool with_memfd)
{
	struct pg_control_message m = {.magic = PG_CONTROL_MAGIC,
				       .version = PG_CONTROL_VERSION,
				       .struct_size = sizeof(struct pg_control),
				       .status = status};
	union fd_message c = {.header = {.cmsg_level = SOL_SOCKET,
					 .cmsg_type = SCM_RIGHTS,
					 .cmsg_len = CMSG_LEN(sizeof(int))}};
	struct iovec iov = {&m, sizeof(m)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (with_memfd) {
		memcpy(CMSG_DATA(&c.header), &r->memfd, sizeof(int));
		msg.msg_control = &c;
		msg.msg_controllen = sizeof(c);
	}
	(void)sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* One question of one process. Return: false when it has not come yet. */
static bool serve(struct run *r, int fd)
{
	struct pg_control_message m = {0};
	union fd_message c = {0};
	struct iovec iov = {&m, sizeof(m)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &c,
			     .msg_controllen = sizeof(c)};
	struct ucred cred;
	socklen_t len = sizeof(cred);
	ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	int got = -1, status;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n > 0 && msg.msg_controllen >= CMSG_LEN(sizeof(int)) &&
	    c.header.cmsg_type == SCM_RIGHTS)
		memcpy(&got, CMSG_DATA(&c.header), sizeof(int));
	if (n != (ssize_t)sizeof(m) || m.magic != PG_CONTROL_MAGIC)
		goto out; /* not one of ours: no answer */
	if (m.version != PG_CONTROL_VERSION ||
	    m.struct_size != sizeof(struct pg_control))
		status = -EPROTO;
	else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		status = -errno;
	else if ((geteuid() && cred.uid != geteuid()) ||
		 !is_of_tree(r, cred.pid))
		status = -EPERM;
	else if (m.kind == PG_CONTROL_JOIN)
		status = track(r, cred.pid) ? 0 : -ESRCH;
	else if (m.kind == PG_CONTROL_HOLD)
		status = hold(r, cred.pid, got);
	else
		status = -EINVAL;
	if (status == 0 && m.kind == PG_CONTROL_HOLD)
		got = -1; /* kept */
	answer(r, fd, status, status == 0 && m.kind == PG_CONTROL_JOIN);
out:
	if (got >= 0)
		close(got);
	return true;
}

static void accept_peers(struct run *r)
{
	while (r->nr_peers < PEER_MAX) {
		int fd = accept4(r->listen, NULL, NULL,
				 SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return;
		r->peers[r->nr_peers++] =
			(struct peer){fd, pg_now_ns() + PEER_NS};
	}
}

static void serve_peers(struct run *r)
{
	uint64_t now = pg_now_ns();

	for (int i = r->nr_peers - 1; i >= 0; i--) {
		struct peer *p = &r->peers[i];

		if (!serve(r, p->fd) && now < p->end_ns)
			continue;
		close(p->fd);
		*p = r->peers[--r->nr_peers];
	}
}

/* ---- signals and the child ---- */

static void catch_signals(struct run *r, sigset_t *set)
{
	static const int never[] = {SIGSEGV, SIGBUS, SIGILL,  SIGFPE,
				    SIGTRAP, SIGSYS, SIGABRT, SIGPIPE};
	struct sigaction dfl = {.sa_handler = SIG_DFL};

	sigfillset(set);
	for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
		sigdelset(set, never[i]);
	sigprocmask(SIG_BLOCK, set, &r->old_mask);
	/* Were it ignored, the kernel would keep no status for us. */
	sigaction(SIGCHLD, &dfl, &r->old_chld);
}

static void restore_signals(struct run *r)
{
	sigaction(SIGCHLD, &r->old_chld, NULL);
	sigprocmask(SIG_SETMASK, &r->old_mask, NULL);
}

/* Does a shell wait for our process group to end or to stop? */
static bool in_foreground(void)
{
	int fd = open("/dev/tty", O_RDONLY | O_CLOEXEC | O_NOCTTY);
	pid_t fg = fd < 0 ? -1 : tcgetpgrp(fd);

	if (fd >= 0)
		close(fd);
	return fg == getpgrp();
}

static void reap_child(struct run *r)
{
	int status;

	while (r->child && waitpid(r->child, &status,
				   WNOHANG | WUNTRACED | WCONTINUED) > 0) {
		if (WIFCONTINUED(status)) {
			r->stopped = false;
		} else if (WIFSTOPPED(status)) {
			r->stopped = true;
			/*
			 * The shell waits for us, so stop as the program did.
			 * But not for a plain SIGSTOP from elsewhere: who sent
			 * it would continue the program, and not us.
			 */
			if (WSTOPSIG(status) != SIGSTOP || in_foreground())
				kill(getpid(), SIGSTOP);
		} else {
			r->status = status;
			r->child = 0;
		}
	}
}

static void pass_on(struct run *r, const struct signalfd_siginfo *si)
{
	int sig = (int)si->ssi_signo;

	if (!r->child || sig == SIGCHLD)
		return;
	/* A terminal signals the whole group, the program included; and what
	 * the program sends to its group it has sent to itself. */
	if (si->ssi_code > 0 && sig != SIGCONT)
		return;
	if (is_of_tree(r, (int)si->ssi_pid))
		return;
	if (sig == SIGCONT && !r->stopped)
		return;
	if (si->ssi_code == SI_QUEUE)
		sigqueue(r->child, sig,
			 (union sigval){
				 .sival_ptr = (void *)(uintptr_t)si->ssi_ptr});
	else
		kill(r->child, sig);
}

static void take_signals(struct run *r)
{
	struct signalfd_siginfo si;

	while (read(r->sigfd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		reap_child(r);
		pass_on(r, &si);
	}
	reap_child(r);
}

/* ---- the loop ---- */

static void turn(struct run *r, int timeout_ms)
{
	struct pollfd fds[2 + PEER_MAX + TRACK_MAX];
	nfds_t n = 0;
	int tracks;

	fds[n++] = (struct pollfd){.fd = r->sigfd, .events = POLLIN};
	fds[n++] =
		(struct pollfd){.fd = r->nr_peers < PEER_MAX ? r->listen : -1,
				.events = POLLIN};
	tracks = r->nr_tracks;
	for (int i = 0; i < tracks; i++)
		fds[n++] = (struct pollfd){.fd = r->tracks[i].pidfd,
					   .events = POLLIN};
	for (int i = 0; i < r->nr_peers; i++)
		fds[n++] =
			(struct pollfd){.fd = r->peers[i].fd, .events = POLLIN};
	if (poll(fds, n, timeout_ms) < 0)
		return;
	/* Backwards: untrack() fills the gap with the last one. */
	for (int i = tracks - 1; i >= 0; i--)
		if (fds[2 + i].revents)
			untrack(r, &r->tracks[i]);
	if (fds[1].revents)
		accept_peers(r);
	serve_peers(r);
	if (fds[0].revents)
		take_signals(r);
}

static void supervise(struct run *r, bool (*go_on)(const struct run *))
{
	uint64_t next = 0;

	while (go_on(r)) {
		uint64_t now = pg_now_ns();
		int wait;

		if (now >= next) {
			look_at_slots(r);
			wait = pg_load(&r->control->nr_managed, relaxed)
				       ? TICK_MANAGED_MS
				       : TICK_IDLE_MS;
			next = pg_now_ns() + (uint64_t)wait * 1000000u;
			now = pg_now_ns();
		}
		turn(r, now < next ? (int)((next - now) / 1000000u) + 1 : 0);
	}
}

static bool child_runs(const struct run *r)
{
	return r->child != 0;
}

static bool some_run(const struct run *r)
{
	return r->nr_tracks > 0;
}

/* ---- start and end ---- */

/* The environment with our two variables. Return: NULL without memory. */
static char **make_environment(struct run *r)
{
	const char *user = getenv("LD_PRELOAD");
	size_t n = 0, k = 0;
	char **env, *line;

	while (environ[n])
		n++;
	env = calloc(n + 3, sizeof(*env));
	if (!env)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], "LD_PRELOAD=", 11) &&
		    strncmp(environ[i], PG_CONTROL_ENV "=",
			    sizeof(PG_CONTROL_ENV)))
			env[k++] = environ[i];
	if (asprintf(&line, "LD_PRELOAD=%s%s%s", r->preload,
		     user && *user ? ":" : "", user ? user : "") < 0)
		goto err_env;
	env[k] = line;
	if (asprintf(&env[k + 1], PG_CONTROL_ENV "=%s", r->control->name) < 0)
		goto err_line;
	return env;
err_line:
	free(line);
err_env:
	free(env);
	return NULL;
}

static void free_environment(char **env)
{
	size_t n = 0;

	while (env[n])
		n++;
	free(env[n - 1]);
	free(env[n - 2]);
	free(env);
}

static _Noreturn void exec_program(struct run *r, char **env, int report)
{
	int err;

	restore_signals(r);
	execvpe(r->program, r->config->argv, env);
	err = errno;
	(void)!write(report, &err, sizeof(err));
	_exit(127);
}

static int start_program(struct run *r)
{
	char **env = make_environment(r);
	int report[2], err = 0;

	if (!env)
		return fail(r, -ENOMEM, "out of memory");
	if (pipe2(report, O_CLOEXEC)) {
		free_environment(env);
		return fail(r, -errno, "cannot make a pipe: %s",
			    strerror(errno));
	}
	r->child = fork();
	if (r->child == 0)
		exec_program(r, env, report[1]);
	err = errno;
	close(report[1]);
	free_environment(env);
	if (r->child < 0) {
		close(report[0]);
		r->child = 0;
		return fail(r, -err, "cannot start a process: %s",
			    strerror(err));
	}
	track(r, r->child);
	/*
	 * The pipe ends when exec has succeeded. The loader does not run
	 * before that, so nobody needs to be served meanwhile.
	 */
	if (read(report[0], &err, sizeof(err)) != (ssize_t)sizeof(err))
		err = 0;
	close(report[0]);
	if (err) {
		waitpid(r->child, NULL, 0);
		r->child = 0;
		return fail(r, -err, "cannot run %s: %s", r->program,
			    strerror(err));
	}
	return 0;
}

/* Close what a background process has no business to keep open. */
static void close_foreign(const struct run *r)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		int fd = atoi(e->d_name);
		bool ours = fd == r->memfd || fd == r->listen ||
			    fd == r->sigfd || fd == dirfd(dir);

		for (int i = 0; i < r->nr_tracks; i++) {
			ours |= fd == r->tracks[i].pidfd;
			for (int k = 0; k < r->tracks[i].nr_held; k++)
				ours |= fd == r->tracks[i].held[k];
		}
		for (int i = 0; i < r->nr_peers; i++)
			ours |= fd == r->peers[i].fd;
		if (e->d_name[0] != '.' && !ours)
			close(fd);
	}
	if (dir)
		closedir(dir);
}

/* Some processes outlive the program: go on for them in the background. */
static void stay_behind(struct run *r)
{
	pid_t pid = fork();

	if (pid > 0)
		waitpid(pid, NULL, 0);
	if (pid)
		return;
	if (fork() == 0 && setsid() >= 0) {
		close_foreign(r);
		(void)!chdir("/");
		prctl(PR_SET_NAME, "pgmap-hold");
		/* Nobody is left to pass signals on to: they mean us. */
		restore_signals(r);
		signal(SIGHUP, SIG_IGN);
		pg_store(&r->control->supervisor, (uint32_t)getpid(), relaxed);
		supervise(r, some_run);
	}
	_exit(0);
}

/* The program has ended. What it had just forked takes its slot within moments;
 * a child that was killed before it could is not waited for long. */
static void await_forks(struct run *r)
{
	uint64_t end = pg_now_ns() + FORK_NS;

	while (pg_load(&r->control->forking, seq_cst) && pg_now_ns() < end)
		turn(r, 1);
	look_at_slots(r);
	turn(r, 0);
}

static void fill_result(struct run *r, struct pgmap_run_result *result)
{
	struct pg_control *c = r->control;
	struct pgmap_run_result all = {.size = result->size};
	uint32_t nr = pg_load(&c->nr_unmanaged, relaxed);

	hear(r);
	pg_control_reap(c);
	all.status = r->status;
	all.nr_procs = pg_load(&c->nr_procs, relaxed);
	all.nr_managed = pg_load(&c->nr_managed, relaxed);
	pg_control_total(c, &all.total, &all.left);
	all.peak_tree = pg_load(&c->peak_tree, relaxed);
	if (pg_load(&c->unmanaged_taken, acquire) == 2) {
		char why[sizeof(c->unmanaged)];

		memcpy(why, c->unmanaged, sizeof(why));
		why[sizeof(why) - 1] = '\0';
		why[strcspn(why, "\n")] = '\0';
		if (nr > 1)
			snprintf(all.unmanaged, sizeof(all.unmanaged),
				 "%s (and %u more)", why, nr - 1);
		else
			snprintf(all.unmanaged, sizeof(all.unmanaged), "%s",
				 why);
	} else if (!all.nr_procs) {
		snprintf(all.unmanaged, sizeof(all.unmanaged),
			 "the runtime did not start in %.150s",
			 r->config->argv[0]);
	}
	if (!all.nr_procs)
		all.nr_procs = 1;
	*result = all;
}

static void close_all(struct run *r)
{
	while (r->nr_tracks) {
		struct track *t = &r->tracks[--r->nr_tracks];

		drop_held(t, true);
		close(t->pidfd);
	}
	while (r->nr_peers)
		close(r->peers[--r->nr_peers].fd);
	if (r->sigfd >= 0)
		close(r->sigfd);
	if (r->listen >= 0)
		close(r->listen);
	if (r->memfd >= 0)
		close(r->memfd);
	if (r->control)
		munmap(r->control, sizeof(*r->control));
	free(r);
}

static int check_all(struct run *r)
{
	int ret = check_config(r);

	if (!ret)
		ret = find_program(r, r->config->argv[0]);
	if (!ret)
		ret = check_program(r, r->program, 0);
	if (!ret)
		ret = check_machine(r);
	if (!ret)
		ret = find_preload(r);
	return ret;
}

int pgmap_run(const struct pgmap_run_config *config,
	      struct pgmap_run_result *result, char *error, size_t error_len)
{
	struct run *r = calloc(1, sizeof(*r));
	struct rlimit files, more;
	sigset_t set;
	int ret;

	if (!r)
		return -ENOMEM;
	r->config = config;
	r->error = error;
	r->error_len = error_len;
	r->memfd = r->listen = r->sigfd = -1;
	if (!result || result->size != sizeof(*result))
		ret = fail(r, -EINVAL, "the result is of another version");
	else
		ret = check_all(r);
	if (!ret)
		ret = make_control(r);
	if (!ret)
		ret = make_socket(r);
	if (ret)
		goto out;
	catch_signals(r, &set);
	r->sigfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	ret = r->sigfd < 0 ? fail(r, -errno, "cannot watch for signals: %s",
				  strerror(errno))
			   : start_program(r);
	if (!ret) {
		/* Two descriptors for each process; the program keeps its own
		 * limit, which it has inherited already. */
		if (!getrlimit(RLIMIT_NOFILE, &files)) {
			more = files;
			more.rlim_cur = more.rlim_max;
			setrlimit(RLIMIT_NOFILE, &more);
		}
		supervise(r, child_runs);
		await_forks(r);
		fill_result(r, result);
		if (some_run(r))
			stay_behind(r);
		setrlimit(RLIMIT_NOFILE, &files);
	}
	restore_signals(r);
out:
	close_all(r);
	return ret;
}

/* ---- a look at a tree from outside ---- */

struct pgmap_attach {
	const struct pg_control *control;
};

/* Map the range if it is one. The seal matters: without it whoever made it
 * could shrink it under our feet. */
static int map_control(const char *path, struct pgmap_attach *at)
{
	const struct pg_control *c = MAP_FAILED;
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret = -EPROTO;

	if (fd < 0)
		return -errno;
	if (!fstat(fd, &st) && st.st_size == (off_t)sizeof(*c) &&
	    (fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK)) {
		c = mmap(NULL, sizeof(*c), PROT_READ, MAP_SHARED, fd, 0);
		ret = c == MAP_FAILED ? -errno : 0;
	}
	close(fd);
	if (ret)
		return ret;
	if (c->magic != PG_CONTROL_MAGIC || c->version != PG_CONTROL_VERSION ||
	    c->struct_size != sizeof(*c) ||
	    c->stat_size != sizeof(struct pgmap_stat)) {
		munmap((void *)(uintptr_t)c, sizeof(*c));
		return -EPROTO;
	}
	at->control = c;
	return 0;
}

#define MEMFD_LINK "/memfd:" PG_CONTROL_MEMFD

/* The parent of a tree has the range open. */
static int by_descriptor(int pid, struct pgmap_attach *at)
{
	char path[64 + 256], link[64];
	struct dirent *e;
	int ret = -ENOENT;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (ret && (e = readdir(dir))) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/fd/%s", pid, e->d_name);
		n = readlink(path, link, sizeof(link) - 1);
		link[n > 0 ? n : 0] = '\0';
		if (!strncmp(link, MEMFD_LINK, sizeof(MEMFD_LINK) - 1))
			ret = map_control(path, at);
	}
	closedir(dir);
	return ret;
}

/* A process of a tree has it mapped, not open. */
static int by_mapping(int pid, struct pgmap_attach *at)
{
	char path[128], *line = NULL;
	size_t len = 0;
	int ret = -ENOENT;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		return -errno;
	while (ret && getline(&line, &len, maps) > 0) {
		unsigned long a, b;

		if (!strstr(line, MEMFD_LINK) ||
		    sscanf(line, "%lx-%lx", &a, &b) != 2)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid,
			 a, b);
		ret = map_control(path, at);
	}
	free(line);
	fclose(maps);
	return ret;
}

static bool lists(const struct pg_control *c, int pid)
{
	return pg_load(&c->supervisor, relaxed) == (uint32_t)pid ||
	       pg_control_find(c, pid);
}

/* Without the right to open what another process has mapped, and with the
 * parent no ancestor any more: look for a parent that knows @pid. */
static int by_search(int pid, struct pgmap_attach *at)
{
	DIR *dir = opendir("/proc");
	struct dirent *e;
	int ret = -ENOENT;

	if (!dir)
		return -errno;
	while (ret && (e = readdir(dir))) {
		int other = atoi(e->d_name);

		if (other <= 0 || by_descriptor(other, at))
			continue;
		if (lists(at->control, pid))
			ret = 0;
		else
			munmap((void *)(uintptr_t)at->control,
			       sizeof(*at->control));
	}
	closedir(dir);
	return ret;
}

static int find_control(int pid, struct pgmap_attach *at)
{
	int first = by_descriptor(pid, at), ret = first;

	if (ret == 0 || ret == -EPROTO)
		return ret;
	ret = by_mapping(pid, at);
	if (ret == 0 || ret == -EPROTO)
		return ret;
	for (int p = parent_of(pid), i = 0; p > 1 && i < 64; i++) {
		ret = by_descriptor(p, at);
		if (ret == 0 || ret == -EPROTO)
			return ret;
		p = parent_of(p);
	}
	ret = by_search(pid, at);
	return ret && first == -EACCES ? first : ret;
}

int pgmap_attach(pid_t pid, struct pgmap_attach **at)
{
	struct pgmap_attach *a;
	int ret;

	if (pid <= 0 || (kill(pid, 0) && errno == ESRCH))
		return -ESRCH;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	ret = find_control(pid, a);
	if (ret) {
		free(a);
		return ret;
	}
	*at = a;
	return 0;
}

void pgmap_detach(struct pgmap_attach *at)
{
	if (!at)
		return;
	munmap((void *)(uintptr_t)at->control, sizeof(*at->control));
	free(at);
}

int pgmap_attach_total(struct pgmap_attach *at, struct pgmap_stat *st)
{
	if (!st || st->size != sizeof(*st))
		return -EINVAL;
	pg_control_total(at->control, st, NULL);
	return 0;
}

int pgmap_attach_proc(struct pgmap_attach *at, unsigned int i,
		      struct pgmap_proc_stat *ps)
{
	const struct pg_control *c = at->control;

	if (!ps || ps->size != sizeof(*ps))
		return -EINVAL;
	for (unsigned int s = 0; s < PG_CONTROL_PROCS; s++) {
		const struct pg_control_proc *p = &c->procs[s];
		uint32_t pid = pg_load(&p->pid, acquire);
		uint64_t start = pg_load(&p->start, relaxed);

		if (!pid || pid > INT_MAX || i--)
			continue;
		ps->pid = (pid_t)pid;
		ps->managed = pg_load(&p->state, relaxed) == PG_CONTROL_MANAGED;
		ps->alive = (!kill(ps->pid, 0) || errno == EPERM) &&
			    (!start || start == pg_control_start_time(ps->pid));
		memcpy(ps->comm, p->comm, sizeof(ps->comm));
		ps->comm[sizeof(ps->comm) - 1] = '\0';
		pg_control_snapshot(p, &ps->stat, &ps->left);
		return 0;
	}
	return -ENOENT;
}
