// What the rendered constants of a GEMM imply: sizes of a warpgroup's part, layout of shared
// memory, register budgets, and where a CTA and a consumer warp work. Protocol: gemm.cuh.
#pragma once

#include "params.cuh"
#include "ptx.cuh"
#include "schedule.cuh"
#include "smem_layout.cuh"

// ---- what the layout implies ----

constexpr bool kRowGroups = kLayout == kGroupedContiguous || kLayout == kGroupedMasked;
constexpr bool kSlicedA = kLayout == kGroupedMasked;  // also SFA
constexpr bool kSlicedB = kRowGroups;
constexpr bool kSlicedD = kLayout == kGroupedMasked || kLayout == kGroupedK;
static_assert(!kColumnScales || !kSfaRowMajor, "1d1d: both scale matrices come by TMA");

// ---- sizes ----

constexpr u32 kOutBytes = kOutBf16 ? 2 : 4;
constexpr u32 kPartConsumers = kWarpgroupsM * kWarpgroupsN;  // warpgroups of one part of K
constexpr u32 kConsumers = kPartConsumers * kWarpgroupsK;
constexpr u32 kThreads = 128 * (kConsumers + 1);
constexpr u32 kClusterSize = kClusterM * kClusterN * kClusterK;
constexpr bool kShares = kClusterM * kClusterN > 1;  // operands, by multicast
constexpr u32 kWgM = kBlockM / kWarpgroupsM;
constexpr u32 kWgN = kBlockN / kWarpgroupsN;
constexpr u32 kWaves = kWgM < kWaveRows ? 1 : kWgM / kWaveRows;
constexpr u32 kBoxRowsD = d_box_rows(kBlockM);
constexpr u32 kStoreWarps = store_warps(kBlockM);
constexpr u32 kAllStoreWarps = kPartConsumers * kStoreWarps;  // of the CTA
constexpr u32 kPasses = passes(kWgN, kColumnScales);          // over a warpgroup's columns
constexpr bool kHoldsA = kPasses > 1;
constexpr u32 kMmaN = kWgN / kPasses;      // columns of a WGMMA
constexpr u32 kPieces = kWaves * kPasses;  // 64 x kMmaN each, which share the sums in turn
constexpr u32 kWaveStride = kWarpgroupsM * kWaveRows;  // warpgroups take waves in turn: the valid
                                                       // rows of a partly valid tile are shared out
constexpr u32 kKBlocks = (kK + kBlockK - 1) / kBlockK;  // 1d2d; a run-time value in 1d1d
// Of one CTA of a tile: k-blocks, in whole stages. What lies behind K reads as zeros.
constexpr u32 kPartBlocks = align_up((kKBlocks + kClusterK - 1) / kClusterK, kStageBlocks);
constexpr u32 kPartStages = kPartBlocks / kStageBlocks;
constexpr u32 kBoxRowsA = a_box_rows(kBlockM, kClusterN, kRowGroups);
constexpr u32 kTilesN = (kN + kBlockN * kClusterN - 1) / (kBlockN * kClusterN);  // in clusters
constexpr u32 kScaleColumns = (kN + 127) / 128;

static_assert(kBlockM % (kWaveRows * kWarpgroupsM) == 0 ||
                  (kWarpgroupsM == 1 && (kBlockM == 8 || kBlockM == 16 || kBlockM == 32)),
              "a warpgroup owns whole waves of 64 rows, or the first rows of one");
static_assert(kWarpgroupsK == 1 ||
                  (kWaves == 1 && (kWarpgroupsM == 1 || !kRowGroups) && !kColumnScales &&
                   kStages % kWarpgroupsK == 0 && kWarpgroupsK <= kPartStages),
              "parts of K: of tiles of one wave, each with stages of its own");
static_assert(kStageBlocks == 1 || (kLayout == kDense && !kColumnScales && kWaves == 1 &&
                                    kClusterM * kClusterN == 1 && kK % kBlockK == 0),
              "several k-blocks to a stage: of dense tiles of one wave");
