/* SPDX-License-Identifier: BSD-3-Clause */
/* scenario_map.c - the life of a page map: src/core/pagemap.c. */
#include "explore/world.h"

static void setup_map(void)
{
	w_map(PGMAP_GENERIC);
}

/* The driver goes when its map is gone. */
static void destroy(void)
{
	X_CHECK(!pgmap_destroy(w.map));
	w.alive = false;
}

static void is_gone(void)
{
	X_CHECK(!w.alive);
	X_CHECK(!pgmap_lookup(W_PFN, NULL));
	X_CHECK(!pg_map_refs(w.map));
}

/* ---- Lookup ---- */

static void look_up(void)
{
	struct pgmap *map = pgmap_lookup(W_PFN + 7, NULL);

	if (!map)
		return;
	X_CHECK(map == w.map && w.alive);
	pgmap_put(map);
}

X_SCENARIO(R8_R10_a_map_that_was_found_stays,
	   .what = "a lookup, and the map is destroyed", .nr = 2,
	   .setup = setup_map, .body = {look_up, destroy}, .check = is_gone);
X_SCENARIO(R8_R22_two_look_up_a_map_that_is_destroyed,
	   .what = "two lookups, and the map is destroyed", .nr = 3,
	   .setup = setup_map, .body = {look_up, look_up, destroy},
	   .check = is_gone);

static struct pgmap *make_map(uint64_t pfn)
{
	const struct pgmap_desc desc = {
		.size = sizeof(desc),
		.type = PGMAP_GENERIC,
		.nr_range = 1,
		.range = {{.pfn = pfn, .nr = W_PAGES}},
	};
	struct pgmap *map;

	X_CHECK(!pgmap_create(&desc, &map));
	return map;
}

/* The place of the map becomes that of another one. */
static void replace(void)
{
	destroy();
	X_CHECK(make_map(W_PFN + W_PAGES) == w.map);
}

static void is_another(void)
{
	X_CHECK(!pgmap_lookup(W_PFN, NULL));
	X_CHECK(!pg_map_refs(w.map));
	X_CHECK(!pgmap_destroy(w.map));
}

X_SCENARIO(R8_a_lookup_never_finds_the_map_of_other_pages,
	   .what = "a lookup, and another map takes the place of the map",
	   .nr = 2, .setup = setup_map, .body = {look_up, replace},
	   .check = is_another);

static void look_for_a_folio(void)
{
	struct pgmap_folio *folio = pgmap_tryget_pfn(W_PFN);

	if (!folio)
		return;
	X_CHECK(w.alive);
	X_CHECK(pgmap_folio_pfn(folio) == W_PFN);
	pgmap_folio_put(folio);
}

static void setup_held(void)
{
	w_map(PGMAP_GENERIC);
	w_hold(0, 0);
}

static void put_and_destroy(void)
{
	pgmap_folio_put(w.folio[0]);
	destroy();
}

X_SCENARIO(R13_R102_a_folio_is_found_until_its_map_is_gone,
	   .what = "a lookup of a page that is freed with its map", .nr = 2,
	   .setup = setup_held, .body = {look_for_a_folio, put_and_destroy},
	   .check = is_gone);

/* ---- The last put of a page, and the end of its map ---- */

static void setup_private_held(void)
{
	w_map(PGMAP_PRIVATE);
	w_hold(0, 0);
}

static void put_last(void)
{
	X_CHECK(w.alive);
	pgmap_folio_put(w.folio[0]);
}

X_SCENARIO(R13_R38_the_driver_is_told_before_its_map_may_go,
	   .what = "a last put, and the map is destroyed", .nr = 2,
	   .setup = setup_private_held, .body = {put_last, destroy},
	   .check = is_gone);
X_SCENARIO(R13_R102_a_lookup_a_last_put_and_the_end_of_the_map,
	   .what = "a page is looked up and freed while its map is destroyed",
	   .nr = 3, .setup = setup_private_held,
	   .body = {look_for_a_folio, put_last, destroy}, .check = is_gone);

/* ---- Hand out and kill ---- */

static pg_atomic32 killed;

static void hand_out(void)
{
	bool late = pg_load(&killed, acquire);
	struct pgmap_folio *folio;
	int ret = pgmap_get_folio(w.map, W_PFN, 0, &folio);

	X_CHECK(ret == 0 || ret == -ENODEV);
	if (ret)
		return;
	X_CHECK(!late && w.alive);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
}

static void kill_and_destroy(void)
{
	pgmap_kill(w.map);
	pg_store(&killed, 1, release);
	destroy();
}

