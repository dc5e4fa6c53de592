// What a consumer warpgroup does with a full stage: WGMMAs into sums, and the sums, scaled, into
// the totals of the tile. Protocol: gemm.cuh.
#pragma once

#include "gemm_scale_terms.cuh"
#include "gemm_shape.cuh"
#include "gemm_store.cuh"
#include "pipeline.cuh"

// ---- one k-block in the tensor cores, and its promotion ----

// Matrix descriptor of a 128B-swizzled, K-major tile: 8 rows x 128 bytes per swizzle atom. Only its
// lower word, the address, is not a constant.
template <u32 kStrideBytes = 8 * kBlockK>  // from one 8 rows to the next
KILN_DEVICE u64 matrix_descriptor(u32 address) {
  constexpr u64 kSwizzle128 = 1ull << 62, kStride = static_cast<u64>(kStrideBytes >> 4) << 32;
  return kSwizzle128 | kStride | address;
}

KILN_DEVICE void keep(float (&registers)[kWgN / 2]) {  // pins the accumulators against code motion
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i) keep_register(registers[i]);
}

// Where the operands of a k-block's WGMMAs begin, and the terms of its scales.
constexpr u32 kMmas = kBlockK / 32;
struct MmaOperands {
  u32 a, b, row_terms, column_terms;
};

// Starts one wave of one k-block: 64 x kWgN x 128.
KILN_DEVICE void start_mma(float (&sum)[kWgN / 2], const MmaOperands& at, u32 wave) {
  constexpr u32 kStrideA = kBlockM == 8 ? 0 : 8 * kBlockK;  // a tile of 8 rows repeats them
  const u32 first = wave * (kWaveStride * kBlockK >> 4);
  keep(sum);
  wgmma_fence();
  wgmma<0>(sum, matrix_descriptor<kStrideA>(at.a + first), matrix_descriptor(at.b));
#pragma unroll
  for (u32 k = 1; k < kMmas; ++k)
    wgmma<1>(sum, matrix_descriptor<kStrideA>(at.a + first + k * 2),
             matrix_descriptor(at.b + k * 2));
  wgmma_commit_group();
}

// ---- scales of one k-block, as a thread needs them ----

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

// The factor of accumulator register i.
KILN_DEVICE float scale_of(u32 i, float2 row_scales, const float (&columns)[kColumnValues]) {
  const float row = i % 4 < 2 ? row_scales.x : row_scales.y;
  return row * (kColumnScales ? columns[i / 4 * 2 + i % 2] : columns[i / 4 * 8 / kScaleChunk]);
}

template <bool kFirst>
KILN_DEVICE void promote(float (&total)[kWgN / 2], const float (&sum)[kWgN / 2], float2 row_scales,
                         const float (&columns)[kColumnValues]) {
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i) {
    const float scale = scale_of(i, row_scales, columns);
    total[i] = kFirst ? scale * sum[i] : total[i] + scale * sum[i];
  }
}

template <bool kFirst>
KILN_DEVICE void promote(float (&total)[kWgN / 2], const float (&sum)[kWgN / 2],
                         const float (&products)[kWgN / 2]) {
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i)
    total[i] = kFirst ? products[i] * sum[i] : total[i] + products[i] * sum[i];
}

// ---- a stage ----

// What a warpgroup keeps from one tile to the next: the finished tile in its totals, which is
// stored under the next tile's first WGMMAs.
struct ConsumerState {
  Ring<kStages> ring;
  bool is_full = false;  // the stage that ring is at, as looked at before
  MmaOperands at;        // its operands
  Slots slots;
  Place place;           // of the finished tile
  bool pending = false;  // there is one
  Ring<kStages> tile;    // where this tile begins; the parts of K begin a stage apart
  u32 tiles = 0;         // gathered

  // This part's first stage of the next tile.
  KILN_DEVICE Ring<kStages> next_tile(u32 part) {
    tile.advance(kPartStages % kStages);
    tile.phase ^= kPartStages / kStages & 1;
    Ring<kStages> first = tile;
    first.advance(part);
    return first;
  }
};

