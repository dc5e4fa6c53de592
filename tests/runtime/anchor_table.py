#!/usr/bin/env python3
"""Kernel-only times of the rows of an anchor file, through the C API, beside the file's times.

    anchor_table.py LIBKILN ANCHORS.json [--layouts NAME ...] [--m M ...] [--sfa row|m] [--repeat R]
                    [--tile TILE] [--labels] [--ragged] [--casts]

Needs a Hopper GPU and PyTorch, whose profiler times the kernels. The operands are random normal values
cast by kiln_quantize; an 8 GB memset before every launch flushes L2; times are medians. Each result
is compared with a float32 product, group by group, before its time counts.

Group sizes are drawn uniformly from 0.7 to 1.3 of the row's mean with fixed seeds. Contiguous and
k_grouped: the first draw whose sizes, rounded up to 128, sum up to the row's total. Masked: the mean
of eight draws. --ragged also times contiguous groups with no padding between them (alignment 1), which
have the same valid rows. --casts adds the bandwidth of kiln_quantize, counting bytes read and written.
"""
import argparse
import collections
import ctypes
import json
import math
import random
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

import kiln_torch as kt

LAYOUTS = ["dense", "dense_1d1d", "contiguous", "masked", "k_grouped"]
SFA = {"m": kt.M_MAJOR, "row": kt.ROW}


def layout_of(row):
    return "dense_1d1d" if row["layout"] == "dense" and row["scaling"] == "1d1d" else row["layout"]


def round_up(value, unit):
    return math.ceil(value / unit) * unit


# ---- group sizes ----

def draw(groups, mean, seed):
    source = random.Random(seed)
    return [int(mean * source.uniform(0.7, 1.3)) for _ in range(groups)]


def draw_padded(groups, mean, total):
    """Sizes that sum up to total when each is rounded up to 128."""
    for seed in range(10_000_000):
        sizes = draw(groups, mean, seed)
        if sum(round_up(size, 128) for size in sizes) == total:
            return sizes
    raise ValueError(f"no draw of {groups} sizes around {mean} has the total {total}")


def int32(values):
    return torch.tensor(values, dtype=torch.int32, device="cuda")


# ---- one case of each layout ----

class Case:
    """One launch. describe() gives its problem, make() allocates and gives its operands, check() compares D."""

    def __init__(self, row, sfa):
        self.row, self.n, self.k, self.sfa = row, row["n"], row["k"], SFA[sfa]
        self.m = row.get("m")
        self.prepare_m = self.m
        self.seed = 0

    def problem(self, **values):
        is_f32 = self.row["out"] == "f32"
        return kt.Problem(n=self.n, k=self.k, d_type=kt.F32 if is_f32 else kt.BF16, sfa_major=self.sfa,
                          accumulate=int(self.row["accumulate"]), **{"groups": 1, **values})

    def random(self, *shape):
        self.seed += 1
        torch.manual_seed(self.seed)
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    def output(self, *shape):
        """NaN, or what is accumulated into; `before` keeps it."""
        kind = torch.float32 if self.row["out"] == "f32" else torch.bfloat16
        self.d = torch.full(shape, float("nan"), device="cuda", dtype=kind)
        self.before = None
        if self.row["accumulate"]:
            self.d.normal_()
            self.before = self.d.clone()

    def operands(self, **values):
        a, b = self.a, self.b
        return kt.Operands(m=self.m, a=a.values.data_ptr(), lda=a.values.stride(0), b=b.values.data_ptr(),
                           ldb=b.values.stride(0), sfa=a.scales.data_ptr(), ld_sfa=a.scales.stride(0),
                           sfb=b.scales.data_ptr(), ld_sfb=b.scales.stride(0), d=self.d.data_ptr(),
                           ldd=self.d.stride(-2), **{"k": -1, **values})

    def compare(self, reference, d, before=None):
        error = kt.difference(reference if before is None else reference + before, d)
        if not error < 1e-3:
            sys.exit(f"{self.row}: wrong result, difference {error}")


class Dense(Case):
    def describe(self):
        return self.problem()

    def make(self, kiln):
        self.a = kiln.cast(self.random(self.m, self.k), kt.PER_ROW, self.sfa)
        self.b = kiln.cast(self.random(self.n, self.k), kt.PER_SQUARE, kt.ROW)
        self.output(self.m, self.n)
        return self.operands()

    def check(self):
        reference = self.a.dequantised(slice(0, self.m)) @ self.b.dequantised(slice(0, self.n)).t()
        self.compare(reference, self.d, self.before)


