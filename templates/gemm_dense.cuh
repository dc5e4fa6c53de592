// Dense GEMM, scaling 1d2d: D[M,N] (+)= (A * SFA)[M,K] (B * SFB)[N,K]^T.
//
// Roles. Warpgroup 0 produces: its warp 0 loads A, B (and M-major SFA) by TMA; its warp 1 copies
// SFB, its warps 2 and 3 row-major SFA, by cp.async. Warpgroups 1.. consume: each owns kWgM x kWgN
// of the tile and walks it in waves of 64 rows.
//
// A stage holds kBlockM x 128 of A, kBlockN x 128 of B (both 128B-swizzled), kBlockM row scales and
// up to 3 column scales, for one k-block of 128.
//   full[s]:  1 arrival with the TMA byte count, 1 of each lane that copies a column scale (when its
//             copy has landed), 2 of the warps that bring row-major row scales. Consumers wait for
//             it with the ring's phase.
//   empty[s]: one arrival of each consumer warp of every CTA that the stage's data is shared with.
//             All producers of a stage wait for it with phase ^ 1, so the first round passes.
// A consumer arrives on empty after its last WGMMA that reads the stage has completed; every scale
// was read into registers before that. Producer and consumers visit the same tiles and k-blocks in
// the same order, so stage and phase agree without further communication, and each wait is for
// something that its peer does without waiting for the waiter: there is no cycle.
//
// Accumulation has two levels: 4 WGMMAs sum one k-block in the tensor core, then the sum is
// multiplied by its scales and added to FP32 registers. The first k-block of a tile overwrites
// instead of adding.
//
// D leaves warp by warp: a warp stages 16 rows x one chunk in its own slots, then its lane 0 stores
// the chunk by TMA. BF16 tiles are packed in registers and stored while the first WGMMAs of the
// next tile run; the last one is stored at the end. FP32 tiles are stored at once; when
// accumulating, C comes through the same slots by TMA, requested at the start of the tile
// (c_full[warp][slot]).
//
// Clusters: CTAs in a row share A, CTAs in a column share B; each loads its part of a shared tile
// and multicasts it. A cluster takes one item of the schedule, also where part of it lies beyond D:
// TMA fills with zeros and drops what is outside. Nobody exits before all of the cluster are done.
#pragma once

#include "gemm_produce.cuh"
#include "gemm_shape.cuh"
#include "gemm_store.cuh"
#include "pipeline.cuh"

// ---- one k-block in the tensor cores, and its promotion ----

// Matrix descriptor of a 128B-swizzled, K-major tile: 8 rows x 128 bytes per swizzle atom.
KILN_DEVICE u64 matrix_descriptor(u32 address) {
  constexpr u64 kSwizzle128 = 1ull << 62, kStride = static_cast<u64>(8 * kBlockK >> 4) << 32;
  return kSwizzle128 | kStride | ((address & 0x3FFFF) >> 4);
}

KILN_DEVICE void keep(float (&registers)[kWgN / 2]) {  // pins the accumulators against code motion
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

// Starts one wave of one k-block: 64 x kWgN x 128.
KILN_DEVICE void start_mma(float (&sum)[kWgN / 2], u64 a, u64 b) {
  keep(sum);
  wgmma_fence();
  wgmma<0>(sum, a, b);
#pragma unroll
  for (u32 k = 1; k < kBlockK / 32; ++k) wgmma<1>(sum, a + k * 2, b + k * 2);
  wgmma_commit_group();
}

template <bool kFirst>
KILN_DEVICE void promote(float (&total)[kWgN / 2], const float (&sum)[kWgN / 2], float2 row_scales,
                         const float (&column_scales)[kScaleChunks]) {
#pragma unroll
  for (u32 i = 0; i < kWgN / 8; ++i) {
    const float upper = row_scales.x * column_scales[i * 8 / kScaleChunk];
    const float lower = row_scales.y * column_scales[i * 8 / kScaleChunk];
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      const float scale = j < 2 ? upper : lower;
      total[i * 4 + j] =
          kFirst ? scale * sum[i * 4 + j] : total[i * 4 + j] + scale * sum[i * 4 + j];
    }
  }
}

// ---- the main loop ----

struct Pending {  // a finished BF16 tile that is stored under the next tile's first WGMMAs
  u32 packed[kWaves][kWgN / 4];
  u32 row, column;
  bool any;
};

// The stage is read: lets the producers of every CTA that shares it refill it.
KILN_DEVICE void release(const Work& w, const Consumer& c, u32 stage) {
  const u32 empty = c.smem + kSmem.empty + stage * 8;
  if constexpr (kClusterSize == 1) {
    if (c.lane == 0) mbarrier_arrive(empty);
  } else if (c.lane < kClusterSize) {
    const bool shares = c.lane % kClusterM == w.cta_m || c.lane / kClusterM == w.cta_n;
    if (shares) mbarrier_arrive_cluster(empty, c.lane);
  }
}

