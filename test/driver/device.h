/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device.h - what the tests of drivers share: opening the one under test, and
 * pages whose contents can be told from each other.
 */
#ifndef TEST_DRIVER_DEVICE_H
#define TEST_DRIVER_DEVICE_H

#include <errno.h>
#include <sys/mman.h>

#include "driver/driver.h"
#include "test.h"

#define PAGE 4096u

/* struct dev - An open device. */
struct dev {
	const struct pgmap_device_ops *ops;
	void *priv;
	uint64_t nr_slots;
	char error[200];
};

/* The driver under test, PGMAP_TEST_DEVICE, or @fallback. */
static inline const struct pgmap_device_ops *test_driver(const char *fallback)
{
	const char *name = getenv("PGMAP_TEST_DEVICE");

	return pg_driver_find(name ? name : fallback);
}

static inline int dev_open(struct dev *dev, const struct pgmap_device_ops *ops,
			   const char *options, uint64_t nr_slots)
{
	struct pgmap_device_args args = {
		.options = options,
		.nr_slots = nr_slots,
		.error = dev->error,
		.error_len = sizeof(dev->error),
	};
	int ret;

	memset(dev, 0, sizeof(*dev));
	dev->ops = ops;
	ret = ops->open(&args, &dev->priv);
	dev->nr_slots = args.nr_slots;
	if (ret)
		printf("# %s: %d, %s\n", ops->name, ret, dev->error);
	return ret;
}

static inline void dev_close(struct dev *dev)
{
	dev->ops->close(dev->priv);
}

static inline int dev_store(struct dev *dev, uint64_t slot, uint32_t nr,
			    void *buf)
{
	struct pgmap_io io = {.slot = slot, .nr = nr, .status = 1, .buf = buf};
	int ret = dev->ops->store(dev->priv, &io, 1);

	return ret == io.status ? ret : -EPROTO;
}

static inline int dev_load(struct dev *dev, uint64_t slot, uint32_t nr,
			   void *buf)
{
	struct pgmap_io io = {.slot = slot, .nr = nr, .status = 1, .buf = buf};
	int ret = dev->ops->load(dev->priv, &io, 1);

	return ret == io.status ? ret : -EPROTO;
}

static inline void dev_discard(struct dev *dev, uint64_t slot, uint64_t nr)
{
	dev->ops->discard(dev->priv, slot, nr);
}

static inline struct pgmap_device_usage dev_usage(struct dev *dev)
{
	struct pgmap_device_usage u = {0};

	dev->ops->usage(dev->priv, &u);
	return u;
}

/* @nr pages of page-aligned memory, with a page behind them that must not be
 * touched. Not freed. */
static inline void *pages_new(size_t nr)
{
	char *p = mmap(NULL, (nr + 1) * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	mprotect(p + nr * PAGE, PAGE, PROT_NONE);
	return p;
}

/* Kinds of contents. */
enum contents { ZEROS, SAME_WORD, TEXT, NOISE, MIXED, CONTENTS_NR };

static inline void fill_page(uint64_t *p, enum contents kind, uint64_t *seed)
{
	const char *words[] = {"page ", "folio ", "slot ", "device "};
	uint64_t word = test_random(seed);
	char *text = (char *)p;

	switch (kind) {
	case ZEROS:
		memset(p, 0, PAGE);
		break;
	case SAME_WORD:
		for (size_t i = 0; i < PAGE / 8; i++)
			p[i] = word;
		break;
	case TEXT:
		for (size_t i = 0; i + 8 <= PAGE; i += strlen(text + i))
			strcpy(text + i, words[test_random(seed) % 4]);
		memcpy(text + PAGE - 8, &word, 8);
		break;
	default:
		for (size_t i = 0; i < PAGE / 8; i++)
			p[i] = test_random(seed);
	}
}

/* Fill @nr pages at @buf. SAME_WORD is one word for all of them. */
static inline void fill_pages(void *buf, size_t nr, enum contents kind,
			      uint64_t *seed)
{
	uint64_t *p = buf, same = *seed;

	for (size_t i = 0; i < nr; i++, p += PAGE / 8) {
		if (kind == SAME_WORD)
			*seed = same;
		fill_page(p,
			  kind == MIXED
				  ? (enum contents)(test_random(seed) % MIXED)
				  : kind,
			  seed);
	}
}

#endif
