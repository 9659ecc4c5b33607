/* SPDX-License-Identifier: BSD-3-Clause */
/* pgmap dax - a store of files on a DAX device. See pgmap-dax(1). */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pgmap/dax.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"
#include "out.h"

#define CHUNK (1u << 20)

/* Options and arguments of a subcommand. */
struct args {
	const struct sub *sub;
	const char *device;
	char *const *rest;
	int nr_rest;
	bool json, force;
	uint64_t size, align, journal;
	uint64_t from, len;
};

struct sub {
	const char *name;
	const char *usage;
	int min, max;	     /* arguments behind the device */
	const char *options; /* letters: j f s a J */
	unsigned int flags;  /* to open the device */
	int (*run)(struct args *a, struct pgmap_dax *dax);
};

static const char *reason(int err)
{
	switch (err) {
	case -ENOSPC:
		return "no space is left in the store";
	case -ENOENT:
		return "there is no such file in the store";
	case -EEXIST:
		return "is there already";
	case -EINVAL:
		return "no file can be called so";
	case -EFBIG:
		return "no file can be so large";
	case -EMLINK:
		return "its blocks have too many owners";
	default:
		return strerror(-err);
	}
}

static int fail(const struct args *a, const char *what, int err)
{
	fprintf(stderr, "pgmap: dax %s: %s: %s\n", a->sub->name, what,
		reason(err));
	return 1;
}

static struct pgmap_store *open_store(struct args *a, struct pgmap_dax *dax)
{
	struct pgmap_store *store;
	char error[256] = "";

	if (!pgmap_store_open(dax, &store, error, sizeof(error)))
		return store;
	fprintf(stderr, "pgmap: dax: %s: %s\n", a->device, error);
	return NULL;
}

static int close_store(struct args *a, struct pgmap_store *store, int ret)
{
	int err = pgmap_store_close(store);

	return err && !ret ? fail(a, a->device, err) : ret;
}

static int run_create(struct args *a, struct pgmap_dax *dax)
{
	struct pgmap_dax_info info = {.size = sizeof(info)};
	int ret;

	if (pgmap_store_exists(dax) && !a->force) {
		fprintf(stderr,
			"pgmap: dax create: %s: there is a store on it; "
			"--force makes a new one\n",
			a->device);
		return 1;
	}
	ret = pgmap_store_format(dax, a->journal);
	if (ret == -EINVAL) {
		fprintf(stderr,
			"pgmap: dax create: %s: too small for a store "
			"with such a journal\n",
			a->device);
		return 1;
	}
	if (ret)
		return fail(a, a->device, ret);
	pgmap_dax_get_info(dax, &info);
	return 0;
}

struct list {
	struct pgmap_file_info *files;
	size_t nr, room;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct pgmap_file_info *)a)->name,
		      ((const struct pgmap_file_info *)b)->name);
}

static int list_files(struct pgmap_store *store, struct list *l)
{
	struct pgmap_file_info info = {.size = sizeof(info)};
	uint64_t cursor = 0;

	while (!pgmap_store_next(store, &cursor, &info)) {
		if (l->nr == l->room) {
			size_t room = l->room ? 2 * l->room : 64;
			void *more = realloc(l->files, room * sizeof(info));

			if (!more)
				return -ENOMEM;
			l->files = more;
			l->room = room;
		}
		l->files[l->nr++] = info;
	}
	if (l->nr)
		qsort(l->files, l->nr, sizeof(*l->files), by_name);
	return 0;
}

/* A name may hold anything but '/'; the terminal sees no control of it. */
static void print_name(const char *name)
{
	for (; *name; name++)
		putchar((unsigned char)*name < ' ' || *name == 127 ? '?'
								   : *name);
	putchar('\n');
}

static void json_file(struct out_json *o, const struct pgmap_file_info *f)
{
	out_json_string(o, "name", f->name);
	out_json_u64(o, "bytes", f->bytes);
	out_json_u64(o, "allocated", f->allocated);
	out_json_u64(o, "shared", f->shared);
	out_json_u64(o, "extents", f->nr_extents);
}

static int write_json(struct out_json *o)
{
	if (!out_json_write(o, stdout))
		return 0;
	fprintf(stderr, "pgmap: cannot write the JSON\n");
	return 1;
}