class Dense1d1d(Dense):
    def describe(self):
        return self.problem(scaling=kt.SCALING_1D1D)

    def make(self, kiln):
        self.a = kiln.cast(self.random(self.m, self.k), kt.PER_ROW, kt.M_MAJOR)
        self.b = kiln.cast(self.random(self.n, self.k), kt.PER_ROW, kt.M_MAJOR)
        self.output(self.m, self.n)
        return self.operands(k=self.k)


class Contiguous(Case):
    def __init__(self, row, sfa, alignment=128, labels=False):
        super().__init__(row, sfa)
        self.alignment, self.labels = alignment, labels
        sizes = draw_padded(row["groups"], row["expected_m"], row["m"])
        self.ranges, end = [], 0
        for size in sizes:
            begin = round_up(end, alignment)
            end = begin + size
            self.ranges.append((begin, end))
        self.m = row["m"] if alignment > 1 else end
        self.prepare_m = self.m

    def describe(self):
        return self.problem(layout=kt.CONTIGUOUS, group_form=kt.LABELS if self.labels else kt.ENDS,
                            groups=len(self.ranges), alignment=self.alignment)

    def make(self, kiln):
        groups = len(self.ranges)
        self.a = kiln.cast(self.random(self.m, self.k), kt.PER_ROW, self.sfa)
        self.b = kiln.cast(self.random(groups * self.n, self.k), kt.PER_SQUARE, kt.ROW)
        self.output(self.m, self.n)
        self.grouping = self.row_labels() if self.labels else int32([end for _, end in self.ranges])
        return self.operands(grouping=self.grouping.data_ptr())

    def row_labels(self):
        """The group of each row, -1 for padding."""
        labels = torch.full((self.m,), -1, dtype=torch.int32, device="cuda")
        for group, (begin, end) in enumerate(self.ranges):
            labels[begin:end] = group
        return labels

    def check(self):
        for group, (begin, end) in enumerate(self.ranges):
            a = self.a.dequantised(slice(begin, end))
            b = self.b.dequantised(slice(group * self.n, (group + 1) * self.n))
            self.compare(a @ b.t(), self.d[begin:end])


class Masked(Case):
    def __init__(self, row, sfa, seed):
        super().__init__(row, sfa)
        self.m, self.expected_m = row["max_m"], int(1.2 * row["expected_m"])
        self.prepare_m = self.expected_m
        self.rows = draw(row["groups"], row["expected_m"], seed)

    def describe(self):
        return self.problem(layout=kt.MASKED, group_form=kt.ROWS, groups=len(self.rows))

    def make(self, kiln):
        groups = len(self.rows)
        self.a = kiln.cast(self.random(groups * self.m, self.k), kt.PER_ROW, self.sfa)
        if self.sfa == kt.M_MAJOR:  # from [blocks, groups * m] to a slice for each group
            blocks = self.a.scales.shape[0]
            self.a.scales = self.a.scales.view(blocks, groups, self.m).transpose(0, 1).reshape(-1, self.m)
        self.b = kiln.cast(self.random(groups * self.n, self.k), kt.PER_SQUARE, kt.ROW)
        self.output(groups, self.m, self.n)
        return self.redraw(self.rows)

    def redraw(self, rows):
        self.rows, self.grouping = rows, int32(rows)
        return self.operands(grouping=self.grouping.data_ptr(), expected_m=self.expected_m)

    def slice_of_a(self, group):
        values = self.a.values.view(len(self.rows), self.m, self.k)[group]
        scales = self.a.scales.view(len(self.rows), -1, self.a.scales.shape[1])[group]
        return kt.Matrix(values, scales, kt.PER_ROW, self.sfa)

    def check(self):
        for group, rows in enumerate(self.rows):
            a = self.slice_of_a(group).dequantised(slice(0, rows))
            b = self.b.dequantised(slice(group * self.n, (group + 1) * self.n))
            self.compare(a @ b.t(), self.d[group, :rows])


