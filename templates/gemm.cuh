// GEMM of FP8 operands with block scales, for every layout and both scalings:
// D[M,N] (+)= (A * SFA)[M,K] (B * SFB)[N,K]^T, once or for each group.
//
// Roles. Warpgroup 0 produces: its warp 0 loads A, B (and scales that lie M-major) by TMA; under
// 1d2d its warp 1 brings SFB, and its warps 2 and 3 row-major SFA; under 1d1d warps 1 to 3 split
// scales for the tensor cores (gemm_scale_terms.cuh). Warpgroups 1.. consume: each
// owns kWaves x 64 rows and kWgN columns of the tile, warpgroups taking waves of 64 rows in turn.
//
// A stage holds kBlockM x 128 of A, kBlockN x 128 of B (both 128B-swizzled), kBlockM row scales and
// up to 3 (1d2d) or kBlockN (1d1d) column scales, for each of its kStageBlocks k-blocks of 128;
// and, when it is a tile's first, which tile that is. Consumers know nothing of the schedule: they
// follow what the stages say, up to a stage that says that there are no more tiles.
//   full[s]:  1 arrival with the TMA byte count, 1 of each lane that writes column scales, 2 of the
//             warps that bring row-major row scales, 3 of those that split scales. Consumers wait
//             for it with the ring's phase.
//   scales[s]: where scales are split, 1 arrival with the byte count of their loads. The splitting
//             warps wait for it with the ring's phase.
//   empty[s]: one arrival of each warp that reads the stage, in every CTA that shares its data. All
//             producers of a stage wait for it with phase ^ 1, so the first round passes.
// A consumer arrives on empty after its last WGMMA that reads the stage has completed; every scale
// was read into registers before that. Then, before it promotes the sums, it looks whether the next
// stage is full, and waits for it afterwards only if it was not. Producers and consumers visit the
// same tiles and k-blocks in the same order, so stage and phase agree without further
// communication, and each wait is for something that its peer does without waiting for the waiter:
// there is no cycle. The stage that ends the work gets all its arrivals from the TMA thread.
//
// Accumulation has two levels: 4 WGMMAs sum one k-block in the tensor core, then the sum is
// multiplied by its scales (1d1d: by products of scales from a fifth) and added to FP32 registers.
// The first k-block of a tile overwrites instead of adding.
//
// Passes. The width of a tile is limited by the registers: totals and sums (1d1d: and products) of
// all its columns. A wider warpgroup, of 64 rows, takes its columns in kPasses passes with sums of
// its own part only, promoted before the next. Its rows of A come into registers once for all
// passes of a k-block, by ldmatrix, while the last sums of the k-block before are promoted if the
// stage is full by then. What shared memory has to give the tensor cores, and to take in, for a
// k-block is then less: 128 KB for 128x256 instead of 144 as one by two warpgroups of two waves;
// 1d1d, for 128x128 of a tile, 98 KB as 128x128, 87 of 128x192 and 84 of 128x256 in passes. In
// 1,024 cycles (of the WGMMAs of 128x256) it has 128 KB. All of this is counted, not measured: no
// table and no default choice has such tiles yet.
//
// D leaves warp by warp: a warp stages 16 rows x one chunk in its own slots, then its lane 0 stores
// the chunk by TMA. A finished tile stays in its registers until the first WGMMAs of the next tile
// run, and is stored under them: the first promotion overwrites it. The last tile is stored at the
// end. When accumulating, either TMA adds a chunk to D in L2, or C comes through the same slots by
// TMA, requested as soon as the previous tile has left them (c_full[warp][slot]).
//
// Row groups. A tile has rows of one group only; the last tile of a group may be partly valid. Of a
// cluster of two along M each CTA takes a tile of its own, with all of its B, where the group has
// no rows left for two (schedule.cuh); they hand stages back to each other all the same.
// Boxes of A and waves without valid rows are skipped, and 16 rows that are not all valid are
// copied row by row instead of by TMA. A warpgroup without any valid row only keeps step with the
// ring.
//
// Few rows. A tile of 8, 16 or 32 rows is the top of a WGMMA's 64: the rest of A is whatever lies
// behind, and its results are dropped. What counts then is to keep much of B on its way to every
// SM:
// - Parts of K (gemm_parts.cuh). kWarpgroupsK parts of a CTA take stages in turn, each with
//   warpgroups of its own; kStages is a multiple of it, so that a stage always has the same reader,
//   which alone knows the stage's phase. kClusterK parts have a CTA of the cluster each.
// - Stages of several k-blocks, as one box {128, rows, k-blocks} each of A and B: a thread issues a
//   TMA in about 100 cycles, in which an SM could take in 6 KB.
// H200, M = 1, L2 flushed, 2112x7168: 64x64 13.5 us, 8x16 12.3, with 4 k-blocks to a stage 8.9, as
// 8x32 in two parts of a cluster 8.1.
//
// Clusters of parts: each CTA loads its own range of K. Other clusters: CTAs in a row share A, CTAs
// in a column share B; each loads its part of a shared tile and multicasts it. A cluster takes one
// item of the schedule, also where part of it lies beyond D or the group: TMA fills with zeros and
// drops what is outside. Nobody exits before all who share its data are done.
#pragma once

