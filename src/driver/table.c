/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * table.c - the drivers of this build, from the list in meson.build.
 *
 * PG_DRIVERS is X(file) X(lz4) ... A driver whose library was missing when
 * pgmap was built is not in it; one whose kernel support or library is missing
 * now is, and its open says -ENODEV.
 */
#include "driver/driver.h"

#include <string.h>

/* clang-format off */
#define X(name) extern const struct pgmap_device_ops pgmap_##name##_ops;
PG_DRIVERS
#undef X
static const struct pgmap_device_ops *const drivers[] = {
#define X(name) &pgmap_##name##_ops,
	PG_DRIVERS
#undef X
	NULL,
};
/* clang-format on */

const struct pgmap_device_ops *
pg_driver_next(const struct pgmap_device_ops *prev)
{
	size_t i = 0;

	while (prev && drivers[i] && drivers[i++] != prev)
		;
	return drivers[i];
}

const struct pgmap_device_ops *pg_driver_find(const char *name)
{
	const struct pgmap_device_ops *ops = NULL;

	while ((ops = pg_driver_next(ops)))
		if (!strcmp(ops->name, name))
			break;
	return ops;
}