// The stage is read: lets the producers of every CTA that shares it refill it.
KILN_DEVICE void release(const Consumer& c, u32 stage) {
  const u32 empty = c.smem + kSmem.empty + stage * 8;
  if constexpr (!kShares) {
    if (c.lane == 0) mbarrier_arrive(empty);
  } else {
    if (c.releases) mbarrier_arrive_cluster(empty, c.lane);
  }
}

KILN_DEVICE void wait_full(const Consumer& c, const ConsumerState& state) {
  if (!state.is_full) wait(c.smem + kSmem.full + state.ring.stage * 8, state.ring.phase);
}

// A 64-row part of A and this warpgroup's columns of B in a k-block of a stage. (What a WGMMA reads
// beyond 16 or 32 rows is in the next stages.)
KILN_DEVICE MmaOperands operands_at(const Consumer& c, u32 stage, u32 block) {
  return {c.a + stage * (kSmem.a_stage_bytes >> 4) + block * (kBlockM * kBlockK >> 4),
          c.b + stage * (kSmem.b_stage_bytes >> 4) + block * (kBlockN * kBlockK >> 4),
          c.row_terms + stage * (kBlockM * kTermBytes >> 4),
          c.column_terms + stage * (kBlockN * kTermBytes >> 4)};
}

// Has the operands of the stage that comes next before it is full.
KILN_DEVICE void aim(const Consumer& c, ConsumerState& state) {
  state.at = operands_at(c, state.ring.stage, 0);
  state.at.a = opaque_register(state.at.a);
  state.at.b = opaque_register(state.at.b);
  if constexpr (kScaleTerms) {
    state.at.row_terms = opaque_register(state.at.row_terms);
    state.at.column_terms = opaque_register(state.at.column_terms);
  }
}

// Hands the stage back and looks at the next one: the answer takes 20 to 30 cycles, and comes while
// the sums are promoted. (Where the loop is unrolled ptxas itself does so for the stages that are
// reached in one way only, and with one branch less.)
KILN_DEVICE void next_stage(const Consumer& c, ConsumerState& state) {
  release(c, state.ring.stage);
  state.ring.advance(kWarpgroupsK);
  const u32 full = c.smem + kSmem.full + state.ring.stage * 8;
  state.is_full = (!kWholeRounds || state.ring.stage <= 1) && mbarrier_look(full, state.ring.phase);
  if constexpr (kAimsAhead) aim(c, state);
}

// Starts the WGMMA that makes the factors of a wave's sums. start_mma() commits it with its own.
// The terms: rows of 16 bytes one behind the other, and for the upper half of K the same ones
// again.
KILN_DEVICE void start_products(float (&products)[kWgN / 2], const MmaOperands& at, u32 wave) {
  constexpr u64 kEightRows = static_cast<u64>(8 * kTermBytes >> 4) << 32;
  keep(products);
  wgmma_fence();
  wgmma_of_terms(products, kEightRows | (at.row_terms + wave * (kWaveStride * kTermBytes >> 4)),
                 kEightRows | at.column_terms);
}

// Where the scale of a thread's first row lies, for the first k-block of a stage.
KILN_DEVICE u32 row_scales_at(const Consumer& c, u32 stage) {
  return c.row_scales + stage * kSmem.sfa_stage_bytes;
}
constexpr u32 kLowerRows = kBlockM == 8 ? 0 : 8;  // a thread's second row, from its first