#include "gemm_groups.cuh"
#include "gemm_multiply.cuh"
#include "gemm_parts.cuh"
#include "gemm_produce.cuh"
#include "gemm_shape.cuh"
#include "gemm_store.cuh"
#include "pipeline.cuh"

// ---- the main loop ----

// Which of this warp's rows are the tile's, for each wave. With labels a row's own label decides.
KILN_DEVICE Place place_of(const GemmParams& p, const Consumer& c, const Tile& t) {
  Place place{t.row + c.row + c.warp % 4 * kStoreRows, t.column + c.column, t.slice, {}};
  if constexpr (kRowGroups) {
#pragma unroll
    for (u32 wave = 0; wave < kWaves; ++wave) {
      const u32 row = place.row + wave * kWaveStride + c.lane;
      bool is_valid = c.lane < kBoxRowsD && row >= t.row_begin && row < t.row_end;
      if (kLabels && is_valid) is_valid = static_cast<u32>(p.grouping[row]) == t.group;
      place.valid[wave / 2] |= __ballot_sync(0xffffffffu, is_valid) << wave % 2 * kStoreRows;
    }
  }
  return place;
}

// One tile. Its first stage is full. A tile with valid rows in every wave has a loop of its own,
// without branches from wave to wave.
template <bool kAllWaves>
KILN_DEVICE void compute_tile(const GemmParams& p, const Consumer& c, ConsumerState& state,
                              float (&total)[kPieces][kMmaN / 2], float (&sums)[kSums][kMmaN / 2],
                              const Tile& t, u32 waves) {
  const Place place = place_of(p, c, t);
  const ScaleSite site = scale_site(c, t.column);
  const auto first = [&] {
    multiply_stage<true>(p, c, state, total, sums, site, waves);
    if constexpr (kLoadC) {
      if (c.lane == 0 && c.stores) request_c(p, c, place);
    }
  };
  const auto next = [&] {
    const bool held = state.is_full;
    wait_full(c, state);
    if (kHoldsA && !held) hold_a(c, state);
    multiply_stage<false>(p, c, state, total, sums, site, waves);
  };
  if constexpr (kWholeRounds && kAllWaves) {
#pragma unroll 1
    for (u32 round = 0; round < kRounds; ++round) {
#pragma unroll
      for (u32 stage = 0; stage < kStages; ++stage) {
        state.ring.stage = stage;  // it is: this makes it a constant
        round == 0 && stage == 0 ? first() : next();
      }
    }
  } else {
    first();
    const u32 steps = kColumnScales ? t.steps : kPartStages;
#pragma unroll(kAllWaves ? kUnrollK : 1)
    for (u32 step = c.part + kWarpgroupsK; step < steps; step += kWarpgroupsK) next();
  }
  if constexpr (kWarpgroupsK > 1) {
    add_parts(c, total[0]);
    state.ring = state.next_tile(c.part);
    state.is_full = false;
  }
  state.place = place;
  if constexpr (kClusterK > 1) {
    if (c.part == 0 && c.warp % 4 < kStoreWarps) gather_parts(c, state.tiles, total[0], sums[0]);
    ++state.tiles;
  }
  state.pending = c.stores;
}

// A tile without valid rows for this warpgroup: its stages are only handed back, when the whole
// warp has seen them. (Elsewhere the WGMMAs hold a warp together.)
KILN_DEVICE void pass_tile(const Consumer& c, ConsumerState& state) {
  for (u32 step = 0; step < kPartStages; ++step) {
    wait_full(c, state);
    __syncwarp();
    if constexpr (kHoldsA) state.is_full = false;  // it holds nothing
    next_stage(c, state);
  }
}

