/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/notifier.h"

#include "base/lock.h"
#include "base/mutant.h"
#include "core/mm.h"

void pg_notifier_insert(struct pgmap_mm *mm, struct pg_notifier *n)
{
	n->next = mm->notifiers;
	mm->notifiers = n;
}

void pg_notifier_remove(struct pgmap_mm *mm, struct pg_notifier *n)
{
	struct pg_notifier **at = &mm->notifiers;

	while (*at && *at != n)
		at = &(*at)->next;
	if (*at)
		*at = n->next;
}

uint64_t pg_notifier_read_begin(struct pg_notifier *n)
{
	uint64_t seq;

	/* Entries that are seen while a change goes on may be the old ones. */
	do {
		while (pg_load(&n->active, seq_cst) &&
		       !pg_mutant("walks_begin_in_a_change"))
			pg_yield();
		seq = pg_load(&n->seq, seq_cst);
	} while (pg_load(&n->active, seq_cst) &&
		 !pg_mutant("walks_begin_in_a_change"));
	return seq;
}

bool pg_notifier_read_retry(const struct pg_notifier *n, uint64_t seq)
{
	return pg_load(&n->seq, seq_cst) != seq &&
	       !pg_mutant("changes_go_unseen");
}

static bool overlaps(const struct pg_notifier *n,
		     const struct pg_notify_range *r)
{
	return n->start < r->end && r->start < n->end;
}

void pg_notify_begin(struct pgmap_mm *mm, const struct pg_notify_range *range)
{
	for (struct pg_notifier *n = mm->notifiers; n; n = n->next) {
		if (!overlaps(n, range))
			continue;
		/* Who begins to look between these two waits; who began
		 * before sees another seq, at the latest under the lock that
		 * invalidate takes. */
		pg_fetch_add(&n->active, 1, seq_cst);
		pg_fetch_add(&n->seq, 1, seq_cst);
		if (!pg_mutant("nobody_is_told"))
			n->invalidate(n, range);
	}
}

void pg_notify_end(struct pgmap_mm *mm, const struct pg_notify_range *range)
{
	for (struct pg_notifier *n = mm->notifiers; n; n = n->next)
		if (overlaps(n, range))
			pg_fetch_sub(&n->active, 1, seq_cst);
}
