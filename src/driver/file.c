/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * file.c - keep pages in a file or on a block device.
 *
 * The file is cut into blocks of a page. A private table says which block a
 * slot is in. The processes of one fork() family share the file: each block
 * has a count of the processes that hold it, in shared memory, which rests at
 * zero and is taken by compare-and-set. A fork adds one to every block that
 * the process holds, so no side ever writes a block that the other may read.
 *
 * A process may die without a word. So each is a *holder*: it has a number, a
 * lock on a byte of that number far behind the end of the file, which the
 * kernel drops with the last descriptor, and a bitmap of the blocks it holds,
 * from which another process undoes the counts of a dead one.
 *
 * Blocks that nobody holds are cut out of the file (hole punching), but some
 * later, as most are soon written again.
 *
 * Only discard and usage may be called on a thread that has other descriptors
 * than the one that opened the device; so they use none.
 *
 * I/O bypasses the page cache where the file system can. All runs of blocks of
 * a call are in flight together (io_uring), except that a single one is a
 * plain system call, which has less to set up.
 */
#include <pgmap/driver.h>

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/kcmp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>

#include "base/atomic.h"
#include "base/bug.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/opt.h"
#include "base/sys.h"

#define PAGE PGMAP_PAGE_SIZE
#define MAX_PATH 1024
#define DEFAULT_DIR "/var/tmp"
#define MIN_SIZE (1ull << 20)
#define MAX_SIZE ((1ull << 32) * PAGE - (1ull << 30))
/* Slots whose table entries share a page. */
#define LEAF_SLOTS (PAGE / sizeof(uint32_t))
#define NR_HOLDERS 1024u
/* The byte that holder 0 locks; that of a whole existing file is before. */
#define LOCK_START (1ll << 61)
/* A count: the block is being cut out of the file. */
#define PUNCHING 0x80000000u
/* Counts that the search for a run looks at before it takes pieces. */
#define SEARCH_MAX 65536u
/* Pages that may wait for being cut out, besides an eighth of what is in use,
 * when a store or a load looks. Cutting takes up to a millisecond for 2 MB, so
 * loads, which somebody waits for, leave it to stores while they can. */
#define DIRTY_AT_STORE 1024u
#define DIRTY_AT_LOAD 16384u
/* Runs to cut out at a time, and pages in one. */
#define NR_PUNCH 32u
#define PUNCH_MAX 8192u
/* Runs of blocks in flight for one call, buffers that one run may go to, and
 * calls that may have some in flight. */
#define DEPTH 64u
#define NR_VECS 64u
#define RUN_MAX (PGMAP_MAX_FOLIO_PAGES * PAGE)
#define NR_LANES 8u
/* Times that a run which makes no progress is tried. */
#define TRIES_MAX 100u

/*
 * A holder's word: its state, its parent while it is FORKING, and a generation,
 * so that a look at an earlier holder of the same number does not apply to a
 * later one.
 */
enum holder_state { FREE, FORKING, LIVE, REAPING };
#define STATE_MASK 3u
#define PARENT_SHIFT 2
#define GENERATION (NR_HOLDERS << PARENT_SHIFT)

/* struct shared - What a family of processes shares; all of it atomic. */
struct shared {
	pg_atomic64 used; /* blocks counted or being cut out; relaxed */
	pg_atomic64 held; /* blocks of all holders together; relaxed */
	pg_atomic64 high; /* blocks below were used at some time; relaxed */
	/* FREE to FORKING by the parent, to LIVE by the child, both to REAPING
	 * by anyone who finds them dead; acquire to take, release to publish
	 * the bitmap. */
	pg_atomic32 holders[NR_HOLDERS];
	/* Followed by a count per block, 0 to 1 acquire, to 0 release; then
	 * a bitmap per holder, written by the holder, by its parent before it
	 * lives, or by who reaps it. */
};

/* struct run - Blocks side by side. */
struct run {
	uint32_t start, nr;
};

/* struct op - A run in flight: parts of the folios @io to @last. */
struct op {
	struct pgmap_io *io, *last;
	uint64_t offset;
	uint32_t len, tries;
	uint32_t vec, nr_vecs; /* the first that is not done, and the end */
	bool write;
	struct iovec vecs[NR_VECS];
};

/* struct lane - What one call with several runs needs. */
struct lane {
	bool ready, broken;
	struct io_uring ring;
	struct op ops[DEPTH];
};

struct file_dev {
	uint64_t nr_slots; /* set once, as all down to the table */
	uint64_t nr_blocks;
	int fd;
	uint32_t flags;	  /* O_DIRECT, or not */
	int32_t pid, tid; /* where fd is open */
	bool blkdev;
	bool ours_to_empty; /* an existing file that was empty */
	uint32_t holder;    /* our number */
	uint32_t child;	    /* the number of the child of a fork under way */
	bool lost;	    /* a child that could not reopen the file */
	struct shared *shared;
	pg_atomic32 *counts;
	struct lane *lanes;
	pg_atomic32 busy_lanes; /* bit: claimed; acquire, release */
	pg_atomic32 no_rings;	/* io_uring is not to be had; relaxed */
	struct pg_lock lock;	/* LOCK_DRIVER: all below */
	uint32_t *table;	/* block + 1; a slot's is its user's alone */
	uint16_t *leaf_used;	/* entries set, for each page of the table */
	uint64_t nr_leaves;
	uint64_t stored;
	uint64_t cursor; /* where the search for blocks goes on */
	/* Bit: nobody held the block when we last put it, and it was not
	 * cut out since. Visited in turn, so that a block has time to be used
	 * again, which saves the cutting. */
	uint64_t *dirty;
	uint64_t nr_dirty, next_dirty;
};

/* ---- counts and holders ---- */

static size_t dirty_size(const struct file_dev *d)
{
	return ((size_t)d->nr_blocks / 8 + PAGE) & ~(size_t)(PAGE - 1);
}

static size_t counts_size(const struct file_dev *d)
{
	return (size_t)d->nr_blocks * sizeof(pg_atomic32);
}

/* Words of a holder's bitmap. */
static size_t bitmap_words(const struct file_dev *d)
{
	return (size_t)(d->nr_blocks / 64 + 1);
}

