/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * journal.h - all that a store knows of its files, as records on the device.
 *
 * The journal has two halves. One of them is in use: it begins with a snapshot
 * of all files, and has a record for each change since. When it is full, a
 * snapshot of the next generation goes to the other half, and once that is
 * durable a last record, SEAL, to this one. So there is always one half whose
 * snapshot is whole, and a half with a SEAL says that the other one must be.
 *
 * A record is whole if its sum is right, and the next one is where it ends, of
 * the same generation and the next number. The first that is not ends the
 * journal: a crash has cut it. If a later record of this generation is whole,
 * it was no crash but damage.
 *
 * Records begin at multiples of 64 bytes, so no line of the CPU's cache has
 * parts of two. doc/store.md tells every field.
 */
#ifndef PG_DAX_JOURNAL_H
#define PG_DAX_JOURNAL_H

#include <stddef.h>

#include "dax/device.h"

#define PG_STORE_MAGIC "pgmapdax"
#define PG_STORE_VERSION 1u
#define PG_RECORD_ALIGN 64u
#define PG_HALF_MAX (1ull << 30)

/** struct pg_super - What never changes; in the first and in the last block.
 * @sum is of all that follows it. */
struct pg_super {
	char magic[8];
	uint64_t sum;
	uint64_t id; /* random: records of an older store are not of this one */
	uint32_t version;
	uint32_t block_size;
	uint64_t nr_blocks;
	uint64_t journal; /* the byte that the first half begins at */
	uint64_t half;	  /* bytes of a half */
};

enum pg_record_kind {
	PG_RECORD_SNAPSHOT = 1, /* a part of one; more follows */
	PG_RECORD_SNAPSHOT_END,
	PG_RECORD_CHANGE, /* its items are done together or not at all */
	PG_RECORD_SEAL,	  /* the other half has the next generation */
	PG_RECORD_CLOSED  /* nobody has it open */
};

/** struct pg_record - @sum is of all that follows it, to the end of @bytes;
 * items begin behind it. */
struct pg_record {
	uint64_t sum;
	uint64_t id;
	uint64_t generation;
	uint64_t nonce; /* random, the same in all of a generation: a snapshot
			 * that was cut and is written again is another one */
	uint64_t seq;	/* 1, 2, ... in a half */
	uint32_t bytes; /* all of it */
	uint32_t kind;
};

enum pg_item_type {
	PG_ITEM_NAME = 1, /* the file is called so, and there if it was not */
	PG_ITEM_SIZE,	  /* it has so many bytes */
	PG_ITEM_EXTENT,	  /* these blocks are behind these of the file */
	PG_ITEM_HOLE,	  /* none are */
	PG_ITEM_DROP	  /* there is no such file */
};

/* Other files may have the blocks, too. */
#define PG_ITEM_SHARED (1u << 0)

/** struct pg_item - One of a record. @a, @b and @c as @type has them:
 * SIZE bytes; EXTENT index, block, nr; HOLE index, nr. NAME: @len bytes, then
 * zeros to a multiple of 8. */
struct pg_item {
	uint8_t type;
	uint8_t len;
	uint16_t flags;
	uint32_t file;
	union {
		struct {
			uint64_t a, b, c;
		};
		char name[24];
	};
};

#define PG_ITEM_HEAD offsetof(struct pg_item, a)
#define PG_ITEM_EXTENT_BYTES 32u
#define PG_ITEM_SIZE_BYTES 16u

/** pg_item_bytes() - How many it takes. 0: it is of no type that there is. */
uint32_t pg_item_bytes(const struct pg_item *it);

/** struct pg_journal - @tail: where the next record goes, from the beginning of
 * half @half. */
struct pg_journal {
	struct pgmap_dax *dax;
	uint64_t start;
	uint64_t bytes;
	uint64_t id;
	uint64_t generation;
	uint64_t nonce;
	uint64_t seq;
	uint64_t tail;
	unsigned int half;
};

/** pg_super_ok() - Is what lies at @at of the device a superblock? @why: Out,
 * if it is not. */
bool pg_super_ok(const struct pgmap_dax *dax, uint64_t at,
		 struct pg_super *super, const char **why);
/** pg_super_write() - Both of them. Return: 0 or -EIO. */
int pg_super_write(struct pgmap_dax *dax, struct pg_super *super);

/** pg_journal_at() - Return: where byte @at of half @half is. */
void *pg_journal_at(const struct pg_journal *j, unsigned int half, uint64_t at);
/** pg_journal_record() - The record at @at of @half, of the generation and with
 * number @seq; 0: with any. @first: That begins a generation, whichever.
 * Return: it, or NULL: there is none that is whole. */
const struct pg_record *pg_journal_record(const struct pg_journal *j,
					  unsigned int half, uint64_t at,
					  uint64_t seq, bool first);
/** pg_journal_later() - Where behind @at, in half @half, a whole record of the
 * generation lies with a later number than @seq; 0: nowhere. */
uint64_t pg_journal_later(const struct pg_journal *j, unsigned int half,
			  uint64_t at, uint64_t seq);
/** pg_record_bytes() - Of a record with @len bytes of items. */
uint64_t pg_record_bytes(uint64_t len);
/** pg_journal_finish() - Make @len bytes of items, which lie behind the head of
 * a record at the tail, a record. Not flushed. */
void pg_journal_finish(struct pg_journal *j, enum pg_record_kind kind,
		       uint64_t len);
/** pg_journal_append() - A record of @len bytes of items, for which there is
 * room, at the tail. It is durable when this returns 0. Return: 0 or -EIO. */
int pg_journal_append(struct pg_journal *j, enum pg_record_kind kind,
		      const void *items, uint64_t len);

#endif
