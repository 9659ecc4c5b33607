/* SPDX-License-Identifier: BSD-3-Clause */
/* The shared range of a tree: slots, folding, sums, hostile contents. */
#include "test.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/sys.h"
#include "runtime/control.h"

static struct pg_control *control_new(void)
{
	struct pg_control *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(c != MAP_FAILED);
	c->magic = PG_CONTROL_MAGIC;
	c->version = PG_CONTROL_VERSION;
	c->struct_size = sizeof(*c);
	c->budget = 64 << 20;
	return c;
}

static void control_free(struct pg_control *c)
{
	munmap(c, sizeof(*c));
}

static struct pg_control_proc *claim(struct pg_control *c)
{
	struct pg_control_proc *p = NULL;

	CHECK_EQ(pg_control_claim(c, getpid(), &p), 0);
	return p;
}

/* A process that claims, publishes @st and ends without a word. */
static pid_t short_life(struct pg_control *c, const struct pgmap_stat *st)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct pg_control_proc *p;
		struct pgmap_left_alone left = {.stacks = 8192};

		if (pg_control_claim(c, getpid(), &p))
			_exit(1);
		pg_control_publish(p, st, &left);
		_exit(0);
	}
	return pid;
}

static void total(struct pg_control *c, struct pgmap_stat *st)
{
	st->size = sizeof(*st);
	pg_control_total(c, st, NULL);
}

TEST(a_slot_knows_whose_it_is_and_starts_at_zero)
{
	struct pg_control *c = control_new();
	struct pg_control_proc *p = claim(c);
	struct pgmap_stat st, zero = {.size = sizeof(zero)};

	CHECK_EQ(pg_load(&p->pid, relaxed), getpid());
	CHECK_EQ(pg_load(&p->start, relaxed), pg_control_start_time(getpid()));
	CHECK(pg_load(&p->start, relaxed) != 0);
	CHECK(p->comm[0] && memchr(p->comm, 0, sizeof(p->comm)));
	pg_control_snapshot(p, &st, NULL);
	assert_memory_equal(&st, &zero, sizeof(st));
	CHECK(pg_control_find(c, getpid()) == p);
	CHECK(pg_control_find(c, 1) == NULL);
	control_free(c);
}

TEST(a_dead_process_leaves_its_counters_and_not_its_levels)
{
	struct pg_control *c = control_new();
	struct pgmap_stat st = {.faults = 7,
				.present = 100,
				.away = 50,
				.peak_managed = 170,
				.fault_hist[3] = 7};
	struct pgmap_left_alone left;
	pid_t pid = short_life(c, &st);

	waitpid(pid, NULL, 0);
	CHECK(pg_control_reap(c));
	CHECK(!pg_control_reap(c));
	CHECK(pg_control_find(c, pid) == NULL);
	pg_control_total(c, &st, &left);
	CHECK_EQ(st.faults, 7);
	CHECK_EQ(st.fault_hist[3], 7);
	CHECK_EQ(st.present, 0);
	CHECK_EQ(st.away, 0);
	CHECK_EQ(st.peak_managed, 170);
	CHECK_EQ(st.budget, 64 << 20);
	CHECK_EQ(left.stacks, 8192);
	CHECK_EQ(pg_control_resident(c, NULL), 0);
	control_free(c);
}

TEST(a_living_process_is_not_folded)
{
	struct pg_control *c = control_new();
	struct pg_control_proc *p = claim(c);

	CHECK(!pg_control_reap(c));
	CHECK_EQ(pg_load(&p->pid, relaxed), getpid());
	control_free(c);
}

TEST(exec_continues_the_counters_of_the_process)
{
	struct pg_control *c = control_new();
	struct pg_control_proc *p = claim(c);
	struct pgmap_stat st = {.faults = 5, .present = 4096};

	pg_control_managed(c, p);
	pg_control_publish(p, &st, NULL);
	p = claim(c); /* as the program does after exec */
	CHECK_EQ(pg_load(&p->stat.faults, relaxed), 0);
	pg_control_managed(c, p);
	st.faults = 3;
	pg_control_publish(p, &st, NULL);
	total(c, &st);
	CHECK_EQ(st.faults, 8);
	CHECK_EQ(st.present, 4096);
	CHECK_EQ(pg_load(&c->nr_procs, relaxed), 1);
	CHECK_EQ(pg_load(&c->nr_managed, relaxed), 1);
	control_free(c);
}

