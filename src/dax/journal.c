/* SPDX-License-Identifier: BSD-3-Clause */
#include "dax/journal.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/hash.h"
#include "base/mutant.h"

#define BLOCK PGMAP_STORE_BLOCK

static uint64_t super_sum(const struct pg_super *s)
{
	return pg_hash(&s->id, sizeof(*s) - offsetof(struct pg_super, id)).lo;
}

bool pg_super_ok(const struct pgmap_dax *dax, uint64_t at,
		 struct pg_super *super, const char **why)
{
	memcpy(super, dax->base + at, sizeof(*super));
	if (memcmp(super->magic, PG_STORE_MAGIC, sizeof(super->magic)))
		*why = "is none";
	else if (super_sum(super) != super->sum &&
		 !pg_mutant("dax_super_is_believed"))
		*why = "has a wrong sum";
	else if (super->version != PG_STORE_VERSION)
		*why = "is of another version of pgmap";
	else if (super->block_size != BLOCK || super->journal != BLOCK ||
		 super->half % BLOCK || super->half < 4 * BLOCK ||
		 super->half > PG_HALF_MAX)
		*why = "makes no sense";
	else if (super->nr_blocks > dax->bytes / BLOCK)
		*why = "is of a larger device: the end is cut off";
	else if (super->nr_blocks < 3 + 2 * (super->half / BLOCK))
		*why = "is of a store that has no room";
	else
		return true;
	return false;
}

int pg_super_write(struct pgmap_dax *dax, struct pg_super *super)
{
	uint64_t last = (super->nr_blocks - 1) * BLOCK;
	int ret;

	memcpy(super->magic, PG_STORE_MAGIC, sizeof(super->magic));
	super->sum = super_sum(super);
	memcpy(dax->base + last, super, sizeof(*super));
	ret = pg_daxdev_flush(dax, last, sizeof(*super));
	if (ret)
		return ret;
	memcpy(dax->base, super, sizeof(*super));
	return pg_daxdev_flush(dax, 0, sizeof(*super));
}

uint32_t pg_item_bytes(const struct pg_item *it)
{
	switch (it->type) {
	case PG_ITEM_NAME:
		return PG_ITEM_HEAD + ((it->len + 7u) & ~7u);
	case PG_ITEM_SIZE:
		return PG_ITEM_SIZE_BYTES;
	case PG_ITEM_EXTENT:
		return PG_ITEM_EXTENT_BYTES;
	case PG_ITEM_HOLE:
		return PG_ITEM_HEAD + 16;
	case PG_ITEM_DROP:
		return PG_ITEM_HEAD;
	default:
		return 0;
	}
}

static uint64_t byte_of(const struct pg_journal *j, unsigned int half,
			uint64_t at)
{
	return j->start + half * j->bytes + at;
}

void *pg_journal_at(const struct pg_journal *j, unsigned int half, uint64_t at)
{
	return j->dax->base + byte_of(j, half, at);
}

static uint64_t record_sum(const struct pg_record *r, uint64_t bytes)
{
	if (pg_mutant("dax_record_sum_is_of_its_head"))
		bytes = sizeof(*r);
	return pg_hash(&r->id, bytes - offsetof(struct pg_record, id)).lo;
}

const struct pg_record *pg_journal_record(const struct pg_journal *j,
					  unsigned int half, uint64_t at,
					  uint64_t seq, bool first)
{
	const struct pg_record *r;
	uint64_t bytes;

	if (at > j->bytes - PG_RECORD_ALIGN)
		return NULL;
	r = pg_journal_at(j, half, at);
	bytes = r->bytes;
	if (r->id != j->id || bytes < PG_RECORD_ALIGN ||
	    bytes % PG_RECORD_ALIGN)
		return NULL;
	if (bytes > j->bytes - at && !pg_mutant("dax_record_of_any_length"))
		return NULL;
	if (seq && r->seq != seq)
		return NULL;
	if (!first &&
	    (r->generation != j->generation ||
	     (r->nonce != j->nonce && !pg_mutant("dax_nonce_is_not_compared"))))
		return NULL;
	return record_sum(r, bytes) == r->sum ? r : NULL;
}

uint64_t pg_journal_later(const struct pg_journal *j, unsigned int half,
			  uint64_t at, uint64_t seq)
{
	if (pg_mutant("dax_damage_is_a_crash"))
		return 0;
	for (at += PG_RECORD_ALIGN; at <= j->bytes - PG_RECORD_ALIGN;
	     at += PG_RECORD_ALIGN) {
		const struct pg_record *r = pg_journal_at(j, half, at);

		if (r->seq > seq && pg_journal_record(j, half, at, 0, false))
			return at;
	}
	return 0;
}

uint64_t pg_record_bytes(uint64_t len)
{
	return (sizeof(struct pg_record) + len + PG_RECORD_ALIGN - 1) &
	       ~(uint64_t)(PG_RECORD_ALIGN - 1);
}

void pg_journal_finish(struct pg_journal *j, enum pg_record_kind kind,
		       uint64_t len)
{
	struct pg_record *r = pg_journal_at(j, j->half, j->tail);
	uint64_t bytes = pg_record_bytes(len);

	pg_bug_on(bytes > j->bytes - j->tail);
	memset((char *)(r + 1) + len, 0, bytes - sizeof(*r) - len);
	r->id = j->id;
	r->generation = j->generation;
	r->nonce = j->nonce;
	r->seq = j->seq++;
	r->bytes = (uint32_t)bytes;
	r->kind = kind;
	r->sum = record_sum(r, bytes);
	j->tail += bytes;
}

int pg_journal_append(struct pg_journal *j, enum pg_record_kind kind,
		      const void *items, uint64_t len)
{
	uint64_t at = j->tail;

	pg_bug_on(pg_record_bytes(len) > j->bytes - at);
	if (len)
		memcpy((char *)pg_journal_at(j, j->half, at) +
			       sizeof(struct pg_record),
		       items, len);
	pg_journal_finish(j, kind, len);
	return pg_mutant("dax_record_is_not_flushed")
		       ? 0
		       : pg_daxdev_flush(j->dax, byte_of(j, j->half, at),
					 j->tail - at);
}