class KGrouped(Case):
    def __init__(self, row, sfa):
        super().__init__(row, sfa)
        sizes = draw_padded(row["groups"], row["expected_k"], row["k"])
        self.sizes = [round_up(size, 128) for size in sizes]

    def describe(self):
        problem = self.problem(layout=kt.GROUPED_K, scaling=kt.SCALING_1D1D, group_form=kt.ENDS,
                               groups=len(self.sizes))
        problem.k = self.row["expected_k"]
        return problem

    def make(self, kiln):
        self.a = kiln.cast(self.random(self.m, self.k), kt.PER_ROW, kt.M_MAJOR)
        self.b = kiln.cast(self.random(self.n, self.k), kt.PER_ROW, kt.M_MAJOR)
        self.output(len(self.sizes), self.m, self.n)
        self.ends = [sum(self.sizes[: group + 1]) for group in range(len(self.sizes))]
        self.grouping = int32(self.ends)
        return self.operands(k=self.k, grouping=self.grouping.data_ptr())

    def check(self):
        for group, end in enumerate(self.ends):
            k = slice(end - self.sizes[group], end)
            a, b = self.a.dequantised(slice(0, self.m), k), self.b.dequantised(slice(0, self.n), k)
            self.compare(a @ b.t(), self.d[group], self.before[group] if self.before is not None else None)


# ---- timing ----

MASKED_DRAWS = 8  # one draw may be 5 % off the mean


def each_draw(case, kiln, draws=MASKED_DRAWS):
    """The case's operands; of masked groups one after the other for each draw of their sizes."""
    yield case.make(kiln)
    for seed in range(1, draws if isinstance(case, Masked) else 1):
        case.d.fill_(float("nan"))
        yield case.redraw(draw(len(case.rows), case.row["expected_m"], seed))


class Bench:
    def __init__(self, kiln, repeat, tile):
        self.kiln, self.repeat, self.tile = kiln, repeat, tile
        self.flush = torch.empty(8 << 30, dtype=torch.uint8, device="cuda")
        self.plans = {}

    def prepare(self, cases):
        """Compiles the kernels of all cases at once, on all cores."""
        for case in cases:
            self.plans[case] = self.kiln.plan(case.describe(), self.tile)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda case: self.kiln.prepare(self.plans[case], case.prepare_m), cases))

    def time(self, case):
        """Median microseconds; frees the operands."""
        plan, times = self.plans[case], []
        for operands in each_draw(case, self.kiln):
            self.kiln.launch(plan, operands)
            case.check()
            samples = kt.kernel_times(lambda: self.kiln.launch(plan, operands), self.repeat, self.flush, "kiln_")
            times.append(statistics.median(samples))
        for name in ("a", "b", "d", "before", "grouping"):
            setattr(case, name, None)
        self.kiln.library.kiln_plan_destroy(plan)
        torch.cuda.empty_cache()
        return statistics.mean(times)


def make_case(row, sfa, labels):
    layout = layout_of(row)
    if layout == "contiguous":
        return Contiguous(row, sfa, labels=labels)
    if layout == "masked":
        return Masked(row, sfa, seed=0)
    return {"dense": Dense, "dense_1d1d": Dense1d1d, "k_grouped": KGrouped}[layout](row, sfa)


def title(layout, sfas):
    shape = {"dense": "    m", "dense_1d1d": "    m", "contiguous": "groups     m", "masked": "groups  mean",
             "k_grouped": "groups     m"}[layout]
    return (f"\n{layout}\n{shape}      n      k    peer   limit"
            + "".join(f" | sfa={s:3}   us peer/us limit/us" for s in sfas))


def rows_of(row):
    """M, or the mean of masked groups."""
    return row["expected_m"] if row["layout"] == "masked" else row["m"]


def name_of(row):
    groups = "" if row["layout"] == "dense" else f"{row['groups']:6}"
    return f"{groups}{rows_of(row):{5 if groups == '' else 6}} {row['n']:6} {row['k']:6}"


def mean_text(values):
    return f"{math.exp(statistics.mean(map(math.log, values))):.3f} (lowest {min(values):.3f})"


def print_table(bench, layout, rows, sfas, arguments):
    cases = {(index, sfa): make_case(row, sfa, arguments.labels) for index, row in enumerate(rows) for sfa in sfas}
    bench.prepare(list(cases.values()))
    ratios = collections.defaultdict(list)
    print(title(layout, sfas))
    for index, row in enumerate(rows):
        text = f"{name_of(row)} {row['peer_us']:7.1f} {row['limit_us']:7.1f}"
        for sfa in sfas:
            us = bench.time(cases[index, sfa])
            to_peer, to_limit = row["peer_us"] / us, row["limit_us"] / us
            kind = f"{layout} M={row['m']}" if layout == "dense" else layout
            for key in {layout, kind}:
                ratios[key, sfa].append((to_peer, to_limit))
            text += f" | {us:12.1f} {to_peer:7.3f} {to_limit:8.3f}"
        print(text, flush=True)
    for (kind, sfa), values in sorted(ratios.items()):
        peer, limit = zip(*values)
        print(f"geometric means, {kind}, sfa={sfa}: peer/us {mean_text(peer)}, limit/us {mean_text(limit)}")


