/* SPDX-License-Identifier: BSD-3-Clause */
#include "dax/store.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "base/sys.h"

#define BLOCK PGMAP_STORE_BLOCK
#define MIN_HALF (8 * BLOCK)
/* A file takes at least so much of a snapshot, an extent so much of a record.
 */
#define FILE_BYTES 32u
#define NODE_BYTES 16u
/* How long records of a snapshot are. */
#define SNAPSHOT_RECORD 4096u

void pg_report(struct pg_report *r, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	r->nr++;
	if (!r->fn)
		return;
	va_start(ap, fmt);
	pg_vformat(line, sizeof(line), fmt, ap);
	va_end(ap);
	r->fn(r->arg, line);
}

/* ---- Names ---- */

static uint32_t hash_of(const struct pgmap_store *s, const char *name,
			size_t len)
{
	char text[sizeof(s->seed) + PGMAP_NAME_MAX];

	memcpy(text, &s->seed, sizeof(s->seed));
	memcpy(text + sizeof(s->seed), name, len);
	return (uint32_t)pg_hash(text, sizeof(s->seed) + len).lo;
}

const char *pg_file_name(const struct pgmap_file *file)
{
	return (const char *)file->store->dax->base + file->name;
}

uint32_t pg_file_number(const struct pgmap_file *file)
{
	return (uint32_t)(file - file->store->files);
}

static uint32_t *bucket_of(struct pgmap_store *s, uint32_t hash)
{
	return s->buckets + (hash & (s->nr_buckets - 1));
}

struct pgmap_file *pg_store_find(struct pgmap_store *s, const char *name,
				 size_t len)
{
	uint32_t hash = hash_of(s, name, len);

	for (uint32_t n = *bucket_of(s, hash); n; n = s->files[n].next) {
		struct pgmap_file *f = s->files + n;

		if (f->hash == hash && f->name_len == len &&
		    !memcmp(pg_file_name(f), name, len))
			return f;
	}
	return NULL;
}

static void remove_name(struct pgmap_file *f)
{
	struct pgmap_store *s = f->store;
	uint32_t *at = bucket_of(s, f->hash);

	while (*at != pg_file_number(f))
		at = &s->files[*at].next;
	*at = f->next;
}

uint32_t pg_store_new_number(struct pgmap_store *s)
{
	for (uint32_t i = 0; i < s->max_files; i++) {
		if (++s->last_file > s->max_files)
			s->last_file = 1;
		if (s->files[s->last_file].state == PG_FILE_NONE)
			return s->last_file;
	}
	return 0;
}

uint64_t pg_name_items(size_t len)
{
	return PG_ITEM_HEAD + ((len + 7) & ~7ull) + PG_ITEM_SIZE_BYTES;
}

/* ---- What an item does ---- */

static void put_extent(void *arg, const struct pg_extent *e)
{
	struct pgmap_store *s = arg;

	pg_blocks_put(&s->blocks, e->block, e->nr);
}

static void remove_extents(struct pgmap_file *f, uint64_t index, uint64_t nr)
{
	struct pgmap_store *s = f->store;

	if (f->state == PG_FILE_NAMED)
		s->live -= (uint64_t)f->extents.nr * PG_ITEM_EXTENT_BYTES;
	pg_extents_remove(&s->pool, &f->extents, index, nr, put_extent, s);
	if (f->state == PG_FILE_NAMED)
		s->live += (uint64_t)f->extents.nr * PG_ITEM_EXTENT_BYTES;
}

/* It has no name any more, and is gone when it is not open either. */
static void remove_file(struct pgmap_file *f)
{
	struct pgmap_store *s = f->store;

	if (f->state == PG_FILE_NAMED) {
		remove_name(f);
		s->nr_files--;
		s->live -= pg_name_items(f->name_len) +
			   (uint64_t)f->extents.nr * PG_ITEM_EXTENT_BYTES;
		f->state = PG_FILE_UNLINKED;
	}
	if (f->opens && !pg_mutant("dax_unlink_frees_an_open_file"))
		return;
	remove_extents(f, 0, PG_FILE_BLOCKS);
	f->state = PG_FILE_NONE;
}

