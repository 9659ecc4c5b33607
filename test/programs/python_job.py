# SPDX-License-Identifier: BSD-3-Clause
"""The program that python.py runs: build a dict and lists of 300 MB, look
things up, change some, and print a checksum of everything at the end."""
import gc
import sys
import zlib

count = int(sys.argv[1])
# Nothing here is cyclic, and each collection would walk the whole heap.
gc.disable()
table, log = {}, []
for i in range(count):
    key = "key-%08d" % i
    table[key] = [i, key[::-1] + "/" + str(i * 2654435761 % 1000003),
                  {"parity": i & 1, "tags": ("t%d" % (i % 97), i % 1009)}]
    if i % 3 == 0:
        log.append((i, key))
print(len(table), len(log))

x = 12345
found = 0
for _ in range(5000):
    x = (x * 6364136223846793005 + 1442695040888963407) % (1 << 64)
    row = table["key-%08d" % ((x >> 33) % count)]
    found += row[0] + row[2]["tags"][1]
    row[2]["parity"] += 2
print(found)

for i, key in log[::50]:
    assert table[key][0] == i
    del table[key]
total = 0
for key, (i, text, more) in table.items():
    assert key == "key-%08d" % i
    total = zlib.crc32(text.encode(), total ^ more["parity"])
print(len(table), total)
