/* SPDX-License-Identifier: BSD-3-Clause */
/* scenario_folio.c - the lives of a folio: src/core/folio.c. */
#include "core/memory_failure.h"
#include "explore/world.h"

/* ---- The last put, and the next life ---- */

static void setup_held(void)
{
	w_map(PGMAP_PRIVATE);
	w_hold(0, 0);
}

static void use_and_put(void)
{
	w_use(w.folio[0]);
	pgmap_folio_put(w.folio[0]);
}

static void allocate_use_and_put(void)
{
	struct pgmap_folio *folio = w_alloc();

	if (!folio)
		return;
	w_use(folio);
	X_CHECK(pgmap_folio_count(folio) == 1);
	pgmap_folio_put(folio);
}

static void on_the_list(void)
{
	X_CHECK(w.nr_free == 1);
	w_all_idle();
}

X_SCENARIO(N1_R40_nobody_touches_a_page_that_was_given_away,
	   .what = "a last put, and two who allocate the page", .nr = 3,
	   .setup = setup_held,
	   .body = {use_and_put, allocate_use_and_put, allocate_use_and_put},
	   .check = on_the_list);

static void setup_held_twice(void)
{
	setup_held();
	pgmap_folio_get(w.folio[0]);
}

static void read_and_put(void)
{
	X_CHECK(w.alive && !w.data[0]);
	pgmap_folio_put(w.folio[0]);
}

X_SCENARIO(R38_the_last_put_comes_after_all_that_others_did,
	   .what = "two holders put, one allocates the page", .nr = 3,
	   .setup = setup_held_twice,
	   .body = {read_and_put, read_and_put, allocate_use_and_put},
	   .check = on_the_list);

/* ---- Lookup by page number ---- */

static void setup_pair(void)
{
	w_map(PGMAP_GENERIC);
	w_hold(0, 1);
}

static void put_pair(void)
{
	pgmap_folio_put(w.folio[0]);
}

static void put_pair_and_hand_out_the_second(void)
{
	struct pgmap_folio *folio;
	int ret;

	pgmap_folio_put(w.folio[0]);
	ret = pgmap_get_folio(w.map, W_PFN + 1, 0, &folio);
	X_CHECK(!ret || ret == -EBUSY);
	if (ret)
		return;
	X_CHECK(folio == w.folio[1] && pgmap_folio_order(folio) == 0);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
}

static void put_pair_and_hand_out_the_first(void)
{
	struct pgmap_folio *folio;

	pgmap_folio_put(w.folio[0]);
	if (pgmap_get_folio(w.map, W_PFN, 0, &folio))
		return;
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
}

static void look_for(uint64_t i)
{
	struct pgmap_folio *folio = pgmap_tryget_pfn(W_PFN + i);
	uint64_t first;

	if (!folio)
		return;
	first = pgmap_folio_pfn(folio) - W_PFN;
	X_CHECK(pgmap_folio_map(folio) == w.map);
	X_CHECK(i >= first);
	X_CHECK(i - first < (uint64_t)1 << pgmap_folio_order(folio));
	pgmap_folio_put(folio);
}

static void look_for_the_first(void)
{
	look_for(0);
}

static void look_for_the_second(void)
{
	look_for(1);
}

X_SCENARIO(N16_R102_a_page_is_found_in_its_folio_or_not_at_all,
	   .what = "a folio is freed, its second page handed out, looked up",
	   .nr = 2, .setup = setup_pair,
	   .body = {put_pair_and_hand_out_the_second, look_for_the_second},
	   .check = w_all_idle);
X_SCENARIO(N16_R102_a_head_that_lost_its_tail_is_not_taken_for_it,
	   .what = "a folio is freed, its first page handed out, the second "
		   "looked up",
	   .nr = 2, .setup = setup_pair,
	   .body = {put_pair_and_hand_out_the_first, look_for_the_second},
	   .check = w_all_idle);
X_SCENARIO(N16_R102_two_look_while_a_folio_changes_its_order,
	   .what = "the same, and two look", .nr = 3, .setup = setup_pair,
	   .body = {put_pair_and_hand_out_the_second, look_for_the_second,
		    look_for_the_first},
	   .check = w_all_idle);

static void setup_locked_pair(void)
{
	w_map(PGMAP_GENERIC);
	w_hold(0, 1);
	X_CHECK(pgmap_folio_trylock(w.folio[0]));
}

static void split_and_put(void)
{
	int ret = pgmap_split_folio(w.folio[0], 0);

	X_CHECK(!ret || ret == -EAGAIN);
	pgmap_folio_unlock(w.folio[0]);
	if (!ret) {
		pgmap_folio_unlock(w.folio[1]);
		pgmap_folio_put(w.folio[1]);
	}
	pgmap_folio_put(w.folio[0]);
}

X_SCENARIO(N52_nobody_takes_a_tail_while_a_folio_is_split,
	   .what = "a split, and a lookup of the second page", .nr = 2,
	   .setup = setup_locked_pair,
	   .body = {split_and_put, look_for_the_second}, .check = w_all_idle);