static size_t shared_size(const struct file_dev *d)
{
	return sizeof(struct shared) + counts_size(d) + 8 +
	       NR_HOLDERS * bitmap_words(d) * sizeof(pg_atomic64);
}

static pg_atomic64 *bitmap_of(const struct file_dev *d, uint32_t holder)
{
	char *end = (char *)d->shared + sizeof(struct shared) +
		    ((counts_size(d) + 7) & ~(size_t)7);

	return (pg_atomic64 *)(void *)end + holder * bitmap_words(d);
}

static void hold(struct file_dev *d, uint32_t holder, uint32_t block)
{
	pg_fetch_or(&bitmap_of(d, holder)[block / 64], 1ull << block % 64,
		    relaxed);
	pg_fetch_add(&d->shared->held, 1, relaxed);
}

static void unhold(struct file_dev *d, uint32_t holder, uint32_t block)
{
	pg_fetch_and(&bitmap_of(d, holder)[block / 64], ~(1ull << block % 64),
		     relaxed);
	pg_fetch_sub(&d->shared->held, 1, relaxed);
}

/* Claim up to @nr free blocks from @start. Return: how many. */
static uint32_t claim(struct file_dev *d, uint64_t start, uint32_t nr,
		      uint32_t mark)
{
	uint32_t n = 0;

	for (; n < nr && start + n < d->nr_blocks; n++) {
		uint32_t rest = 0;

		if (!pg_cas(&d->counts[start + n], &rest, mark, acquire))
			break;
	}
	return n;
}

static void release_blocks(struct file_dev *d, uint64_t start, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++)
		pg_store(&d->counts[start + i], 0, release);
}

/* Cut what is still free of a run out of the file. */
static void punch(struct file_dev *d, const struct run *r)
{
	for (uint32_t at = 0; at < r->nr && !d->blkdev;) {
		uint64_t start = r->start + at;
		uint32_t n = claim(d, start, r->nr - at, PUNCHING);

		if (n) {
			/* Where it cannot be done, the room is reused. */
			pg_sys(fallocate, d->fd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       start * PAGE, (uint64_t)n * PAGE);
			release_blocks(d, start, n);
		}
		at += n + 1;
	}
}

/* Context: Holds the lock. */
static void set_dirty(struct file_dev *d, uint64_t block)
{
	uint64_t *word = &d->dirty[block / 64], bit = 1ull << block % 64;

	d->nr_dirty += !(*word & bit);
	*word |= bit;
}

/* The next run of dirty blocks, no longer so. There must be one. Context:
 * Holds the lock. */
static struct run next_dirty_run(struct file_dev *d)
{
	struct run r = {0};
	uint64_t i = d->next_dirty;

	for (;;) {
		uint64_t word =
			i < d->nr_blocks ? d->dirty[i / 64] >> i % 64 : 0;

		if (i >= d->nr_blocks)
			i = 0;
		else if (!word)
			i = (i | 63) + 1;
		else if (!(word & 1))
			i += (unsigned int)__builtin_ctzll(word);
		else
			break;
	}
	r.start = (uint32_t)i;
	while (i < d->nr_blocks && r.nr < PUNCH_MAX &&
	       d->dirty[i / 64] >> i % 64 & 1) {
		d->dirty[i / 64] &= ~(1ull << i % 64);
		i++;
		r.nr++;
	}
	d->nr_dirty -= r.nr;
	d->next_dirty = i;
	return r;
}

/* Cut blocks out until @limit may stay, or an eighth of what is in use. */
static void punch_dirty(struct file_dev *d, uint64_t limit)
{
	struct run runs[NR_PUNCH];
	uint32_t n;

	if (limit)
		limit += pg_load(&d->shared->used, relaxed) / 8;
	do {
		pg_lock(&d->lock, LOCK_DRIVER);
		for (n = 0; n < NR_PUNCH && d->nr_dirty > limit; n++)
			runs[n] = next_dirty_run(d);
		pg_unlock(&d->lock, LOCK_DRIVER);
		for (uint32_t i = 0; i < n; i++)
			punch(d, &runs[i]);
	} while (n == NR_PUNCH);
}

/* Drop @holder's count of a block. The bit goes first: who dies in between
 * leaks a block, and never drops a count that is not his. Return: whether
 * nobody holds it now. Context: Holds the lock. */
static bool put_block(struct file_dev *d, uint32_t holder, uint32_t block)
{
	uint32_t was;

	unhold(d, holder, block);
	was = pg_fetch_sub(&d->counts[block], 1, release);
	pg_bug_on(!was || was >= PUNCHING);
	if (was > 1)
		return false;
	pg_fetch_sub(&d->shared->used, 1, relaxed);
	return true;
}

/* Drop all that a holder holds. Context: Holds the lock. */
static void put_all(struct file_dev *d, uint32_t holder)
{
	pg_atomic64 *bits = bitmap_of(d, holder);
	uint64_t end = pg_load(&d->shared->high, relaxed);

	for (uint64_t w = 0; w * 64 < end; w++) {
		uint64_t word;

		while ((word = pg_load(&bits[w], relaxed))) {
			uint64_t block =
				w * 64 + (unsigned int)__builtin_ctzll(word);

			if (put_block(d, holder, (uint32_t)block))
				set_dirty(d, block);
		}
	}
}

/* Take, drop or try the lock of a holder. Return: 0 or a negative errno. */
static int lock_byte(const struct file_dev *d, uint32_t holder, short type)
{
	struct flock l = {.l_type = type,
			  .l_whence = SEEK_SET,
			  .l_start = LOCK_START + holder,
			  .l_len = 1};

	return (int)pg_sys(fcntl, d->fd, F_OFD_SETLK, &l);
}

/* A lock that can be had was dropped by the kernel. */
static bool is_dead(const struct file_dev *d, uint32_t holder)
{
	if (holder == d->holder || lock_byte(d, holder, F_WRLCK))
		return false;
	lock_byte(d, holder, F_UNLCK);
	return true;
}

static enum holder_state state_of(uint32_t word)
{
	return (enum holder_state)(word & STATE_MASK);
}

static uint32_t with_state(uint32_t word, enum holder_state state)
{
	return (word & ~STATE_MASK) | (uint32_t)state;
}

