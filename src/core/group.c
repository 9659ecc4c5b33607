/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/group.h"

#include <errno.h>

#include "base/atomic.h"
#include "base/bug.h"
#include "base/mutant.h"
#include "core/folio.h"
#include "core/pagemap.h"

/* Of the word of a group; below them: the pages that it pays for. */
#define USED ((uint64_t)1 << 63)
#define MAKING ((uint64_t)1 << 62)
#define PAGES (MAKING - 1)

struct pgmap_group {
	pg_atomic64 word; /* acq_rel */
	uint64_t limit;	  /* set before USED */
};

static struct pgmap_group groups[PG_NR_GROUPS];

int pgmap_group_create(uint64_t limit, struct pgmap_group **group)
{
	for (uint32_t i = 0; i < PG_NR_GROUPS; i++) {
		struct pgmap_group *g = &groups[i];
		uint64_t none = 0;

		if (!pg_cas(&g->word, &none, MAKING, acquire))
			continue;
		g->limit = limit;
		pg_store(&g->word, USED, release);
		*group = g;
		return 0;
	}
	return -ENOSPC;
}

int pgmap_group_destroy(struct pgmap_group *group)
{
	uint64_t idle = USED;

	return pg_cas(&group->word, &idle, 0, acq_rel) ? 0 : -EBUSY;
}

uint64_t pgmap_group_charged(const struct pgmap_group *group)
{
	return pg_load(&group->word, relaxed) & PAGES;
}

int pgmap_group_charge(struct pgmap_group *group, uint64_t nr)
{
	uint64_t v = pg_load(&group->word, relaxed);

	do {
		pg_bug_on(!(v & USED));
		if (nr > PAGES || (v & PAGES) + nr > PAGES ||
		    ((v & PAGES) + nr > group->limit &&
		     !pg_mutant("limit_is_not_looked_at")))
			return -ENOMEM;
	} while (!pg_cas(&group->word, &v, v + nr, acquire));
	return 0;
}

void pgmap_group_uncharge(struct pgmap_group *group, uint64_t nr)
{
	uint64_t was = pg_fetch_sub(&group->word, nr, release);

	pg_bug_on((was & PAGES) < nr);
}

/* R181 */
static bool is_charged(const struct pgmap_folio *folio)
{
	enum pgmap_type type = pgmap_folio_map(folio)->type;

	return type == PGMAP_PRIVATE || type == PGMAP_COHERENT ||
	       pg_mutant("dax_pages_are_charged");
}

static uint64_t nr_of(const struct pgmap_folio *folio)
{
	return (uint64_t)1 << pgmap_folio_order(folio);
}

int pgmap_folio_charge(struct pgmap_folio *folio, struct pgmap_group *group,
		       bool moved)
{
	int ret;

	if (folio->group)
		return -EINVAL;
	if (!is_charged(folio)) {
		if (moved)
			pgmap_group_uncharge(group, nr_of(folio));
		return 0;
	}
	if (!moved || pg_mutant("a_move_is_a_new_charge")) {
		ret = pgmap_group_charge(group, nr_of(folio));
		if (ret)
			return ret;
	}
	folio->group = (uint16_t)(group - groups + 1);
	return 0;
}

struct pgmap_group *pgmap_folio_uncharge(struct pgmap_folio *folio)
{
	struct pgmap_group *group;

	if (!folio->group)
		return NULL;
	group = &groups[folio->group - 1];
	folio->group = 0;
	return group;
}

void pg_group_release(struct pgmap_folio *folio)
{
	struct pgmap_group *group = pgmap_folio_uncharge(folio);

	if (group && !pg_mutant("charge_lost_at_free"))
		pgmap_group_uncharge(group, nr_of(folio));
}