def print_ragged(bench, rows, sfas):
    """Groups without padding beside the same valid rows padded to 128, measured one after the other."""
    cases = {(index, sfa, alignment): Contiguous(row, sfa, alignment)
             for index, row in enumerate(rows) for sfa in sfas for alignment in (128, 1)}
    bench.prepare(list(cases.values()))
    print("\ncontiguous, alignment 1 beside 128\ngroups     m      n      k"
          + "".join(f" | sfa={s:3}  128 us    1 us   1/128" for s in sfas))
    ratios = collections.defaultdict(list)
    for index, row in enumerate(rows):
        text = name_of(row)
        for sfa in sfas:
            padded, ragged = (bench.time(cases[index, sfa, alignment]) for alignment in (128, 1))
            ratios[sfa].append(ragged / padded)
            text += f" | {padded:15.1f} {ragged:7.1f} {ragged / padded:7.3f}"
        print(text, flush=True)
    for sfa, values in ratios.items():
        print(f"ragged to padded time, sfa={sfa}: geometric mean "
              f"{math.exp(statistics.mean(map(math.log, values))):.3f}, highest {max(values):.3f}")


# ---- casts ----

def cast_bandwidth(bench, cast, rows, cols, granularity, major):
    """Bytes read and written per second, in TB/s, of kiln.cast or kiln.cast_two_way."""
    values = torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16)
    results = cast(values, granularity, major)
    results = results if isinstance(results, tuple) else (results,)
    count = values.numel() * 2 + sum(r.values.numel() + r.scales.numel() * 4 for r in results)
    times = kt.kernel_times(lambda: cast(values, granularity, major), bench.repeat, bench.flush, "kiln_quantize")
    return count / statistics.median(times) / 1e6


def print_casts(bench):
    kinds = [(kt.PER_ROW, kt.ROW), (kt.PER_ROW, kt.M_MAJOR), (kt.PER_SQUARE, kt.ROW)]
    print("\n rows   cols   BF16 to e4m3, TB/s: 1x128 row-major, 1x128 M-major, 128x128; the same two ways")
    for rows, cols in [(4096, 7168), (16384, 7168), (4096, 16384), (32768, 7168)]:
        speeds = [cast_bandwidth(bench, cast, rows, cols, *kind)
                  for cast in (bench.kiln.cast, bench.kiln.cast_two_way) for kind in kinds]
        print(f"{rows:5} {cols:6} " + "".join(f" {speed:6.2f}" for speed in speeds), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("anchors")
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="*", default=LAYOUTS)
    parser.add_argument("--m", type=int, nargs="*", help="dense rows with these M only")
    parser.add_argument("--sfa", choices=["row", "m"], nargs="*", default=["m", "row"], help="1d2d only: 1d1d takes m")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--tile", type=kt.parse_tile, help="this tile for every launch, e.g. 128x192/2x1/s4/c2x1/r8")
    parser.add_argument("--labels", action="store_true", help="contiguous groups by row labels instead of ends")
    parser.add_argument("--ragged", action="store_true")
    parser.add_argument("--casts", action="store_true")
    arguments = parser.parse_args()
    with open(arguments.anchors) as file:
        anchors = json.load(file)["rows"]
    kt.open_device()
    bench = Bench(kt.Kiln(arguments.library), arguments.repeat, arguments.tile)
    print(torch.cuda.get_device_name(), "CUDA", torch.version.cuda)
    for layout in arguments.layouts:
        rows = [row for row in anchors if layout_of(row) == layout]
        if layout.startswith("dense") and arguments.m:
            rows = [row for row in rows if row["m"] in arguments.m]
        sfas = ["m"] if layout in ("dense_1d1d", "k_grouped") else arguments.sfa
        if rows:
            print_table(bench, layout, rows, sfas, arguments)
        if rows and layout == "contiguous" and arguments.ragged:
            print_ragged(bench, rows, sfas)
    if arguments.casts:
        print_casts(bench)


if __name__ == "__main__":
    main()