static int print_list(const struct list *l, bool json)
{
	struct out_json *o;
	char text[OUT_LEN];

	if (!json) {
		for (size_t i = 0; i < l->nr; i++) {
			printf("%10s  ", out_bytes(text, l->files[i].bytes));
			print_name(l->files[i].name);
		}
		return 0;
	}
	o = out_json_new();
	if (!o)
		return 1;
	out_json_list(o, "files");
	for (size_t i = 0; i < l->nr; i++)
		json_file(out_json_append(o, "files"), l->files + i);
	return write_json(o);
}

static int run_ls(struct args *a, struct pgmap_dax *dax)
{
	struct pgmap_store *store = open_store(a, dax);
	struct list l = {0};
	int ret;

	if (!store)
		return 1;
	ret = list_files(store, &l);
	ret = ret ? fail(a, a->device, ret) : print_list(&l, a->json);
	free(l.files);
	return close_store(a, store, ret);
}

static int print_file(const struct pgmap_file_info *f, bool json)
{
	char text[3][OUT_LEN];
	struct out_json *o;

	if (json) {
		o = out_json_new();
		if (!o)
			return 1;
		json_file(o, f);
		return write_json(o);
	}
	printf("%-12s %14s\n%-12s %14s\n%-12s %14s\n%-12s %14" PRIu64 "\n",
	       "size", out_bytes(text[0], f->bytes), "allocated",
	       out_bytes(text[1], f->allocated), "shared",
	       out_bytes(text[2], f->shared), "extents", f->nr_extents);
	return 0;
}

/* X(key, unit, field, what it is) */
#define STORE_FIELDS(X)                                                        \
	X("bytes", "bytes", bytes, "for files")                                \
	X("free", "bytes", free, "not used by any")                            \
	X("shared", "bytes", shared, "saved by blocks that several have")      \
	X("journal", "bytes", journal, "for names and extents")                \
	X("journal_used", "bytes", journal_used, "taken by them")              \
	X("generation", "count", generation, "times the journal was written")  \
	X("files", "count", nr_files, "")                                      \
	X("extents", "count", nr_extents, "")                                  \
	X("clean", "count", clean, "1: it was closed")

static int print_store(const struct pgmap_store_info *s,
		       const struct pgmap_dax_info *d, bool json)
{
	char text[OUT_LEN];
	struct out_json *o;

	if (json) {
		o = out_json_new();
		if (!o)
			return 1;
		out_json_string(o, "device", d->kind);
		out_json_u64(o, "align", d->align);
		out_json_u64(o, "page_size", d->page_size);
#define X(key, unit, field, doc) out_json_u64(o, key, s->field);
		STORE_FIELDS(X)
#undef X
		return write_json(o);
	}
	printf("%-14s %14s\n", "device", d->kind);
	printf("%-14s %14s\n", "align", out_bytes(text, d->align));
#define X(key, unit, field, doc)                                               \
	printf("%-14s %14s  %s\n", key, out_value(text, unit, s->field), doc);
	STORE_FIELDS(X)
#undef X
	return 0;
}

static int run_stat(struct args *a, struct pgmap_dax *dax)
{
	struct pgmap_store *store = open_store(a, dax);
	struct pgmap_store_info info = {.size = sizeof(info)};
	struct pgmap_dax_info dev = {.size = sizeof(dev)};
	struct pgmap_file_info file = {.size = sizeof(file)};
	struct pgmap_file *f;
	int ret;

	if (!store)
		return 1;
	if (a->nr_rest) {
		ret = pgmap_file_open(store, a->rest[0], 0, &f);
		if (!ret) {
			ret = pgmap_file_get_info(f, &file);
			pgmap_file_close(f);
		}
		ret = ret ? fail(a, a->rest[0], ret)
			  : print_file(&file, a->json);
	} else {
		pgmap_store_get_info(store, &info);
		pgmap_dax_get_info(dax, &dev);
		ret = print_store(&info, &dev, a->json);
	}
	return close_store(a, store, ret);
}

static int fail_here(const char *path)
{
	fprintf(stderr, "pgmap: dax: %s: %s\n", path, strerror(errno));
	return 1;
}