X_SCENARIO(N52_N18_two_look_while_a_folio_is_split,
	   .what = "a split, and lookups of both pages", .nr = 3,
	   .setup = setup_locked_pair,
	   .body = {split_and_put, look_for_the_second, look_for_the_first},
	   .check = w_all_idle);

static void setup_two_locked(void)
{
	w_map(PGMAP_GENERIC);
	for (uint64_t i = 0; i < 2; i++) {
		w_hold(i, 0);
		X_CHECK(pgmap_folio_trylock(w.folio[i]));
	}
}

static void construct_and_put(void)
{
	struct pgmap_folio *folio;
	int ret = pgmap_construct_folio(w.map, W_PFN, 1, &folio);

	X_CHECK(!ret || ret == -EBUSY);
	pgmap_folio_unlock(w.folio[0]);
	if (ret) {
		pgmap_folio_unlock(w.folio[1]);
		pgmap_folio_put(w.folio[1]);
	}
	pgmap_folio_put(w.folio[0]);
}

X_SCENARIO(R62_nobody_holds_a_tail_that_is_joined,
	   .what = "two folios become one, and a lookup of the second page",
	   .nr = 2, .setup = setup_two_locked,
	   .body = {construct_and_put, look_for_the_second},
	   .check = w_all_idle);
X_SCENARIO(R62_nobody_holds_a_page_that_is_joined,
	   .what = "two folios become one, and lookups of both pages", .nr = 3,
	   .setup = setup_two_locked,
	   .body = {construct_and_put, look_for_the_second, look_for_the_first},
	   .check = w_all_idle);

/* ---- Claims ---- */

static void setup_idle(void)
{
	w_map(PGMAP_GENERIC);
}

/* Pages of a word of claims and of the next; who has some notes it. */
static void take_range(uint64_t i, uint64_t nr)
{
	struct pgmap_folio *folio[16];
	size_t n;
	int ret = pgmap_get_folios(w.map, W_PFN + i, nr, folio, 16, &n);

	X_CHECK(!ret || ret == -EBUSY);
	if (ret)
		return;
	for (uint64_t k = i / 32; k < (i + nr) / 32; k++)
		X_CHECK(x_note((unsigned int)k, 1) == 1);
	for (uint64_t k = i / 32; k < (i + nr) / 32; k++)
		x_note((unsigned int)k, -1);
	while (n--) {
		pgmap_folio_unlock(folio[n]);
		pgmap_folio_put(folio[n]);
	}
	x_note(20, 1);
}

static void take_first_three_halves(void)
{
	take_range(0, 96);
}

static void take_last_three_halves(void)
{
	take_range(32, 96);
}

static void somebody_got_it(void)
{
	X_CHECK(x_note(20, 0) > 0);
	for (uint64_t i = 0; i < 128; i++)
		X_CHECK(!pg_range_is_claimed(&w.map->range[0], i));
	w_all_idle();
}

static void take_last_half(void)
{
	take_range(64, 64);
}

X_SCENARIO(R65_who_is_refused_leaves_no_claim,
	   .what = "two take ranges, and one finds only its end taken", .nr = 2,
	   .setup = setup_idle,
	   .body = {take_first_three_halves, take_last_half},
	   .check = somebody_got_it);
X_SCENARIO(N22_R33_R65_three_overlapping_hand_outs,
	   .what = "three take ranges that overlap", .nr = 3,
	   .setup = setup_idle,
	   .body = {take_first_three_halves, take_last_three_halves,
		    take_last_half},
	   .check = somebody_got_it);
X_SCENARIO(N22_R33_overlapping_hand_outs_are_all_or_nothing,
	   .what = "two take ranges that overlap in two words of claims",
	   .nr = 2, .setup = setup_idle,
	   .body = {take_first_three_halves, take_last_three_halves},
	   .check = somebody_got_it);

static void hold_alone(unsigned int order)
{
	struct pgmap_folio *folio;
	int ret = pgmap_get_folio(w.map, W_PFN, order, &folio);

	X_CHECK(!ret || ret == -EBUSY);
	if (ret)
		return;
	X_CHECK(x_note(0, 1) == 1);
	x_note(0, -1);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
}

static void one_page(void)
{
	hold_alone(0);
}

static void two_pages(void)
{
	hold_alone(1);
}

static void all_as_new(void)
{
	w_all_idle();
}

X_SCENARIO(R33_of_those_who_request_a_page_one_gets_it,
	   .what = "requests of order 0 and 1 for one page", .nr = 2,
	   .setup = setup_idle, .body = {one_page, two_pages},
	   .check = all_as_new);

/* ---- Waiting until it is idle ---- */

static bool blocks_in_use;

static void setup_waited_for(void)
{
	w_map(PGMAP_FS_DAX);
	w_hold(0, 0);
	w.folio[0]->mapping = 1;
	blocks_in_use = true;
}

static void setup_waited_for_twice(void)
{
	setup_waited_for();
	pgmap_folio_get(w.folio[0]);
}