void pg_file_free(struct pgmap_file *f)
{
	remove_file(f);
}

static const char *do_name(struct pgmap_store *s, struct pgmap_file *f,
			   const struct pg_item *it)
{
	struct pgmap_file *other;

	if (!it->len || memchr(it->name, 0, it->len) ||
	    memchr(it->name, '/', it->len))
		return "no name can be so";
	other = pg_store_find(s, it->name, it->len);
	if (other == f)
		return NULL;
	if (other)
		return "two files have one name";
	if (f->state == PG_FILE_NAMED) {
		remove_name(f);
		s->live -= pg_name_items(f->name_len);
	} else {
		*f = (struct pgmap_file){.store = s, .state = PG_FILE_NAMED};
		s->nr_files++;
		if (pg_file_number(f) >= s->end_file)
			s->end_file = pg_file_number(f) + 1;
	}
	f->name = (uint64_t)((const unsigned char *)it->name - s->dax->base);
	f->name_len = it->len;
	f->hash = hash_of(s, it->name, it->len);
	f->next = *bucket_of(s, f->hash);
	*bucket_of(s, f->hash) = pg_file_number(f);
	s->live += pg_name_items(f->name_len);
	return NULL;
}

static const char *do_extent(struct pgmap_store *s, struct pgmap_file *f,
			     const struct pg_item *it)
{
	struct pg_extent e = {it->a, it->b, it->c};

	if (!e.nr || e.index >= PG_FILE_BLOCKS ||
	    e.nr > PG_FILE_BLOCKS - e.index)
		return "an extent behind the end of all files";
	if (e.block < s->blocks.first || e.block >= s->blocks.end ||
	    (e.nr > s->blocks.end - e.block &&
	     !pg_mutant("dax_extent_ends_anywhere")))
		return "an extent that is not on the device";
	if (it->flags & PG_ITEM_SHARED) {
		if (!pg_blocks_can_share(&s->blocks, e.block, e.nr))
			return "a block with too many owners";
	} else if (!pg_blocks_are_free(&s->blocks, e.block, e.nr) &&
		   !pg_mutant("dax_block_has_two_owners")) {
		return "a block that another file has";
	}
	if (!pg_extents_room(&s->pool))
		return "more extents than there is memory for";
	/* Before the old ones go: they may be the same. */
	pg_blocks_get(&s->blocks, e.block, e.nr);
	remove_extents(f, e.index, e.nr);
	if (f->state == PG_FILE_NAMED)
		s->live -= (uint64_t)f->extents.nr * PG_ITEM_EXTENT_BYTES;
	pg_extents_add(&s->pool, &f->extents, &e);
	if (f->state == PG_FILE_NAMED)
		s->live += (uint64_t)f->extents.nr * PG_ITEM_EXTENT_BYTES;
	return NULL;
}

/* Items of a record are of files that are there, or that a name makes.
 * Return: NULL, or what is wrong with it; then it has changed nothing. */
static const char *do_item(struct pgmap_store *s, const struct pg_item *it)
{
	struct pgmap_file *f = s->files + it->file;

	if (!it->file || it->file > s->max_files)
		return "a number that no file has";
	if (it->type == PG_ITEM_NAME)
		return do_name(s, f, it);
	if (f->state == PG_FILE_NONE)
		return "a file that is not there";
	switch (it->type) {
	case PG_ITEM_SIZE:
		if (it->a > PG_FILE_BLOCKS * BLOCK - 1)
			return "a size that no file has";
		f->bytes = it->a;
		return NULL;
	case PG_ITEM_EXTENT:
		return do_extent(s, f, it);
	case PG_ITEM_HOLE:
		if (it->a > PG_FILE_BLOCKS || it->b > PG_FILE_BLOCKS - it->a)
			return "a hole behind the end of all files";
		if (!pg_extents_room(&s->pool))
			return "more extents than there is memory for";
		remove_extents(f, it->a, it->b);
		return NULL;
	default:
		remove_file(f);
		return NULL;
	}
}

