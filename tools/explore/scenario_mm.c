/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scenario_mm.c - faults, evictions and munmap of one page.
 *
 * An address space of one page on the MMU in memory, and a device of three
 * slots, which stands for src/core/device.c and its allocator: one free slot
 * is as good as another. What the page and the slots hold is plain memory: who
 * uses it at the wrong time is a data race.
 */
#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "base/mem.h"
#include "core/evict.h"
#include "core/fault.h"
#include "core/folio.h"
#include "core/migrate.h"
#include "core/mm.h"
#include "core/pagemap.h"
#include "explore/explore.h"
#include "mmu/soft.h"

#define VA PG_SOFT_BASE
#define NR_SLOTS 3u
/* So that no two have their claims in one word. */
#define APART 64u
#define BUDGET ((uint64_t)64 << 12)
#define OLD 7
#define NEW 9

static struct pgmap_mm mm;
static struct pg_mmu *mmu;
static struct pgmap_device dev;
/* A bit for each thread that faults and was not woken since. */
static pg_atomic32 waits;

/* ---- A device: see core/device.h ---- */

static struct slot {
	bool holds;
	char bytes[PG_PAGE_SIZE];
} slot[NR_SLOTS];

static struct pg_lock free_lock; /* LOCK_DEVICE: those below */
static uint64_t free_slot[NR_SLOTS];
static uint32_t nr_free;

static struct slot *slot_of(const struct pgmap_device *d, uint64_t pfn)
{
	X_CHECK(!((pfn - d->first_pfn) % APART));
	return &slot[(pfn - d->first_pfn) / APART];
}

static void give_slot(uint64_t no)
{
	pg_lock(&free_lock, LOCK_DEVICE);
	free_slot[nr_free++] = no;
	pg_unlock(&free_lock, LOCK_DEVICE);
}

int pg_device_alloc(struct pgmap_device *d, unsigned int order,
		    struct pgmap_folio **folio)
{
	uint64_t no;

	X_CHECK(!order);
	pg_lock(&free_lock, LOCK_DEVICE);
	X_CHECK(nr_free);
	no = free_slot[--nr_free];
	pg_unlock(&free_lock, LOCK_DEVICE);
	return pgmap_get_folio(d->map, d->first_pfn + no * APART, 0, folio);
}

void pg_device_store(struct pgmap_device *d, struct pg_device_io *io,
		     unsigned int n, char *buf, struct pgmap_io *scratch)
{
	(void)scratch;
	for (unsigned int i = 0; i < n; i++) {
		struct slot *s = slot_of(d, pgmap_folio_pfn(io[i].folio));

		X_CHECK(!s->holds);
		memcpy(s->bytes, buf + io[i].first * PG_PAGE_SIZE,
		       PG_PAGE_SIZE);
		s->holds = true;
		io[i].status = 0;
	}
}

void pg_device_load(struct pgmap_device *d, struct pgmap_io *io, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		const struct slot *s = slot_of(d, d->first_pfn + io[i].slot);

		X_CHECK(io[i].nr == 1 && s->holds);
		memcpy(io[i].buf, s->bytes, PG_PAGE_SIZE);
		io[i].status = 0;
	}
}

bool pg_device_holds(struct pgmap_device *d, uint64_t pfn, const char *buf)
{
	const struct slot *s = slot_of(d, pfn);

	X_CHECK(s->holds);
	return !memcmp(s->bytes, buf, PG_PAGE_SIZE);
}

static void folio_free(struct pgmap_folio *folio)
{
	struct slot *s = slot_of(&dev, pgmap_folio_pfn(folio));

	s->holds = false;
	give_slot((uint64_t)(s - slot));
}

/* No unit has anything here. */
uint8_t pg_device_owner(const struct pgmap_device *d, uint64_t pfn)
{
	(void)d;
	(void)pfn;
	return 0;
}