static_assert(kWgN % 8 == 0 && kWgN <= 256, "a warpgroup's columns are whole WGMMAs, in eights");
static_assert(!kHoldsA || (kMmaN * kPasses == kWgN && kMmaN % 32 == 0 && kWgM == kWaveRows &&
                           kBlockN % kWgN == 0 && kStageBlocks == 1 && kWarpgroupsK == 1),
              "passes: of 64 rows, a k-block to a stage");
static_assert(kBlockM / kClusterN <= 256 && kBlockM % (8 * kClusterN) == 0,
              "a TMA box is at most 256 rows of whole swizzle atoms");
static_assert(kBlockM / kClusterN % kBoxRowsA == 0, "a CTA's part of A is whole boxes");
static_assert(kBlockN <= 256 && kBlockN % (8 * kClusterM) == 0,
              "a TMA box is at most 256 rows of whole swizzle atoms");
static_assert(kConsumers >= 1 && kConsumers <= 4,
              "register budgets exist for 1 to 4 consumer warpgroups");

// Registers per thread after redistribution.
constexpr u32 kProducerRegisters = kConsumers >= 3 ? 32 : 40;
constexpr u32 kConsumerRegisters = consumer_registers(kConsumers);

// Where every thread's equal share is enough, it stays.
constexpr bool kRedistributes = (kPieces + 1) * kMmaN / 2 + 88 > 65536 / kThreads;

// Named barriers of a CTA.
constexpr u32 kPartsBarrier = 1, kStartBarrier = 2;

// The thread that loads the operands has made the barriers, and needs nobody else to begin.
constexpr bool kStartsAlone = !kShares && !kRowGroups;

// Then it can ask for weights at once: most of a short launch is the latency of its first loads.
// H200, 7 (N, K): M = 1 and 128 gain 0.1 to 0.6 us of 5 to 14.
constexpr bool kEarlyB = kStartsAlone && kLayout == kDense && !kColumnScales;

// Of a lane that elect.sync chose the compiler knows that it is alone, and puts no loop around each
// TMA. H200, M = 128: 64x32 tiles with one k-block to a stage 12.7 us, so 10.3 (2112x7168), 64x64
// 17.7 and 14.7 (4096x7168). Of groups, a large tile's A comes in boxes of 64 rows, and at 200
// cycles each the loads of a stage take as long as its WGMMAs: 128x192 in pairs 2,177 us, so 2,125
// (4 groups 6144x7168). Tiles that have the time lose 0.5 to 1.5 % by it, low masked ones 3 %.
constexpr u32 kLoadsPerStage = kBlockM / kClusterN / kBoxRowsA + 2;
constexpr bool kElects =
    (kEarlyB && kBlockM * kBlockN <= 64 * 128) ||
    (kRowGroups && kBlockM > 64 && kLoadsPerStage * 200 > kBlockM * kBlockN / 32);

// Accumulating is either a reduction in L2 or an addition to C, which is loaded before. The first
// costs the consumers nothing, the second less of the memory (writing FP32 tiles on an H200: 2.6
// against 3.9 TB/s, both directions counted).
constexpr bool kLoadC = kAccumulate && !kReduce;
static_assert(!kReduce || (kAccumulate && !kOutBf16 && !kRowGroups),
              "a reduction adds whole FP32 boxes");

constexpr SmemLayout kSmem =
    smem_layout({kBlockM, kBlockN, kWarpgroupsM, kWarpgroupsN, kWarpgroupsK, kStages, kStageBlocks,
                 kClusterN, kClusterK, kOutBytes, kSfaRowMajor, kColumnScales,
                 kColumnScales && !kLoadC, kRowGroups ? kGroupCapacity : 0});
static_assert(kSmem.total <= kMaxSmemBytes, "the ring and the staging of D fit into shared memory");

