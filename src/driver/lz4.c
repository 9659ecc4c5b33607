/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lz4.c - keep pages compressed in system memory.
 *
 * A folio is cut into blocks of at most 64 KB, each compressed as a unit: that
 * is as far back as LZ4 looks, larger units measured no better than 3 % denser
 * on heaps and programs, took longer both ways, and would make every fault
 * inside a 2 MB folio decode a megabyte. A block that LZ4 cannot shrink by a
 * fifth is kept as it is, one that repeats a single 8-byte word as that word,
 * one of zeros as nothing at all. After some that were kept as they are a
 * page in the middle is tried first, and if that does not shrink, its block is
 * not tried: arrays of numbers would take 100 us for nothing.
 *
 * Contents are in an arena, which packs them without gaps. The table has one
 * entry per slot; a block uses only the entry of its first slot. Discarding
 * a part of a block cuts the entry into naturally aligned pieces that name the
 * same contents, as the buddy allocator of Linux would, so that a slot that
 * holds nothing never has an entry. The contents are freed with the last piece.
 *
 * Compression and decompression work on a context and hold no lock.
 */
#include <pgmap/driver.h>

#include <errno.h>
#include <lz4.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include "base/arena.h"
#include "base/atomic.h"
#include "base/bug.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/opt.h"
#include "base/sys.h"

#define PAGE PGMAP_PAGE_SIZE
#define BLOCK_ORDER 4u
#define BLOCK_PAGES (1u << BLOCK_ORDER)
#define BLOCK_BYTES (BLOCK_PAGES * PAGE)
#define WORD ((uint32_t)sizeof(uint64_t))
/* Slots whose entries share a page of the table. */
#define LEAF_SLOTS (PAGE / sizeof(uint64_t))
/* Owners in the arena are 32 bits. */
#define MAX_SLOTS (1ull << 32)
#define MIN_SIZE (1ull << 20)
/* Steps of a discard between two chances for others to take the lock. */
#define DISCARD_STEPS 256u
#define NR_CONTEXTS 32u
/* Blocks in a row that did not shrink before a part is tried first. */
#define POOR_BLOCKS 2u

/*
 * An entry of the table: 0, or a piece of a block.
 *   bit  0      set
 *   bits 1..3   order of the piece
 *   bits 4..6   order of the block it was stored with
 *   bits 7..23  length of the contents: 0 zeros, WORD that word over and over,
 *               the block's size: as they are, otherwise compressed
 *   bits 24..63 reference of the contents
 */
#define ENTRY_SET 1ull
#define ENTRY_ORDER_MASK 14ull

/* struct context - What one store or load needs; claimed by its bit. */
struct context {
	char state[20480]; /* LZ4's */
	char packed[BLOCK_BYTES];
	char raw[BLOCK_BYTES];
};

struct lz4_dev {
	uint64_t nr_slots; /* set once */
	uint64_t limit;	   /* bytes; set once */
	struct context *contexts;
	pg_atomic32 busy; /* bit: claimed; acquire to take, release to drop */
	pg_atomic32 seen; /* bit: was ever claimed; relaxed */
	pg_atomic32 poor; /* blocks in a row that did not shrink; relaxed */
	struct pg_rwlock lock; /* LOCK_DRIVER: all below */
	uint64_t *table;
	uint16_t *leaf_used; /* entries set, for each page of the table */
	uint64_t nr_leaves;  /* pages of the table in use */
	uint64_t max_leaf;   /* the last one that ever was, plus one */
	uint64_t stored;     /* pages */
	uint64_t live;	     /* bytes of contents */
	struct pg_arena arena;
};

static uint64_t entry_make(unsigned int order, uint32_t len, uint64_t ref)
{
	return ENTRY_SET | order << 1 | order << 4 | (uint64_t)len << 7 |
	       ref << 24;
}

static unsigned int entry_order(uint64_t e)
{
	return e >> 1 & 7;
}

static unsigned int entry_block_order(uint64_t e)
{
	return e >> 4 & 7;
}

static uint32_t entry_len(uint64_t e)
{
	return e >> 7 & 0x1ffff;
}

static uint64_t entry_ref(uint64_t e)
{
	return e >> 24;
}

/* Are they pieces of one block? Not to be asked of two blocks of zeros. */
static bool entry_same(uint64_t e, uint64_t o)
{
	return !((e ^ o) & ~ENTRY_ORDER_MASK);
}

static uint64_t round_down(uint64_t slot, unsigned int order)
{
	return slot & ~((1ull << order) - 1);
}