/* Undo the counts of those that died. Context: Holds the lock. */
static void reap(struct file_dev *d)
{
	for (uint32_t h = 0; h < NR_HOLDERS; h++) {
		pg_atomic32 *word = &d->shared->holders[h];
		uint32_t was = pg_load(word, acquire);
		uint32_t who = h;

		/* Without its parent, a child cannot come to life. */
		if (state_of(was) == FORKING)
			who = (was >> PARENT_SHIFT) % NR_HOLDERS;
		else if (state_of(was) != LIVE)
			continue;
		if (!is_dead(d, who) ||
		    !pg_cas(word, &was, with_state(was, REAPING), acquire))
			continue;
		put_all(d, h);
		pg_store(word, with_state(was, FREE), release);
	}
}

/* ---- blocks for slots ---- */

/* Claim @nr blocks that were never used. Return: the first, or nr_blocks. */
static uint64_t claim_fresh(struct file_dev *d, uint32_t nr)
{
	uint64_t high = pg_load(&d->shared->high, relaxed);

	do {
		if (high + nr > d->nr_blocks)
			return d->nr_blocks;
	} while (!pg_cas(&d->shared->high, &high, high + nr, relaxed));
	pg_bug_on(claim(d, high, nr, 1) != nr);
	return high;
}

static uint32_t free_run(const struct file_dev *d, uint64_t start, uint32_t nr)
{
	uint32_t n = 0;

	while (n < nr && !pg_load(&d->counts[start + n], relaxed))
		n++;
	return n;
}

/* Claim up to @nr blocks side by side, at least @least, among those that were
 * used before. Context: Holds the lock. */
static uint32_t claim_used(struct file_dev *d, uint32_t nr, uint32_t least,
			   uint64_t search, uint64_t *start)
{
	uint64_t high = pg_load(&d->shared->high, relaxed);

	for (uint64_t seen = 0; seen < search && seen < high;) {
		uint32_t n;

		if (d->cursor >= high)
			d->cursor = 0;
		*start = d->cursor;
		n = high - *start < nr ? (uint32_t)(high - *start) : nr;
		n = free_run(d, *start, n);
		seen += n + 1;
		d->cursor += n + 1;
		if (n < least)
			continue;
		n = claim(d, *start, n, 1);
		if (n >= least) {
			d->cursor = *start + n;
			return n;
		}
		release_blocks(d, *start, n);
	}
	return 0;
}

/* Take @nr blocks for the slots from @slot, counted in used already. They are
 * one run, if one is found soon. Context: Holds the lock. */
static bool take_blocks(struct file_dev *d, uint64_t slot, uint32_t nr)
{
	uint64_t high = pg_load(&d->shared->high, relaxed), start = 0;
	uint32_t done = 0, n = 0;

	/* Use again what lies low, unless little of it is free. */
	if (pg_load(&d->shared->used, relaxed) < high - high / 8)
		n = claim_used(d, nr, nr, SEARCH_MAX, &start);
	for (;;) {
		if (!n) {
			start = claim_fresh(d, nr - done);
			n = start < d->nr_blocks ? nr - done : 0;
		}
		/* The end of the file is near: in pieces. */
		if (!n)
			n = claim_used(d, nr - done, 1, UINT64_MAX, &start);
		if (!n && nr - done > 1) {
			start = claim_fresh(d, 1);
			n = start < d->nr_blocks;
		}
		if (!n)
			return false;
		for (uint32_t i = 0; i < n; i++) {
			hold(d, d->holder, (uint32_t)start + i);
			d->table[slot + done + i] = (uint32_t)start + i + 1;
		}
		done += n;
		if (done == nr)
			return true;
		n = 0;
	}
}

static void leaf_add(struct file_dev *d, uint64_t slot, uint32_t nr)
{
	uint16_t *used = &d->leaf_used[slot / LEAF_SLOTS];

	d->nr_leaves += !*used;
	*used = (uint16_t)(*used + nr);
	d->stored += nr;
}

static void leaf_sub(struct file_dev *d, uint64_t slot, uint32_t nr)
{
	uint64_t leaf = slot / LEAF_SLOTS;

	d->leaf_used[leaf] = (uint16_t)(d->leaf_used[leaf] - nr);
	d->stored -= nr;
	if (d->leaf_used[leaf])
		return;
	d->nr_leaves--;
	pg_mem_drop(&d->table[leaf * LEAF_SLOTS], PAGE);
}

/* Forget the blocks of slots of one leaf. Return: how many there were.
 * Context: Holds the lock. */
static uint32_t drop_slots(struct file_dev *d, uint64_t slot, uint64_t end)
{
	uint32_t n = 0;

	for (; slot < end; slot++) {
		uint32_t block = d->table[slot] - 1;

		if (!d->table[slot])
			continue;
		d->table[slot] = 0;
		n++;
		if (put_block(d, d->holder, block))
			set_dirty(d, block);
	}
	return n;
}

static void file_discard(void *priv, uint64_t slot, uint64_t nr)
{
	struct file_dev *d = priv;
	uint64_t end;

	if (d->lost || slot >= d->nr_slots)
		return; /* lost: the counts are not ours */
	end = nr < d->nr_slots - slot ? slot + nr : d->nr_slots;
	while (slot < end) {
		uint64_t stop = (slot | (LEAF_SLOTS - 1)) + 1;

		if (stop > end)
			stop = end;
		pg_lock(&d->lock, LOCK_DRIVER);
		if (d->leaf_used[slot / LEAF_SLOTS]) {
			uint32_t n = drop_slots(d, slot, stop);

			if (n)
				leaf_sub(d, slot, n);
		}
		pg_unlock(&d->lock, LOCK_DRIVER);
		slot = stop;
	}
}

/* Find room for a folio. Context: Holds the lock. */
static int reserve(struct file_dev *d, const struct pgmap_io *io)
{
	pg_atomic64 *used = &d->shared->used;

	for (int tries = 0;; tries++) {
		if (pg_fetch_add(used, io->nr, relaxed) + io->nr <=
		    d->nr_blocks)
			break;
		pg_fetch_sub(used, io->nr, relaxed);
		if (tries)
			return -ENOSPC;
		reap(d);
	}
	if (!take_blocks(d, io->slot, io->nr)) {
		/* What was taken is given back, with its part of @used. */
		uint32_t n = drop_slots(d, io->slot, io->slot + io->nr);

		pg_fetch_sub(used, io->nr - n, relaxed);
		return -ENOSPC;
	}
	leaf_add(d, io->slot, io->nr);
	return 0;
}

