// The producer roles of a GEMM: operands by TMA, scales by cp.async. Protocol: gemm_dense.cuh.
#pragma once

#include "gemm_shape.cuh"
#include "pipeline.cuh"

KILN_DEVICE void load_operands(const GemmParams& p, const Work& w, u32 smem, u32 stage, Origin o,
                               u32 k_block) {
  constexpr u32 kBytes =
      kSmem.a_stage_bytes + kSmem.b_stage_bytes + (kSfaRowMajor ? 0 : kSmem.sfa_stage_bytes);
  constexpr u32 kRowsA = kBlockM / kClusterN, kRowsB = kBlockN / kClusterM;
  const u32 full = smem + kSmem.full + stage * 8;
  const u32 a = smem + kSmem.a + stage * kSmem.a_stage_bytes + w.cta_n * kRowsA * kBlockK;
  const u32 b = smem + kSmem.b + stage * kSmem.b_stage_bytes + w.cta_m * kRowsB * kBlockK;
  const u32 row = o.row + w.cta_n * kRowsA, column = o.column + w.cta_m * kRowsB,
            k = k_block * kBlockK;
  mbarrier_arrive_expect_tx(full, kBytes);
  if constexpr (kClusterN > 1) {  // ranks cta_m, cta_m + kClusterM, ...
    constexpr u32 kRow = ((1u << kClusterSize) - 1) / ((1u << kClusterM) - 1);
    tma_load_2d_multicast(a, p.a, k, row, full, static_cast<u16>(kRow << w.cta_m));
  } else {
    tma_load_2d(a, p.a, k, row, full);
  }
  if constexpr (kClusterM > 1) {  // ranks cta_n * kClusterM + 0, 1, ...
    constexpr u32 kColumn = (1u << kClusterM) - 1;
    tma_load_2d_multicast(b, p.b, k, column, full,
                          static_cast<u16>(kColumn << (w.cta_n * kClusterM)));
  } else {
    // B that is read once or twice leaves L2 first and spares what is used again. H200, L2 flushed:
    // 3 to 9 % at M = 1 and 128; with more reads of B it costs up to 17 %.
    tma_load_2d_policy(b, p.b, k, column, full, w.num_tiles_m <= 2 ? kEvictFirst : kEvictNormal);
  }
  if constexpr (!kSfaRowMajor)
    tma_load_2d(smem + kSmem.sfa + stage * kSmem.sfa_stage_bytes, p.sfa, o.row, k_block, full);
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
    const float* sfb = p.sfb_blocks + (exists ? scale_column : 0) * p.ld_sfb;
#pragma unroll 1
    for (u32 k_block = 0; k_block < kKBlocks; ++k_block, ring.advance()) {
      wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);
      cp_async_4(smem + kSmem.sfb + ring.stage * kSmem.sfb_stage_bytes + lane * 4, sfb + k_block, exists);
      cp_async_mbarrier_arrive(smem + kSmem.full + ring.stage * 8);
    }
  }
}

// Requests the scales of a group of k-blocks for this lane's rows, zeros beyond M and K.
KILN_DEVICE void request_row_scales(const GemmParams& p, u32 to, u32 first_row, u32 k_block,
                                    bool aligned) {
  const u32 lane = threadIdx.x % 64;
  const float* source = p.sfa_rows + static_cast<i64>(first_row + lane) * p.ld_sfa + k_block;
#pragma unroll 1
  for (u32 row = lane; row < kBlockM; row += 64, source += 64 * p.ld_sfa) {
    const bool inside = first_row + row < p.m;
    if (aligned && k_block + kSfaGroup <= kKBlocks) {
      cp_async_16(to + row * kSfaGroup * 4, source, inside);
    } else {
#pragma unroll
      for (u32 i = 0; i < kSfaGroup; ++i)
        cp_async_4(to + (row * kSfaGroup + i) * 4, source + i, inside && k_block + i < kKBlocks);
    }
  }
}

// Two warps bring row-major row scales into the stages. They read a group of 4 k-blocks at a time,
// one group ahead, and then hand it on k-block by k-block: every lane only what it copied itself,
// so that its own wait is all the ordering there is. Read k-block by k-block, each 32-byte sector
// of SFA was fetched up to 8 times, which cost 7 to 15 % at M = 4096 on an H200; read by the
// consumers in groups, their longer chain from WGMMA to WGMMA cost 3 to 6 %.
KILN_DEVICE void produce_row_scales(const GemmParams& p, const Work& w, u32 smem) {
  const u32 lane = threadIdx.x % 64;
  const bool aligned = p.ld_sfa % 4 == 0 && reinterpret_cast<u64>(p.sfa_rows) % 16 == 0;
  const u32 groups = smem + kSmem.sfa_rows;
  Ring<kStages> ring;
  u32 parity = 0;
  for (u32 item = w.cluster; item < p.num_tiles; item += w.num_clusters) {
    const u32 first_row = tile_origin(w, item).row;
    request_row_scales(p, groups + parity * kSmem.sfa_group_bytes, first_row, 0, aligned);
    cp_async_commit_group();
#pragma unroll 1
    for (u32 k_block = 0; k_block < kKBlocks; ++k_block, ring.advance()) {
      if (k_block % kSfaGroup == 0) {  // this group has landed; ask for the next one
        cp_async_wait_group<0>();
        parity ^= 1;
        if (k_block + kSfaGroup < kKBlocks)
          request_row_scales(p, groups + parity * kSmem.sfa_group_bytes, first_row,
                             k_block + kSfaGroup, aligned);
        cp_async_commit_group();
      }
      const u32 from = groups + (parity ^ 1) * kSmem.sfa_group_bytes + k_block % kSfaGroup * 4;
      const u32 to = smem + kSmem.sfa + ring.stage * kSmem.sfa_stage_bytes;
      wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);
#pragma unroll 2
      for (u32 row = lane; row < kBlockM; row += 64)
        st_shared_f32(to + row * 4, ld_shared_f32(from + row * kSfaGroup * 4));
      __syncwarp();
      if (lane % 32 == 0) mbarrier_arrive(smem + kSmem.full + ring.stage * 8);
    }
  }
}