static struct context *context_get(struct lz4_dev *d)
{
	uint32_t busy = pg_load(&d->busy, relaxed), bit;

	for (;;) {
		bit = ~busy & (busy + 1); /* the lowest that is clear */
		if (!bit) {
			pg_yield();
			busy = pg_load(&d->busy, relaxed);
		} else if (pg_cas(&d->busy, &busy, busy | bit, acquire)) {
			break;
		}
	}
	if (!(pg_load(&d->seen, relaxed) & bit))
		pg_fetch_or(&d->seen, bit, relaxed);
	return &d->contexts[__builtin_ctz(bit)];
}

static void context_put(struct lz4_dev *d, const struct context *c)
{
	pg_fetch_and(&d->busy, ~(1u << (c - d->contexts)), release);
}

/* ---- the table; the lock is held ---- */

static uint64_t host_bytes(struct lz4_dev *d)
{
	uint32_t seen = pg_load(&d->seen, relaxed);
	uint64_t counts = d->max_leaf * sizeof(*d->leaf_used);

	return pg_arena_bytes(&d->arena) +
	       (d->nr_leaves + (counts + PAGE - 1) / PAGE) * PAGE +
	       (uint64_t)__builtin_popcount(seen) * sizeof(struct context);
}

/* The piece that @slot is in. Return: its entry, or 0; *@head is its slot. */
static uint64_t find(const struct lz4_dev *d, uint64_t slot, uint64_t *head)
{
	if (!d->leaf_used[slot / LEAF_SLOTS])
		return 0;
	for (unsigned int order = 0; order <= BLOCK_ORDER; order++) {
		uint64_t s = round_down(slot, order), e = d->table[s];

		if (e && entry_order(e) >= order) {
			*head = s;
			return e;
		}
	}
	return 0;
}

static void entry_set(struct lz4_dev *d, uint64_t slot, uint64_t e)
{
	uint64_t leaf = slot / LEAF_SLOTS;

	if (!d->leaf_used[leaf]) {
		d->nr_leaves++;
		if (d->max_leaf <= leaf)
			d->max_leaf = leaf + 1;
	}
	d->leaf_used[leaf]++;
	d->table[slot] = e;
}

static void entry_clear(struct lz4_dev *d, uint64_t slot)
{
	uint64_t leaf = slot / LEAF_SLOTS;

	d->table[slot] = 0;
	if (!--d->leaf_used[leaf]) {
		d->nr_leaves--;
		pg_mem_drop(&d->table[leaf * LEAF_SLOTS], PAGE);
	}
}

/* The arena moved the contents of the block at @owner. */
static void moved(void *arg, uint32_t owner, uint64_t old, uint64_t ref)
{
	struct lz4_dev *d = arg;
	uint64_t end = owner + 1ull;
	unsigned int found = 0;

	pg_bug_on(owner >= d->nr_slots);
	for (uint64_t s = owner;
	     s < end || (!found && s < d->nr_slots && s < owner + BLOCK_PAGES);
	     s++) {
		uint64_t e = d->table[s];

		if (!e || !entry_len(e) || entry_ref(e) != old)
			continue;
		found++;
		d->table[s] = e ^ (old ^ ref) << 24;
		end = owner + (1ull << entry_block_order(e));
		s += (1ull << entry_order(e)) - 1;
	}
	pg_bug_on(!found);
}

/* Free the contents of a block, unless another piece of it is left. */
static void put_contents(struct lz4_dev *d, uint64_t slot, uint64_t e)
{
	uint64_t base = round_down(slot, entry_block_order(e));

	if (!entry_len(e))
		return;
	if (entry_order(e) != entry_block_order(e))
		for (uint64_t s = base;
		     s < base + (1ull << entry_block_order(e)); s++)
			if (entry_same(d->table[s], e))
				return;
	d->live -= entry_len(e);
	pg_arena_free(&d->arena, entry_ref(e), entry_len(e));
}

/* One step of a discard. Return: where to go on. */
static uint64_t discard_step(struct lz4_dev *d, uint64_t slot, uint64_t end)
{
	uint64_t head, size, e;

	if (!d->leaf_used[slot / LEAF_SLOTS])
		return (slot | (LEAF_SLOTS - 1)) + 1;
	e = find(d, slot, &head);
	if (!e)
		return slot + 1;
	size = 1ull << entry_order(e);
	if (slot == head && head + size <= end) {
		entry_clear(d, head);
		d->stored -= size;
		put_contents(d, head, e);
		return head + size;
	}
	/* Only a part is to go: halve the piece and look again. */
	e -= 1ull << 1;
	d->table[head] = e;
	entry_set(d, head + size / 2, e);
	return slot;
}