int pg_device_set_owner(struct pgmap_device *d, uint64_t pfn, size_t nr,
			uint8_t owner)
{
	(void)d;
	(void)pfn;
	(void)nr;
	X_CHECK(!owner);
	return 0;
}

int pg_device_write(struct pgmap_device *d, uint64_t pfn, const char *buf)
{
	memcpy(slot_of(d, pfn)->bytes, buf, PG_PAGE_SIZE);
	return 0;
}

uint64_t pg_device_metadata(struct pgmap_device *d)
{
	(void)d;
	return 0;
}

void pg_device_usage(struct pgmap_device *d, struct pgmap_device_usage *u)
{
	(void)d;
	memset(u, 0, sizeof(*u));
}

static void open_device(void)
{
	static const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = folio_free,
		.migrate_to_ram = pg_fault_migrate_to_ram,
	};
	const struct pgmap_desc desc = {
		.size = sizeof(desc),
		.type = PGMAP_PRIVATE,
		.nr_range = 1,
		.range = {{0, PGMAP_SUBSECTION_PAGES}},
		.ops = &ops,
		.owner = &dev,
		.data = &dev,
	};
	struct pgmap_range r;

	X_CHECK(!pgmap_create(&desc, &dev.map));
	X_CHECK(!pgmap_range_get(dev.map, 0, &r));
	dev.first_pfn = r.pfn;
	dev.nr_slots = NR_SLOTS;
	dev.ops.name = "slots";
	for (uint64_t i = 0; i < NR_SLOTS; i++)
		give_slot(i);
	x_ignore(&free_lock, sizeof(free_lock));
}

/* ---- Faults ---- */

static void wake_all(void)
{
	if (pg_xchg(&waits, 0, acq_rel))
		pg_wake(&waits);
}

static int before(void *ctx, enum pg_soft_op op, uintptr_t va)
{
	(void)ctx;
	(void)va;
	if (op == PG_SOFT_WAKE)
		wake_all();
	return 0;
}

static void change_end(struct pgmap_mm *m)
{
	(void)m;
	wake_all();
}

/* The kernel's part, and that of the thread that reads its messages: a wake-up
 * after the message was read lets the touch be tried again. */
static bool fault(void *ctx, uintptr_t va, uint32_t flags)
{
	uint32_t me = 1u << x_me(), now;

	(void)ctx;
	pg_fetch_or(&waits, me, acq_rel);
	switch (pg_fault(&mm, va, flags)) {
	case PG_FAULT_DONE:
	case PG_FAULT_LOST:
	case PG_FAULT_FOREIGN:
		return true;
	case PG_FAULT_PARKED:
		/* The kernel has a lock for this: no old value is seen. */
		while ((now = pg_fetch_or(&waits, 0, acq_rel)) & me)
			pg_wait(&waits, now, 0);
		return true;
	case PG_FAULT_OOM:
		break;
	}
	return false;
}

/* ---- The world ---- */

static pg_pte_t entry(void)
{
	return pg_pte_read(&mm.pt, VA);
}

static uint8_t get(void)
{
	uint8_t v = 0xff;

	X_CHECK(!pg_soft_read(mmu, VA, &v));
	return v;
}

static void set(uint8_t v)
{
	X_CHECK(!pg_soft_write(mmu, VA, v));
}

static size_t move(bool to_device)
{
	size_t moved;

	X_CHECK(!pgmap_migrate(&mm, (void *)VA, PG_PAGE_SIZE, to_device,
			       &moved));
	return moved / PG_PAGE_SIZE;
}

