// The shared memory of a GEMM kernel: offsets for the kernel, bytes for the launch, legality for
// the tuner. One definition, compiled as device code by NVRTC and as host C++ by jit/tile.cc.
#pragma once

#include "base.cuh"

KILN_BEGIN_SHARED

constexpr u32 kMaxSmemBytes = 232448;  // dynamic shared memory of one CTA on sm_90: 227 KiB
constexpr u32 kBlockK = 128;           // bytes and elements of K per stage, and per scale
constexpr u32 kSfbSlotBytes = 16;      // up to 3 column scales of a stage, padded
constexpr u32 kSfaGroup = 4;  // k-blocks of row-major row scales that are copied at once: 16 bytes
constexpr u32 kStoreRows = 16;  // rows that one warp stages and stores at a time
constexpr u32 kWaveRows = 64;   // rows of one WGMMA

struct GemmShape {
  u32 block_m, block_n;
  u32 warpgroups_m, warpgroups_n;
  u32 stages;
  u32 out_bytes;  // of one element of D
  bool sfa_row_major;
};

// Byte offsets from the 1024-byte aligned base. a, b and sfa hold `stages` pieces, d holds
// `d_slots` chunks of kStoreRows rows for each consumer warp, sfa_rows two groups of row-major row
// scales on their way into the stages (block_m x kSfaGroup floats each). Barriers are u64:
// full[stages], empty[stages], c_full[consumer warps * d_slots].
struct SmemLayout {
  u32 a, b, d, sfa, sfa_rows, sfb, full, empty, c_full, total;
  u32 a_stage_bytes, b_stage_bytes, sfa_stage_bytes, sfa_group_bytes;
  u32 d_chunk_bytes, d_chunks, d_slots;
};

KILN_SHARED_CODE u32 align_up(u32 value, u32 alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// D leaves through chunks as wide as a swizzle span, the widest that divides a warpgroup's row.
KILN_SHARED_CODE u32 d_chunk_bytes(u32 row_bytes) {
  return row_bytes % 128 == 0 ? 128 : row_bytes % 64 == 0 ? 64 : row_bytes % 32 == 0 ? 32 : 16;
}

KILN_SHARED_CODE SmemLayout smem_layout(const GemmShape& s) {
  SmemLayout l{};
  const u32 warps = s.warpgroups_m * s.warpgroups_n * 4;
  const u32 row_bytes = s.block_n / s.warpgroups_n * s.out_bytes;
  l.a_stage_bytes = s.block_m * kBlockK;
  l.b_stage_bytes = s.block_n * kBlockK;
  l.sfa_stage_bytes = s.block_m * 4;
  l.sfa_group_bytes = s.sfa_row_major ? s.block_m * 4 * kSfaGroup : 0;
  l.d_chunk_bytes = d_chunk_bytes(row_bytes);
  l.d_chunks = s.block_m / s.warpgroups_m / kWaveRows * (row_bytes / l.d_chunk_bytes);

  // Staging for D takes what the ring leaves, up to the warp's whole part of the tile.
  const u32 slot_bytes = warps * (kStoreRows * l.d_chunk_bytes + 8);
  const u32 ring_bytes =
      s.stages * (l.a_stage_bytes + l.b_stage_bytes + l.sfa_stage_bytes + kSfbSlotBytes + 16) +
      2 * l.sfa_group_bytes;
  const u32 fitting = ring_bytes < kMaxSmemBytes ? (kMaxSmemBytes - ring_bytes) / slot_bytes : 0;
  l.d_slots = fitting < 1 ? 1 : fitting < l.d_chunks ? fitting : l.d_chunks;

  l.a = 0;
  l.b = l.a + s.stages * l.a_stage_bytes;
  l.d = l.b + s.stages * l.b_stage_bytes;
  l.sfa = align_up(l.d + l.d_slots * warps * kStoreRows * l.d_chunk_bytes, 128);
  l.sfa_rows = l.sfa + s.stages * l.sfa_stage_bytes;
  l.sfb = l.sfa_rows + 2 * l.sfa_group_bytes;
  l.full = l.sfb + s.stages * kSfbSlotBytes;
  l.empty = l.full + s.stages * 8;
  l.c_full = l.empty + s.stages * 8;
  l.total = l.c_full + warps * l.d_slots * 8;
  return l;
}

KILN_END_SHARED