/* What a transfer does to the blocks of a file. */
static void transfer_and_put(void)
{
	X_CHECK(blocks_in_use);
	pgmap_folio_put(w.folio[0]);
}

static void wait_and_free_blocks(void)
{
	X_CHECK(!pgmap_folio_wait_idle(w.folio[0], 0));
	blocks_in_use = false;
	/* N2: nothing of the free is still to come. */
	w.folio[0]->mapping = 2;
}

static void waited(void)
{
	X_CHECK(!blocks_in_use);
	X_CHECK(w.folio[0]->mapping == 2);
	w.folio[0]->mapping = 0;
	w_all_idle();
}

X_SCENARIO(N2_R41_R42_who_waits_for_a_page_wakes_when_all_is_over,
	   .what = "a last put, and who waits for it", .nr = 2,
	   .setup = setup_waited_for,
	   .body = {transfer_and_put, wait_and_free_blocks}, .check = waited);
X_SCENARIO(R42_two_put_and_one_waits,
	   .what = "two holders put, one waits for them", .nr = 3,
	   .setup = setup_waited_for_twice,
	   .body = {transfer_and_put, transfer_and_put, wait_and_free_blocks},
	   .check = waited);

static void wait_only(void)
{
	X_CHECK(!pgmap_folio_wait_idle(w.folio[0], 0));
}

X_SCENARIO(R42_who_waits_is_woken_though_the_page_is_used_again,
	   .what = "a last put, a request for the page, and who waits", .nr = 3,
	   .setup = setup_waited_for, .body = {put_pair, one_page, wait_only},
	   .check = w_all_idle);

/* ---- The lock of a folio ---- */

static void lock_use_unlock(void)
{
	pg_folio_lock(w.folio[0]);
	w.data[0]++;
	pgmap_folio_unlock(w.folio[0]);
}

static void used_by_all(void)
{
	X_CHECK(w.data[0] == 2);
	w.data[0] = 0;
	pgmap_folio_put(w.folio[0]);
	w_all_idle();
}

X_SCENARIO(R36_the_lock_of_a_folio_excludes_and_wakes,
	   .what = "two lock a folio", .nr = 2, .setup = setup_held,
	   .body = {lock_use_unlock, lock_use_unlock}, .check = used_by_all);

/* ---- Poison ---- */

static void poison_and_look(void)
{
	struct pgmap_folio *folio;

	pg_pfn_poison(w.map, W_PFN, true);
	folio = pgmap_tryget_pfn(W_PFN);
	if (!folio)
		return;
	/* Somebody has it, and is told. */
	x_note(1, 1);
	pgmap_folio_put(folio);
}

static void hand_out_bad(void)
{
	struct pgmap_folio *folio;
	int ret = pgmap_get_folio(w.map, W_PFN, 0, &folio);

	if (!ret)
		x_note(0, 1);
	X_CHECK(!ret || ret == -EHWPOISON);
}

static void told_or_refused(void)
{
	X_CHECK(x_note(0, 0) == x_note(1, 0));
	if (!x_note(0, 0))
		return;
	pgmap_folio_unlock(w.folio[0]);
	pgmap_folio_put(w.folio[0]);
	w_all_idle();
}

X_SCENARIO(R182_a_bad_page_is_refused_or_its_holder_is_found,
	   .what = "a page becomes bad while it is handed out", .nr = 2,
	   .setup = setup_idle, .body = {poison_and_look, hand_out_bad},
	   .check = told_or_refused);

static void kill_nobody(const struct pg_mce *mce, void *arg)
{
	(void)mce;
	(void)arg;
	x_fail("somebody is told, but nobody maps the page");
}

static void fail_the_second(void)
{
	X_CHECK(!pg_memory_failure(W_PFN + 1, kill_nobody, NULL));
}

static void construct_and_keep(void)
{
	struct pgmap_folio *folio;
	int ret = pgmap_construct_folio(w.map, W_PFN, 1, &folio);

	X_CHECK(!ret || ret == -EBUSY);
	pgmap_folio_unlock(w.folio[0]);
	if (ret)
		pgmap_folio_unlock(w.folio[1]);
}

static void who_has_it_is_marked(void)
{
	struct pgmap_folio *folio = pgmap_tryget_pfn(W_PFN + 1);

	X_CHECK(folio && pg_folio_marked(folio, PG_FOLIO_POISON));
	pgmap_folio_put(folio);
	pg_pfn_poison(w.map, W_PFN + 1, false);
	pgmap_folio_put(w.folio[0]);
	if (folio != w.folio[0])
		pgmap_folio_put(w.folio[1]);
	w_all_idle();
}

X_SCENARIO(R183_a_folio_that_is_joined_is_marked_where_its_page_is_bad,
	   .what = "a page becomes bad while its folio is joined", .nr = 2,
	   .setup = setup_two_locked,
	   .body = {fail_the_second, construct_and_keep},
	   .check = who_has_it_is_marked);