X_SCENARIO(N24_R12_a_killed_map_hands_out_no_page,
	   .what = "a hand-out, and the map is killed and destroyed", .nr = 2,
	   .setup = setup_map, .body = {hand_out, kill_and_destroy},
	   .check = is_gone);

static void hand_out_another(void)
{
	struct pgmap_folio *folio;
	int ret = pgmap_get_folio(w.map, W_PFN + 1, 0, &folio);

	X_CHECK(ret == 0 || ret == -ENODEV);
	if (ret)
		return;
	X_CHECK(w.alive);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
}

X_SCENARIO(N24_R12_two_hand_outs_and_a_kill,
	   .what = "two hand-outs, and the map is killed and destroyed",
	   .nr = 3, .setup = setup_map,
	   .body = {hand_out, hand_out_another, kill_and_destroy},
	   .check = is_gone);
X_SCENARIO(N24_R8_R12_a_hand_out_a_lookup_and_a_kill,
	   .what = "a hand-out, a lookup, and the map is killed and destroyed",
	   .nr = 3, .setup = setup_map,
	   .body = {hand_out, look_up, kill_and_destroy}, .check = is_gone);

static void destroy_once(void)
{
	int ret = pgmap_destroy(w.map);

	X_CHECK(ret == 0 || ret == -EINVAL);
	if (!ret) {
		w.alive = false;
		x_note(0, 1);
	}
}

static void kill_again(void)
{
	pgmap_kill(w.map);
	X_CHECK(pgmap_is_dying(w.map));
	X_CHECK(!pgmap_lookup(W_PFN, NULL));
}

static void was_destroyed_once(void)
{
	X_CHECK(x_note(0, 0) == 1);
	is_gone();
}

X_SCENARIO(R21_a_map_is_destroyed_once, .what = "two destroy a map", .nr = 2,
	   .setup = setup_map, .body = {destroy_once, destroy_once},
	   .check = was_destroyed_once);
X_SCENARIO(R9_R21_a_second_kill_means_what_the_first_does,
	   .what = "two kill a map", .nr = 2, .setup = setup_map,
	   .body = {kill_again, kill_again}, .check = NULL);

/* ---- References over shards ---- */

static pg_atomic32 handed_on;

/* What one thread takes another one drops. */
static void take_and_hand_on(void)
{
	struct pgmap *map = pgmap_lookup(W_PFN, NULL);

	if (map)
		X_CHECK(w.alive);
	pg_store(&handed_on, map ? 1 : 2, release);
}

static void drop_what_was_handed_on(void)
{
	uint32_t got;

	while (!(got = pg_load(&handed_on, acquire)))
		pg_yield();
	if (got == 1)
		pgmap_put(w.map);
}

X_SCENARIO(R22_a_reference_is_dropped_where_it_was_not_taken,
	   .what = "a lookup, a put by another, and the map is destroyed",
	   .nr = 3, .setup = setup_map,
	   .body = {take_and_hand_on, drop_what_was_handed_on, destroy},
	   .check = is_gone);

static void setup_two_references(void)
{
	setup_map();
	for (int i = 0; i < 2; i++)
		X_CHECK(pgmap_lookup(W_PFN, NULL) == w.map);
}

static void drop(void)
{
	X_CHECK(w.alive);
	pgmap_put(w.map);
}

X_SCENARIO(R10_R42_the_last_of_two_puts_wakes_who_destroys,
	   .what = "two puts, and the map is destroyed", .nr = 3,
	   .setup = setup_two_references, .body = {drop, drop, destroy},
	   .check = is_gone);

/* ---- The index ---- */

static struct pgmap *second;

static void setup_second(void)
{
	second = make_map(W_PFN + W_PAGES);
}

static void setup_first_and_second(void)
{
	setup_second();
	w.map = make_map(W_PFN);
}

static void find_the_second(void)
{
	struct pgmap *map = pgmap_lookup(W_PFN + W_PAGES, NULL);

	X_CHECK(map == second);
	pgmap_put(map);
}

static void create_the_first(void)
{
	make_map(W_PFN);
}

X_SCENARIO(R8_a_map_is_found_while_one_before_it_comes,
	   .what = "a lookup, and a map that goes before it in the index",
	   .nr = 2, .setup = setup_second,
	   .body = {find_the_second, create_the_first}, .check = NULL);
X_SCENARIO(R8_a_map_is_found_while_one_before_it_goes,
	   .what = "a lookup, and a map before it that leaves the index",
	   .nr = 2, .setup = setup_first_and_second,
	   .body = {find_the_second, destroy}, .check = NULL);
