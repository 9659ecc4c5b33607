/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/memory_failure.h"

#include <errno.h>

#include "base/mutant.h"
#include "core/folio.h"
#include "core/pagemap.h"
#include "core/space.h"

struct failure {
	uint64_t pfn;
	void (*kill)(const struct pg_mce *mce, void *arg);
	void *arg;
};

static bool tell(struct pg_area *area, uintptr_t va, enum pg_level level,
		 pg_entry_t e, void *arg)
{
	const struct failure *f = arg;
	uint64_t at = f->pfn - pg_entry_pfn(e);
	struct pg_mce mce = {
		.space = area->space,
		.va = va + at * PG_PAGE_SIZE,
		.lsb = PG_PAGE_SHIFT +
		       (pg_mutant("lsb_of_a_page") ? 0 : pg_level_order(level)),
	};

	if (at < pg_level_pages(level))
		f->kill(&mce, f->arg);
	return true;
}

static int fail_used(struct pgmap_folio *folio, struct failure *f)
{
	int ret = 0;

	pg_folio_lock(folio);
	pg_folio_mark(folio, PG_FOLIO_POISON);
	/* First the mark, then the entries. Partner: who faults a page in makes
	 * the entry and then looks for the mark. */
	pg_fence(seq_cst);
	pg_rmap_walk(folio, tell, f);
	if (!pg_mutant("poison_stays_mapped"))
		pg_rmap_unmap(folio);
	/* R184: who has it only the files know that share it. */
	if (!folio->mapping && pgmap_folio_mapcount(folio) &&
	    !pg_mutant("shared_block_fails_untold"))
		ret = -EBUSY;
	pgmap_folio_unlock(folio);
	return ret;
}

int pg_memory_failure(uint64_t pfn,
		      void (*kill)(const struct pg_mce *mce, void *arg),
		      void *arg)
{
	struct failure f = {.pfn = pfn, .kill = kill, .arg = arg};
	struct pgmap_folio *folio;
	struct pgmap *map = pgmap_lookup(pfn, NULL);
	enum pgmap_type type;
	int ret = -EOPNOTSUPP;

	if (!map)
		return -ENXIO;
	type = pgmap_get_type(map);
	if (pg_map_is_reserved(map, pfn) && !pg_mutant("own_data_fails")) {
		ret = -ENXIO;
		goto out;
	}
	if (map->ops.memory_failure && !pg_mutant("driver_not_asked"))
		ret = map->ops.memory_failure(map, pfn, 1);
	if (ret != -EOPNOTSUPP)
		goto out;
	ret = -ENXIO;
	if ((type == PGMAP_PRIVATE || type == PGMAP_COHERENT) &&
	    !pg_mutant("private_fails_unasked"))
		goto out;
	ret = 0;
	/* First: it is not handed out from here on. Then: who has it? Partner:
	 * pgmap_get_folio(), which claims the page and then asks. */
	pg_pfn_poison(map, pfn, true);
	pg_fence(seq_cst);
	/* In use and not to be held: it is split or joined just now, and is to
	 * be told nevertheless. */
	while (!(folio = pgmap_tryget_pfn(pfn)) && pg_pfn_in_use(map, pfn) &&
	       !pg_mutant("frozen_folio_goes_bad_untold"))
		pg_yield();
	if (folio) {
		ret = fail_used(folio, &f);
		pgmap_folio_put(folio);
	}
out:
	pgmap_put(map);
	return ret;
}
