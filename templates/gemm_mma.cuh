// One k-block in the tensor cores: WGMMAs, its scales as a thread needs them, and the promotion of
// the sums into the totals of the tile. Protocol: gemm.cuh.
#pragma once

#include "gemm_shape.cuh"
#include "pipeline.cuh"

// ---- WGMMAs ----

// Matrix descriptor of a 128B-swizzled, K-major tile: 8 rows x 128 bytes per swizzle atom. Only its
// lower word, the address, is not a constant.
template <u32 kStrideBytes = 8 * kBlockK>  // from one 8 rows to the next
KILN_DEVICE u64 matrix_descriptor(u32 address) {
  constexpr u64 kSwizzle128 = 1ull << 62, kStride = static_cast<u64>(kStrideBytes >> 4) << 32;
  return kSwizzle128 | kStride | address;
}

KILN_DEVICE void keep(float (&registers)[kMmaN / 2]) {  // pins the accumulators against code motion
#pragma unroll
  for (u32 i = 0; i < kMmaN / 2; ++i) keep_register(registers[i]);
}

// Where the operands of a k-block's WGMMAs begin, and the terms of its scales.
constexpr u32 kMmas = kBlockK / 32;
struct MmaOperands {
  u32 a, b, row_terms, column_terms;
};

// Starts 64 x kMmaN x 128. a_of(k) is A of the k-th WGMMA: a descriptor or registers.
template <class AOf>
KILN_DEVICE void start_mma(float (&sum)[kMmaN / 2], u32 b, AOf a_of) {
  keep(sum);
  wgmma_fence();
  wgmma<0>(sum, a_of(0), matrix_descriptor(b));
#pragma unroll
  for (u32 k = 1; k < kMmas; ++k) wgmma<1>(sum, a_of(k), matrix_descriptor(b + k * 2));
  wgmma_commit_group();
}

// One wave of one k-block.
KILN_DEVICE void start_wave(float (&sum)[kMmaN / 2], const MmaOperands& at, u32 wave) {
  constexpr u32 kStrideA = kBlockM == 8 ? 0 : 8 * kBlockK;  // a tile of 8 rows repeats them
  const u32 first = at.a + wave * (kWaveStride * kBlockK >> 4);
  start_mma(sum, at.b, [&](u32 k) { return matrix_descriptor<kStrideA>(first + k * 2); });
}

KILN_DEVICE void finish_mma(float (&sum)[kMmaN / 2]) {
  wgmma_wait_group<0>();
  keep(sum);
}

// Starts the WGMMA that makes the factors of a wave's sums. start_mma() commits it with its own.
// The terms: rows of 16 bytes one behind the other, and for the upper half of K the same ones
// again.
KILN_DEVICE void start_products(float (&products)[kMmaN / 2], const MmaOperands& at, u32 wave) {
  constexpr u64 kEightRows = static_cast<u64>(8 * kTermBytes >> 4) << 32;
  keep(products);
  wgmma_fence();
  wgmma_of_terms(products, kEightRows | (at.row_terms + wave * (kWaveStride * kTermBytes >> 4)),
                 kEightRows | at.column_terms);
}

// ---- scales ----

// Where the scale of a thread's first row lies, for the first k-block of a stage.
KILN_DEVICE u32 row_scales_at(const Consumer& c, u32 stage) {
  return c.row_scales + stage * kSmem.sfa_stage_bytes;
}
constexpr u32 kLowerRows = kBlockM == 8 ? 0 : 8;  // a thread's second row, from its first
KILN_DEVICE float2 load_row_scales(u32 from) {
  return {ld_shared_f32(from), ld_shared_f32(from + kLowerRows * 4)};
}

// 1d2d: the scale of a chunk of columns. 1d1d: of each column that this thread has in a fragment.
constexpr u32 kColumnValues = kColumnScales ? kWgN / 4 : kScaleChunks;

// 1d2d: where a warpgroup's columns begin, in blocks of 128 that have a scale each. Worked out once
// for a tile: instructions between two k-blocks leave the tensor cores idle. (H200, 128x192 in
// pairs, with 20 fewer of them 2,155 us, so 2,121: 4 groups 6144x7168.)
struct ScaleSite {
  u32 block;   // of those under the tile
  u32 inside;  // column in it, a multiple of kScaleChunk
};

KILN_DEVICE ScaleSite scale_site(const Consumer& c, u32 tile_column) {
  const u32 column = (kBlockN % 128 == 0 ? 0 : tile_column % 128) + c.column;
  return {column / 128, kScaleChunk == 128 ? 0 : column % 128};
}

KILN_DEVICE void load_column_scales(float (&scales)[kColumnValues], const Consumer& c, u32 stage,
                                    u32 block, ScaleSite site) {
  const u32 sfb = c.smem + kSmem.sfb + stage * kSmem.sfb_stage_bytes + block * kSfbSlotBytes;
  if constexpr (kColumnScales) {
    const u32 from = sfb + (c.column + c.lane % 4 * 2) * 4;
#pragma unroll
    for (u32 i = 0; i < kWgN / 8; ++i) {
      const float2 pair = ld_shared_v2_f32(from + i * 32);
      scales[i * 2] = pair.x;
      scales[i * 2 + 1] = pair.y;
    }
  } else {
    float of_block[kWgScales];
#pragma unroll
    for (u32 i = 0; i < kWgScales; ++i)  // what lies behind the tile's last block is not needed
      of_block[i] = ld_shared_f32(sfb + min(site.block + i, kScaleSpan - 1) * 4);
#pragma unroll
    for (u32 i = 0; i < kScaleChunks; ++i) {
      const u32 begin = i * kScaleChunk, lower = begin / 128, upper = min(lower + 1, kWgScales - 1);
      scales[i] = site.inside + begin % 128 < 128 ? of_block[lower] : of_block[upper];
    }
  }
}

// ---- promotion ----

// The factor of accumulator register i of a pass over the columns.
KILN_DEVICE float scale_of(u32 i, u32 pass, float2 row_scales,
                           const float (&columns)[kColumnValues]) {
  const float row = i % 4 < 2 ? row_scales.x : row_scales.y;
  return row * (kColumnScales ? columns[i / 4 * 2 + i % 2]
                              : columns[(pass * kMmaN + i / 4 * 8) / kScaleChunk]);
}

template <bool kFirst>
KILN_DEVICE void promote(float (&total)[kMmaN / 2], const float (&sum)[kMmaN / 2],
                         float2 row_scales, const float (&columns)[kColumnValues], u32 pass = 0) {
#pragma unroll
  for (u32 i = 0; i < kMmaN / 2; ++i) {
    const float scale = scale_of(i, pass, row_scales, columns);
    total[i] = kFirst ? scale * sum[i] : total[i] + scale * sum[i];
  }
}

template <bool kFirst>
KILN_DEVICE void promote(float (&total)[kMmaN / 2], const float (&sum)[kMmaN / 2],
                         const float (&products)[kMmaN / 2]) {
#pragma unroll
  for (u32 i = 0; i < kMmaN / 2; ++i)
    total[i] = kFirst ? products[i] * sum[i] : total[i] + products[i] * sum[i];
}
