// SPDX-License-Identifier: BSD-3-Clause
// The program that java.py runs: a heap of 300 MB of objects, strings and a
// map; look things up, replace a part, and print a checksum of all of it.
import java.util.ArrayList;
import java.util.HashMap;

public class JavaJob {
	static class Row {
		final int id;
		final String name;
		long[] values;
		Row next;

		Row(int id)
		{
			this.id = id;
			name = "row-" + id * 7L + "-" + id * 7919L % 10007;
			values = new long[] {id, id / 3, (long)id * id, -id};
		}
	}

	public static void main(String[] args) throws Exception
	{
		int count = Integer.parseInt(args[0]);
		ArrayList<Row> rows = new ArrayList<>();
		HashMap<String, Row> index = new HashMap<>();

		for (int i = 0; i < count; i++) {
			Row row = new Row(i);
			if (i > 0)
				rows.get(i - 1).next = row;
			rows.add(row);
			if (i % 4 == 0)
				index.put(row.name, row);
		}
		System.out.println(rows.size() + " " + index.size());

		long x = 1, found = 0;
		for (int k = 0; k < 20000; k++) {
			x = x * 48271 % 2147483647;
			Row row = rows.get((int)(x % count));
			found += row.values[2] + row.name.length();
			row.values[3] ^= k;
		}
		System.out.println(found);

		for (int i = 0; i < count; i += 10)
			rows.get(i).values = rows.get(i).values.clone();
		Thread[] sums = new Thread[2];
		long[] sum = new long[2];
		for (int t = 0; t < 2; t++) {
			final int first = t;
			sums[t] = new Thread(() -> {
				for (int i = first; i < count; i += 2) {
					Row row = rows.get(i);
					sum[first] = sum[first] * 31 +
						row.values[2] + row.values[3] +
						row.name.hashCode();
				}
			});
			sums[t].start();
		}
		for (Thread t : sums)
			t.join();
		int hits = 0, length = 0;
		for (Row row = rows.get(0); row != null; row = row.next) {
			length += row.values.length;
			hits += index.get(row.name) == row ? 1 : 0;
		}
		System.out.println(sum[0] + " " + sum[1] + " " + length + " " +
				   hits);
	}
}