// k-blocks of a stage whose WGMMAs run together, each into a sum of its own, where registers allow.
constexpr u32 batch_of(u32 blocks) {
  const u32 registers = kRedistributes ? kConsumerRegisters : 65536 / kThreads;
  return blocks > 1 && (blocks + 1) * kMmaN / 2 + 64 > registers ? batch_of(blocks / 2) : blocks;
}
constexpr u32 kBatch = batch_of(kStageBlocks);
constexpr u32 kSums = kSmem.scale_terms ? 2 : kBatch;  // the second: products of scales

// Columns whose scale is the same, wherever the tile begins: the greatest common divisor of the
// tile width, the warpgroup's width and 128.
constexpr u32 gcd(u32 a, u32 b) { return b == 0 ? a : gcd(b, a % b); }
constexpr u32 kScaleChunk = gcd(gcd(kBlockN, kWgN), 128);
constexpr u32 kScaleChunks = kWgN / kScaleChunk;
constexpr u32 kScaleSpan =
    (kBlockN + 128 - gcd(kBlockN, 128) + 127) / 128;  // SFB rows under a tile
constexpr u32 kWgScales =
    (kWgN - kScaleChunk + 255) / 128;  // of those, under a warpgroup's columns
static_assert(kScaleSpan * 4 <= kSfbSlotBytes, "a stage has room for the tile's column scales");

// 1d1d: the tensor cores multiply row and column scales (gemm_scale_terms.cuh). C that is loaded
// needs the room more: K is short then, and memory the limit. H200, multiplied by the consumers and
// so, the best tiles of each: 4096x4096x7168 234.9 and 220.6 us, 7168x4096x2048 145.0 and 137.2, 8
// groups 4096x7168x4272 1924 and 1871, 16 groups 4096x7168x2200 2172 and 2132.
constexpr bool kScaleTerms = kSmem.scale_terms;
static_assert(!kHoldsA || !kLoadC, "passes: no register is left for C");
static_assert(!kHoldsA || !kColumnScales || kScaleTerms,
              "passes: scales are multiplied by tensor cores");
constexpr u32 kTermWarps = 3, kTermThreads = kTermWarps * 32;

// A tile that takes the ring round a whole number of times begins with stage 0, and the loop over a
// round has constant addresses: all of the address arithmetic goes, and the next barrier is looked
// at under the promotion. H200, K >= 1536: 192x128 and 256x128 gain 0.4 to 2 %, 128x192 2.5 %; one
// round alone (K = 512) loses 3 %. (Accumulating into loaded C, 192x128 would spill.)
constexpr bool kWholeRounds = !kColumnScales && !kHoldsA && !kLoadC && kWarpgroupsK == 1 &&
                              kStageBlocks == 1 && kStages == 4 && kPartBlocks % kStages == 0 &&
                              kPartBlocks > kStages &&
                              // Fewer rounds the compiler unrolls, and spills.
                              (!kRowGroups || kWaves == 1 || kPartBlocks >= 6 * kStages);
constexpr u32 kRounds = kWholeRounds ? kPartBlocks / kStages : 1;

// Where the operands of the next stage are, consumers work out before they wait for it, if ptxas
// keeps that in uniform registers: by way of others it costs 4 to 6 %. H200: 256x128 and 128x256
// gain 1 to 1.3 % (4096x7168x16384), 1d1d in two waves 1.9 %, in one 0.4 to 3 %; with the terms of
// scales among it groups of K gain 0.3 to 1.5 % more. Where a stage's addresses are constants one
// wave leaves nothing to work out. (The addresses of scales among it, in a struct of all of a
// stage's, cost weight gradients in two waves their registers under NVRTC 12.4.)
constexpr bool kAimsAhead =
    kHoldsA || (kColumnScales  ? kConsumers < 3
                : kWholeRounds ? kWaves > 1
                               : kWaves == 1 && kStageBlocks == 1 && kWarpgroupsK == 1);

// Else unrolling by 4 gains 1 to 2 % at M = 4096 and doubles ptxas's time, which only the simplest
// of the fast loops can afford: one wave of 128 columns with one scale.
constexpr u32 kUnrollK = !kColumnScales && kWarpgroupsK == 1 && kStageBlocks == 1 &&
                                 kConsumers <= (kLoadC ? 2 : 3) && kWaves == 1 && kWgN == 128 &&
                                 kScaleChunks == 1
                             ? 4
                             : 1;

