#!/usr/bin/env python3
"""Kernel-only times of the dense rows of an anchor file, through the C API, beside the file's times.

    anchor_table.py LIBKILN ANCHORS.json [--m M ...] [--sfa row|m] [--repeat R] [--casts]

Needs a Hopper GPU and PyTorch, whose profiler times the kernels. The operands are random normal values
cast by kiln_quantize; an 8 GB memset before every launch flushes L2; times are medians. Each result
is compared with a float32 product before its time counts. --casts adds the bandwidth of kiln_quantize,
counting bytes read and written.
"""
import argparse
import ctypes
import json
import math
import statistics
import sys

import torch
from torch.profiler import ProfilerActivity, profile

E4M3, BF16, ROW, M_MAJOR = 0, 2, 0, 1


class Problem(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("version", ctypes.c_uint32), ("layout", ctypes.c_int32),
                ("scaling", ctypes.c_int32), ("n", ctypes.c_int64), ("k", ctypes.c_int64),
                ("a", ctypes.c_int32), ("b", ctypes.c_int32), ("d", ctypes.c_int32),
                ("sfa_major", ctypes.c_int32), ("accumulate", ctypes.c_int32), ("reserved", ctypes.c_int32)]


class Operands(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("version", ctypes.c_uint32), ("m", ctypes.c_int64),
                ("a", ctypes.c_void_p), ("lda", ctypes.c_int64), ("b", ctypes.c_void_p), ("ldb", ctypes.c_int64),
                ("sfa", ctypes.c_void_p), ("ld_sfa", ctypes.c_int64), ("sfb", ctypes.c_void_p),
                ("ld_sfb", ctypes.c_int64), ("d", ctypes.c_void_p), ("ldd", ctypes.c_int64),
                ("num_sms", ctypes.c_int32), ("flags", ctypes.c_uint32)]


class QuantizeProblem(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("version", ctypes.c_uint32), ("in_type", ctypes.c_int32),
                ("out_type", ctypes.c_int32), ("granularity", ctypes.c_int32), ("scale_major", ctypes.c_int32),
                ("power_of_two", ctypes.c_int32), ("reserved", ctypes.c_int32)]


class QuantizeOperands(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("version", ctypes.c_uint32), ("rows", ctypes.c_int64),
                ("cols", ctypes.c_int64), ("input", ctypes.c_void_p), ("ld_in", ctypes.c_int64),
                ("out", ctypes.c_void_p), ("ld_out", ctypes.c_int64), ("scales", ctypes.c_void_p),
                ("ld_scales", ctypes.c_int64)]


def make(struct, *values):
    return struct(ctypes.sizeof(struct), 1, *values)