static void lz4_discard(void *priv, uint64_t slot, uint64_t nr)
{
	struct lz4_dev *d = priv;
	uint64_t end;

	if (slot >= d->nr_slots)
		return;
	end = nr < d->nr_slots - slot ? slot + nr : d->nr_slots;
	while (slot < end) {
		pg_write_lock(&d->lock, LOCK_DRIVER);
		for (unsigned int i = 0; i < DISCARD_STEPS && slot < end; i++)
			slot = discard_step(d, slot, end);
		pg_write_unlock(&d->lock, LOCK_DRIVER);
	}
}

/* ---- store ---- */

/* Compress @bytes. Return: their length then; 0: that is not worth the time of
 * a decompression for each load. zram keeps pages as they are from 0.8 on, too.
 */
static uint32_t compress(struct context *c, const char *p, uint32_t bytes)
{
	int len = LZ4_compress_fast_extState(c->state, p, c->packed, (int)bytes,
					     (int)(bytes - bytes / 5), 1);

	return len > (int)WORD ? (uint32_t)len : 0;
}

/* Pack @bytes at @buf. Return: length of the contents; *@contents. */
static uint32_t pack(struct lz4_dev *d, struct context *c, const void *buf,
		     uint32_t bytes, const void **contents)
{
	uint32_t poor = pg_load(&d->poor, relaxed), len = 0;
	const char *p = buf;
	uint64_t word;

	*contents = buf;
	memcpy(&word, p, WORD);
	if (!memcmp(p, p + WORD, bytes - WORD))
		return word ? WORD : 0;
	if (poor < POOR_BLOCKS || bytes <= PAGE ||
	    compress(c, p + bytes / 2, PAGE))
		len = compress(c, p, bytes);
	/* One page says little of the next. */
	if (bytes > PAGE)
		pg_store(&d->poor, len ? 0 : poor + (poor < POOR_BLOCKS),
			 relaxed);
	if (!len)
		return bytes;
	*contents = c->packed;
	return len;
}

/* Put a packed block of 1 << @order pages into its slots. */
static int insert(struct lz4_dev *d, uint64_t slot, unsigned int order,
		  const void *contents, uint32_t len)
{
	uint64_t end = slot + (1ull << order), used = host_bytes(d), ref = 0;
	uint64_t head, room;

	if (find(d, slot, &head))
		return -EINVAL; /* holds something */
	for (uint64_t s = slot + 1; s < end; s++)
		if (d->table[s])
			return -EINVAL;
	/* The table may need a page, and its counts another. */
	if (!d->leaf_used[slot / LEAF_SLOTS])
		used += 2 * PAGE;
	room = d->limit > used ? d->limit - used : 0;
	if (len && pg_arena_alloc(&d->arena, contents, len, (uint32_t)slot,
				  room, &ref))
		return -ENOSPC;
	if (!len && !room)
		return -ENOSPC;
	entry_set(d, slot, entry_make(order, len, ref));
	d->stored += 1ull << order;
	d->live += len;
	return 0;
}

static int store_block(struct lz4_dev *d, uint64_t slot, unsigned int order,
		       const void *buf)
{
	struct context *c = context_get(d);
	const void *contents;
	uint32_t len = pack(d, c, buf, PAGE << order, &contents);
	int ret;

	pg_write_lock(&d->lock, LOCK_DRIVER);
	ret = insert(d, slot, order, contents, len);
	pg_write_unlock(&d->lock, LOCK_DRIVER);
	context_put(d, c);
	return ret;
}

static int store_one(struct lz4_dev *d, const struct pgmap_io *io)
{
	unsigned int order = (unsigned int)__builtin_ctz(io->nr | 1u << 31);
	uint32_t done = 0;
	int ret;

	if (io->nr != 1u << order || io->nr > PGMAP_MAX_FOLIO_PAGES ||
	    io->slot % io->nr || io->slot >= d->nr_slots ||
	    io->nr > d->nr_slots - io->slot)
		return -EINVAL;
	if (order > BLOCK_ORDER)
		order = BLOCK_ORDER;
	for (; done < io->nr; done += 1u << order) {
		ret = store_block(d, io->slot + done, order,
				  (const char *)io->buf + done * PAGE);
		if (ret)
			goto err_discard;
	}
	return 0;

err_discard:
	if (done)
		lz4_discard(d, io->slot, done);
	return ret;
}

/* ---- load ---- */

/* struct part - Pages @first..@first + @nr of a block, to @buf. */
struct part {
	uint64_t entry;
	uint32_t first, nr;
	char *buf;
};