/* An absent page. */
static void one_hole(void)
{
	static const struct pg_soft_hooks hooks = {
		.fault = fault,
		.before = before,
	};

	X_CHECK(!pg_soft_create(1, &mmu));
	pg_soft_hook(mmu, &hooks);
	open_device();
	memset(&mm, 0, sizeof(mm));
	X_CHECK(!pg_mm_init(&mm, mmu, &dev, BUDGET, PG_PAGE_SIZE));
	mm.change_end = change_end;
	X_CHECK(!pgmap_mm_adopt(&mm, (void *)VA, PG_PAGE_SIZE));
	/* Numbers for people, or that only have to differ; the budget is not
	 * used up here. One buffer is as good as another, and the queue of one
	 * page has one order. */
	pg_pool_no_recycle(&mm.pool);
	x_ignore(&mm.pool.lock, sizeof(mm.pool.lock));
	x_ignore(&mm.queue.lock, sizeof(mm.queue.lock));
	x_ignore(mm.pt.leaf, PG_NR_LEAVES * sizeof(*mm.pt.leaf));
	x_ignore(&mm.stat, sizeof(mm.stat));
	x_ignore(&mm.token, sizeof(mm.token));
	x_ignore(&mm.stream, sizeof(mm.stream));
	x_ignore(&mm.nr_streams, sizeof(mm.nr_streams));
	x_ignore(&mm.asked, sizeof(mm.asked));
	x_ignore(&mm.same, sizeof(mm.same));
	x_ignore(&mm.copies, sizeof(mm.copies));
	x_ignore(&mm.present, sizeof(mm.present));
	x_ignore(&mm.standby, sizeof(mm.standby));
	x_ignore(&mm.away, sizeof(mm.away));
	x_ignore(&mm.pool.filled, sizeof(mm.pool.filled));
	x_ignore(&mm.pool.room, sizeof(mm.pool.room));
	x_ignore(&mm.pool.nr_room, sizeof(mm.pool.nr_room));
	x_ignore(&mm.pool.nr_standby, sizeof(mm.pool.nr_standby));
	x_ignore(&mm.nr_breaks, sizeof(mm.nr_breaks));
	x_name(&waits, sizeof(waits), "who waits");
	x_name(&mm.lock, sizeof(mm.lock), "mm.lock");
	x_name(&mm.parked, sizeof(mm.parked), "mm.parked");
	x_name(pg_pte_at(&mm.pt, VA), sizeof(pg_pte_t), "the entry");
	x_name(&mm.pt.lock, sizeof(mm.pt.lock), "pt.lock");
}

static void page_in_ram(void)
{
	one_hole();
	set(OLD);
	X_CHECK(entry() == PG_PTE_PRESENT);
}

static void page_on_device(void)
{
	page_in_ram();
	X_CHECK(move(true) == 1);
	X_CHECK(pg_pte_state(entry()) == PG_PTE_DEVICE);
}

static void page_was_on_device(void)
{
	page_on_device();
	X_CHECK(get() == OLD);
	X_CHECK(entry() == PG_PTE_PRESENT);
}

/* ... which keeps what it holds. */
static void page_with_copy(void)
{
	page_on_device();
	pg_store(&mm.same, 256, relaxed);
	X_CHECK(get() == OLD);
	X_CHECK(pg_pte_state(entry()) == PG_PTE_PRESENT &&
		pg_pte_value(entry()));
}

/* What is true at rest. */
static void at_rest(void)
{
	bool ram = pg_soft_is_present(mmu, VA), away, copy;
	bool standby = pg_pte_state(entry()) == PG_PTE_STANDBY;
	uint64_t held = 0;

	away = pg_pte_state(entry()) == PG_PTE_DEVICE;
	X_CHECK(pg_load(&mm.standby, relaxed) == standby);
	X_CHECK(ram == (pg_pte_state(entry()) == PG_PTE_PRESENT));
	X_CHECK(ram || away || standby || entry() == PG_PTE_HOLE);
	X_CHECK(pg_load(&mm.present, relaxed) == ram);
	X_CHECK(pg_load(&mm.away, relaxed) == away);
	for (uint32_t i = 0; i < NR_SLOTS; i++)
		held += slot[i].holds;
	copy = ram && pg_pte_value(entry());
	X_CHECK(pg_load(&mm.copies, relaxed) == copy);
	X_CHECK(held == (away || copy));
	X_CHECK(pg_map_refs(dev.map) == (away || copy));
	if (away || copy) {
		struct pgmap_folio *f =
			pg_map_head(dev.map, pg_pte_value(entry()));

		X_CHECK(pgmap_folio_count(f) == 1);
		X_CHECK(pgmap_folio_mapcount(f) == 1);
		X_CHECK(!pg_folio_is_locked(f));
	}
	X_CHECK(!pg_load(&mm.parked, relaxed));
}