TEST(a_pid_that_was_used_again_is_another_process)
{
	struct pg_control *c = control_new();
	struct pg_control_proc *p = claim(c);

	pg_store(&p->start, pg_load(&p->start, relaxed) - 1, relaxed);
	CHECK(pg_control_reap(c));
	CHECK_EQ(pg_load(&p->pid, relaxed), 0);
	p = claim(c);
	CHECK_EQ(pg_load(&c->nr_procs, relaxed), 2);
	/* A late fold of the earlier process does not hit the later one. */
	pg_control_fold(c, p, getpid(), pg_load(&p->start, relaxed) - 1);
	CHECK_EQ(pg_load(&p->pid, relaxed), getpid());
	control_free(c);
}

TEST(the_257th_process_is_told_and_a_dead_one_makes_room)
{
	struct pg_control *c = control_new();
	struct pg_control_proc *p;
	pid_t dead = fork();

	if (dead == 0)
		_exit(0);
	waitpid(dead, NULL, 0);
	pg_store(&c->high, PG_CONTROL_PROCS, relaxed);
	for (unsigned int i = 0; i < PG_CONTROL_PROCS; i++)
		pg_store(&c->procs[i].pid, 1, relaxed); /* alive */
	CHECK_EQ(pg_control_claim(c, getpid(), &p), -ENOSPC);
	pg_control_unmanaged(c, NULL, getpid(), "too many processes");
	pg_control_unmanaged(c, NULL, getpid(), "another reason");
	CHECK_EQ(pg_load(&c->nr_unmanaged, relaxed), 2);
	CHECK(strstr(c->unmanaged, "]: too many processes"));
	pg_store(&c->procs[200].pid, (uint32_t)dead, relaxed);
	CHECK_EQ(pg_control_claim(c, getpid(), &p), 0);
	CHECK(p == &c->procs[200]);
	control_free(c);
}

TEST(a_process_that_is_not_managed_takes_its_part_of_the_budget)
{
	struct pg_control *c = control_new();
	struct pg_control_proc *p = claim(c), *other = &c->procs[1];
	struct pgmap_stat st = {.present = 100, .pool = 10};

	pg_store(&other->pid, 1, relaxed);
	pg_store(&c->high, 2, relaxed);
	pg_store(&other->reach, 60 << 20, relaxed);
	CHECK_EQ(pg_control_reach(c, p), 60 << 20);
	CHECK_EQ(pg_control_resident(c, p), 0);
	CHECK_EQ(pg_control_share(c, p), c->budget);
	pg_store(&other->resident, c->budget / 2, relaxed);
	CHECK_EQ(pg_control_resident(c, p), c->budget / 2);
	CHECK_EQ(pg_control_share(c, p), c->budget / 2);
	/* It leaves something to the others, whatever it takes. */
	pg_store(&other->resident, c->budget * 2, relaxed);
	CHECK(pg_control_share(c, p) > 0);
	pg_control_sample(c);
	CHECK_EQ(pg_load(&c->peak_tree, relaxed), c->budget * 2);
	/* Managed, it counts by what it publishes. */
	pg_control_publish(other, &st, NULL);
	pg_control_managed(c, other);
	CHECK_EQ(pg_control_resident(c, p), 110);
	CHECK_EQ(pg_control_reach(c, p), 110);
	CHECK_EQ(pg_control_share(c, p), c->budget - 110);
	control_free(c);
}

TEST(peaks_are_of_the_sum_and_never_below_a_part)
{
	struct pg_control *c = control_new();
	struct pg_control_proc *p = claim(c);
	struct pgmap_stat st = {.present = 100, .pool = 10, .away = 5};

	pg_store(&c->procs[1].pid, 1, relaxed);
	pg_store(&c->high, 2, relaxed);
	pg_store(&p->state, PG_CONTROL_MANAGED, relaxed);
	pg_store(&c->procs[1].state, PG_CONTROL_MANAGED, relaxed);
	pg_control_publish(p, &st, NULL);
	pg_control_publish(&c->procs[1], &st, NULL);
	CHECK_EQ(pg_control_sample(c), 210);
	CHECK_EQ(pg_control_resident(c, p), 110);
	CHECK_EQ(pg_control_resident(c, NULL), 220);
	st.present = 1;
	st.peak_away = 400; /* between two samples */
	pg_control_publish(p, &st, NULL);
	total(c, &st);
	CHECK_EQ(st.peak_resident, 220);
	CHECK_EQ(st.peak_managed, 210);
	CHECK_EQ(st.peak_away, 400);
	CHECK_EQ(st.present, 101);
	control_free(c);
}

