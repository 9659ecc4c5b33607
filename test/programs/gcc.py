#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""gcc compiles a large generated file; the object is the same."""
import random

from harness import cached, compare, need, scaled

FUNCTION = """
static int f{i}(struct rec *r, int n)
{{
	int sum = {a};

	for (int k = 0; k < n; k++) {{
		switch ((r[k].kind + {b}) & 7) {{
		case {c}: sum += r[k].value * {d}; break;
		case {e}: sum ^= r[k].value + f{p}(r, k & 3); break;
		default: r[k].name[{g}] = (char)(sum >> {h}); sum -= k;
		}}
		if (sum > {a}000 && r[k].name[{c}] != {d})
			sum = g(sum, "message {i} of {b}", r + k);
	}}
	return sum + table{t}[sum & 15];
}}
"""


def source(f):
    rnd = random.Random(7)
    lines = ["struct rec { int kind, value; char name[24]; };",
             "int g(int, const char *, struct rec *);",
             "static int f0(struct rec *r, int n) { return r->kind + n; }"]
    for i in range(1, scaled(3300)):
        if i % 10 == 1:
            lines.append("static const int table%d[16] = {%s};" % (
                i // 10, ", ".join(str(rnd.getrandbits(30))
                                   for _ in range(16))))
        c, e = rnd.sample(range(7), 2)
        lines.append(FUNCTION.format(
            i=i, a=rnd.randint(1, 99), b=rnd.randint(0, 7), c=c, e=e,
            d=rnd.randint(2, 90), p=i - 1, g=rnd.randint(0, 23),
            h=rnd.randint(0, 20), t=(i - 1) // 10))
        if i % 20 == 0:
            lines.append(f"int api{i}(struct rec *r) "
                         f"{{ return f{i}(r, {i}); }}")
    f.write("\n".join(lines).encode())


need("gcc")
compare(["gcc", "-w", "-O1", "-c", "-o", "big.o", cached("big.c", source)],
        files=["big.o"])