static void holds_old(void)
{
	at_rest();
	X_CHECK(get() == OLD);
	at_rest();
}

/* ---- What threads do ---- */

/* One fault until the thread may go on; whether it then finds the page, or
 * faults again, is another story. */
static void fault_once(void)
{
	X_CHECK(fault(NULL, VA, 0));
}

static void evict(void)
{
	move(true);
}

static void bring_back(void)
{
	move(false);
}

X_SCENARIO(N12_R89_two_faults_of_a_page_that_is_away,
	   .what = "two faults of a page on the device", .nr = 2,
	   .setup = page_on_device, .body = {fault_once, fault_once},
	   .check = holds_old);
X_SCENARIO(R74_R93_a_fault_and_an_eviction,
	   .what = "a fault of a page on the device, and an eviction", .nr = 2,
	   .setup = page_on_device, .body = {fault_once, evict},
	   .check = holds_old);
X_SCENARIO(N12_R89_R93_two_faults_and_an_eviction,
	   .what = "two faults of a page on the device, and an eviction",
	   .nr = 3, .setup = page_on_device,
	   .body = {fault_once, fault_once, evict}, .check = holds_old);
X_SCENARIO(R74_R76_two_evictions_of_one_page, .what = "two who evict a page",
	   .nr = 2, .setup = page_was_on_device, .body = {evict, evict},
	   .check = holds_old);

/* ---- A store beside an eviction ---- */

static void set_new(void)
{
	set(NEW);
}

static void holds_new(void)
{
	at_rest();
	X_CHECK(get() == NEW);
	at_rest();
}

X_SCENARIO(N14_a_store_and_an_eviction,
	   .what = "a store to a page, and its eviction", .nr = 2,
	   .setup = page_was_on_device, .body = {set_new, evict},
	   .check = holds_new);

X_SCENARIO(N60_a_store_and_an_eviction_of_a_page_with_a_copy,
	   .what = "a store to a page that the device holds, and its eviction",
	   .nr = 2, .setup = page_with_copy, .body = {set_new, evict},
	   .check = holds_new);

static void hole_again(void)
{
	page_was_on_device();
	pgmap_mm_change_begin(&mm);
	pgmap_mm_remove(&mm, (void *)VA, PG_PAGE_SIZE);
	pg_soft_zap(mmu, VA, 1);
	pgmap_mm_change_end(&mm);
	X_CHECK(entry() == PG_PTE_HOLE);
}

X_SCENARIO(N46_R81_a_store_and_a_migration_of_the_hole,
	   .what = "the first store to a page, and its migration", .nr = 2,
	   .setup = hole_again, .body = {set_new, evict}, .check = holds_new);

/* ---- munmap ---- */

/* As a hook of munmap does. */
static void unmap(void)
{
	pgmap_mm_change_begin(&mm);
	pgmap_mm_unmap(&mm, (void *)VA, PG_PAGE_SIZE);
	pg_soft_zap(mmu, VA, 1);
	pgmap_mm_change_end(&mm);
}

static void try_to(bool to_device)
{
	size_t moved;
	int ret =
		pgmap_migrate(&mm, (void *)VA, PG_PAGE_SIZE, to_device, &moved);

	X_CHECK(!ret || (ret == -EFAULT && !moved));
}

static void evict_if_mapped(void)
{
	try_to(true);
}

