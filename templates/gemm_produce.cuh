// The producer roles of a GEMM: operands by TMA, scales by cp.async. Protocol: gemm_dense.cuh.
#pragma once

#include "gemm_shape.cuh"
#include "pipeline.cuh"

KILN_DEVICE void load_operands(const GemmParams& p, const Work& w, u32 smem, u32 stage, Origin o, u32 k_block) {
  constexpr u32 kBytes = kSmem.a_stage_bytes + kSmem.b_stage_bytes + (kSfaRowMajor ? 0 : kSmem.sfa_slot_bytes);
  constexpr u32 kRowsA = kBlockM / kClusterN, kRowsB = kBlockN / kClusterM;
  const u32 full = smem + kSmem.full + stage * 8;
  const u32 a = smem + kSmem.a + stage * kSmem.a_stage_bytes + w.cta_n * kRowsA * kBlockK;
  const u32 b = smem + kSmem.b + stage * kSmem.b_stage_bytes + w.cta_m * kRowsB * kBlockK;
  const u32 row = o.row + w.cta_n * kRowsA, column = o.column + w.cta_m * kRowsB, k = k_block * kBlockK;
  mbarrier_arrive_expect_tx(full, kBytes);
  if constexpr (kClusterN > 1) {  // ranks cta_m, cta_m + kClusterM, ...
    constexpr u32 kRow = ((1u << kClusterSize) - 1) / ((1u << kClusterM) - 1);
    tma_load_2d_multicast(a, p.a, k, row, full, static_cast<u16>(kRow << w.cta_m));
  } else {
    tma_load_2d(a, p.a, k, row, full);
  }
  if constexpr (kClusterM > 1) {  // ranks cta_n * kClusterM + 0, 1, ...
    constexpr u32 kColumn = (1u << kClusterM) - 1;
    tma_load_2d_multicast(b, p.b, k, column, full, static_cast<u16>(kColumn << (w.cta_n * kClusterM)));
  } else {
    tma_load_2d(b, p.b, k, column, full);
  }
  if constexpr (!kSfaRowMajor)
    tma_load_2d(smem + kSmem.sfa + stage * kSmem.sfa_slot_bytes, p.sfa, o.row, k_block, full);
}

// One thread.
KILN_DEVICE void produce_operands(const GemmParams& p, const Work& w, u32 smem) {
  Ring<kStages> ring;
  for (u32 item = w.cluster; item < p.num_tiles; item += w.num_clusters) {
    const Origin o = tile_origin(w, item);
#pragma unroll 1
    for (u32 k_block = 0; k_block < kKBlocks; ++k_block, ring.advance()) {
      wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);
      load_operands(p, w, smem, ring.stage, o, k_block);
    }
  }
  griddepcontrol_launch_dependents();
}

// One warp, of which kScaleSpan lanes work: lane i copies the i-th column scale under the tile.
KILN_DEVICE void produce_column_scales(const GemmParams& p, const Work& w, u32 smem) {
  const u32 lane = threadIdx.x % 32;
  if (lane >= kScaleSpan) return;
  Ring<kStages> ring;
  for (u32 item = w.cluster; item < p.num_tiles; item += w.num_clusters) {
    const u32 scale_column = tile_origin(w, item).column / 128 + lane;
    const bool exists = scale_column < kScaleColumns;
    const float* sfb = p.sfb + (exists ? scale_column : 0) * p.ld_sfb;
#pragma unroll 1
    for (u32 k_block = 0; k_block < kKBlocks; ++k_block, ring.advance()) {
      wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);
      cp_async_4(smem + kSmem.sfb + ring.stage * kSfbSlotBytes + lane * 4, sfb + k_block, exists);
      cp_async_mbarrier_arrive(smem + kSmem.full + ring.stage * 8);
    }
  }
}

// Two warps; a lane copies every 64th row of a group, zeros beyond M and K.
KILN_DEVICE void produce_row_scales(const GemmParams& p, const Work& w, u32 smem) {
  const u32 lane = threadIdx.x % 64;
  const bool aligned = p.ld_sfa % 4 == 0 && reinterpret_cast<u64>(p.sfa_rows) % 16 == 0;
  Ring<kSmem.sfa_slots> ring;
  for (u32 item = w.cluster; item < p.num_tiles; item += w.num_clusters) {
    const u32 first_row = tile_origin(w, item).row;
#pragma unroll 1
    for (u32 k_block = 0; k_block < kKBlocks; k_block += kSfaGroup, ring.advance()) {
      wait(smem + kSmem.sfa_empty + ring.stage * 8, ring.phase ^ 1);
      const float* source = p.sfa_rows + static_cast<i64>(first_row + lane) * p.ld_sfa + k_block;
#pragma unroll 1
      for (u32 row = lane; row < kBlockM; row += 64, source += 64 * p.ld_sfa) {
        const u32 to = smem + kSmem.sfa + ring.stage * kSmem.sfa_slot_bytes + row * kSfaGroup * 4;
        const bool inside = first_row + row < p.m;
        if (aligned && k_block + kSfaGroup <= kKBlocks) {
          cp_async_16(to, source, inside);
        } else {
#pragma unroll
          for (u32 i = 0; i < kSfaGroup; ++i) cp_async_4(to + i * 4, source + i, inside && k_block + i < kKBlocks);
        }
      }
      cp_async_mbarrier_arrive(smem + kSmem.sfa_full + ring.stage * 8);
    }
  }
}