/* From descriptor @fd until it ends. */
static int put_bytes(struct args *a, struct pgmap_file *f, int fd,
		     const char *path, char *buf)
{
	uint64_t at = 0;
	ssize_t n;
	int ret;

	while ((n = read(fd, buf, CHUNK)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail_here(path);
		ret = pgmap_file_write(f, at, buf, (size_t)n, NULL);
		if (ret)
			return fail(a, a->rest[0], ret);
		at += (uint64_t)n;
	}
	return 0;
}

/* A name for what is not whole yet. */
static void name_new(char name[PGMAP_NAME_MAX + 1], unsigned int i)
{
	snprintf(name, PGMAP_NAME_MAX + 1, ".put.%u", i);
}

/* The bytes are all there before the file has its name. */
static int run_put(struct args *a, struct pgmap_dax *dax)
{
	const char *path = a->nr_rest > 1 ? a->rest[1] : "-";
	int fd = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC) : 0;
	struct pgmap_store *store;
	struct pgmap_file *f;
	char name[PGMAP_NAME_MAX + 1], *buf;
	int ret = -EEXIST;

	if (fd < 0)
		return fail_here(path);
	store = open_store(a, dax);
	buf = malloc(CHUNK);
	if (!store || !buf) {
		free(buf);
		return close_store(a, store, 1);
	}
	for (unsigned int i = 0; ret == -EEXIST && i < 1000; i++) {
		name_new(name, i);
		ret = pgmap_file_open(store, name,
				      PGMAP_FILE_CREATE | PGMAP_FILE_EXCL, &f);
	}
	if (ret) {
		ret = fail(a, a->rest[0], ret);
	} else {
		ret = put_bytes(a, f, fd, path, buf);
		pgmap_file_close(f);
		if (!ret) {
			ret = pgmap_store_rename(store, name, a->rest[0], 0);
			ret = ret ? fail(a, a->rest[0], ret) : 0;
		}
		if (ret)
			pgmap_store_unlink(store, name);
	}
	free(buf);
	if (fd)
		close(fd);
	return close_store(a, store, ret);
}

static int write_out(int fd, const char *buf, size_t len)
{
	while (len) {
		ssize_t n = write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		buf += n;
		len -= (size_t)n;
	}
	return 0;
}

static int get_bytes(struct pgmap_file *f, int fd, const char *path, char *buf)
{
	uint64_t at = 0;
	size_t n;

	while (!pgmap_file_read(f, at, buf, CHUNK, &n) && n) {
		if (write_out(fd, buf, n))
			return fail_here(path);
		at += n;
	}
	return 0;
}

static int run_get(struct args *a, struct pgmap_dax *dax)
{
	const char *path = a->nr_rest > 1 ? a->rest[1] : "-";
	struct pgmap_store *store = open_store(a, dax);
	struct pgmap_file *f;
	char *buf = malloc(CHUNK);
	int ret, fd = 1;

	if (!store || !buf) {
		free(buf);
		return close_store(a, store, 1);
	}
	ret = pgmap_file_open(store, a->rest[0], 0, &f);
	if (ret) {
		ret = fail(a, a->rest[0], ret);
		goto out;
	}
	if (strcmp(path, "-"))
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	ret = fd < 0 ? fail_here(path) : get_bytes(f, fd, path, buf);
	if (fd > 1 && close(fd) && !ret)
		ret = fail_here(path);
	pgmap_file_close(f);
out:
	free(buf);
	return close_store(a, store, ret);
}

static int run_cp(struct args *a, struct pgmap_dax *dax)
{
	struct pgmap_store *store = open_store(a, dax);
	int ret;

	if (!store)
		return 1;
	ret = pgmap_store_reflink(store, a->rest[0], a->rest[1]);
	if (ret)
		ret = fail(a, a->rest[ret == -EEXIST], ret);
	return close_store(a, store, ret);
}

static int run_mv(struct args *a, struct pgmap_dax *dax)
{
	struct pgmap_store *store = open_store(a, dax);
	int ret;

	if (!store)
		return 1;
	ret = pgmap_store_rename(store, a->rest[0], a->rest[1], 0);
	if (ret)
		ret = fail(a, a->rest[0], ret);
	return close_store(a, store, ret);
}

