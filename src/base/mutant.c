/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/mutant.h"

#ifdef PG_MUTATION
#include <stdlib.h>
#include <string.h>

bool pg_mutant(const char *name)
{
	static const char *chosen;

	/* Two threads may both look; they find the same. */
	if (!chosen)
		chosen = getenv("PGMAP_MUTATE");
	if (!chosen)
		chosen = "";
	return !strcmp(chosen, name);
}
#endif