static_assert(kClusterK == 1 || (kLayout == kDense && !kColumnScales && kWaves == 1 &&
                                 kClusterM * kClusterN == 1 && kClusterK <= kKBlocks),
              "parts of K in a cluster: of dense tiles of one wave, each with a k-block");

// A low tile's few elements leave faster from registers than through shared memory.
constexpr bool kDirect = kBlockM < kWaveRows && !kAccumulate && kLayout == kDense;

constexpr u32 kChunkColumns = kSmem.d_chunk_bytes / kOutBytes;
constexpr u32 kChunksPerPiece = kMmaN / kChunkColumns;
constexpr u32 kSlotBytes = kStoreRows * kSmem.d_chunk_bytes;
constexpr u32 kBoxBytesD = kBoxRowsD * kSmem.d_chunk_bytes;
constexpr u32 kSlots = kSmem.d_slots;

// ---- what a CTA works on ----

struct Work {
  u32 cluster, num_clusters;  // this CTA's cluster and how many there are
  u32 cta_m, cta_n, rank;     // position and rank in the cluster
  u32 k_begin;                // this CTA's first k-block of each tile; 0 under 1d1d
  u32 num_tiles_m;            // in clusters; grouped_k: of one group
};

KILN_DEVICE Work this_work(const GemmParams& p) {
  Work w;
  w.rank = kClusterSize > 1 ? cluster_ctarank() : 0;
  w.cluster = blockIdx.x / kClusterSize;
  w.num_clusters = gridDim.x / kClusterSize;
  w.cta_m = w.rank % kClusterM;
  w.cta_n = kClusterK > 1 ? 0 : w.rank / kClusterM;
  w.k_begin = kClusterK > 1 ? w.rank * kPartBlocks : 0;
  w.num_tiles_m = (p.m + kBlockM * kClusterM - 1) / (kBlockM * kClusterM);
  return w;
}

struct Consumer {
  u32 smem;
  u32 part;        // of K in this CTA
  u32 rank;        // in the cluster
  u32 warp;        // among the consumer warps of the part
  u32 store_warp;  // among those of them that have rows of the tile
  u32 lane;
  u32 row, column;  // of this warpgroup's first wave inside the tile
  u32 a, b;         // where its operands begin in stage 0, as matrix descriptors have it
  u32 row_terms, column_terms;  // likewise, of its scales' terms
  u32 held;                     // where this lane reads A for its registers in stage 0
  u32 row_scales;               // where the scale of this lane's first row lies in stage 0
  bool stores;                  // this warp stores what it, and all parts of K, have computed
  bool releases;  // this lane hands stages back to the CTA of its number in the cluster
  u32 slots;      // shared address of this warp's staging slots
  u32 c_full;     // shared address of this warp's c_full barriers
};

// An address in shared memory as matrix descriptors have it: without the rank in the cluster.
KILN_DEVICE u32 descriptor_address(u32 address) { return (address & 0x3FFFF) >> 4; }

// A tile as its consumers see it. Written into the stage of its first k-block by the producer.
struct Tile {
  u32 row, column;         // of this CTA's tile in D
  u32 row_begin, row_end;  // rows before and from here on are not the tile's
  u32 slice;               // of D
  u32 group;
  u32 steps;  // stages that its data takes; 0: there are no more tiles
};

KILN_DEVICE void write_tile(u32 site, const Tile& t) {
  st_shared_v4_u32(site, t.row, t.column, t.row_begin, t.row_end);
  st_shared_v4_u32(site + 16, t.slice, t.group, t.steps, 0);
}

KILN_DEVICE Tile read_tile(u32 site) {
  const uint4 x = ld_shared_v4_u32(site), y = ld_shared_v4_u32(site + 16);
  return {x.x, x.y, x.z, x.w, y.x, y.y, y.z};
}
