"""The C API for scripts with PyTorch: its structs through ctypes, FP8 casts, kernel times.

Nothing here is part of the library; anchor_table.py and compare_builds.py use it.
"""
import ctypes
import math
import re

import torch
from torch.profiler import ProfilerActivity, profile

# The header's enumerations, in its order.
DENSE, CONTIGUOUS, MASKED, GROUPED_K = range(4)
SCALING_1D2D, SCALING_1D1D = 0, 1
E4M3, E5M2, BF16, F32 = range(4)
ROW, M_MAJOR = 0, 1
GROUPS_NONE, LABELS, ENDS, ROWS, PACKED = range(5)
PER_ROW, PER_SQUARE = 0, 1  # 1x128, 128x128


def open_device():
    """Makes the device's context current, which engines take, and float32 products exact enough to check with."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.zeros(1, device="cuda")


class Struct(ctypes.Structure):
    """A versioned struct of the API: zeros but for what is given by name."""

    def __init__(self, **values):
        super().__init__(struct_size=ctypes.sizeof(type(self)), struct_version=1, **values)


def fields(text):
    """ctypes fields from lines of "type name name ..."; each struct begins with its size and version."""
    types = {"i32": ctypes.c_int32, "u32": ctypes.c_uint32, "i64": ctypes.c_int64, "ptr": ctypes.c_void_p}
    result = [("struct_size", ctypes.c_uint32), ("struct_version", ctypes.c_uint32)]
    for line in text.strip().splitlines():
        kind, *names = line.split()
        result += [(name, types[kind]) for name in names]
    return result


class Problem(Struct):
    _fields_ = fields("""
        i32 layout scaling
        i64 n k
        i32 a_type b_type d_type sfa_major accumulate group_form groups alignment""")


class Tile(Struct):
    _fields_ = fields("""
        i32 block_m block_n warpgroups_m warpgroups_n stages cluster_m cluster_n raster_group
        i32 warpgroups_k cluster_k stage_blocks""")


class Operands(Struct):
    _fields_ = fields("""
        i64 m
        ptr a
        i64 lda
        ptr b
        i64 ldb
        ptr sfa
        i64 ld_sfa
        ptr sfb
        i64 ld_sfb
        ptr d
        i64 ldd
        i32 num_sms
        u32 flags
        i64 k
        ptr grouping expert_map
        i32 num_slices reserved
        ptr host_group_k
        i64 expected_m a_group_stride b_group_stride sfa_group_stride sfb_group_stride d_group_stride""")


class QuantizeProblem(Struct):
    _fields_ = fields("""
        i32 in_type out_type granularity scale_major power_of_two two_way""")


class QuantizeOperands(Struct):
    _fields_ = fields("""
        i64 rows cols
        ptr input
        i64 ld_in
        ptr out
        i64 ld_out
        ptr scales
        i64 ld_scales
        ptr out_t
        i64 ld_out_t
        ptr scales_t
        i64 ld_scales_t""")


def parse_tile(text):
    """A tile as `kiln explain` prints it: 128x192/2x1/s4/c2x1/r8 or 8x32/1x1x2/s14x2/c1x1x2/r1."""
    match = re.fullmatch(
        r"(?P<block_m>\d+)x(?P<block_n>\d+)"
        r"/(?P<warpgroups_m>\d+)x(?P<warpgroups_n>\d+)(?:x(?P<warpgroups_k>\d+))?"
        r"/s(?P<stages>\d+)(?:x(?P<stage_blocks>\d+))?"
        r"/c(?P<cluster_m>\d+)x(?P<cluster_n>\d+)(?:x(?P<cluster_k>\d+))?"
        r"/r(?P<raster_group>\d+)", text)
    if not match:
        raise ValueError(f"a tile looks like 128x192/2x1/s4/c2x1/r8, got {text!r}")
    return Tile(**{name: int(value) for name, value in match.groupdict(default="1").items()})


class Matrix:
    """FP8 bytes [rows, cols] and their scales, laid out as a launch takes them."""

    def __init__(self, values, scales, granularity, major):
        self.values, self.scales, self.granularity, self.major = values, scales, granularity, major

    def dequantised(self, rows, cols=slice(None)):
        """FP32 values of a range of rows, and of columns that begins at a multiple of 128."""
        values = self.values[rows, cols]
        blocks = slice((cols.start or 0) // 128, None)
        if self.major == M_MAJOR:
            scales = self.scales[blocks, rows].t()
        elif self.granularity == PER_ROW:
            scales = self.scales[rows, blocks]
        else:
            scales = self.scales[rows.start // 128 : math.ceil(rows.stop / 128), blocks]
            scales = scales.repeat_interleave(128, 0)[: values.shape[0]]
        scales = scales.repeat_interleave(128, 1)[:, : values.shape[1]]
        return values.view(torch.float8_e4m3fn).float() * scales


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

    def plan(self, problem, tile=None):
        plan = ctypes.c_void_p()
        self("kiln_plan_create", self.engine, ctypes.byref(problem), ctypes.byref(tile) if tile else None,
             ctypes.byref(plan))
        return plan

    def prepare(self, plan, m):
        self("kiln_plan_prepare", plan, ctypes.c_int64(m), ctypes.c_int64(m))

    def launch(self, plan, operands):
        self("kiln_launch", plan, ctypes.byref(operands), self.stream())

    def cast(self, values, granularity, major):
        """The cast of a [rows, cols] BF16 tensor, as a Matrix."""
        rows, cols = values.shape
        out = torch.empty(rows, cols, dtype=torch.uint8, device="cuda")
        scales = empty_scales(rows, cols, granularity, major)
        self.quantize(QuantizeProblem(in_type=BF16, granularity=granularity, scale_major=major),
                      QuantizeOperands(rows=rows, cols=cols, input=values.data_ptr(), ld_in=cols, out=out.data_ptr(),
                                       ld_out=cols, scales=scales.data_ptr(), ld_scales=scales.shape[1]))
        return Matrix(out, scales, granularity, major)

    def cast_two_way(self, values, granularity, major):
        """The same of the tensor and of its transpose, in one pass."""
        rows, cols = values.shape
        out = torch.empty(rows, cols, dtype=torch.uint8, device="cuda")
        out_t = torch.empty(cols, math.ceil(rows / 16) * 16, dtype=torch.uint8, device="cuda")
        scales = empty_scales(rows, cols, granularity, major)
        scales_t = empty_scales(cols, rows, granularity, major)
        self.quantize(QuantizeProblem(in_type=BF16, granularity=granularity, scale_major=major, two_way=1),
                      QuantizeOperands(rows=rows, cols=cols, input=values.data_ptr(), ld_in=cols, out=out.data_ptr(),
                                       ld_out=cols, scales=scales.data_ptr(), ld_scales=scales.shape[1],
                                       out_t=out_t.data_ptr(), ld_out_t=out_t.shape[1], scales_t=scales_t.data_ptr(),
                                       ld_scales_t=scales_t.shape[1]))
        return Matrix(out, scales, granularity, major), Matrix(out_t, scales_t, granularity, major)

    def quantize(self, problem, operands):
        quantizer = ctypes.c_void_p()
        self("kiln_quantizer_create", self.engine, ctypes.byref(problem), ctypes.byref(quantizer))
        self("kiln_quantize", quantizer, ctypes.byref(operands), self.stream())
        self.library.kiln_quantizer_destroy(quantizer)


def empty_scales(rows, cols, granularity, major):
    blocks = math.ceil(cols / 128)
    if major == M_MAJOR:
        return torch.empty(blocks, math.ceil(rows / 4) * 4, device="cuda")
    return torch.empty(math.ceil(rows / 128) if granularity == PER_SQUARE else rows, blocks, device="cuda")


def difference(x, y):
    """1 - 2<x,y>/(<x,x>+<y,y>): 0 for equal tensors, and NaN where one has a NaN."""
    x, y = x.double(), y.double()
    total = (x * x).sum() + (y * y).sum()
    return (1 - 2 * (x * y).sum() / total).item() if total != 0 else 0.0


def kernel_times(launch, repeat, flush, name):
    """Microseconds of each kernel whose name begins so, or in one of these ways, in order; L2 is flushed before."""
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(repeat):
            flush.zero_()
            launch()
        torch.cuda.synchronize()
    kernels = sorted((e.time_range for e in recorded.events() if e.name.startswith(name)), key=lambda r: r.start)
    return [kernel.end - kernel.start for kernel in kernels]