/* ---- I/O ---- */

/* struct batch - Folios of a call, and where the next run starts. */
struct batch {
	struct file_dev *d;
	struct pgmap_io *io;
	unsigned int n, i;
	uint32_t page;
	bool write;
};

/* Is there more? Skips what has failed and what is done. */
static bool has_more(struct batch *b)
{
	while (b->i < b->n &&
	       (b->page == b->io[b->i].nr || b->io[b->i].status)) {
		b->i++;
		b->page = 0;
	}
	return b->i < b->n;
}

static bool add_page(struct op *op, char *buf)
{
	struct iovec *v = op->nr_vecs ? &op->vecs[op->nr_vecs - 1] : NULL;

	if (v && (char *)v->iov_base + v->iov_len == buf) {
		v->iov_len += PAGE;
	} else {
		if (op->nr_vecs == NR_VECS)
			return false;
		op->vecs[op->nr_vecs++] = (struct iovec){buf, PAGE};
	}
	op->len += PAGE;
	return true;
}

/* The next run of blocks, from as many folios as it takes. Return: false if
 * there is none. */
static bool next_op(struct batch *b, struct op *op)
{
	if (!has_more(b))
		return false;
	op->io = &b->io[b->i];
	op->offset = (uint64_t)(b->d->table[op->io->slot + b->page] - 1) * PAGE;
	op->last = op->io;
	op->len = op->tries = op->vec = op->nr_vecs = 0;
	op->write = b->write;
	do {
		struct pgmap_io *io = &b->io[b->i];
		uint64_t block = b->d->table[io->slot + b->page] - 1;

		/* Only neighbours, so that it is known whose they are. */
		if (block * PAGE != op->offset + op->len ||
		    op->len == RUN_MAX || io > op->last + 1 ||
		    !add_page(op, (char *)io->buf + (size_t)b->page * PAGE))
			break;
		op->last = io;
		b->page++;
	} while (has_more(b));
	return true;
}

/* What the caller is told of error @res, 0 at the end of the file. */
static int32_t to_status(const struct op *op, int64_t res)
{
	if (!op->write || !res)
		return -EIO;
	return res == -EDQUOT || res == -EFBIG ? -ENOSPC : (int32_t)res;
}

/* Whole pages only are done: direct I/O wants it so. */
static void skip_done(struct op *op, uint32_t done)
{
	op->offset += done;
	op->len -= done;
	while (done) {
		struct iovec *v = &op->vecs[op->vec];
		uint32_t n = done < v->iov_len ? done : (uint32_t)v->iov_len;

		v->iov_base = (char *)v->iov_base + n;
		v->iov_len -= n;
		op->vec += !v->iov_len;
		done -= n;
	}
}

/* The kernel did @res of a run. Return: whether to try the rest. */
static bool op_again(struct op *op, int64_t res)
{
	if (res == op->len)
		return false;
	if (res >= (int64_t)PAGE) {
		skip_done(op, (uint32_t)res & ~(PAGE - 1));
		op->tries = 0;
		return true;
	}
	if ((res > 0 || res == -EINTR || res == -EAGAIN) &&
	    ++op->tries < TRIES_MAX)
		return true;
	for (struct pgmap_io *io = op->io; io <= op->last; io++)
		if (!io->status)
			io->status = res > 0 ? -EIO : to_status(op, res);
	return false;
}

static void run_plain(const struct batch *b, struct op *op)
{
	long res;

	do {
		const struct iovec *v = &op->vecs[op->vec];
		uint32_t nr = op->nr_vecs - op->vec;

		if (op->write)
			res = pg_sys(pwritev, b->d->fd, v, nr, op->offset);
		else
			res = pg_sys(preadv, b->d->fd, v, nr, op->offset);
	} while (op_again(op, res));
}

static void submit_op(const struct batch *b, struct lane *lane, struct op *op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&lane->ring);
	const struct iovec *v = &op->vecs[op->vec];
	uint32_t nr = op->nr_vecs - op->vec;

	/* As many as the ring has are ever in flight. */
	pg_bug_on(!sqe);
	if (op->write)
		io_uring_prep_writev(sqe, b->d->fd, v, nr, op->offset);
	else
		io_uring_prep_readv(sqe, b->d->fd, v, nr, op->offset);
	io_uring_sqe_set_data(sqe, op);
}

static void fail_all(const struct batch *b)
{
	for (unsigned int i = 0; i < b->n; i++)
		if (!b->io[i].status)
			b->io[i].status = -EIO;
}

/* Take what has completed; start the rest of short runs. Return: how many
 * runs are over; their ops are on @free. */
static uint32_t complete(const struct batch *b, struct lane *lane,
			 struct op **free)
{
	struct io_uring_cqe *cqe;
	unsigned int head, seen = 0;
	uint32_t n = 0;

	io_uring_for_each_cqe(&lane->ring, head, cqe)
	{
		struct op *op = io_uring_cqe_get_data(cqe);

		seen++;
		if (op_again(op, cqe->res) && !lane->broken)
			submit_op(b, lane, op);
		else
			free[n++] = op;
	}
	io_uring_cq_advance(&lane->ring, seen);
	return n;
}

/* Start what is queued and wait for one run, at least. Return: runs that the
 * ring did not take and never will; those that it took must still end before
 * the buffers go back to the caller. */
static uint32_t wait_lane(struct lane *lane)
{
	int ret;

	if (lane->broken) {
		pg_yield(); /* a system call lets them complete */
		return 0;
	}
	ret = io_uring_submit_and_wait(&lane->ring, 1);
	if (ret >= 0 || ret == -EINTR || ret == -EAGAIN || ret == -EBUSY)
		return 0;
	lane->broken = true;
	pg_log(PG_LOG_ERROR, "file: io_uring fails (error %d)", -ret);
	return io_uring_sq_ready(&lane->ring);
}

