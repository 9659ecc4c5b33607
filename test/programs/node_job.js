// SPDX-License-Identifier: BSD-3-Clause
// The program that node.py runs: a heap of 300 MB of objects, strings and
// maps; look things up, replace a part, and print a checksum of all of it.
'use strict';
const count = Number(process.argv[2]);
const rows = [];
const index = new Map();
for (let i = 0; i < count; i++) {
  const row = {id: i, name: 'row-' + i * 7 + '-' + (i * 7919) % 10007,
               values: [i, i / 3, i * i % 65537, -i], next: null};
  if (i > 0)
    rows[i - 1].next = row;
  rows.push(row);
  if (i % 4 === 0)
    index.set(row.name, row);
}
console.log(rows.length, index.size);

let x = 1, found = 0;
for (let k = 0; k < 20000; k++) {
  x = (x * 48271) % 2147483647;
  const row = rows[x % count];
  found = (found + row.values[2] + row.name.length) % 1000000007;
  row.values[3] ^= k;
}
console.log(found);

for (let i = 0; i < count; i += 10)
  rows[i].values = rows[i].values.map((v) => v + 1);
let sum = 0, length = 0;
for (let row = rows[0]; row; row = row.next) {
  sum = (sum * 31 + row.values[0] + row.values[2] + row.values[3]) | 0;
  length += row.name.length;
}
let hits = 0;
for (const [name, row] of index)
  hits += name === row.name ? 1 : 0;
const copy = Buffer.alloc(count * 8);
rows.forEach((row, i) => copy.writeDoubleLE(row.values[1], i * 8));
console.log(sum, length, hits,
            require('crypto').createHash('sha256').update(copy).digest('hex'));