// One sum serves all waves in turn. With two, and WGMMAs in flight while one is promoted, an H200
// took 2 to 7 % longer (4096x7168x16384, 128x128 and 128x192 of two waves, also of zeros).
//
// All waves of one k-block: start the WGMMAs, under the first of a tile store the previous tile,
// then promote. `waves` of them have valid rows, at least one. On entry the stage is full.
template <bool kFirst>
KILN_DEVICE void multiply(const GemmParams& p, const Consumer& c, ConsumerState& state,
                          float (&total)[kWaves][kWgN / 2], float (&sum)[kWgN / 2],
                          float (&products)[kWgN / 2], ScaleSite site, u32 waves) {
  const u32 stage = state.ring.stage;
  float columns[kColumnValues];
  if constexpr (!kColumnScales) load_column_scales(columns, c, stage, 0, site);
  const u32 sfa = row_scales_at(c, stage);
#pragma unroll
  for (u32 wave = 0; wave < kWaves; ++wave) {
    // A tile's first k-block computes every wave: it overwrites the totals, which would otherwise
    // live on from tile to tile and cost registers that are not there.
    if (kRowGroups && !kFirst && wave > 0 && wave >= waves) break;
    [[maybe_unused]] float2 row_scales;
    const MmaOperands at = kAimsAhead ? state.at : operands_at(c, stage, 0);
    if constexpr (kScaleTerms) {
      start_products(products, at, wave);
    } else {
      row_scales = {ld_shared_f32(sfa + wave * kWaveStride * 4),
                    ld_shared_f32(sfa + (wave * kWaveStride + kLowerRows) * 4)};
    }
    start_mma(sum, at, wave);
    // Many loads: after the WGMMAs have started. H200, 4096x4096x7168: 269 us before them, 257
    // after.
    if (kColumnScales && !kScaleTerms && wave == 0) load_column_scales(columns, c, stage, 0, site);
    if constexpr (kFirst) {
      if (state.pending) store_wave(p, c, state.slots, total[wave], state.place, wave);
    }
    wgmma_wait_group<0>();
    keep(sum);
    if constexpr (kScaleTerms) keep(products);
    const bool last_wave = wave + 1 == (kRowGroups && !kFirst ? waves : kWaves);
    if (last_wave) next_stage(c, state);
    if constexpr (kScaleTerms) {
      promote<kFirst>(total[wave], sum, products);
    } else {
      promote<kFirst>(total[wave], sum, row_scales, columns);
    }
  }
}

// kBatch k-blocks of a stage from `block` on, of a tile of one wave.
template <bool kFirst>
KILN_DEVICE void multiply_batch(const GemmParams& p, const Consumer& c, ConsumerState& state,
                                float (&total)[kWgN / 2], float (&sums)[kSums][kWgN / 2],
                                ScaleSite site, u32 block) {
  const u32 stage = state.ring.stage;
  const u32 sfa = row_scales_at(c, stage);
  float2 row_scales[kBatch];
  float columns[kBatch][kColumnValues];
#pragma unroll
  for (u32 i = 0; i < kBatch; ++i) {
    const u32 rows = sfa + (block + i) * kBlockM * 4;
    row_scales[i] = {ld_shared_f32(rows), ld_shared_f32(rows + kLowerRows * 4)};
    load_column_scales(columns[i], c, stage, block + i, site);
  }
#pragma unroll
  for (u32 i = 0; i < kBatch; ++i) start_mma(sums[i], operands_at(c, stage, block + i), 0);
  if (kFirst && state.pending) store_wave(p, c, state.slots, total, state.place, 0);
  wgmma_wait_group<0>();
#pragma unroll
  for (u32 i = 0; i < kBatch; ++i) keep(sums[i]);
  if (block + kBatch == kStageBlocks) next_stage(c, state);
  promote<kFirst>(total, sums[0], row_scales[0], columns[0]);
#pragma unroll
  for (u32 i = 1; i < kBatch; ++i) promote<false>(total, sums[i], row_scales[i], columns[i]);
}

// One stage, which is full; state has the next one then.
template <bool kFirst>
KILN_DEVICE void multiply_stage(const GemmParams& p, const Consumer& c, ConsumerState& state,
                                float (&total)[kWaves][kWgN / 2], float (&sums)[kSums][kWgN / 2],
                                ScaleSite site, u32 waves) {
  if constexpr (kStageBlocks == 1) {
    multiply<kFirst>(p, c, state, total, sums[0], sums[kSums - 1], site, waves);
  } else {
    multiply_batch<kFirst>(p, c, state, total[0], sums, site, 0);
#pragma unroll
    for (u32 block = kBatch; block < kStageBlocks; block += kBatch)
      multiply_batch<false>(p, c, state, total[0], sums, site, block);
  }
}
