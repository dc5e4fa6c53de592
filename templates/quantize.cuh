// FP8 casts with one scale per block.
//
// Launch: 256 threads, grid x (one-dimensional):
//   quantize_rows   (1x128):   ceil(rows / 32) * ceil(cols / 512) CTAs, column groups fastest
//   quantize_blocks (128x128): ceil(rows / 128) * ceil(cols / 128) CTAs, column blocks fastest
//
// A block's row of 128 elements is read by kLanes neighbouring lanes, 16 bytes each, so that a warp
// reads whole 256- or 512-byte runs; every thread has several such loads in flight before it uses
// the first. Both kernels read each input byte once and write each output byte once. The last block
// of a row may be short (cols is a multiple of 16): lanes beyond it count as zeros and write
// nothing.
#pragma once

#include "quantize_common.cuh"

constexpr u32 kElementBytes = kInBf16 ? 2 : 4;
constexpr u32 kPerLane = 16 / kElementBytes;        // elements of one 16-byte load
constexpr u32 kLanes = 128 / kPerLane;              // lanes of one block row: 16 or 32
constexpr u32 kGroups = kQuantizeThreads / kLanes;  // block rows that a CTA reads at once

struct Segment {  // one lane's elements
  float values[kPerLane];
};

KILN_DEVICE Segment load_segment(const void* in, i64 index, bool valid) {
  uint4 raw{0, 0, 0, 0};
  if (valid)
    raw =
        __ldcs(reinterpret_cast<const uint4*>(static_cast<const u8*>(in) + index * kElementBytes));
  const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
  Segment s;
#pragma unroll
  for (u32 i = 0; i < kPerLane; ++i) {
    if constexpr (kInBf16) {
      s.values[i] = __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
    } else {
      s.values[i] = __uint_as_float(words[i]);
    }
  }
  return s;
}

KILN_DEVICE float largest_magnitude(
    const Segment& s) {  // NaN does not count: it stays NaN by itself
  float largest = 0.0f;
#pragma unroll
  for (u32 i = 0; i < kPerLane; ++i) largest = fmaxf(largest, fabsf(s.values[i]));
  return largest;
}

KILN_DEVICE void store_segment(void* out, i64 index, const Segment& s, float inverse) {
  u32 words[kPerLane / 4];
#pragma unroll
  for (u32 i = 0; i < kPerLane / 4; ++i) {
    const float* v = s.values + i * 4;
    words[i] = fp8x2(v[0] * inverse, v[1] * inverse) | fp8x2(v[2] * inverse, v[3] * inverse) << 16;
  }
  u8* address = static_cast<u8*>(out) + index;
  if constexpr (kInBf16) {
    *reinterpret_cast<uint2*>(address) = uint2{words[0], words[1]};
  } else {
    *reinterpret_cast<u32*>(address) = words[0];
  }
}

KILN_DEVICE float max_over_lanes(float value) {
#pragma unroll
  for (u32 offset = kLanes / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}

// 1x128. A CTA takes 32 rows x 512 columns; a group of lanes takes every kGroups-th of its block
// rows.
KILN_DEVICE void quantize_rows(const QuantizeParams& p) {
  constexpr u32 kRows = 32, kBlocks = 4, kSteps = kRows * kBlocks / kGroups;
  constexpr u32 kBatch =
      4;  // loads in flight per thread: 3.45 TB/s on an H200; 8, with fewer threads, 2.9
  const i64 column_groups = (p.cols + 511) / 512;
  const i64 first_row = blockIdx.x / column_groups * kRows,
            first_column = blockIdx.x % column_groups * 512;
  const u32 group = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const i64 column =
      first_column + group % kBlocks * 128 + lane * kPerLane;  // the same in every step
  const bool inside = column < p.cols;
#pragma unroll 1
  for (u32 step = 0; step < kSteps; step += kBatch) {
    const i64 row = first_row + (step * kGroups + group) / kBlocks;  // of the batch's first step
    Segment segments[kBatch];
#pragma unroll
    for (u32 i = 0; i < kBatch; ++i) {
      const i64 r = row + i * (kGroups / kBlocks);
      segments[i] = load_segment(p.in, r * p.ld_in + column, inside && r < p.rows);
    }
#pragma unroll
    for (u32 i = 0; i < kBatch; ++i) {
      const i64 r = row + i * (kGroups / kBlocks);
      const float scale = block_scale(max_over_lanes(largest_magnitude(segments[i])));
      if (!inside || r >= p.rows) continue;
      store_segment(p.out, r * p.ld_out + column, segments[i], __fdiv_rn(1.0f, scale));
      const i64 block = column / 128;
      if (lane == 0)
        p.scales[kScaleRowMajor ? r * p.ld_scales + block : block * p.ld_scales + r] = scale;
    }
  }
}

// 128x128: one CTA per block, held in registers between the reduction and the stores. Its scales
// are always row-major.
KILN_DEVICE void quantize_blocks(const QuantizeParams& p) {
  constexpr u32 kSteps = 128 / kGroups;
  __shared__ float warp_largest[kQuantizeThreads / 32];
  const i64 column_blocks = (p.cols + 127) / 128;
  const i64 row_block = blockIdx.x / column_blocks, column_block = blockIdx.x % column_blocks;
  const u32 group = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const i64 column = column_block * 128 + lane * kPerLane;
  Segment segments[kSteps];
  float largest = 0.0f;
#pragma unroll
  for (u32 i = 0; i < kSteps; ++i) {
    const i64 row = row_block * 128 + i * kGroups + group;
    segments[i] = load_segment(p.in, row * p.ld_in + column, row < p.rows && column < p.cols);
  }
#pragma unroll
  for (u32 i = 0; i < kSteps; ++i) largest = fmaxf(largest, largest_magnitude(segments[i]));
#pragma unroll
  for (u32 offset = 16; offset > 0; offset /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
  if (threadIdx.x % 32 == 0) warp_largest[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (u32 i = 0; i < kQuantizeThreads / 32; ++i) largest = fmaxf(largest, warp_largest[i]);
  const float scale = block_scale(largest);
  const float inverse = __fdiv_rn(1.0f, scale);
#pragma unroll
  for (u32 i = 0; i < kSteps; ++i) {
    const i64 row = row_block * 128 + i * kGroups + group;
    if (row < p.rows && column < p.cols)
      store_segment(p.out, row * p.ld_out + column, segments[i], inverse);
  }
  if (threadIdx.x == 0) p.scales[row_block * p.ld_scales + column_block] = scale;
}