static void run_lane(struct batch *b, struct lane *lane, const struct op *first)
{
	struct op *free[DEPTH];
	uint32_t nr_free = DEPTH, lost = 0;
	bool more = true;

	for (uint32_t i = 0; i < DEPTH; i++)
		free[i] = &lane->ops[i];
	*free[--nr_free] = *first;
	submit_op(b, lane, free[nr_free]);
	do {
		while (more && nr_free) {
			more = next_op(b, free[nr_free - 1]);
			if (more)
				submit_op(b, lane, free[--nr_free]);
		}
		if (nr_free == DEPTH)
			break;
		lost += wait_lane(lane);
		more = more && !lane->broken;
		nr_free += complete(b, lane, free + nr_free);
	} while (more || nr_free + lost < DEPTH);
	if (lane->broken)
		fail_all(b);
}

/* A lane with a ring, or NULL if rings are not to be had. */
static struct lane *lane_get(struct file_dev *d)
{
	uint32_t busy = pg_load(&d->busy_lanes, relaxed), bit;
	struct lane *lane;
	int ret;

	if (pg_load(&d->no_rings, relaxed))
		return NULL;
	for (;;) {
		bit = ~busy & (busy + 1);
		if (bit < 1u << NR_LANES) {
			if (pg_cas(&d->busy_lanes, &busy, busy | bit, acquire))
				break;
		} else {
			pg_yield();
			busy = pg_load(&d->busy_lanes, relaxed);
		}
	}
	lane = &d->lanes[__builtin_ctz(bit)];
	if (lane->ready && !lane->broken)
		return lane;
	ret = lane->broken ? -EIO : io_uring_queue_init(DEPTH, &lane->ring, 0);
	if (!ret) {
		/* A child makes its own. */
		io_uring_ring_dontfork(&lane->ring);
		lane->ready = true;
		return lane;
	}
	pg_fetch_and(&d->busy_lanes, ~bit, release);
	if (!pg_xchg(&d->no_rings, 1, relaxed))
		pg_log(PG_LOG_INFO,
		       "file: no io_uring here (error %d), reads and writes "
		       "go one by one",
		       -ret);
	return NULL;
}

static void lane_put(struct file_dev *d, const struct lane *lane)
{
	pg_fetch_and(&d->busy_lanes, ~(1u << (lane - d->lanes)), release);
}

/* Do the I/O of those of the batch whose status is 0. */
static void run_batch(struct batch *b)
{
	struct lane *lane;
	struct op op;

	if (!next_op(b, &op))
		return;
	if (!has_more(b)) {
		run_plain(b, &op); /* the only one */
		return;
	}
	lane = lane_get(b->d);
	if (lane) {
		run_lane(b, lane, &op);
		lane_put(b->d, lane);
		return;
	}
	do {
		run_plain(b, &op);
	} while (next_op(b, &op));
}

/* Has this thread the descriptors of the one that opened the device? Asked in
 * debug builds. */
__attribute__((unused)) static bool has_files(const struct file_dev *d)
{
	return d->lost ||
	       pg_sys(kcmp, pg_sys(gettid), d->tid, KCMP_FILES, 0, 0) <= 0;
}

static int first_error(const struct pgmap_io *io, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		if (io[i].status)
			return io[i].status;
	return 0;
}

static bool runs_inside(const struct file_dev *d, const struct pgmap_io *io)
{
	return io->nr && io->nr <= PGMAP_MAX_FOLIO_PAGES &&
	       io->slot < d->nr_slots && io->nr <= d->nr_slots - io->slot;
}

/* May the folio be stored? Context: Holds the lock. */
static int check_store(const struct file_dev *d, const struct pgmap_io *io)
{
	if (d->lost)
		return -EIO;
	/* A folio lies in one leaf, as it is aligned. */
	if (!runs_inside(d, io) || io->nr & (io->nr - 1) || io->slot % io->nr)
		return -EINVAL;
	for (uint32_t i = 0; d->leaf_used[io->slot / LEAF_SLOTS] && i < io->nr;
	     i++)
		if (d->table[io->slot + i])
			return -EINVAL;
	return 0;
}

/* Up to 64 folios. */
static void store_some(struct file_dev *d, struct pgmap_io *io, unsigned int n)
{
	struct batch b = {.d = d, .io = io, .n = n, .write = true};
	uint64_t reserved = 0;

	pg_lock(&d->lock, LOCK_DRIVER);
	for (unsigned int i = 0; i < n; i++) {
		io[i].status = check_store(d, &io[i]);
		if (!io[i].status)
			io[i].status = reserve(d, &io[i]);
		if (!io[i].status)
			reserved |= 1ull << i;
	}
	pg_unlock(&d->lock, LOCK_DRIVER);

	run_batch(&b);
	punch_dirty(d, DIRTY_AT_STORE);

	for (unsigned int i = 0; i < n; i++) {
		uint64_t end = io[i].slot + io[i].nr;

		if (!(reserved >> i & 1) || !io[i].status)
			continue;
		pg_lock(&d->lock, LOCK_DRIVER);
		leaf_sub(d, io[i].slot, drop_slots(d, io[i].slot, end));
		pg_unlock(&d->lock, LOCK_DRIVER);
	}
}

static int file_store(void *priv, struct pgmap_io *io, unsigned int n)
{
	pg_assert(has_files(priv));
	for (unsigned int i = 0; i < n; i += 64)
		store_some(priv, io + i, n - i < 64 ? n - i : 64);
	return first_error(io, n);
}

/* The table needs no lock: nobody else is at these slots. */
static int check_load(const struct file_dev *d, const struct pgmap_io *io)
{
	if (d->lost)
		return -EIO;
	if (!runs_inside(d, io))
		return -EINVAL;
	for (uint32_t i = 0; i < io->nr; i++)
		if (!d->table[io->slot + i])
			return -EINVAL;
	return 0;
}

static int file_load(void *priv, struct pgmap_io *io, unsigned int n)
{
	struct file_dev *d = priv;
	struct batch b = {.d = d, .io = io, .n = n};

	pg_assert(has_files(d));
	for (unsigned int i = 0; i < n; i++)
		io[i].status = check_load(d, &io[i]);
	run_batch(&b);
	punch_dirty(d, DIRTY_AT_LOAD);
	return first_error(io, n);
}

