/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * group.h - memory groups: who pays for pages, RAM and device alike.
 *
 * A group is a place in a fixed table, so a folio names it by a small number.
 * Its state, its use and its being used are one word, so a charge can neither
 * pass the limit nor meet a group that goes.
 */
#ifndef PG_GROUP_H
#define PG_GROUP_H

#include <pgmap/pgmap.h>

#define PG_NR_GROUPS 1024u

/** pg_group_release() - The folio is being freed: nobody pays for it any more
 * (R38 c). Context: its count is 0. */
void pg_group_release(struct pgmap_folio *folio);

#endif