static const char *do_items(struct pgmap_store *s, const char *items,
			    uint64_t len)
{
	while (len >= PG_ITEM_HEAD) {
		const struct pg_item *it = (const void *)items;
		uint32_t n;
		const char *why;

		/* What fills a record up to its end. */
		if (!it->type)
			return NULL;
		n = pg_item_bytes(it);
		if (!n || n > len)
			return "an item that is none";
		why = do_item(s, it);
		if (why)
			return why;
		items += n;
		len -= n;
	}
	return NULL;
}

/* ---- Opening ---- */

static const char *do_record(struct pgmap_store *s, const struct pg_record *r)
{
	return do_items(s, (const char *)(r + 1), r->bytes - sizeof(*r));
}

static void empty(struct pgmap_store *s)
{
	uint64_t first = (s->super.journal + 2 * s->super.half) / BLOCK;

	if (s->end_file) {
		memset(s->files, 0, sizeof(*s->files) * s->end_file);
		memset(s->buckets, 0, sizeof(*s->buckets) * s->nr_buckets);
		memset(s->blocks.used, 0, (s->blocks.end + 63) / 64 * 8);
		if (s->blocks.nr_shared)
			memset(s->blocks.more, 0, s->blocks.end * 2);
	}
	s->end_file = 1;
	s->last_file = 0;
	s->nr_files = 0;
	s->live = 0;
	pg_blocks_init(&s->blocks, s->blocks.used, s->blocks.more, first,
		       s->super.nr_blocks - 1);
	pg_extent_pool_init(&s->pool, s->pool.nodes, s->pool.max, s->seed);
}

/* An eighth is left for changes, of which one must always fit. */
static uint64_t most_live(const struct pgmap_store *s)
{
	return s->super.half / 8 * 7;
}

enum replay { REPLAY_DONE, REPLAY_CUT, REPLAY_SEALED, REPLAY_BAD };

/* The generation of half @half, from its beginning to its end. */
static enum replay replay(struct pgmap_store *s, unsigned int half,
			  struct pg_report *report)
{
	struct pg_journal *j = &s->journal;
	const struct pg_record *r = pg_journal_record(j, half, 0, 1, true);
	bool whole = false;
	uint64_t later;

	empty(s);
	j->half = half;
	j->generation = r->generation;
	j->nonce = r->nonce;
	j->tail = 0;
	j->seq = 1;
	s->clean = false;
	while ((r = pg_journal_record(j, half, j->tail, j->seq, false))) {
		const char *why = NULL;

		if (r->kind == PG_RECORD_SEAL && whole)
			return REPLAY_SEALED;
		if (r->kind == PG_RECORD_CLOSED && whole)
			why = NULL;
		else if (r->kind == PG_RECORD_CHANGE ? whole
			 : r->kind == PG_RECORD_SNAPSHOT ||
					 r->kind == PG_RECORD_SNAPSHOT_END
				 ? !whole
				 : false)
			why = do_record(s, r);
		else
			why = "a record of the wrong kind";
		if (why) {
			pg_report(report,
				  "the record at byte %lu of the device has "
				  "%s",
				  j->start + half * j->bytes + j->tail, why);
			return REPLAY_BAD;
		}
		whole |= r->kind == PG_RECORD_SNAPSHOT_END;
		s->clean = r->kind == PG_RECORD_CLOSED;
		j->tail += r->bytes;
		j->seq++;
	}
	if (!whole)
		return REPLAY_CUT;
	if (j->tail > j->bytes - PG_RECORD_ALIGN) {
		pg_report(report,
			  "half %u of the journal has no room for its "
			  "end",
			  half);
		return REPLAY_BAD;
	}
	if (s->live > most_live(s)) {
		pg_report(report,
			  "half %u of the journal has more files than "
			  "fit into a snapshot",
			  half);
		return REPLAY_BAD;
	}
	later = pg_journal_later(j, half, j->tail, j->seq);
	if (later) {
		pg_report(report,
			  "the record at byte %lu of the device is damaged; a "
			  "later one at byte %lu is not",
			  j->start + half * j->bytes + j->tail,
			  j->start + half * j->bytes + later);
		return REPLAY_BAD;
	}
	return REPLAY_DONE;
}