// All waves of one k-block: start the WGMMAs, under the first of a tile store the previous tile,
// then promote.
template <bool kFirst>
KILN_DEVICE void multiply(const GemmParams& p, const Work& w, const Consumer& c,
                          Ring<kStages>& ring, float (&total)[kWaves][kWgN / 2],
                          float (&sum)[kWgN / 2], Pending& pending, u32& slot_index,
                          u32 tile_column) {
  const u32 stage = ring.stage;
  wait(c.smem + kSmem.full + stage * 8, ring.phase);
  float column_scales[kScaleChunks];
  const u32 sfb = c.smem + kSmem.sfb + stage * kSmem.sfb_stage_bytes;
#pragma unroll
  for (u32 i = 0; i < kScaleChunks; ++i)
    column_scales[i] =
        ld_shared_f32(sfb + (tile_column % 128 + c.column + i * kScaleChunk) / 128 * 4);

  const u32 sfa = c.smem + kSmem.sfa + stage * kSmem.sfa_stage_bytes +
                  (c.row + c.warp % 4 * kStoreRows + c.lane / 4) * 4;
  const u64 a = matrix_descriptor(c.smem + kSmem.a + stage * kSmem.a_stage_bytes + c.row * kBlockK);
  const u64 b =
      matrix_descriptor(c.smem + kSmem.b + stage * kSmem.b_stage_bytes + c.column * kBlockK);
#pragma unroll
  for (u32 wave = 0; wave < kWaves; ++wave) {
    const float2 row_scales{ld_shared_f32(sfa + wave * kWaveRows * 4),
                            ld_shared_f32(sfa + wave * kWaveRows * 4 + 32)};
    start_mma(sum, a + wave * (kWaveRows * kBlockK >> 4), b);
    if constexpr (kFirst && kOutBf16) {
      if (pending.any)
        store_packed(p, c, slot_index, pending.packed[wave], pending.row + wave * kWaveRows,
                     pending.column);
    }
    wgmma_wait_group<0>();
    keep(sum);
    if (wave == kWaves - 1) release(w, c, stage);
    promote<kFirst>(total[wave], sum, row_scales, column_scales);
  }
  ring.advance();
}

KILN_DEVICE void consume(const GemmParams& p, const Work& w, u32 smem) {
  Consumer c;
  const u32 consumer = __shfl_sync(0xffffffffu, threadIdx.x / 128 - 1, 0);
  c.smem = smem;
  c.warp = threadIdx.x / 32 - 4;
  c.lane = threadIdx.x % 32;
  c.row = consumer % kWarpgroupsM * kWgM;
  c.column = consumer / kWarpgroupsM * kWgN;
  c.slots = smem + kSmem.d + c.warp * kSlots * kSlotBytes;
  c.c_full = smem + kSmem.c_full + c.warp * kSlots * 8;

  float total[kWaves][kWgN / 2], sum[kWgN / 2];
  Pending pending;
  pending.any = false;
  u32 slot_index = 0, c_phases = 0;
  Ring<kStages> ring;
  for (u32 item = w.cluster; item < p.num_tiles; item += w.num_clusters) {
    const Origin o = tile_origin(w, item);
    const u32 row = o.row + c.row + c.warp % 4 * kStoreRows, column = o.column + c.column;
    if constexpr (kAccumulate) {
      if (c.lane == 0) request_c(p, c, row, column);
    }
    multiply<true>(p, w, c, ring, total, sum, pending, slot_index, o.column);
#pragma unroll kUnrollK
    for (u32 k_block = 1; k_block < kKBlocks; ++k_block)
      multiply<false>(p, w, c, ring, total, sum, pending, slot_index, o.column);
    if constexpr (kOutBf16) {
#pragma unroll
      for (u32 wave = 0; wave < kWaves; ++wave) pack(pending.packed[wave], total[wave]);
      pending.row = row;
      pending.column = column;
      pending.any = true;
    } else {
      store_f32(p, c, c_phases, total, row, column);
    }
  }
  if constexpr (kOutBf16) {
    if (pending.any) {
#pragma unroll
      for (u32 wave = 0; wave < kWaves; ++wave)
        store_packed(p, c, slot_index, pending.packed[wave], pending.row + wave * kWaveRows,
                     pending.column);
    }
  }
  if (c.lane == 0)
    cp_async_bulk_wait_group_read<0>();  // shared memory outlives the stores that read it
}

// ---- the kernel ----

KILN_DEVICE void init_barriers(u32 smem) {
  constexpr u32 kSharers =
      kClusterM + kClusterN - 1;  // CTAs that read a stage's data, itself included
  for (u32 s = 0; s < kStages; ++s) {
    mbarrier_init(smem + kSmem.full + s * 8, 1 + kScaleSpan + (kSfaRowMajor ? 2 : 0));
    mbarrier_init(smem + kSmem.empty + s * 8, kConsumers * 4 * kSharers);
  }
  for (u32 i = 0; kAccumulate && i < kConsumers * 4 * kSlots; ++i)
    mbarrier_init(smem + kSmem.c_full + i * 8, 1);
  fence_mbarrier_init();
}

KILN_DEVICE void gemm_dense(const GemmParams& p) {
  extern __shared__ __align__(1024) u8 shared[];
  const u32 smem = smem_address(shared);
  const u32 warp = threadIdx.x / 32;
  const Work w = this_work(p.m);
  if (threadIdx.x == 0) {
    prefetch_tensormap(p.a);
    prefetch_tensormap(p.b);
    prefetch_tensormap(p.d);
    init_barriers(smem);
  }
  if constexpr (kClusterSize > 1) {
    barrier_cluster_arrive_relaxed();
    barrier_cluster_wait();
  } else {
    __syncthreads();
  }
  griddepcontrol_wait();

  if (warp < 4) {
    setmaxnreg_dec<kProducerRegisters>();
    if (warp == 0 && threadIdx.x == 0) produce_operands(p, w, smem);
    if (warp == 1) produce_column_scales(p, w, smem);
    if (kSfaRowMajor && warp >= 2) produce_row_scales(p, w, smem);
    __syncwarp();
  } else {
    setmaxnreg_inc<kConsumerRegisters>();
    consume(p, w, smem);
    __syncwarp();
  }
  if constexpr (kClusterSize > 1) {
    barrier_cluster_arrive();
    barrier_cluster_wait();
  }
}
