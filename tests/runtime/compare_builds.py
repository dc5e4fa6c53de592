#!/usr/bin/env python3
"""Times of several builds and tiles on rows of an anchor file, in one process and in turn.

    compare_builds.py ANCHORS.json LIBKILN [LIBKILN ...] --rows TEXT ... [--tiles TILE ...] [--sfa row|m]
                      [--repeat R] [--draws D] [--group-rows R] [--sms N] [--zeros] [--deep-gemm]

A row takes part when its name, e.g. dense_1d1d/4096x4096x7168 or k_grouped/16x4096x7168x35200, has one
of the TEXTs in it. Each launch of one build and tile is followed by one of the next, so that clocks and
power are the same for all; an 8 GB memset before every launch flushes L2. Times are medians in
microseconds; each result is compared with a float32 product first. The tile "default" is what each build
chooses. Masked rows: the mean of D draws of their groups' sizes (default 1), as anchor_table.py draws
them; --group-rows: R rows in every one of them. --sms: launches on N SMs. What a tile or a lever gains is
measured with this rather than with two runs one after the other, which differ by up to 4 %. A tile that is
not legal for a row is left out there, and the row says why. --zeros:
operands of zeros, which take less power: what is gained is what power costs. --deep-gemm: DeepGEMM takes its
turn on the same operands, without its transposing of scales (not of groups of K, and with --sfa m only).

Needs a Hopper GPU and PyTorch, for --deep-gemm its Python package and nvcc. Exit code 1: a wrong result.
"""
import argparse
import importlib
import itertools
import json
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

import anchor_table as anchors
import kiln_torch as kt

DEFAULT = "default"


def name_of(row):
    groups = [] if row["layout"] == "dense" else [row["groups"]]
    sizes = [*groups, anchors.rows_of(row), row["n"], row["k"]]
    return f"{anchors.layout_of(row)}/{'x'.join(map(str, sizes))}"


class Candidate:
    """A build with a tile."""

    def __init__(self, kiln, tile, case):
        self.kiln = kiln
        self.plan = kiln.plan(case.describe(), None if tile == DEFAULT else kt.parse_tile(tile))
        self.m = case.prepare_m

    def prepare(self):
        self.kiln.prepare(self.plan, self.m)

    def launch(self, operands):
        self.kiln.launch(self.plan, operands)


class DeepGemm:
    """The other engine, on a case's operands as they are when it is launched."""

    def __init__(self, case):
        self.case, self.package = case, importlib.import_module("deep_gemm")
        if isinstance(case, anchors.Contiguous):
            self.labels = case.row_labels()

    def launch(self, _):
        case, gemm = self.case, self.package
        a, b = (matrix.values.view(torch.float8_e4m3fn) for matrix in (case.a, case.b))
        sfa, sfb = case.a.scales[:, : case.m].t(), case.b.scales
        exact = {"disable_ue8m0_cast": True}
        layout = anchors.layout_of(case.row)
        if layout == "dense":
            return gemm.fp8_gemm_nt((a, sfa), (b, sfb), case.d, **exact)
        if layout == "dense_1d1d":
            return gemm.fp8_gemm_nt((a, sfa), (b, sfb[:, : case.n].t()), case.d, c=case.d, recipe=(1, 1, 128), **exact)
        groups = case.row["groups"]
        weights = (b.view(groups, case.n, -1), sfb.view(groups, -1, sfb.shape[1]))
        if layout == "contiguous":
            return gemm.m_grouped_fp8_gemm_nt_contiguous((a, sfa), weights, case.d, self.labels, **exact)
        scales = case.a.scales.view(groups, -1, case.a.scales.shape[1])[:, :, : case.m].transpose(1, 2)
        return gemm.fp8_m_grouped_gemm_nt_masked((a.view(groups, case.m, -1), scales), weights, case.d, case.grouping,
                                                 case.expected_m, **exact)


def candidates_of(kilns, tiles, case):
    """By tile, those that are legal for the case: a candidate of each build."""
    legal = {}
    for tile in tiles:
        try:
            legal[tile] = [Candidate(kiln, tile, case) for kiln in kilns]
        except RuntimeError as refusal:
            print(f"{name_of(case.row)}: {tile} left out: {refusal}", file=sys.stderr)
    return legal


def check(case, candidate, operands):
    case.d.copy_(case.before) if case.before is not None else case.d.fill_(float("nan"))
    candidate.launch(operands)
    case.check()


def medians(candidates, operands, flush, repeat):
    def all_in_turn():
        for index, candidate in enumerate(candidates):
            if index > 0:
                flush.zero_()  # before the first, kernel_times does
            candidate.launch(operands)

    times = kt.kernel_times(all_in_turn, repeat, flush, ("kiln_", "void deep_gemm::sm90_fp8_gemm"))
    if len(times) != repeat * len(candidates):
        sys.exit(f"{len(times)} kernels of {repeat} launches of {len(candidates)} candidates")
    return [statistics.median(times[index :: len(candidates)]) for index in range(len(candidates))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("anchors")
    parser.add_argument("libraries", nargs="+")
    parser.add_argument("--rows", nargs="+", required=True)
    parser.add_argument("--tiles", nargs="+", default=[DEFAULT])
    parser.add_argument("--sfa", choices=["row", "m"], default="m", help="1d2d only: 1d1d takes m")
    parser.add_argument("--repeat", type=int, default=12)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--group-rows", type=int, help="of masked groups, instead of a draw")
    parser.add_argument("--sms", type=int, default=0)
    parser.add_argument("--zeros", action="store_true")
    parser.add_argument("--deep-gemm", action="store_true")
    arguments = parser.parse_args()
    with open(arguments.anchors) as file:
        rows = [row for row in json.load(file)["rows"] if any(text in name_of(row) for text in arguments.rows)]
    kt.open_device()
    kilns = [kt.Kiln(library) for library in arguments.libraries]
    flush = torch.empty(8 << 30, dtype=torch.uint8, device="cuda")
    print(torch.cuda.get_device_name(), "CUDA", torch.version.cuda)
    cases = [anchors.make_case(row, arguments.sfa, False) for row in rows]
    builds_of = [candidates_of(kilns, arguments.tiles, case) for case in cases]
    with ThreadPoolExecutor() as pool:  # compiles everything at once, on all cores
        list(pool.map(Candidate.prepare, itertools.chain(*(itertools.chain(*b.values()) for b in builds_of))))
    while cases:
        case, by_tile = cases.pop(0), builds_of.pop(0)
        row, builds = case.row, list(itertools.chain(*by_tile.values()))
        if arguments.group_rows and row["layout"] == "masked":
            case.rows = [arguments.group_rows] * row["groups"]
        candidates = builds + ([DeepGemm(case)] if arguments.deep_gemm else [])
        draws = []
        for operands in anchors.each_draw(case, kilns[0], arguments.draws):
            operands.num_sms = arguments.sms
            if arguments.zeros:
                case.a.values.zero_()
                case.b.values.zero_()
            for candidate in candidates:
                check(case, candidate, operands)
            draws.append(medians(candidates, operands, flush, arguments.repeat))
        times = map(statistics.mean, zip(*draws))
        print(name_of(row))
        for tile in by_tile:
            print(f"  {tile:32}" + "".join(f"{next(times):10.2f}" for _ in kilns), flush=True)
        if arguments.deep_gemm:
            print(f"  {'DeepGEMM':32}{next(times):10.2f}")
        for build in builds:
            build.kiln.library.kiln_plan_destroy(build.plan)
        del case, operands, by_tile, builds, candidates
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