static void file_usage(void *priv, struct pgmap_device_usage *usage)
{
	struct file_dev *d = priv;
	uint64_t high = pg_load(&d->shared->high, relaxed);
	uint64_t used = pg_load(&d->shared->used, relaxed);
	uint64_t held = pg_load(&d->shared->held, relaxed), ours;

	pg_lock(&d->lock, LOCK_DRIVER);
	/* Of blocks that processes share each counts a part, so that the sum
	 * is what the file takes. */
	ours = d->stored;
	if (held > ours && held > used)
		ours = (uint64_t)((double)ours * (double)used / (double)held);
	*usage = (struct pgmap_device_usage){
		.stored_pages = d->stored,
		.host_bytes = d->nr_leaves * PAGE + high * sizeof(pg_atomic32) +
			      high / 8,
		.media_bytes = ours * PAGE,
		.limit_bytes = d->nr_blocks * PAGE,
	};
	pg_unlock(&d->lock, LOCK_DRIVER);
}

/* ---- fork ---- */

/* A number for a child. Return: NR_HOLDERS if there is none. */
static uint32_t new_holder(struct file_dev *d)
{
	for (uint32_t h = 0; h < NR_HOLDERS; h++) {
		uint32_t was = pg_load(&d->shared->holders[h], acquire);
		uint32_t word = was / GENERATION * GENERATION + GENERATION;

		word |= d->holder << PARENT_SHIFT | FORKING;
		if (state_of(was) == FREE &&
		    pg_cas(&d->shared->holders[h], &was, word, acq_rel))
			return h;
	}
	return NR_HOLDERS;
}

static int fork_prepare(struct file_dev *d)
{
	uint64_t leaves = d->nr_leaves;

	if (d->lost)
		return -EIO;
	reap(d);
	d->child = new_holder(d);
	if (d->child == NR_HOLDERS)
		return -EAGAIN;
	for (uint64_t leaf = 0; leaves; leaf++) {
		const uint32_t *t = &d->table[leaf * LEAF_SLOTS];

		if (!d->leaf_used[leaf])
			continue;
		leaves--;
		for (uint32_t i = 0; i < LEAF_SLOTS; i++) {
			if (!t[i])
				continue;
			pg_fetch_add(&d->counts[t[i] - 1], 1, relaxed);
			hold(d, d->child, t[i] - 1);
		}
	}
	return 0;
}

static void end_holder(struct file_dev *d, uint32_t holder)
{
	pg_atomic32 *word = &d->shared->holders[holder];

	put_all(d, holder);
	pg_store(word, with_state(pg_load(word, relaxed), FREE), release);
}

/* A descriptor above the standard ones: our threads have none of those, and
 * somebody may write a message to 2. */
static int move_fd(int fd)
{
	int high = (int)pg_sys(fcntl, fd, F_DUPFD_CLOEXEC, 10);

	pg_sys(close, fd);
	return high;
}

static void know_thread(struct file_dev *d)
{
	d->pid = (int32_t)pg_sys(getpid);
	d->tid = (int32_t)pg_sys(gettid);
}

static int reopen(struct file_dev *d)
{
	char path[80];
	int fd;

	pg_format(path, sizeof(path), "/proc/%d/task/%d/fd/%d", d->pid, d->tid,
		  d->fd);
	fd = (int)pg_sys(openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC | d->flags,
			 0);
	if (fd < 0)
		return fd;
	d->fd = move_fd(fd);
	know_thread(d);
	return d->fd < 0 ? d->fd : 0;
}

static int come_to_life(struct file_dev *d)
{
	pg_atomic32 *word = &d->shared->holders[d->child];
	uint32_t was = pg_load(word, acquire);
	int ret = reopen(d);

	/* One who reaps may try the lock just now. */
	for (uint32_t i = 0; !ret && lock_byte(d, d->child, F_WRLCK); i++) {
		if (i == 10000)
			return -EAGAIN;
		pg_yield();
	}
	if (!ret && (state_of(was) != FORKING ||
		     !pg_cas(word, &was, with_state(was, LIVE), acq_rel)))
		ret = -EOWNERDEAD; /* the parent died and we were reaped */
	return ret;
}

static int fork_child(struct file_dev *d)
{
	int ret;

	/* The rings, and what is to be cut out, are the parent's. */
	for (uint32_t i = 0; i < NR_LANES; i++)
		d->lanes[i].ready = d->lanes[i].broken = false;
	pg_mem_drop(d->dirty, dirty_size(d));
	d->nr_dirty = 0;
	if (d->lost)
		return -EIO;
	ret = come_to_life(d);
	if (ret) {
		d->lost = true;
		pg_log(PG_LOG_INFO,
		       "file: a forked process cannot reopen the file of its "
		       "parent (error %d); is /proc mounted?",
		       -ret);
		return ret;
	}
	d->holder = d->child;
	return 0;
}

static int file_fork(void *priv, enum pgmap_fork_phase phase)
{
	struct file_dev *d = priv;
	int ret = 0;

	if (phase == PGMAP_FORK_CHILD)
		return fork_child(d);
	pg_lock(&d->lock, LOCK_DRIVER);
	if (phase == PGMAP_FORK_PREPARE)
		ret = fork_prepare(d);
	else
		end_holder(d, d->child);
	pg_unlock(&d->lock, LOCK_DRIVER);
	return ret;
}

/* ---- open and close ---- */

static size_t table_size(const struct file_dev *d)
{
	return (d->nr_slots / LEAF_SLOTS + 1) * PAGE;
}

static size_t leaf_used_size(const struct file_dev *d)
{
	return (d->nr_slots / LEAF_SLOTS + 1) * sizeof(*d->leaf_used);
}

static bool is_last(const struct file_dev *d)
{
	for (uint32_t h = 0; h < NR_HOLDERS; h++)
		if (state_of(pg_load(&d->shared->holders[h], acquire)) != FREE)
			return false;
	return true;
}

