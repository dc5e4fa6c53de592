// The kernels' parameters: one struct each, defined here for the host that fills it and the kernel
// that reads it (as a __grid_constant__).
#pragma once

#include "base.cuh"

KILN_BEGIN_SHARED

struct alignas(64) TensorMap {  // a CUtensorMap, opaque to the kernel
  char bytes[128];
};

// Any GEMM. Which fields a kernel reads depends on its layout and scaling; the rest are zero. Maps
// are 2-D, or 3-D {columns, rows, slice} where a slice is named.
//   row groups: grouped_contiguous and grouped_masked
struct GemmParams {
  TensorMap a;  // [m, k] bytes, boxes of 128 x a_box_rows(); masked: a slice per group
  TensorMap b;  // [n, k] bytes, boxes of 128 x block_n / cluster_m; row groups: a slice per expert
  TensorMap d;  // [m, n], boxes of one chunk x 16 rows (chunk and swizzle: d_chunk_bytes());
                // masked and grouped_k: a slice per group (grouped_k: per expert)
  TensorMap sfa;  // [ceil(k/128), m] FP32, boxes of block_m x 1; M-major only; masked: a slice per
                  // group
  TensorMap sfb;  // [ceil(k/128), n] FP32, boxes of block_n x 1; 1d1d only
  const float* sfa_rows;  // row-major only
  i64 ld_sfa, sfa_group_stride;
  const float* sfb_blocks;  // 1d2d only
  i64 ld_sfb, sfb_group_stride;
  void* d_rows;  // 1d2d: D, for the rows of a group's last tile and for low tiles
  i64 ldd, d_group_stride;
  const i32* grouping;    // labels, ends or rows; on the device
  const i32* expert_map;  // slice of each group, or null: group g has slice g
  u32 m;
  u32 num_tiles;  // work items in units of clusters; row groups: counted on the device
  u32 groups;
  u32 num_slices;    // of B; grouped_k: of D
  u32 alignment;     // contiguous: of a group's first row
  u32 k_blocks;      // 1d1d: of all groups together
  u32 zero_padding;  // contiguous: rows of no group become zeros
};

// grouped_k with operands packed group by group: a map per group. A launch takes up to
// kMaxPackedGroups groups and as much of the 32,764 bytes that a kernel's parameters may have.
constexpr u32 kMaxPackedGroups = 96;
struct PackedGemmParams {
  GemmParams gemm;
  TensorMap a[kMaxPackedGroups];  // [m, K_g]
  TensorMap b[kMaxPackedGroups];  // [n, K_g]
  u32 k_begin[kMaxPackedGroups];  // first k-block of the group in SFA and SFB
  u32 k_blocks[kMaxPackedGroups];
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
  void* out_t;  // two-way only: the transposed cast [cols, rows] and its scales
  float* scales_t;
  i64 ld_out_t;
  i64 ld_scales_t;
};

// Grid of any size, 256 threads: out[i] = BF16 of a roughly normal value (mean 0, deviation 1) that
// depends on seed and i alone.
struct FillParams {
  void* out;
  u64 count;
  u64 seed;
};

// Grid {ceil(n/16), min(ceil(m/16), 65535)}, 256 threads. Compares D with the reference
// x = sum over K of dequantised products (+ C when accumulating), y = D. Operands may be parts of
// larger ones: a group is checked through pointers to where it begins. k = 0 is an empty sum.
struct ReferenceParams {
  const void* a;
  const void* b;
  const float* sfa;
  const float* sfb;
  const void* d;  // the result under test
  const void* c;  // D before the launch, same type and stride as D; accumulate only, else null
  double* sums;   // 4 doubles, added to: sum x*x, sum y*y, sum x*y, max |x-y|
  i64 lda, ldb, ld_sfa, ld_sfb, ldd;
  i64 m, n, k;
};

KILN_END_SHARED