/* The newest generation whose snapshot is whole. */
static int replay_newest(struct pgmap_store *s, struct pg_report *report)
{
	struct pg_journal *j = &s->journal;
	const struct pg_record *r[2];
	unsigned int newest;
	enum replay ret;

	for (unsigned int h = 0; h < 2; h++) {
		r[h] = pg_journal_record(j, h, 0, 1, true);
		if (r[h] && (!r[h]->generation || r[h]->generation >> 63))
			r[h] = NULL;
	}
	if (!r[0] && !r[1]) {
		pg_report(report, "both halves of the journal are damaged at "
				  "their beginning");
		return -EUCLEAN;
	}
	newest = !r[0] || (r[1] && r[1]->generation > r[0]->generation);
	ret = replay(s, newest, report);
	if (ret == REPLAY_CUT && r[!newest])
		ret = replay(s, !newest, report);
	else if (ret == REPLAY_SEALED && r[!newest])
		ret = REPLAY_BAD;
	if (pg_mutant("dax_older_half_is_good_enough") && ret == REPLAY_SEALED)
		ret = REPLAY_DONE;
	if (ret == REPLAY_SEALED)
		pg_report(report,
			  "half %u of the journal ends with generation %lu; "
			  "the next one, in half %u, is damaged",
			  j->half, j->generation, !j->half);
	else if (ret == REPLAY_CUT)
		pg_report(report,
			  "half %u of the journal is damaged at byte %lu of "
			  "the device, and there is no other",
			  j->half, j->start + j->half * j->bytes + j->tail);
	else if (ret == REPLAY_BAD && !report->nr)
		pg_report(report, "the halves of the journal contradict each "
				  "other");
	return ret == REPLAY_DONE ? 0 : -EUCLEAN;
}

static int find_super(struct pgmap_dax *dax, struct pg_super *super,
		      struct pg_report *report, bool strict)
{
	const char *why[2] = {NULL, NULL};
	struct pg_super other;
	uint64_t last;
	bool ok;

	if (dax->bytes < 2 * BLOCK) {
		pg_report(report, "%lu bytes are too few for a store",
			  dax->bytes);
		return -EUCLEAN;
	}
	ok = pg_super_ok(dax, 0, super, &why[0]);
	last = ok ? super->nr_blocks - 1 : dax->bytes / BLOCK - 1;
	if (!pg_super_ok(dax, last * BLOCK, &other, &why[1])) {
		if (ok && strict)
			pg_report(report,
				  "the second superblock, at byte %lu, %s",
				  last * BLOCK, why[1]);
	} else if (!ok) {
		*super = other;
		ok = true;
		if (strict)
			pg_report(report, "the superblock, at byte 0, %s",
				  why[0]);
	} else if (strict && memcmp(&other, super, sizeof(other))) {
		pg_report(report,
			  "the superblocks, at byte 0 and byte %lu, "
			  "are not alike",
			  last * BLOCK);
	}
	if (!ok)
		pg_report(report,
			  "the superblock, at byte 0, %s; so does, or is, the "
			  "one at the end",
			  why[0]);
	return ok ? 0 : -EUCLEAN;
}

static void *carve(char **at, uint64_t bytes)
{
	void *p = *at;

	*at += (bytes + 63) & ~63ull;
	return p;
}

/* All memory of a store is one mapping, backed where it is touched. */
static struct pgmap_store *allocate(const struct pg_super *super)
{
	uint32_t max_files = (uint32_t)(super->half / FILE_BYTES), nr = 1;
	uint32_t max_nodes = (uint32_t)(super->half / NODE_BYTES) + 8;
	uint64_t nr_blocks = super->nr_blocks;
	struct pgmap_store *s;
	uint64_t bytes;
	char *at;

