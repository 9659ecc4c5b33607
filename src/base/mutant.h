/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mutant.h - old mistakes that can be put back, to see that a test notices.
 *
 * pg_mutant("name") is false, and costs nothing, in every build but the one
 * for mutation tests, where PGMAP_MUTATE=name makes it true. The list of
 * mutants and of the tests that must notice is test/mutations.txt.
 */
#ifndef PG_MUTANT_H
#define PG_MUTANT_H

#ifdef PG_MUTATION
#include <stdbool.h>

bool pg_mutant(const char *name);
#else
#define pg_mutant(name) 0
#endif

#endif