static void bring_back_if_mapped(void)
{
	try_to(false);
}

static void is_gone(void)
{
	at_rest();
	X_CHECK(entry() == PG_PTE_HOLE && !mm.nr_vma);
}

X_SCENARIO(R95_migration_out_and_munmap,
	   .what = "an eviction, and munmap of the page", .nr = 2,
	   .setup = page_was_on_device, .body = {evict_if_mapped, unmap},
	   .check = is_gone);
X_SCENARIO(R95_migration_in_and_munmap,
	   .what = "a migration back, and munmap of the page", .nr = 2,
	   .setup = page_on_device, .body = {bring_back_if_mapped, unmap},
	   .check = is_gone);

/* ---- Entries that go under somebody's hands ---- */

/* The entry is dropped without mm.lock: only the page table's own keeps the
 * two apart. */
static void drop(void)
{
	pg_mm_remove(&mm, VA, 1);
	pg_soft_zap(mmu, VA, 1);
}

static void reads_as_zeros(void)
{
	uint8_t v;

	X_CHECK(pg_map_refs(dev.map) ==
		(pg_pte_state(entry()) == PG_PTE_DEVICE));
	v = get();
	X_CHECK(!v);
}

X_SCENARIO(N31_R95_migration_out_and_a_drop,
	   .what = "an eviction, and the page is dropped meanwhile", .nr = 2,
	   .setup = page_was_on_device, .body = {evict, drop},
	   .check = reads_as_zeros);
X_SCENARIO(N31_R95_migration_in_and_a_drop,
	   .what = "a migration back, and the page is dropped meanwhile",
	   .nr = 2, .setup = page_on_device, .body = {bring_back, drop},
	   .check = reads_as_zeros);

/* ---- Standby ---- */

static void to_standby(void)
{
	pg_read_lock(&mm.lock, LOCK_MM);
	pg_migrate_to_standby(&mm, VA);
	pg_read_unlock(&mm.lock, LOCK_MM);
}

static void settle(void)
{
	struct pg_settled s;

	pg_read_lock(&mm.lock, LOCK_MM);
	pg_migrate_standby_to_device(&mm, &s);
	pg_read_unlock(&mm.lock, LOCK_MM);
}

static void page_in_standby(void)
{
	page_was_on_device();
	to_standby();
	X_CHECK(pg_pte_state(entry()) == PG_PTE_STANDBY);
}

X_SCENARIO(R74_a_fault_and_a_store_from_standby,
	   .what = "a fault of a page in standby, and its turn to be stored",
	   .nr = 2, .setup = page_in_standby, .body = {fault_once, settle},
	   .check = holds_old);
X_SCENARIO(N14_a_store_and_the_way_to_standby,
	   .what = "a store to a page on its way to standby", .nr = 2,
	   .setup = page_was_on_device, .body = {set_new, to_standby},
	   .check = holds_new);
X_SCENARIO(N14_a_store_the_way_to_standby_and_its_end,
	   .what = "a store to a page that goes to standby and to the device",
	   .nr = 3, .setup = page_was_on_device,
	   .body = {set_new, to_standby, settle}, .check = holds_new);
X_SCENARIO(N12_two_faults_in_standby, .what = "two faults of a page in standby",
	   .nr = 2, .setup = page_in_standby, .body = {fault_once, fault_once},
	   .check = holds_old);
X_SCENARIO(N31_a_store_from_standby_and_a_drop,
	   .what = "a page in standby is stored, and dropped meanwhile",
	   .nr = 2, .setup = page_in_standby, .body = {settle, drop},
	   .check = reads_as_zeros);
X_SCENARIO(N31_the_way_to_standby_and_a_drop,
	   .what = "a page goes to standby, and is dropped meanwhile", .nr = 2,
	   .setup = page_was_on_device, .body = {to_standby, drop},
	   .check = reads_as_zeros);