static void free_all(struct file_dev *d)
{
	for (uint32_t i = 0; d->lanes && i < NR_LANES; i++)
		if (d->lanes[i].ready)
			io_uring_queue_exit(&d->lanes[i].ring);
	if (d->fd >= 0)
		pg_sys(close, d->fd);
	if (d->shared)
		pg_sys(munmap, d->shared, shared_size(d));
	pg_mem_unmap(d->table, table_size(d));
	pg_mem_unmap(d->leaf_used, leaf_used_size(d));
	pg_mem_unmap(d->lanes, NR_LANES * sizeof(*d->lanes));
	pg_mem_unmap(d->dirty, dirty_size(d));
	pg_mem_unmap(d, sizeof(*d));
}

static void file_close(void *priv)
{
	struct file_dev *d = priv;

	if (d->lost) {
		d->fd = -1;
		free_all(d);
		return;
	}
	pg_lock(&d->lock, LOCK_DRIVER);
	reap(d);
	end_holder(d, d->holder);
	pg_unlock(&d->lock, LOCK_DRIVER);
	if (!is_last(d))
		punch_dirty(d, 0);
	else if (d->ours_to_empty)
		pg_sys(ftruncate, d->fd, 0);
	free_all(d);
}

/* struct opening - What open is about. */
struct opening {
	struct file_dev *d;
	struct pgmap_device_args *args;
	char path[MAX_PATH];
	uint64_t size; /* 0: not given */
};

#define say(o, ...)                                                            \
	((void)pg_format((o)->args->error, (o)->args->error_len, __VA_ARGS__))

