#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""sqlite3 keeps a database of 300 MB in memory: load, index, search, change.

The rows are made by the database itself, by arithmetic.
"""
from harness import cached, compare, need, scaled

SQL = """
PRAGMA temp_store = memory;
CREATE TABLE item(id INTEGER PRIMARY KEY, shelf INT, name TEXT, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})
INSERT INTO item SELECT i, (i * 7919) % 5003,
  printf('item-%08d-%05d', i, (i * 104729) % 99991),
  printf('%0200d', i * 31) || substr('abcdefghijklmnopqrstuvwxyz', i % 20, 7)
  FROM n;
SELECT count(*), sum(shelf), sum(length(note)) FROM item;
CREATE INDEX by_shelf ON item(shelf);
SELECT count(*), sum(id) FROM item WHERE shelf BETWEEN 100 AND 110;
WITH RECURSIVE n(i, x) AS (SELECT 1, 1 UNION ALL
  SELECT i + 1, (x * 48271) % 2147483647 FROM n WHERE i < 5000)
SELECT count(*), sum(shelf), max(name) FROM n JOIN item ON id = 1 + x % {n};
SELECT count(*) FROM item WHERE note LIKE '%77777%xyz%';
UPDATE item SET note = note || '+' WHERE id % 10 = 3;
DELETE FROM item WHERE id BETWEEN {n} / 3 AND {n} / 2;
SELECT shelf / 500, count(*), sum(length(note)), min(name) FROM item
  GROUP BY 1 ORDER BY 1;
PRAGMA integrity_check;
SELECT id, name, note FROM item WHERE id % 50 = 0 ORDER BY id;
"""

need("sqlite3")
compare(["sqlite3", "-batch", ":memory:"], stdin=cached(
    "sqlite.sql", lambda f: f.write(SQL.format(n=scaled(620000)).encode())))