	while (nr < max_files / 2)
		nr *= 2;
	bytes = sizeof(*s) + sizeof(*s->files) * (max_files + 1) + nr * 4ull +
		sizeof(struct pg_extent_node) * max_nodes +
		(nr_blocks + 63) / 64 * 8 + nr_blocks * 2 + super->half +
		8 * 64;
	at = pg_mem_map(bytes);
	if (!at)
		return NULL;
	s = carve(&at, sizeof(*s));
	s->mapped = bytes;
	s->super = *super;
	s->max_files = max_files;
	s->files = carve(&at, sizeof(*s->files) * (max_files + 1));
	s->nr_buckets = nr;
	s->buckets = carve(&at, nr * 4ull);
	s->pool.max = max_nodes;
	s->pool.nodes = carve(&at, sizeof(struct pg_extent_node) * max_nodes);
	s->blocks.used = carve(&at, (nr_blocks + 63) / 64 * 8);
	s->blocks.more = carve(&at, nr_blocks * 2);
	s->items = carve(&at, super->half);
	return s;
}

int pg_store_open(struct pgmap_dax *dax, struct pgmap_store **store,
		  struct pg_report *report, bool strict)
{
	struct pgmap_store *s;
	struct pg_super super;
	int ret = find_super(dax, &super, report, strict);

	if (ret)
		return ret;
	s = allocate(&super);
	if (!s)
		return -ENOMEM;
	s->dax = dax;
	pg_sys(getrandom, &s->seed, sizeof(s->seed), 0);
	s->journal = (struct pg_journal){
		.dax = dax,
		.start = super.journal,
		.bytes = super.half,
		.id = super.id,
	};
	ret = replay_newest(s, report);
	if (ret) {
		pg_store_free(s);
		return ret;
	}
	*store = s;
	return 0;
}

void pg_store_free(struct pgmap_store *s)
{
	pg_mem_unmap(s, s->mapped);
}

/* ---- Changes ---- */

int pg_store_begin(struct pgmap_store *s, uint64_t more)
{
	s->items_len = 0;
	if (s->dax->readonly)
		return -EROFS;
	if (s->failed)
		return s->failed;
	if (!more)
		return 0;
	/* What makes nothing longer needs a few nodes, too: those are left. */
	if (s->pool.nr_used + more / PG_ITEM_EXTENT_BYTES + 16 > s->pool.max)
		return -ENOSPC;
	if (s->live + more > most_live(s) &&
	    !pg_mutant("dax_journal_is_filled"))
		return -ENOSPC;
	return 0;
}

static struct pg_item *new_item(struct pgmap_store *s, uint32_t bytes)
{
	struct pg_item *it =
		(struct pg_item *)(void *)(s->items + s->items_len);

	pg_bug_on(bytes > s->super.half - s->items_len);
	memset(it, 0, bytes);
	s->items_len += bytes;
	return it;
}

static void fill_name(struct pg_item *it, uint32_t file, const char *name,
		      size_t len)
{
	it->type = PG_ITEM_NAME;
	it->len = (uint8_t)len;
	it->file = file;
	memcpy((char *)it + PG_ITEM_HEAD, name, len);
}

static void fill_item(struct pg_item *it, enum pg_item_type type,
		      unsigned int flags, uint32_t file, const uint64_t v[3])
{
	it->type = (uint8_t)type;
	it->flags = (uint16_t)flags;
	it->file = file;
	memcpy((char *)it + PG_ITEM_HEAD, v, pg_item_bytes(it) - PG_ITEM_HEAD);
}

static uint32_t name_item_bytes(size_t len)
{
	return (uint32_t)(pg_name_items(len) - PG_ITEM_SIZE_BYTES);
}

void pg_store_name(struct pgmap_store *s, uint32_t file, const char *name,
		   size_t len)
{
	fill_name(new_item(s, name_item_bytes(len)), file, name, len);
}

void pg_store_item(struct pgmap_store *s, enum pg_item_type type,
		   unsigned int flags, uint32_t file, uint64_t a, uint64_t b,
		   uint64_t c)
{
	struct pg_item of_type = {.type = (uint8_t)type};

	fill_item(new_item(s, pg_item_bytes(&of_type)), type, flags, file,
		  (uint64_t[3]){a, b, c});
}

/* A snapshot as it is written: the record at the tail has @len bytes of items
 * so far. */
struct writing {
	struct pgmap_store *store;
	struct pg_journal journal;
	uint64_t len;
};

static void finish_record(struct writing *w, enum pg_record_kind kind)
{
	pg_journal_finish(&w->journal, kind, w->len);
	w->len = 0;
}