static int run_rm(struct args *a, struct pgmap_dax *dax)
{
	struct pgmap_store *store = open_store(a, dax);
	int ret;

	if (!store)
		return 1;
	ret = pgmap_store_unlink(store, a->rest[0]);
	if (ret)
		ret = fail(a, a->rest[0], ret);
	return close_store(a, store, ret);
}

static int change_file(struct args *a, struct pgmap_dax *dax,
		       int (*change)(struct args *a, struct pgmap_file *f))
{
	struct pgmap_store *store = open_store(a, dax);
	struct pgmap_file *f;
	int ret;

	if (!store)
		return 1;
	ret = pgmap_file_open(store, a->rest[0], 0, &f);
	if (!ret) {
		ret = change(a, f);
		pgmap_file_close(f);
	}
	if (ret)
		ret = fail(a, a->rest[0], ret);
	return close_store(a, store, ret);
}

static int truncate_file(struct args *a, struct pgmap_file *f)
{
	return pgmap_file_truncate(f, a->from);
}

static int run_truncate(struct args *a, struct pgmap_dax *dax)
{
	return change_file(a, dax, truncate_file);
}

static int punch_file(struct args *a, struct pgmap_file *f)
{
	return pgmap_file_punch(f, a->from, a->len);
}

static int run_punch(struct args *a, struct pgmap_dax *dax)
{
	return change_file(a, dax, punch_file);
}

struct damage {
	const struct args *a;
	struct out_json *json;
	unsigned int nr;
};

static void tell_damage(void *arg, const char *line)
{
	struct damage *d = arg;

	d->nr++;
	if (d->json)
		out_json_string(out_json_append(d->json, "damage"), "what",
				line);
	else
		printf("%s: %s\n", d->a->device, line);
}

static int run_fsck(struct args *a, struct pgmap_dax *dax)
{
	struct damage d = {.a = a};
	int ret;

	if (a->json) {
		d.json = out_json_new();
		if (!d.json)
			return 1;
		out_json_list(d.json, "damage");
	}
	ret = pgmap_store_check(dax, tell_damage, &d);
	if (a->json) {
		out_json_bool(d.json, "sound", !ret);
		return write_json(d.json) || ret;
	}
	if (ret && ret != -EUCLEAN)
		return fail(a, a->device, ret);
	if (!ret)
		printf("%s: the store is sound\n", a->device);
	return ret != 0;
}

static const struct sub subs[] = {
	{"create",
	 "[--size SIZE] [--align SIZE] [--journal SIZE] [--force] DEVICE", 0, 0,
	 "sfaJ", PGMAP_DAX_CREATE, run_create},
	{"ls", "[--json] DEVICE", 0, 0, "j", PGMAP_DAX_READONLY, run_ls},
	{"put", "DEVICE NAME [FILE]", 1, 2, "", 0, run_put},
	{"get", "DEVICE NAME [FILE]", 1, 2, "", PGMAP_DAX_READONLY, run_get},
	{"cp", "DEVICE NAME NEW", 2, 2, "", 0, run_cp},
	{"mv", "DEVICE NAME NEW", 2, 2, "", 0, run_mv},
	{"rm", "DEVICE NAME", 1, 1, "", 0, run_rm},
	{"truncate", "DEVICE NAME SIZE", 2, 2, "", 0, run_truncate},
	{"punch", "DEVICE NAME OFFSET LENGTH", 3, 3, "", 0, run_punch},
	{"fsck", "[--json] DEVICE", 0, 0, "j", PGMAP_DAX_READONLY, run_fsck},
	{"stat", "[--json] DEVICE [NAME]", 0, 1, "j", PGMAP_DAX_READONLY,
	 run_stat},
};

static int bad_size(const struct sub *sub, const char *what, const char *text)
{
	fprintf(stderr, "pgmap: dax %s: %s is a size such as 64M, not '%s'\n",
		sub->name, what, text);
	return 2;
}

static int bad_use(const struct sub *sub)
{
	fprintf(stderr, "pgmap: dax %s takes %s; see pgmap dax --help\n",
		sub->name, sub->usage);
	return 2;
}