/* The part of a load that lies in the block of its first slot, all of which
 * must be there. Return: false if a page is not. */
static bool find_part(const struct lz4_dev *d, uint64_t slot, uint64_t end,
		      struct part *p)
{
	uint64_t head, e = find(d, slot, &head), base, stop, s;

	if (!e)
		return false;
	base = round_down(slot, entry_block_order(e));
	stop = base + (1ull << entry_block_order(e));
	if (stop > end)
		stop = end;
	for (s = head + (1ull << entry_order(e)); s < stop;
	     s += 1ull << entry_order(d->table[s]))
		if (!entry_same(d->table[s], e))
			break;
	p->entry = e;
	p->first = (uint32_t)(slot - base);
	p->nr = (uint32_t)((s < stop ? s : stop) - slot);
	return true;
}

static void fill(void *buf, uint64_t word, uint32_t bytes)
{
	uint64_t *p = buf;

	for (uint32_t i = 0; i < bytes / WORD; i++)
		p[i] = word;
}

/* Decode what is needed of the @len bytes in the context. */
static int unpack(struct context *c, const struct part *p, uint32_t len)
{
	uint32_t block = PAGE << entry_block_order(p->entry);
	uint32_t from = p->first * PAGE, bytes = p->nr * PAGE;
	char *to = from ? c->raw : p->buf;
	int end = (int)(from + bytes), ret;

	if (bytes == block)
		ret = LZ4_decompress_safe(c->packed, to, (int)len, end);
	else
		ret = LZ4_decompress_safe_partial(c->packed, to, (int)len, end,
						  end);
	if (ret != end)
		return -EIO;
	if (from)
		memcpy(p->buf, c->raw + from, bytes);
	return 0;
}

/* Load the part of [@slot, @end) that is in one block. Return: its pages. */
static int load_part(struct lz4_dev *d, struct context *c, uint64_t slot,
		     uint64_t end, char *buf)
{
	struct part p = {.buf = buf};
	uint32_t len, bytes, raw;
	uint64_t word = 0;
	bool found;

	pg_read_lock(&d->lock, LOCK_DRIVER);
	found = find_part(d, slot, end, &p);
	len = entry_len(p.entry);
	bytes = p.nr * PAGE;
	raw = PAGE << entry_block_order(p.entry);
	if (len == WORD)
		pg_arena_read(&d->arena, entry_ref(p.entry), 0, &word, WORD);
	else if (len == raw)
		pg_arena_read(&d->arena, entry_ref(p.entry), p.first * PAGE,
			      buf, bytes);
	else if (len)
		pg_arena_read(&d->arena, entry_ref(p.entry), 0, c->packed, len);
	pg_read_unlock(&d->lock, LOCK_DRIVER);

	if (!found)
		return -EINVAL;
	if (!len)
		memset(buf, 0, bytes);
	else if (len == WORD)
		fill(buf, word, bytes);
	else if (len != raw && unpack(c, &p, len))
		return -EIO;
	return (int)p.nr;
}

static int load_one(struct lz4_dev *d, const struct pgmap_io *io)
{
	struct context *c;
	uint32_t done = 0;
	int ret = 0;

	if (!io->nr || io->slot >= d->nr_slots ||
	    io->nr > d->nr_slots - io->slot)
		return -EINVAL;
	c = context_get(d);
	while (done < io->nr && ret >= 0) {
		ret = load_part(d, c, io->slot + done, io->slot + io->nr,
				(char *)io->buf + done * PAGE);
		done += (uint32_t)ret;
	}
	context_put(d, c);
	return ret < 0 ? ret : 0;
}

/* ---- operations ---- */

static int lz4_store(void *priv, struct pgmap_io *io, unsigned int n)
{
	int ret = 0;

	for (unsigned int i = 0; i < n; i++) {
		io[i].status = store_one(priv, &io[i]);
		if (!ret)
			ret = io[i].status;
	}
	return ret;
}

static int lz4_load(void *priv, struct pgmap_io *io, unsigned int n)
{
	int ret = 0;

	for (unsigned int i = 0; i < n; i++) {
		io[i].status = load_one(priv, &io[i]);
		if (!ret)
			ret = io[i].status;
	}
	return ret;
}

static void lz4_usage(void *priv, struct pgmap_device_usage *usage)
{
	struct lz4_dev *d = priv;

	pg_read_lock(&d->lock, LOCK_DRIVER);
	*usage = (struct pgmap_device_usage){
		.stored_pages = d->stored,
		.host_bytes = host_bytes(d),
		.live_bytes = d->live,
		.limit_bytes = d->limit,
	};
	pg_read_unlock(&d->lock, LOCK_DRIVER);
}