/* What the system said, in words. */
static const char *words(long err)
{
	static const struct {
		int err;
		const char *words;
	} table[] = {
		{EACCES, "permission denied"},
		{EBUSY, "in use"},
		{EDQUOT, "your disk quota is used up"},
		{EFBIG, "larger than a file may be (ulimit -f)"},
		{EINVAL, "the file system refuses it"},
		{EIO, "input or output error"},
		{ELOOP, "a symbolic link, or too many of them"},
		{EMFILE, "too many open files (ulimit -n)"},
		{ENAMETOOLONG, "the name is too long"},
		{ENFILE, "too many open files in the system"},
		{ENODEV, "no such device"},
		{ENOENT, "no such file or directory"},
		{ENOMEM, "no memory"},
		{ENOSPC, "no space is left there"},
		{ENOTDIR, "a part of the path is not a directory"},
		{ENXIO, "no such device"},
		{EPERM, "not permitted"},
		{EROFS, "a read-only file system"},
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
		if (table[i].err == -err)
			return table[i].words;
	return "see errno(3)";
}

/* The way out of an error of open(), if we know one. */
static const char *way_out(long err)
{
	switch (-err) {
	case EACCES:
	case EPERM:
	case EROFS:
		return "; give path=DIRECTORY that can be written to";
	case ENOENT:
	case ENOTDIR:
		return "; make the directory, or give path=DIRECTORY that "
		       "there is";
	default:
		return "";
	}
}

/* A name in /dev is a device's, but for the memory of /dev/shm: what is
 * mistyped there must not become a file. */
static bool is_device_name(const char *path)
{
	return !strncmp(path, "/dev/", 5) && strncmp(path, "/dev/shm/", 9) != 0;
}

/* Open with direct I/O, or without where the file system has none. */
static int open_as(struct opening *o, const char *path, int flags)
{
	int fd;

	o->d->flags = O_DIRECT;
	fd = (int)pg_sys(openat, AT_FDCWD, path,
			 flags | O_RDWR | O_CLOEXEC | O_DIRECT, 0600);
	if (fd == -EINVAL) {
		o->d->flags = 0;
		fd = (int)pg_sys(openat, AT_FDCWD, path,
				 flags | O_RDWR | O_CLOEXEC, 0600);
	}
	if (fd >= 0)
		fd = move_fd(fd);
	return fd;
}

/* A new file whose name is gone at once, so that nothing stays behind, however
 * the program ends. */
static int open_new(struct opening *o, const char *path)
{
	int fd = open_as(o, path, O_CREAT | O_EXCL | O_NOFOLLOW);

	if (fd >= 0)
		pg_sys(unlinkat, AT_FDCWD, path, 0);
	return fd;
}

static int open_in_dir(struct opening *o)
{
	char path[MAX_PATH + 64];
	int fd = open_as(o, o->path, O_TMPFILE);

	if (fd != -EOPNOTSUPP && fd != -EISDIR)
		return fd;
	pg_format(path, sizeof(path), "%s/.pgmap-%ld-%lx", o->path,
		  pg_sys(gettid), (unsigned long)pg_now_ns());
	return open_new(o, path);
}

static int open_existing(struct opening *o, uint64_t size)
{
	struct flock l = {.l_type = F_WRLCK,
			  .l_whence = SEEK_SET,
			  .l_start = LOCK_START - 1,
			  .l_len = 1};
	int fd, ret;

	if (size) {
		say(o,
		    "%s has %lu bytes in it, which would be lost; give a new "
		    "name, an empty file or a directory",
		    o->path, (unsigned long)size);
		return -EINVAL;
	}
	fd = open_as(o, o->path, 0);
	if (fd < 0)
		return fd;
	ret = (int)pg_sys(fcntl, fd, F_OFD_SETLK, &l);
	if (ret == -EAGAIN || ret == -EACCES) {
		pg_sys(close, fd);
		return -EBUSY;
	}
	o->d->ours_to_empty = true;
	return fd;
}

static int open_path(struct opening *o)
{
	struct stat st;
	int fd = (int)pg_sys(newfstatat, AT_FDCWD, o->path, &st, 0);

	o->args->error[0] = '\0';
	if (fd == -ENOENT && is_device_name(o->path)) {
		say(o, "there is no device %s; lsblk lists those there are",
		    o->path);
		return -ENODEV;
	}
	if (fd == -ENOENT)
		fd = open_new(o, o->path);
	else if (!fd && S_ISDIR(st.st_mode))
		fd = open_in_dir(o);
	else if (!fd && S_ISREG(st.st_mode))
		fd = open_existing(o, (uint64_t)st.st_size);
	else if (!fd && S_ISBLK(st.st_mode)) {
		fd = open_as(o, o->path, O_EXCL);
		o->d->blkdev = true;
	} else if (!fd) {
		say(o, "%s is neither a file, a directory nor a block device",
		    o->path);
		return -EINVAL;
	}
	if (fd == -EBUSY)
		say(o, "%s is in use or mounted; unmount it or give another",
		    o->path);
	else if (fd < 0 && !o->args->error[0])
		say(o, "cannot open %s: %s (error %d)%s", o->path, words(fd),
		    -fd, way_out(fd));
	return fd;
}

/* How large it is to be, in @o->size. */
static int find_size(struct opening *o)
{
	struct sysinfo si = {0};
	struct statfs fs = {0};
	uint64_t ram, room = 0;

	if (o->d->blkdev) {
		if (pg_sys(ioctl, o->d->fd, BLKGETSIZE64, &room))
			room = 0;
		if (!o->size)
			o->size = room;
		if (o->size > room) {
			say(o, "%s has %lu bytes, give a smaller size", o->path,
			    (unsigned long)room);
			return -EINVAL;
		}
	} else if (!o->size) {
		pg_sys(sysinfo, &si);
		pg_sys(fstatfs, o->d->fd, &fs);
		ram = (uint64_t)si.totalram * si.mem_unit;
		room = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
		o->size = room < 4 * ram ? room : 4 * ram;
	}
	if (o->size > MAX_SIZE)
		o->size = MAX_SIZE;
	if (o->size >= MIN_SIZE)
		return 0;
	say(o, "%s has no room for 1 MB, make room or give another path",
	    o->path);
	return -ENOSPC;
}

/* Give the file its size, and see whether direct I/O really works. */
static int prepare_file(struct opening *o)
{
	struct file_dev *d = o->d;
	struct statfs fs = {0};
	long ret = 0;

	if (!d->blkdev)
		ret = pg_sys(ftruncate, d->fd, d->nr_blocks * PAGE);
	if (ret) {
		say(o,
		    "%s cannot have %lu bytes: %s (error %ld); give a smaller "
		    "size",
		    o->path, (unsigned long)o->size, words(ret), -ret);
		return (int)ret;
	}
	if (d->flags && pg_sys(pread64, d->fd, d->table, PAGE, 0) == -EINVAL) {
		d->flags = 0;
		ret = pg_sys(fcntl, d->fd, F_SETFL, 0);
	}
	pg_mem_drop(d->table, PAGE);
	if (!d->flags)
		pg_log(PG_LOG_INFO,
		       "file: %s has no direct I/O, so the page cache holds "
		       "copies",
		       o->path);
	if (!d->blkdev && !pg_sys(fstatfs, d->fd, &fs) &&
	    fs.f_type == TMPFS_MAGIC)
		pg_log(PG_LOG_WARN,
		       "file: %s lies in RAM (tmpfs), so nothing is gained; "
		       "give path=DIRECTORY on a disk",
		       o->path);
	return (int)ret;
}

static size_t address_space(const struct file_dev *d)
{
	return table_size(d) + leaf_used_size(d) +
	       NR_LANES * sizeof(*d->lanes) + dirty_size(d) + shared_size(d);
}

static int map_all(struct file_dev *d)
{
	long ret;

	d->table = pg_mem_map(table_size(d));
	d->leaf_used = pg_mem_map(leaf_used_size(d));
	d->lanes = pg_mem_map(NR_LANES * sizeof(*d->lanes));
	d->dirty = pg_mem_map(dirty_size(d));
	ret = pg_sys(mmap, pg_mem_place(shared_size(d)), shared_size(d),
		     PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!pg_sys_failed(ret))
		d->shared = (struct shared *)ret;
	if (!d->table || !d->leaf_used || !d->lanes || !d->dirty || !d->shared)
		return -ENOMEM;
	/* A huge page would back what is not in use. */
	pg_sys(madvise, d->table, table_size(d), MADV_NOHUGEPAGE);
	d->counts = (pg_atomic32 *)(void *)(d->shared + 1);
	return 0;
}

static int set_up(struct opening *o)
{
	struct file_dev *d = o->d;
	int ret;

	d->fd = open_path(o);
	if (d->fd < 0)
		return d->fd;
	know_thread(d);
	ret = find_size(o);
	if (ret)
		return ret;
	d->nr_blocks = o->size / PAGE;
	if (map_all(d)) {
		say(o,
		    "cannot reserve %lu MB of address space: raise the limit "
		    "(ulimit -v) by that, or give a smaller size",
		    (unsigned long)(address_space(d) >> 20));
		return -ENOMEM;
	}
	ret = prepare_file(o);
	if (ret)
		return ret;
	/* Where locks are not to be had, the dead are not found out: a leak. */
	lock_byte(d, d->holder, F_WRLCK);
	pg_store(&d->shared->holders[d->holder], LIVE, release);
	return 0;
}

static int file_open(struct pgmap_device_args *args, void **priv)
{
	struct opening o = {.args = args, .path = DEFAULT_DIR};
	const struct pg_opt options[] = {
		{.name = "path",
		 .kind = PG_OPT_STRING,
		 .value = o.path,
		 .len = sizeof(o.path)},
		{.name = "size",
		 .kind = PG_OPT_SIZE,
		 .value = &o.size,
		 .min = MIN_SIZE,
		 .max = MAX_SIZE},
		{0},
	};
	int ret = pg_opt_parse(args->options, options, args->error,
			       args->error_len);

	if (ret)
		return ret;
	o.d = pg_mem_map(sizeof(*o.d));
	if (!o.d) {
		say(&o, "no memory, raise the limit (ulimit -v)");
		return -ENOMEM;
	}
	o.d->fd = -1;
	o.d->nr_slots = args->nr_slots;
	ret = set_up(&o);
	if (ret) {
		free_all(o.d);
		return ret;
	}
	*priv = o.d;
	return 0;
}

const struct pgmap_device_ops pgmap_file_ops = {
	.size = sizeof(struct pgmap_device_ops),
	.name = "file",
	.flags = PGMAP_DEV_DESCRIPTORS,
	.summary = "a file or a block device, past the page cache",
	.options = "path=FILE, DIRECTORY or block device (default " DEFAULT_DIR
		   "), size=SIZE for each process (default four times the RAM, "
		   "or what is free)",
	.open = file_open,
	.close = file_close,
	.store = file_store,
	.load = file_load,
	.discard = file_discard,
	.usage = file_usage,
	.fork = file_fork,
};