class Kiln:
    """The engine on the current context; every call checked."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.kiln_last_error.restype = ctypes.c_char_p
        self.engine = ctypes.c_void_p()
        self("kiln_engine_create", None, ctypes.byref(self.engine))

    def __call__(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name}: {self.library.kiln_last_error().decode()}")

    def stream(self):
        return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

    def cast(self, values, granularity, major):
        """FP8 bytes and scales of a [rows, cols] BF16 tensor."""
        rows, cols = values.shape
        blocks = math.ceil(cols / 128)
        if major == M_MAJOR:
            scales = torch.empty(blocks, math.ceil(rows / 4) * 4, device="cuda")
        else:
            scales = torch.empty(math.ceil(rows / 128) if granularity else rows, blocks, device="cuda")
        out = torch.empty(rows, cols, dtype=torch.uint8, device="cuda")
        quantizer = ctypes.c_void_p()
        problem = make(QuantizeProblem, BF16, E4M3, granularity, major, 0, 0)
        self("kiln_quantizer_create", self.engine, ctypes.byref(problem), ctypes.byref(quantizer))
        operands = make(QuantizeOperands, rows, cols, values.data_ptr(), cols, out.data_ptr(), cols,
                        scales.data_ptr(), scales.shape[1])
        self("kiln_quantize", quantizer, ctypes.byref(operands), self.stream())
        self.library.kiln_quantizer_destroy(quantizer)
        return out, scales


def dequantised(values, scales, rows_per_scale, major):
    scales = scales[:, : values.shape[0]].t() if major == M_MAJOR else scales
    scales = scales.repeat_interleave(rows_per_scale, 0)[: values.shape[0]]
    scales = scales.repeat_interleave(128, 1)[:, : values.shape[1]]
    return values.view(torch.float8_e4m3fn).float() * scales


def difference(x, y):
    x, y = x.double(), y.double()
    return (1 - 2 * (x * y).sum() / ((x * x).sum() + (y * y).sum())).item()


def kernel_times(launch, repeat, flush, name):
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(repeat):
            flush.zero_()
            launch()
        torch.cuda.synchronize()
    return [e.time_range.end - e.time_range.start for e in recorded.events() if e.name.startswith(name)]


def measure(kiln, row, major, repeat, flush):
    m, n, k = row["m"], row["n"], row["k"]
    torch.manual_seed(m + n + k)
    a, sfa = kiln.cast(torch.randn(m, k, device="cuda", dtype=torch.bfloat16), 0, major)
    b, sfb = kiln.cast(torch.randn(n, k, device="cuda", dtype=torch.bfloat16), 1, ROW)
    d = torch.full((m, n), float("nan"), device="cuda", dtype=torch.bfloat16)
    plan = ctypes.c_void_p()
    problem = make(Problem, 0, 0, n, k, E4M3, E4M3, BF16, major, 0, 0)
    kiln("kiln_plan_create", kiln.engine, ctypes.byref(problem), None, ctypes.byref(plan))
    operands = make(Operands, m, a.data_ptr(), k, b.data_ptr(), k, sfa.data_ptr(), sfa.shape[1], sfb.data_ptr(),
                    sfb.shape[1], d.data_ptr(), n, 0, 0)

    def launch():
        kiln("kiln_launch", plan, ctypes.byref(operands), kiln.stream())

    launch()
    reference = dequantised(a, sfa, 1, major) @ dequantised(b, sfb, 128, ROW).t()
    error = difference(reference, d)
    if not error < 1e-3:
        sys.exit(f"{m}x{n}x{k}: wrong result, difference {error}")
    times = kernel_times(launch, repeat, flush, "kiln_dense")
    kiln.library.kiln_plan_destroy(plan)
    return statistics.median(times)


def cast_bandwidth(kiln, rows, cols, granularity, major, repeat, flush):
    values = torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16)
    out, scales = kiln.cast(values, granularity, major)
    times = kernel_times(lambda: kiln.cast(values, granularity, major), repeat, flush, "kiln_quantize")
    return (values.numel() * 3 + scales.numel() * 4) / statistics.median(times) / 1e6


def print_casts(kiln, repeat, flush):
    print(" rows   cols   BF16 to e4m3, TB/s: 1x128 row-major, 1x128 M-major, 128x128")
    for rows, cols in [(4096, 7168), (16384, 7168), (4096, 16384), (32768, 7168)]:
        kinds = [(0, ROW), (0, M_MAJOR), (1, ROW)]
        print(f"{rows:5} {cols:6} " + "".join(f" {cast_bandwidth(kiln, rows, cols, *kind, repeat, flush):6.2f}" for kind in kinds),
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("anchors")
    parser.add_argument("--m", type=int, nargs="*", default=[1, 128, 4096])
    parser.add_argument("--sfa", choices=["row", "m"], nargs="*", default=["m", "row"])
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--casts", action="store_true")
    arguments = parser.parse_args()
    with open(arguments.anchors) as file:
        rows = [r for r in json.load(file)["rows"]
                if r["layout"] == "dense" and r["scaling"] == "1d2d" and r["m"] in arguments.m]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.init()
    flush = torch.empty(8 << 30, dtype=torch.uint8, device="cuda")
    kiln = Kiln(arguments.library)
    print(torch.cuda.get_device_name(), "CUDA", torch.version.cuda)
    print("    m      n      k    peer  limit " + "".join(f"   sfa={s:3}     us  peer/us" for s in arguments.sfa))
    logs = {(s, m): [] for s in arguments.sfa for m in arguments.m}
    for row in rows:
        text = f"{row['m']:5} {row['n']:6} {row['k']:6} {row['peer_us']:7.1f} {row['limit_us']:6.1f} "
        for sfa in arguments.sfa:
            us = measure(kiln, row, M_MAJOR if sfa == "m" else ROW, arguments.repeat, flush)
            logs[sfa, row["m"]].append(math.log(row["peer_us"] / us))
            text += f"           {us:8.1f} {row['peer_us'] / us:8.3f}"
        print(text, flush=True)
    for (sfa, m), values in logs.items():
        print(f"geometric mean of peer/us, sfa={sfa}, M={m}: {math.exp(statistics.mean(values)):.3f} "
              f"(lowest {math.exp(min(values)):.3f})")
    if arguments.casts:
        print_casts(kiln, arguments.repeat, flush)


if __name__ == "__main__":
    main()
