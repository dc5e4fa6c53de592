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
  TensorMap d;    // [m, n], box {128 bytes, 64}, 128B swizzle
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

KILN_END_SHARED
