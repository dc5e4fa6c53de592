// A plain GEMM to check the fast ones: no TMA, no WGMMA, no pipeline. Products of FP8 values are
// exact in FP32; a block of 128 is summed in FP32, scaled and accumulated in FP64.
//
// 256 threads compute 16 x 16 outputs and compare them with D; every CTA adds four numbers to
// `sums`.
#pragma once

#include "base.cuh"
#include "params.cuh"
#include "ptx.cuh"

constexpr u32 kSide = 16;
constexpr u32 kPitch = 132;  // floats per staged row of 128: a multiple of 4, off the bank period

// Stages 16 rows x 128 columns as FP32, zeros outside.
template <bool kE4m3>
KILN_DEVICE void stage(float* to, const void* from, i64 ld, i64 first_row, i64 rows, i64 first_k,
                       i64 k) {
  const u32 row = threadIdx.x / kSide, chunk = threadIdx.x % kSide * 8;
  uint2 raw{0, 0};
  if (first_row + row < rows && first_k + chunk < k)
    raw = *reinterpret_cast<const uint2*>(static_cast<const u8*>(from) + (first_row + row) * ld +
                                          first_k + chunk);
  const u32 words[2] = {raw.x, raw.y};
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
    const float2 pair = cvt_f32x2_fp8x2<kE4m3>(static_cast<u16>(words[i / 2] >> i % 2 * 16));
    to[row * kPitch + chunk + i * 2] = pair.x;
    to[row * kPitch + chunk + i * 2 + 1] = pair.y;
  }
}

KILN_DEVICE double reference_value(const ReferenceParams& p, float* a, float* b, i64 row,
                                   i64 column) {
  const i64 first_row = row - threadIdx.x / kSide, first_column = column - threadIdx.x % kSide;
  const i64 safe_row = row < p.m ? row : 0, safe_column = column < p.n ? column : 0;
  double total = 0;
  for (i64 k = 0; k < p.k; k += 128) {
    __syncthreads();
    stage<kAIsE4m3>(a, p.a, p.lda, first_row, p.m, k, p.k);
    stage<kBIsE4m3>(b, p.b, p.ldb, first_column, p.n, k, p.k);
    __syncthreads();
    const float4* x = reinterpret_cast<const float4*>(a + threadIdx.x / kSide * kPitch);
    const float4* y = reinterpret_cast<const float4*>(b + threadIdx.x % kSide * kPitch);
    float sum = 0;
#pragma unroll 8
    for (u32 i = 0; i < 32; ++i) {
      const float4 u = x[i], v = y[i];
      sum += u.x * v.x + u.y * v.y + u.z * v.z + u.w * v.w;
    }
    const i64 block = k / 128;
    const float sa =
        p.sfa[kSfaRowMajor ? safe_row * p.ld_sfa + block : block * p.ld_sfa + safe_row];
    const float sb = p.sfb[kSfbPerColumn ? block * p.ld_sfb + safe_column
                                         : safe_column / 128 * p.ld_sfb + block];
    total += static_cast<double>(sum) * sa * sb;
  }
  return total;
}

KILN_DEVICE float output_at(const void* matrix, i64 index) {  // of D or C
  if constexpr (kOutBf16) {
    return __uint_as_float(static_cast<u32>(static_cast<const u16*>(matrix)[index]) << 16);
  } else {
    return static_cast<const float*>(matrix)[index];
  }
}

// Adds the warp's values to sums[0..2] and raises sums[3]; non-negative doubles order as integers.
KILN_DEVICE void add_to_sums(double* sums, double xx, double yy, double xy, double error) {
  double values[4] = {xx, yy, xy, error};
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
    for (u32 offset = 16; offset > 0; offset /= 2) {
      const double other = __shfl_xor_sync(0xffffffffu, values[i], offset);
      values[i] = i < 3 ? values[i] + other : (other > values[i] ? other : values[i]);
    }
  }
  if (threadIdx.x % 32 != 0) return;
  for (u32 i = 0; i < 3; ++i) atomicAdd(sums + i, values[i]);
  atomicMax(reinterpret_cast<u64*>(sums + 3), static_cast<u64>(__double_as_longlong(values[3])));
}

KILN_DEVICE void check_reference(const ReferenceParams& p) {
  __shared__ __align__(16) float a[kSide * kPitch];
  __shared__ __align__(16) float b[kSide * kPitch];
  double xx = 0, yy = 0, xy = 0, error = 0;
  const i64 column = static_cast<i64>(blockIdx.x) * kSide + threadIdx.x % kSide;
  for (i64 tile = blockIdx.y; tile < (p.m + kSide - 1) / kSide; tile += gridDim.y) {
    const i64 row = tile * kSide + threadIdx.x / kSide;
    double x = reference_value(p, a, b, row, column);
    if (row >= p.m || column >= p.n) continue;  // its barriers are passed already
    if (p.c != nullptr) x += output_at(p.c, row * p.ldd + column);
    const double y = output_at(p.d, row * p.ldd + column);
    const double difference = x > y ? x - y : y - x;
    xx += x * x;
    yy += y * y;
    xy += x * y;
    error = difference > error || difference != difference ? difference : error;
  }
  add_to_sums(p.sums, xx, yy, xy, error);
}