static struct pg_item *write_item(struct writing *w, uint32_t bytes)
{
	struct pg_journal *j = &w->journal;
	char *it;

	if (w->len + bytes > SNAPSHOT_RECORD)
		finish_record(w, PG_RECORD_SNAPSHOT);
	pg_bug_on(j->tail + pg_record_bytes(w->len + bytes) > j->bytes);
	it = (char *)pg_journal_at(j, j->half, j->tail) +
	     sizeof(struct pg_record) + w->len;
	memset(it, 0, bytes);
	w->len += bytes;
	return (struct pg_item *)(void *)it;
}

static void write_file(struct writing *w, struct pgmap_file *f)
{
	struct pgmap_store *s = w->store;
	uint32_t number = pg_file_number(f);
	struct pg_item *it = write_item(w, name_item_bytes(f->name_len));
	struct pg_extent e;

	fill_name(it, number, pg_file_name(f), f->name_len);
	f->name = (uint64_t)((const unsigned char *)it->name - s->dax->base);
	if (f->bytes)
		fill_item(write_item(w, PG_ITEM_SIZE_BYTES), PG_ITEM_SIZE, 0,
			  number, (uint64_t[3]){f->bytes, 0, 0});
	for (uint64_t i = 0; pg_extents_next(&s->pool, &f->extents, i, &e);
	     i = e.index + e.nr)
		fill_item(write_item(w, PG_ITEM_EXTENT_BYTES), PG_ITEM_EXTENT,
			  pg_blocks_nr_shared(&s->blocks, e.block, e.nr)
				  ? PG_ITEM_SHARED
				  : 0,
			  number, (uint64_t[3]){e.index, e.block, e.nr});
}

int pg_store_snapshot(struct pgmap_store *s)
{
	struct pg_journal *j = &s->journal;
	struct writing w = {s, *j, 0};
	int ret = 0;

	w.journal.half = !j->half;
	w.journal.generation++;
	w.journal.tail = 0;
	w.journal.seq = 1;
	pg_sys(getrandom, &w.journal.nonce, sizeof(w.journal.nonce), 0);
	for (uint32_t n = 1; n < s->end_file; n++)
		if (s->files[n].state == PG_FILE_NAMED)
			write_file(&w, s->files + n);
	finish_record(&w, PG_RECORD_SNAPSHOT_END);
	if (!pg_mutant("dax_snapshot_is_not_flushed"))
		ret = pg_daxdev_flush(s->dax,
				      j->start + w.journal.half * j->bytes,
				      w.journal.tail);
	if (!ret && !pg_mutant("dax_half_is_not_sealed"))
		ret = pg_journal_append(j, PG_RECORD_SEAL, NULL, 0);
	if (ret) {
		s->failed = -EIO;
		return ret;
	}
	*j = w.journal;
	s->clean = false;
	return 0;
}

int pg_store_commit(struct pgmap_store *s, struct pgmap_file *file)
{
	struct pg_journal *j = &s->journal;
	uint64_t bytes = pg_record_bytes(s->items_len);
	const char *items = s->items, *why;
	int ret;

	if (!file || file->state == PG_FILE_NAMED) {
		/* There is always room for a CLOSED, and then for a SEAL. */
		if (bytes + 2 * PG_RECORD_ALIGN > j->bytes - j->tail) {
			ret = pg_store_snapshot(s);
			if (ret)
				return ret;
		}
		if (bytes + 2 * PG_RECORD_ALIGN > j->bytes - j->tail)
			return -ENOSPC;
		items = (char *)pg_journal_at(j, j->half, j->tail) +
			sizeof(struct pg_record);
		ret = pg_journal_append(j, PG_RECORD_CHANGE, s->items,
					s->items_len);
		if (ret) {
			s->failed = -EIO;
			return ret;
		}
		s->clean = false;
	}
	why = do_items(s, items, s->items_len);
	if (why)
		pg_log(PG_LOG_ERROR, "store: a change of ours has %s", why);
	pg_bug_on(why);
	return 0;
}

/* ---- The API ---- */

