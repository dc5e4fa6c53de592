// What a consumer warpgroup does with a full stage: WGMMAs into sums, and the sums, scaled, into
// the totals of the tile. Protocol: gemm.cuh.
#pragma once

#include "gemm_mma.cuh"
#include "gemm_scale_terms.cuh"
#include "gemm_shape.cuh"
#include "gemm_store.cuh"
#include "pipeline.cuh"

// What a warpgroup keeps from one tile to the next: the finished tile in its totals, which is
// stored under the next tile's first WGMMAs.
struct ConsumerState {
  Ring<kStages> ring;
  bool is_full = false;  // the stage that ring is at, as looked at before
  MmaOperands at;        // its operands
  u32 held[kMmas][4];    // its A, where registers hold that
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

// This warp's 16 rows of A, as a WGMMA takes them from registers. The stage is full. (One that ends
// the work has none: what is loaded then, nobody uses.)
KILN_DEVICE void hold_a(const Consumer& c, ConsumerState& state) {
  const u32 from = c.held + state.ring.stage * kSmem.a_stage_bytes;
#pragma unroll
  for (u32 k = 0; k < kMmas; ++k) ldmatrix_x4(state.held[k], from ^ k * 32);
}

KILN_DEVICE void wait_full(const Consumer& c, ConsumerState& state) {
  if (!state.is_full) wait(c.smem + kSmem.full + state.ring.stage * 8, state.ring.phase);
}

// Looks at the next stage while WGMMAs still read this one. All lanes of a warp say the same: they
// load a matrix together, or none does.
KILN_DEVICE void look_ahead(const Consumer& c, ConsumerState& state) {
  Ring<kStages> next = state.ring;
  next.advance();
  const bool is_full = mbarrier_look(c.smem + kSmem.full + next.stage * 8, next.phase);
  state.is_full = __all_sync(0xffffffffu, is_full);
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
  if constexpr (kHoldsA) {  // looked at before
    if (state.is_full) hold_a(c, state);
  } else {
    state.is_full =
        (!kWholeRounds || state.ring.stage <= 1) && mbarrier_look(full, state.ring.phase);
  }
  if constexpr (kAimsAhead) aim(c, state);
}

// One sum serves all waves in turn. With two, and WGMMAs in flight while one is promoted, an H200
// took 2 to 7 % longer (4096x7168x16384, 128x128 and 128x192 of two waves, also of zeros).
//
// All waves of one k-block: start the WGMMAs, under the first of a tile store the previous tile,
// then promote. `waves` of them have valid rows, at least one. On entry the stage is full.
template <bool kFirst>
KILN_DEVICE void multiply(const GemmParams& p, const Consumer& c, ConsumerState& state,
                          float (&total)[kPieces][kMmaN / 2], float (&sum)[kMmaN / 2],
                          float (&products)[kMmaN / 2], ScaleSite site, u32 waves) {
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
      row_scales = load_row_scales(sfa + wave * kWaveStride * 4);
    }
    start_wave(sum, at, wave);
    // Many loads: after the WGMMAs have started. H200, 4096x4096x7168: 269 us before them, 257
    // after.
    if (kColumnScales && !kScaleTerms && wave == 0) load_column_scales(columns, c, stage, 0, site);
    if constexpr (kFirst) {
      if (state.pending) store_piece(p, c, state.slots, total[wave], state.place, wave);
    }
    finish_mma(sum);
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

// Both passes of one k-block, with A in registers: while the sums of the last are promoted, the
// next stage's A comes, if that stage is full. A tile's first k-block takes A from shared memory:
// the store of the previous tile needs its registers, and those of the scales.
template <bool kFirst>
KILN_DEVICE void multiply_passes(const GemmParams& p, const Consumer& c, ConsumerState& state,
                                 float (&total)[kPieces][kMmaN / 2], float (&sum)[kMmaN / 2],
                                 float (&products)[kMmaN / 2], ScaleSite site) {
  const u32 stage = state.ring.stage;
  [[maybe_unused]] float2 row_scales;
  float columns[kColumnValues];
#pragma unroll
  for (u32 pass = 0; pass < kPasses; ++pass) {
    MmaOperands at = state.at;
    at.b += pass * (kMmaN * kBlockK >> 4);
    at.column_terms += pass * (kMmaN * kTermBytes >> 4);
    if constexpr (kScaleTerms) start_products(products, at, 0);
    if constexpr (kFirst) {
      start_wave(sum, at, 0);
      if (state.pending) store_piece(p, c, state.slots, total[pass], state.place, pass);
    } else {
      start_mma(sum, at.b, [&](u32 k) -> const u32(&)[4] { return state.held[k]; });
    }
    if (!kScaleTerms && (kFirst || pass == 0)) {
      row_scales = load_row_scales(row_scales_at(c, stage));
      load_column_scales(columns, c, stage, 0, site);
    }
    const bool last = pass + 1 == kPasses;
    if (last) look_ahead(c, state);
    finish_mma(sum);
    if constexpr (kScaleTerms) keep(products);
    if (last) next_stage(c, state);
    if constexpr (kScaleTerms) {
      promote<kFirst>(total[pass], sum, products);
    } else {
      promote<kFirst>(total[pass], sum, row_scales, columns, pass);
    }
  }
}

// kBatch k-blocks of a stage from `block` on, of a tile of one wave.
template <bool kFirst>
KILN_DEVICE void multiply_batch(const GemmParams& p, const Consumer& c, ConsumerState& state,
                                float (&total)[kMmaN / 2], float (&sums)[kSums][kMmaN / 2],
                                ScaleSite site, u32 block) {
  const u32 stage = state.ring.stage;
  const u32 sfa = row_scales_at(c, stage);
  float2 row_scales[kBatch];
  float columns[kBatch][kColumnValues];
#pragma unroll
  for (u32 i = 0; i < kBatch; ++i) {
    const u32 rows = sfa + (block + i) * kBlockM * 4;
    row_scales[i] = load_row_scales(rows);
    load_column_scales(columns[i], c, stage, block + i, site);
  }
#pragma unroll
  for (u32 i = 0; i < kBatch; ++i) start_wave(sums[i], operands_at(c, stage, block + i), 0);
  if (kFirst && state.pending) store_piece(p, c, state.slots, total, state.place, 0);
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
                                float (&total)[kPieces][kMmaN / 2], float (&sums)[kSums][kMmaN / 2],
                                ScaleSite site, u32 waves) {
  if constexpr (kHoldsA) {
    multiply_passes<kFirst>(p, c, state, total, sums[0], sums[kSums - 1], site);
  } else if constexpr (kStageBlocks == 1) {
    multiply<kFirst>(p, c, state, total, sums[0], sums[kSums - 1], site, waves);
  } else {
    multiply_batch<kFirst>(p, c, state, total[0], sums, site, 0);
#pragma unroll
    for (u32 block = kBatch; block < kStageBlocks; block += kBatch)
      multiply_batch<false>(p, c, state, total[0], sums, site, block);
  }
}
