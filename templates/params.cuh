// The kernels' parameters: one struct each, defined here for the host that fills it and the kernel
// that reads it (as a __grid_constant__).
#pragma once

#include "base.cuh"

KILN_BEGIN_SHARED

struct alignas(64) TensorMap {  // a CUtensorMap, opaque to the kernel
  char bytes[128];
};

// Dense GEMM. SFA comes through its map when it is M-major and through the pointer when row-major.
struct GemmParams {
  TensorMap a;    // [m, k] bytes, box {128, block_m / cluster_n}, 128B swizzle
  TensorMap b;    // [n, k] bytes, box {128, block_n / cluster_m}, 128B swizzle
  TensorMap d;    // [m, n], box {chunk, 16 rows}; chunk bytes and their swizzle: d_chunk_bytes()
                  // in smem_layout.cuh (128/64/32 B wide: that swizzle, 16 B: none)
  TensorMap sfa;  // [ceil(k/128), m] FP32, box {block_m, 1}; M-major only
  const float* sfa_rows;  // row-major only
  i64 ld_sfa;
  const float* sfb;
  i64 ld_sfb;
  u32 m;
  u32 num_tiles;  // work items in units of clusters
};

struct QuantizeParams {
  const void* in;
  void* out;
  float* scales;
  i64 ld_in;
  i64 ld_out;
  i64 ld_scales;
  i64 rows;
  i64 cols;
};

// Grid of any size, 256 threads: out[i] = BF16 of a roughly normal value (mean 0, deviation 1) that
// depends on seed and i alone.
struct FillParams {
  void* out;
  u64 count;
  u64 seed;
};

// Grid {ceil(n/16), min(ceil(m/16), 65535)}, 256 threads. Compares D with the reference
// x = sum over K of dequantised products (+ C when accumulating), y = D.
struct ReferenceParams {
  const void* a;
  const void* b;
  const float* sfa;
  const float* sfb;
  const void* d;   // the result under test
  const float* c;  // D before the launch, same stride as D; accumulate only, else null
  double* sums;    // 4 doubles, zeroed by the caller: sum x*x, sum y*y, sum x*y, max |x-y|
  i64 lda, ldb, ld_sfa, ld_sfb, ldd;
  i64 m, n, k;
};

KILN_END_SHARED