int pgmap_store_format(struct pgmap_dax *dax, uint64_t journal)
{
	struct pg_super super = {
		.version = PG_STORE_VERSION,
		.block_size = BLOCK,
		.journal = BLOCK,
	};
	struct pg_journal j;
	int ret;

	if (!dax)
		return -EINVAL;
	if (dax->readonly)
		return -EROFS;
	super.nr_blocks = dax->bytes / BLOCK;
	if (!journal)
		journal = dax->bytes / 64 < PG_HALF_MAX ? dax->bytes / 64
							: PG_HALF_MAX;
	if (journal > PG_HALF_MAX)
		return -EINVAL;
	super.half = journal < MIN_HALF
			     ? MIN_HALF
			     : (journal + BLOCK - 1) & ~(uint64_t)(BLOCK - 1);
	if (super.nr_blocks < 3 + 2 * (super.half / BLOCK))
		return -EINVAL;
	pg_sys(getrandom, &super.id, sizeof(super.id), 0);
	/* What was there is not there any more, then there is an empty one. */
	memset(dax->base, 0, sizeof(super));
	ret = pg_daxdev_flush(dax, 0, sizeof(super));
	if (ret)
		return ret;
	memset(dax->base + super.journal, 0, 2 * super.half);
	j = (struct pg_journal){
		.dax = dax,
		.start = super.journal,
		.bytes = super.half,
		.id = super.id,
		.generation = 1,
		.seq = 1,
	};
	pg_journal_finish(&j, PG_RECORD_SNAPSHOT_END, 0);
	pg_journal_finish(&j, PG_RECORD_CLOSED, 0);
	ret = pg_daxdev_flush(dax, super.journal, 2 * super.half);
	return ret ? ret : pg_super_write(dax, &super);
}

bool pgmap_store_exists(const struct pgmap_dax *dax)
{
	struct pg_super super;
	const char *why;

	return dax && dax->bytes >= 2 * BLOCK &&
	       (!memcmp(dax->base, PG_STORE_MAGIC,
			sizeof(PG_STORE_MAGIC) - 1) ||
		pg_super_ok(dax, (dax->bytes / BLOCK - 1) * BLOCK, &super,
			    &why));
}

struct first_line {
	char *text;
	size_t len;
};

static void keep_first(void *arg, const char *line)
{
	struct first_line *first = arg;

	if (first->len)
		pg_format(first->text, first->len, "%s", line);
	first->len = 0;
}

int pgmap_store_open(struct pgmap_dax *dax, struct pgmap_store **store,
		     char *error, size_t error_len)
{
	struct first_line first = {error, error ? error_len : 0};
	struct pg_report report = {keep_first, &first, 0};
	int ret;

	if (!dax || !store)
		return -EINVAL;
	ret = pg_store_open(dax, store, &report, false);
	if (ret == -ENOMEM)
		pg_report(&report, "no memory");
	return ret;
}

int pgmap_store_close(struct pgmap_store *s)
{
	int ret = 0;

	if (!s)
		return 0;
	if (!s->dax->readonly && !s->failed && !s->clean &&
	    s->journal.bytes - s->journal.tail >= 2 * PG_RECORD_ALIGN)
		ret = pg_journal_append(&s->journal, PG_RECORD_CLOSED, NULL, 0);
	pg_store_free(s);
	return ret;
}

int pgmap_store_get_info(struct pgmap_store *s, struct pgmap_store_info *info)
{
	if (!s || !info || info->size != sizeof(*info))
		return -EINVAL;
	pg_read_lock(&s->lock, LOCK_STORE);
	*info = (struct pgmap_store_info){
		.size = sizeof(*info),
		.bytes = (s->blocks.end - s->blocks.first) * BLOCK,
		.free = s->blocks.nr_free * BLOCK,
		.shared = s->blocks.nr_shared * BLOCK,
		.journal = most_live(s),
		.journal_used = s->live,
		.generation = s->journal.generation,
		.nr_files = s->nr_files,
		.nr_extents = s->pool.nr_used,
		.clean = s->clean,
	};
	pg_read_unlock(&s->lock, LOCK_STORE);
	return 0;
}