/* Return: 0, or 2 after it was said what is wrong. */
static int parse(const struct sub *sub, int argc, char **argv, struct args *a)
{
	const struct {
		const char *name;
		char letter;
		bool *flag;
		uint64_t *size;
	} options[] = {
		{"--json", 'j', &a->json, NULL},
		{"--force", 'f', &a->force, NULL},
		{"--size", 's', NULL, &a->size},
		{"--align", 'a', NULL, &a->align},
		{"--journal", 'J', NULL, &a->journal},
	};
	size_t n = sizeof(options) / sizeof(options[0]), k;
	int i = 1;

	a->sub = sub;
	for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
		if (!strcmp(argv[i], "--")) {
			i++;
			break;
		}
		for (k = 0; k < n; k++)
			if (!strcmp(argv[i], options[k].name) &&
			    strchr(sub->options, options[k].letter))
				break;
		if (k == n || (options[k].size && i + 1 == argc))
			return bad_use(sub);
		if (options[k].flag)
			*options[k].flag = true;
		else if (out_parse_size(argv[++i], options[k].size))
			return bad_size(sub, options[k].name, argv[i]);
	}
	if (argc - i < 1 + sub->min || argc - i > 1 + sub->max)
		return bad_use(sub);
	a->device = argv[i];
	a->rest = argv + i + 1;
	a->nr_rest = argc - i - 1;
	if (sub->run == run_truncate || sub->run == run_punch) {
		if (out_parse_size(a->rest[1], &a->from))
			return bad_size(sub, "SIZE", a->rest[1]);
		if (sub->run == run_punch &&
		    out_parse_size(a->rest[2], &a->len))
			return bad_size(sub, "LENGTH", a->rest[2]);
	}
	return 0;
}

static int run_sub(const struct sub *sub, int argc, char **argv)
{
	struct args a = {0};
	struct pgmap_dax_config config = {
		.size = sizeof(config),
		.flags = sub->flags,
	};
	struct pgmap_dax *dax;
	char error[256];
	int ret = parse(sub, argc, argv, &a);

	if (ret)
		return ret;
	config.path = a.device;
	config.bytes = a.size;
	config.align = a.align;
	/* A file is made only where it is said how large. */
	if (!a.size)
		config.flags &= ~PGMAP_DAX_CREATE;
	if (pgmap_dax_open(&config, &dax, error, sizeof(error))) {
		fprintf(stderr, "pgmap: dax: %s\n", error);
		return 1;
	}
	ret = sub->run(&a, dax);
	pgmap_dax_close(dax);
	return ret;
}

static int run(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(subs) / sizeof(subs[0]); i++)
		if (!strcmp(subs[i].name, argv[1]))
			return run_sub(subs + i, argc - 1, argv + 1);
	if (argc > 1)
		fprintf(stderr,
			"pgmap: dax has no command '%s'; see pgmap dax "
			"--help\n",
			argv[1]);
	else
		fprintf(stderr, "pgmap: dax takes a command; see pgmap dax "
				"--help\n");
	return 2;
}

const struct cmd cmd_dax = {
	.name = "dax",
	.summary = "keep files on a DAX device",
	.usage = "usage: pgmap dax create [--size SIZE] [--align SIZE]\n"
		 "                        [--journal SIZE] [--force] DEVICE\n"
		 "       pgmap dax ls [--json] DEVICE\n"
		 "       pgmap dax put DEVICE NAME [FILE]\n"
		 "       pgmap dax get DEVICE NAME [FILE]\n"
		 "       pgmap dax cp | mv DEVICE NAME NEW\n"
		 "       pgmap dax rm DEVICE NAME\n"
		 "       pgmap dax truncate DEVICE NAME SIZE\n"
		 "       pgmap dax punch DEVICE NAME OFFSET LENGTH\n"
		 "       pgmap dax fsck [--json] DEVICE\n"
		 "       pgmap dax stat [--json] DEVICE [NAME]\n\n"
		 "DEVICE is a file, on tmpfs, hugetlbfs or a disk, a block\n"
		 "device or a /dev/dax. create makes a store on it, and the\n"
		 "file too if --size is given. FILE is - or left out for\n"
		 "standard input or output. cp shares the blocks.\n",
	.run = run,
};
