/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/hmm.h"

#include <errno.h>

#include "base/mutant.h"
#include "core/mm.h"
#include "core/unit.h"

struct walk {
	struct pg_hmm_range *r;
	uint64_t asked[PG_HMM_MAX];
	uint16_t bits[PG_HMM_MAX];
	/* Pages that must be touched before the walk can be done. */
	uintptr_t from, to;
	size_t missing;
};

/* What a page is as it stands; @fault: it must come first. */
static uint64_t entry_of(struct pgmap_mm *mm, struct walk *w, size_t i,
			 bool *fault)
{
	uintptr_t va = w->r->start + i * PG_PAGE_SIZE;
	uint16_t bits = w->bits[i];
	pg_pte_t e = pg_pte_read(&mm->pt, va);
	uint8_t owner = pg_unit_of(mm, e);
	uint64_t write = bits & PG_LOOK_WRITE ? PG_HMM_WRITE : 0;
	uint64_t order = 0;

	*fault = false;
	switch (pg_pte_state(e)) {
	case PG_PTE_DEVICE:
		if (owner && (owner == w->r->owner ||
			      pg_mutant("foreign_pages_are_seen")))
			return PG_HMM_VALID | PG_HMM_PRIVATE | write |
			       pg_pte_value(e);
		*fault = true;
		return 0;
	case PG_PTE_MIGRATING:
	case PG_PTE_STANDBY:
		*fault = true;
		return 0;
	case PG_PTE_POISON:
		return PG_HMM_ERROR;
	case PG_PTE_HOLE:
	case PG_PTE_PRESENT:
		break;
	}
	if (!(bits & PG_LOOK_PRESENT)) {
		*fault = true;
		return 0;
	}
	if (owner)
		return PG_HMM_VALID | write | pg_pte_value(e);
	if (!(bits & PG_LOOK_WRITABLE))
		write = 0;
	if (bits & PG_LOOK_PMD && !pg_mutant("all_pages_are_small"))
		order = (uint64_t)9 << PG_HMM_ORDER_SHIFT;
	if (bits & PG_LOOK_ZERO)
		order |= PG_HMM_ZERO;
	return PG_HMM_VALID | write | order;
}

/* Page @i must be touched. */
static void need(struct walk *w, size_t i)
{
	uintptr_t va = w->r->start + i * PG_PAGE_SIZE;

	if (!w->missing++)
		w->from = va;
	w->to = va + PG_PAGE_SIZE;
}

static int walk_page(struct pgmap_mm *mm, struct walk *w, size_t i)
{
	uint64_t asked = w->asked[i], e;
	uint16_t bits = w->bits[i];
	bool fault;

	if (!(bits & PG_LOOK_MAPPED) || !(bits & PG_LOOK_READ) ||
	    bits & PG_LOOK_SPECIAL) {
		w->r->entry[i] = PG_HMM_ERROR;
		return asked & PG_HMM_REQ_FAULT ? -EFAULT : 0;
	}
	e = entry_of(mm, w, i, &fault);
	w->r->entry[i] = e;
	if (!(asked & PG_HMM_REQ_FAULT) && !pg_mutant("snapshots_fault"))
		return 0;
	if (e & PG_HMM_ERROR)
		return -EFAULT;
	if (asked & PG_HMM_REQ_WRITE && !(e & PG_HMM_WRITE)) {
		if (!(bits & PG_LOOK_WRITE) && !pg_mutant("writes_go_anywhere"))
			return -EPERM;
		fault = true;
	}
	if (fault)
		need(w, i);
	return 0;
}

/* Holds LOCK_MM for reading, by who asks; has the descriptors. */
static int walk_job(struct pgmap_mm *mm, void *arg)
{
	struct walk *w = arg;
	size_t nr = (w->r->end - w->r->start) / PG_PAGE_SIZE;
	int ret = pg_mmu_look(mm->mmu, w->r->start, nr, w->bits);

	w->missing = 0;
	for (size_t i = 0; i < nr && !ret; i++)
		ret = walk_page(mm, w, i);
	return ret;
}

static int walk(struct pgmap_mm *mm, struct walk *w)
{
	int ret;

	pg_read_lock(&mm->lock, LOCK_MM);
	ret = mm->run ? mm->run(mm, walk_job, w) : walk_job(mm, w);
	pg_read_unlock(&mm->lock, LOCK_MM);
	return ret;
}

/* Touch what was asked for from the first page that is missing to the last, as
 * each asks for. */
static int touch(struct pgmap_mm *mm, struct walk *w)
{
	size_t first = (w->from - w->r->start) / PG_PAGE_SIZE;
	size_t end = (w->to - w->r->start) / PG_PAGE_SIZE;
	int ret = 0;

	while (first < end && !ret) {
		bool write = w->asked[first] & PG_HMM_REQ_WRITE;
		bool wanted = w->asked[first] & PG_HMM_REQ_FAULT;
		size_t n = first + 1;

		while (n < end && !((w->asked[n] ^ w->asked[first]) &
				    (PG_HMM_REQ_FAULT | PG_HMM_REQ_WRITE)))
			n++;
		if (wanted)
			ret = pg_mmu_populate(
				mm->mmu, w->r->start + first * PG_PAGE_SIZE,
				n - first, write);
		first = n;
	}
	return ret;
}

/* R173: pages are touched outside the walk, and without a lock: who serves the
 * faults needs it. */
int pg_hmm_range_fault(struct pgmap_mm *mm, struct pg_hmm_range *r)
{
	struct walk w = {.r = r};
	size_t nr = (r->end - r->start) / PG_PAGE_SIZE;
	size_t before = SIZE_MAX;

	if ((r->start | r->end) % PG_PAGE_SIZE || r->start >= r->end ||
	    nr > PG_HMM_MAX)
		return -EINVAL;
	for (size_t i = 0; i < nr; i++)
		w.asked[i] = pg_mutant("pages_are_not_asked_for")
				     ? r->common
				     : (r->entry[i] & r->mask) | r->common;
	for (;;) {
		int ret = walk(mm, &w);

		if (ret || !w.missing)
			return ret;
		if (pg_notifier_read_retry(r->notifier, r->seq))
			return -EBUSY;
		/* Others take away what comes: let the caller decide. */
		if (w.missing >= before)
			return -EBUSY;
		before = w.missing;
		ret = touch(mm, &w);
		if (ret)
			return ret;
	}
}