static size_t table_size(const struct lz4_dev *d)
{
	/* Whole leaves, so that a lookup need not watch for the end. */
	return (d->nr_slots / LEAF_SLOTS + 1) * PAGE;
}

static size_t leaf_used_size(const struct lz4_dev *d)
{
	return (d->nr_slots / LEAF_SLOTS + 1) * sizeof(*d->leaf_used);
}

static void lz4_close(void *priv)
{
	struct lz4_dev *d = priv;

	pg_arena_fini(&d->arena);
	pg_mem_unmap(d->table, table_size(d));
	pg_mem_unmap(d->leaf_used, leaf_used_size(d));
	pg_mem_unmap(d->contexts, NR_CONTEXTS * sizeof(*d->contexts));
	pg_mem_unmap(d, sizeof(*d));
}

static uint64_t default_limit(void)
{
	struct sysinfo si = {0};
	uint64_t half;

	pg_sys(sysinfo, &si);
	half = (uint64_t)si.totalram * si.mem_unit / 2;
	return half < PG_ARENA_MAX_BYTES ? half : PG_ARENA_MAX_BYTES;
}

static int map_all(struct lz4_dev *d)
{
	size_t contexts = NR_CONTEXTS * sizeof(*d->contexts);

	d->table = pg_mem_map(table_size(d));
	d->leaf_used = pg_mem_map(leaf_used_size(d));
	d->contexts = pg_mem_map(contexts);
	if (!d->table || !d->leaf_used || !d->contexts)
		return -ENOMEM;
	/* A huge page would back what is not in use. */
	pg_sys(madvise, d->table, table_size(d), MADV_NOHUGEPAGE);
	pg_sys(madvise, d->contexts, contexts, MADV_NOHUGEPAGE);
	return pg_arena_init(&d->arena, d->limit, moved, d);
}

static int lz4_open(struct pgmap_device_args *args, void **priv)
{
	uint64_t size = default_limit(),
		 unit = PGMAP_MAX_FOLIO_PAGES * PGMAP_PAGE_SIZE;
	const struct pg_opt options[] = {
		{.name = "size",
		 .kind = PG_OPT_SIZE,
		 .value = &size,
		 .min = MIN_SIZE,
		 .max = PG_ARENA_MAX_BYTES},
		{.name = "unit",
		 .kind = PG_OPT_SIZE,
		 .value = &unit,
		 .min = PGMAP_PAGE_SIZE,
		 .max = PGMAP_MAX_FOLIO_PAGES * PGMAP_PAGE_SIZE},
		{0},
	};
	struct lz4_dev *d;
	uint64_t need;
	int ret = pg_opt_parse(args->options, options, args->error,
			       args->error_len);

	if (ret)
		return ret;
	if (unit & (unit - 1)) {
		pg_format(args->error, args->error_len,
			  "unit: %lu is not a power of two",
			  (unsigned long)unit);
		return -EINVAL;
	}
	args->unit = (uint32_t)(unit / PGMAP_PAGE_SIZE);
	need = size;
	pg_bug_on((size_t)LZ4_sizeofState() > sizeof(d->contexts->state));
	if (args->nr_slots > MAX_SLOTS)
		args->nr_slots = MAX_SLOTS;
	d = pg_mem_map(sizeof(*d));
	if (!d)
		goto err_nomem;
	d->nr_slots = args->nr_slots;
	d->limit = size;
	need += table_size(d) + leaf_used_size(d) +
		NR_CONTEXTS * sizeof(*d->contexts);
	if (map_all(d)) {
		lz4_close(d);
		goto err_nomem;
	}
	*priv = d;
	return 0;

err_nomem:
	pg_format(args->error, args->error_len,
		  "cannot reserve %lu MB of address space: raise the limit "
		  "(ulimit -v) by that, or give a smaller size",
		  (unsigned long)(need >> 20));
	return -ENOMEM;
}

const struct pgmap_device_ops pgmap_lz4_ops = {
	.size = sizeof(struct pgmap_device_ops),
	.name = "lz4",
	.summary = "system memory, compressed with LZ4",
	.options = "size=SIZE of system memory for each process (default half "
		   "of what there is), unit=SIZE that is compressed at once at "
		   "most (default as --folio)",
	.flags = PGMAP_DEV_PACKED,
	.open = lz4_open,
	.close = lz4_close,
	.store = lz4_store,
	.load = lz4_load,
	.discard = lz4_discard,
	.usage = lz4_usage,
};