TEST(a_folder_that_died_half_way_is_replaced)
{
	struct pg_control *c = control_new();
	struct pgmap_stat st = {.faults = 9};
	pid_t dead = short_life(c, &st);

	waitpid(dead, NULL, 0);
	/* It had taken the lock and moved one counter. */
	pg_store(&c->folder, (uint32_t)dead, relaxed);
	pg_store(&c->fold_seq, 1, relaxed);
	pg_store(&c->ended.stat.faults,
		 pg_xchg(&pg_control_find(c, dead)->stat.faults, 0, relaxed),
		 relaxed);
	CHECK(pg_control_reap(c));
	total(c, &st);
	CHECK_EQ(st.faults, 9);
	CHECK_EQ(pg_load(&c->folder, relaxed), 0);
	CHECK_EQ(pg_load(&c->fold_seq, relaxed) & 1, 0);
	control_free(c);
}

TEST(many_processes_that_come_and_go_lose_no_event)
{
	struct pg_control *c = control_new();
	struct pgmap_stat st = {.faults = 3, .evictions = 2};
	struct pgmap_stat seen = {0}, now;
	int status, failed = 0;

	/* Six at a time; each takes a slot, so each folds dead ones or finds
	 * room. A reader meanwhile never sees a total shrink. */
	for (int round = 0; round < 60; round++) {
		for (int i = 0; i < 6; i++)
			short_life(c, &st);
		for (int i = 0; i < 6; i++) {
			pg_control_reap(c);
			total(c, &now);
			CHECK(now.faults >= seen.faults);
			seen = now;
			waitpid(-1, &status, 0);
			failed += status != 0;
		}
	}
	pg_control_reap(c);
	total(c, &now);
	CHECK_EQ(failed, 0);
	CHECK_EQ(now.faults, 360 * 3);
	CHECK_EQ(now.evictions, 360 * 2);
	CHECK_EQ(pg_load(&c->nr_procs, relaxed), 360);
	control_free(c);
}

TEST(a_total_never_shrinks_while_a_slot_is_folded)
{
	struct pg_control *c = control_new();
	struct pgmap_stat st = {.faults = 1, .retries = 1}, now;
	uint64_t faults = 0, retries = 0;
	pid_t pid = fork();
	int shrunk = 0;

	if (pid == 0) {
		struct pg_control_proc *p;

		for (int i = 0; i < 3000; i++) { /* as by exec */
			if (pg_control_claim(c, getpid(), &p))
				_exit(1);
			pg_control_publish(p, &st, NULL);
		}
		_exit(0);
	}
	while (waitpid(pid, NULL, WNOHANG) == 0) {
		total(c, &now);
		shrunk += now.faults < faults || now.retries < retries;
		faults = now.faults;
		retries = now.retries;
	}
	total(c, &now);
	CHECK_EQ(shrunk, 0);
	CHECK_EQ(now.faults, 3000);
	CHECK_EQ(now.retries, 3000);
	control_free(c);
}

TEST(readers_stay_inside_whatever_the_range_holds)
{
	struct pg_control *c = control_new();
	uint64_t seed = test_seed(), *words = (uint64_t *)c;
	struct pgmap_left_alone left;
	struct pgmap_stat st;
	time_t begin = time(NULL);

	for (int round = 0; round < 20; round++) {
		for (size_t i = 0; i < sizeof(*c) / sizeof(*words); i++)
			words[i] = test_random(&seed);
		pg_control_total(c, &st, &left);
		CHECK_EQ(st.size, sizeof(st));
		pg_control_resident(c, NULL);
		pg_control_sample(c);
		pg_control_find(c, (int)test_random(&seed));
	}
	CHECK(time(NULL) - begin < 20);
	control_free(c);
}

TEST(joining_a_parent_that_is_gone_or_stuck_ends_in_time)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct pg_control *c = NULL;
	char name[PG_CONTROL_NAME_MAX];
	int len = snprintf(name, sizeof(name), "pgmap-test-%d", getpid());
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	uint64_t begin = pg_now_ns(), ms;

	CHECK_EQ(pg_control_join(name, (size_t)len, &c), -ECONNREFUSED);
	CHECK_EQ(pg_control_join(name, 0, &c), -EINVAL);
	CHECK_EQ(pg_control_join(name, PG_CONTROL_NAME_MAX, &c), -EINVAL);
	CHECK(pg_now_ns() - begin < 500000000u);
	memcpy(addr.sun_path + 1, name, (size_t)len);
	CHECK_EQ(bind(fd, (const struct sockaddr *)&addr,
		      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
				  (size_t)len)),
		 0);
	CHECK_EQ(listen(fd, 4), 0);
	begin = pg_now_ns();
	CHECK_EQ(pg_control_join(name, (size_t)len, &c), -ETIMEDOUT);
	ms = (pg_now_ns() - begin) / 1000000u;
	CHECK(ms >= 1500 && ms < 4000);
	CHECK(c == NULL);
	close(fd);
}

TEST_MAIN()
