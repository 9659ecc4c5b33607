/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * self.h - programs that are made up by a random number.
 */
#ifndef SELF_H
#define SELF_H

#include "explore/explore.h"

/** x_self_generate() - What x_generated does from now on. @spin: it waits in
 * pg_yield(), too: then how often it does is part of x_graph(), and only what
 * came out in the end can be compared. */
void x_self_generate(uint64_t seed, bool spin);
/** x_self_outcome() - What came out in the end. */
uint64_t x_self_outcome(void);
extern struct x_scenario x_generated[2];

#endif