/* ---- Memory that a system call uses ---- */

static struct pg_holds holds;
/* A bit for each thread that is in the kernel: its faults are not served. */
static pg_atomic32 in_kernel;

static bool fault_of_user(void *ctx, uintptr_t va, uint32_t flags)
{
	if (pg_load(&in_kernel, relaxed) & 1u << x_me())
		return false; /* EFAULT */
	return fault(ctx, va, flags);
}

static void with_holds(void)
{
	static const struct pg_soft_hooks hooks = {
		.fault = fault_of_user,
		.before = before,
	};

	memset(&holds, 0, sizeof(holds));
	pg_store(&in_kernel, 0, relaxed);
	X_CHECK(!pg_holds_init(&holds));
	mm.holds = &holds;
	pg_soft_hook(mmu, &hooks);
	x_ignore(&in_kernel, sizeof(in_kernel));
	x_name(&mm.vma_seq, sizeof(mm.vma_seq), "mm.vma_seq");
	x_name(&holds.high, sizeof(holds.high), "holds.high");
}

static void page_to_hold(void)
{
	page_was_on_device();
	with_holds();
}

static void page_away_to_hold(void)
{
	page_on_device();
	with_holds();
}

/* As the hook of a system call that writes to the page. */
static void write_by_a_call(void)
{
	uint32_t me = 1u << x_me();
	struct pg_hold h;

	pg_hold_init(&h);
	pg_hold_add(&h, VA, 1);
	X_CHECK(pg_hold_take(&holds, &h, x_me()));
	while (pg_hold_missing(&mm, &h) && pg_hold_bring(&mm, &h))
		pg_yield();
	pg_fetch_or(&in_kernel, me, relaxed);
	set(NEW);
	pg_fetch_and(&in_kernel, ~me, relaxed);
	pg_hold_drop(&holds, &h);
}

X_SCENARIO(a_call_and_an_eviction_of_what_it_uses,
	   .what = "a system call that uses a page, and its eviction", .nr = 2,
	   .setup = page_to_hold, .body = {write_by_a_call, evict},
	   .check = holds_new);
X_SCENARIO(a_call_with_a_page_that_is_away_and_an_eviction,
	   .what = "a system call that uses a page on the device, and an "
		   "eviction",
	   .nr = 2, .setup = page_away_to_hold,
	   .body = {write_by_a_call, evict}, .check = holds_new);

static void page_to_adopt(void)
{
	one_hole();
	unmap();
	pg_mmu_unwatch(mmu, VA, 1); /* munmap does */
	with_holds();
}

/* Then it leaves, as soon as it may. */
static void adopt_and_evict(void)
{
	X_CHECK(!pgmap_mm_adopt(&mm, (void *)VA, PG_PAGE_SIZE));
	evict_if_mapped();
}

static void new_is_there(void)
{
	X_CHECK(get() == NEW);
}

X_SCENARIO(a_call_and_the_adoption_of_what_it_uses,
	   .what = "a system call that uses a page, which becomes managed and "
		   "leaves",
	   .nr = 2, .setup = page_to_adopt,
	   .body = {write_by_a_call, adopt_and_evict}, .check = new_is_there);

/* ---- Large folios ---- */

/* Its only page is in a small one: there is nothing to break. */
static void break_large(void)
{
	pg_read_lock(&mm.lock, LOCK_MM);
	X_CHECK(!pg_migrate_break(&mm, mm.breaker, VA));
	pg_read_unlock(&mm.lock, LOCK_MM);
}

static void page_on_device_and_breaker(void)
{
	page_on_device();
	mm.breaker = pg_pool_get_empty(&mm.pool);
}

X_SCENARIO(R88_a_fault_and_a_look_for_large_folios,
	   .what = "a fault of a page whose block is searched for large folios",
	   .nr = 2, .setup = page_on_device_and_breaker,
	   .body = {fault_once, break_large}, .check = holds_old);