KILN_DEVICE Consumer this_consumer(const Work& w, u32 smem) {
  Consumer c;
  const u32 warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128 - 1, 0);
  const u32 consumer = kWarpgroupsK == 1 ? warpgroup : warpgroup % kPartConsumers;
  c.smem = smem;
  c.part = kWarpgroupsK == 1 ? 0 : warpgroup / kPartConsumers;
  c.warp = threadIdx.x / 32 % 4 + consumer * 4;
  c.lane = threadIdx.x % 32;
  c.rank = w.rank;
  c.row = consumer % kWarpgroupsM * kWaveRows;
  c.column = kWarpgroupsN == 1 ? 0 : consumer / kWarpgroupsM * kWgN;
  const u32 base = descriptor_address(smem);
  c.a = base + (kSmem.a >> 4) + c.row * (kBlockK >> 4);
  c.b = base + (kSmem.b >> 4) + c.column * (kBlockK >> 4);
  c.row_terms = base + (kSmem.sfa_terms >> 4) + c.row * (kTermBytes >> 4);
  c.column_terms = base + (kSmem.sfb_terms >> 4) + c.column * (kTermBytes >> 4);
  if constexpr (kWholeRounds && !kAimsAhead) {
    c.a = opaque_register(c.a);
    c.b = opaque_register(c.b);
  }
  if constexpr (kHoldsA)
    c.held = opaque_register(smem + kSmem.a +
                             (c.row + threadIdx.x / 32 % 4 * kStoreRows + c.lane % 16) * kBlockK +
                             (c.lane / 16 ^ c.lane % 8) * 16);
  c.row_scales = opaque_register(  // else worked out anew in each round
      smem + kSmem.sfa + (c.row + (threadIdx.x / 32 % 4 * kStoreRows + c.lane / 4) % kBlockM) * 4);
  c.releases =
      c.lane < kClusterSize && (c.lane % kClusterM == w.cta_m || c.lane / kClusterM == w.cta_n);
  c.store_warp = consumer * kStoreWarps + c.warp % 4;
  c.stores = c.part == 0 && c.warp % 4 < kStoreWarps &&
             (kClusterK == 1 || c.store_warp % kClusterK == w.rank);
  c.slots = smem + kSmem.d + c.store_warp * kSlots * kSlotBytes;
  c.c_full = smem + kSmem.c_full + c.store_warp * kSlots * 8;
  return c;
}

KILN_DEVICE void consume(const GemmParams& p, const Work& w, u32 smem) {
  const Consumer c = this_consumer(w, smem);
  float total[kPieces][kMmaN / 2], sums[kSums][kMmaN / 2];
  ConsumerState state;
  state.ring.advance(c.part);
  if constexpr (kAimsAhead) aim(c, state);
  while (true) {
    wait_full(c, state);
    const Tile t = read_tile(smem + kSmem.site + state.ring.stage * kSiteBytes);
    if (t.steps == 0) break;
    // Waves of this warpgroup that have valid rows.
    const u32 rows = kRowGroups ? valid_rows(t.row, t.row_end) : kBlockM;
    const u32 waves = rows <= c.row ? 0 : (rows - c.row + kWaveStride - 1) / kWaveStride;
    if (kRowGroups && waves == 0) {
      pass_tile(c, state);
    } else if (kRowGroups && waves < kWaves) {
      compute_tile<false>(p, c, state, total, sums, t, waves);
    } else {
      compute_tile<true>(p, c, state, total, sums, t, kWaves);
    }
  }
  if (state.pending) {
#pragma unroll
    for (u32 piece = 0; piece < kPieces; ++piece)
      store_piece(p, c, state.slots, total[piece], state.place, piece);
  }
  if constexpr (kLayout == kGroupedContiguous) {
    if (p.zero_padding != 0) zero_padding(p, smem);
  }
  if (c.lane == 0)
    cp_async_bulk_wait_group_read<0>();  // shared memory outlives the stores that read it
}

// ---- the kernel ----

KILN_DEVICE void init_full(u32 smem, u32 stage) {
  mbarrier_init(smem + kSmem.full + stage * 8, 1 + kScaleArrivals);
}

KILN_DEVICE void init_barriers(u32 smem) {
  constexpr u32 kSharers =
      kClusterM + kClusterN - 1;  // CTAs that read a stage's data, itself included
#pragma unroll
  for (u32 s = 0; s < kStages; ++s) {
    if (s > 0 || !kEarlyB) init_full(smem, s);
    mbarrier_init(smem + kSmem.empty + s * 8, kPartConsumers * 4 * kSharers);
    if (kScaleTerms) mbarrier_init(smem + kSmem.scales + s * 8, 1);
  }
  for (u32 i = 0; kLoadC && i < kAllStoreWarps * kSlots; ++i)
    mbarrier_init(smem + kSmem.c_full + i * 8, 1);
  for (u32 i = 0; kClusterK > 1 && i < kAllStoreWarps; ++i) {
    mbarrier_init(smem + kSmem.gather_full + i * 8, 1);
    mbarrier_init(smem + kSmem.gather_empty + i * 8, 1);
  }
  fence_mbarrier_init();
}

// What a CTA's first stage holds of B is asked for before anything else is done. Its bytes may come
// before the stage's barrier expects them.
template <class Params>
KILN_DEVICE void request_first_b(const Params& params, const Work& w, u32 smem) {
  init_full(smem, 0);
  fence_mbarrier_init();
  griddepcontrol_wait();
  const Site first = of_this_cta(site_of(params, w, w.cluster), w);
  load_b(w, smem, 0, loads_of(params, w, first), 0);
}

template <class Params>
KILN_DEVICE void prefetch_maps(const Params& params) {
  const GemmParams& p = gemm_of(params);
  prefetch_tensormap(map_a(params, 0));
  prefetch_tensormap(map_b(params, 0));
  prefetch_tensormap(p.d);
  if constexpr (!kSfaRowMajor) prefetch_tensormap(p.sfa);
  if constexpr (kColumnScales) prefetch_tensormap(p.sfb);
}

template <class Params>
KILN_DEVICE void gemm(const Params& params) {
  extern __shared__ __align__(1024) u8 shared[];
  const GemmParams& p = gemm_of(params);
  const u32 smem = smem_address(shared);
  // Uniform, which ptxas sees so: else tiles with one k-block to a stage lose 2 to 10 % on an H200.
  // Some kinds of three warpgroups have no register for it.
  constexpr bool kUniform = kConsumers < 3 || !(kLoadC || kSfaRowMajor);
  const u32 warp = kUniform ? __shfl_sync(0xffffffffu, threadIdx.x / 32, 0) : threadIdx.x / 32;
  const Work w = this_work(p);
  if (warp == 0) {
    if (elect_sync()) {
      if constexpr (kEarlyB) request_first_b(params, w, smem);
      prefetch_maps(params);
      init_barriers(smem);
    }
    __syncwarp();
  }
  if constexpr (kClusterSize > 1) barrier_cluster_arrive_relaxed();
  if constexpr (kShares) {
    barrier_cluster_wait();
  } else if (!kStartsAlone) {
    __syncthreads();
  } else if (warp == 0) {
    bar_arrive<kStartBarrier, kThreads>();
  } else {
    bar_sync<kStartBarrier, kThreads>();
  }
  griddepcontrol_wait();
  if constexpr (kRowGroups) make_group_table(p, smem);

  if (warp < 4) {
    if constexpr (kRedistributes) setmaxnreg_dec<kProducerRegisters>();
    if (kElects ? warp == 0 && elect_sync() : threadIdx.x == 0) produce_operands(params, w, smem);
    if (!kColumnScales && warp == 1) produce_column_scales(p, w, smem);
    if (kScaleTerms && threadIdx.x >= 32) produce_scale_terms(params, w, smem);
    if (kSfaRowMajor && warp >= 2) produce_row_scales(p, w, smem);
    __syncwarp();
    if constexpr (kClusterK > 1) barrier_cluster_wait();
  } else {
    if constexpr (kRedistributes) setmaxnreg_inc<kConsumerRegisters>();
    if constexpr (kClusterK > 1) barrier_cluster_wait();  // before it writes to other CTAs
    consume(p, w, smem);
    __syncwarp();
  }
  if constexpr (kShares) {
    barrier_cluster_arrive();
    barrier_cluster_wait();
  }
}
