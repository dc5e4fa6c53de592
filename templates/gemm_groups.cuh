// Which tile a CTA computes next, for every layout, and the group table of the row groups.
//
// The group table (schedule.cuh says what it holds) lies in shared memory; each CTA makes it once,
// from the labels, ends or row counts on the device. With labels a group's end in the table is
// rounded up to the alignment, and the label of each row decides.
#pragma once

#include "gemm_shape.cuh"

// M-major SFA comes by TMA, whose first coordinate has to be a multiple of 16 bytes.
constexpr TileSize kSize{kBlockM * kClusterM, kBlockN* kClusterN, kSfaRowMajor ? 1 : 4,
                         lone_rows(kBlockM, kClusterM)};

struct SharedArray {
  u32 address;
  KILN_DEVICE u32 operator()(u32 index) const { return ld_shared_u32(address + index * 4); }
  KILN_DEVICE void set(u32 index, u32 value) const { st_shared_u32(address + index * 4, value); }
};

using SharedTable = GroupTable<SharedArray>;

KILN_DEVICE SharedTable group_table(u32 smem) {
  constexpr u32 kArrayBytes = (kGroupCapacity + 1) * 4;
  const u32 base = smem + kSmem.groups;
  return {{base}, {base + kArrayBytes}, {base + 2 * kArrayBytes}, {base + 3 * kArrayBytes}};
}

// Groups start at multiples of the alignment, so only every alignment-th label is looked at.
KILN_DEVICE void find_labelled_rows(const GemmParams& p, const SharedTable& table) {
  for (u32 g = threadIdx.x; g < p.groups; g += kThreads) {
    table.start.set(g, 0);
    table.end.set(g, 0);
  }
  __syncthreads();
#pragma unroll 4
  for (u32 row = threadIdx.x * p.alignment; row < p.m; row += kThreads * p.alignment) {
    const u32 label = static_cast<u32>(p.grouping[row]), next = row + p.alignment;
    if (label >= p.groups) continue;  // padding
    if (row == 0 || static_cast<u32>(p.grouping[row - p.alignment]) != label)
      table.start.set(label, row);
    if (next >= p.m || static_cast<u32>(p.grouping[next]) != label)
      table.end.set(label, next < p.m ? next : p.m);
  }
  __syncthreads();
}

KILN_DEVICE GroupRows group_rows(const GemmParams& p, const SharedTable& table, u32 group) {
  if constexpr (kLabels) {
    return {table.start(group), table.end(group)};
  } else if constexpr (kLayout == kGroupedMasked) {
    return {0, clamp_to(p.grouping[group], p.m)};
  } else {
    return rows_between(group == 0 ? 0 : p.grouping[group - 1], p.grouping[group], p.alignment,
                        p.m);
  }
}

// The sum of the values of the lanes up to this one.
KILN_DEVICE u32 sum_up_to_lane(u32 value) {
#pragma unroll
  for (u32 offset = 1; offset < 32; offset *= 2) {
    const u32 below = __shfl_up_sync(0xffffffffu, value, offset);
    if (threadIdx.x % 32 >= offset) value += below;
  }
  return value;
}

// All threads. Reads what the previous kernel may have written.
KILN_DEVICE void make_group_table(const GemmParams& p, u32 smem) {
  const SharedTable table = group_table(smem);
  if constexpr (kLabels) find_labelled_rows(p, table);
  if (threadIdx.x < 32) {
    u32 whole = 0, partial = 0;
    for (u32 first = 0; first < p.groups; first += 32) {
      const u32 group = first + threadIdx.x;
      const bool exists = group < p.groups;
      const GroupRows rows = exists ? group_rows(p, table, group) : GroupRows{0, 0};
      const TileRows tiles = tiles_of(rows, kSize);
      const u32 own_whole = tiles.whole, own_partial = tiles.partial_tiles(kTilesN);
      const u32 last_whole = sum_up_to_lane(own_whole), last_partial = sum_up_to_lane(own_partial);
      if (exists) {
        table.first_whole.set(group, whole + last_whole - own_whole);
        table.first_partial.set(group, partial + last_partial - own_partial);
        table.start.set(group, rows.start);
        table.end.set(group, rows.end);
      }
      whole += __shfl_sync(0xffffffffu, last_whole, 31);
      partial += __shfl_sync(0xffffffffu, last_partial, 31);
    }
    if (threadIdx.x == 0) {
      table.first_whole.set(p.groups, whole);
      table.first_partial.set(p.groups, partial);
    }
  }
  __syncthreads();
}

// ---- the tile of a work item ----

KILN_DEVICE KRange k_of_group(const GemmParams& p, u32 group) {
  return k_between(group == 0 ? 0 : p.grouping[group - 1], p.grouping[group], p.k_blocks);
}
KILN_DEVICE KRange k_of_group(const PackedGemmParams& p, u32 group) {
  return {p.k_begin[group], p.k_blocks[group]};
}
KILN_DEVICE const GemmParams& gemm_of(const GemmParams& p) { return p; }
KILN_DEVICE const GemmParams& gemm_of(const PackedGemmParams& p) { return p.gemm; }

template <class Params>
KILN_DEVICE Site site_of(const Params& params, const Work& w, u32 item) {
  const GemmParams& p = gemm_of(params);
  Site s;
  if constexpr (kLayout == kGroupedK) {
    const GroupTile t = k_group_tile(item, w.num_tiles_m, kTilesN, kRasterGroup);
    s = {t.tile.m * kSize.rows, t.tile.n * kSize.columns,   0, p.m, t.group,
         w.num_tiles_m,         k_of_group(params, t.group)};
  } else {
    const TileCoord t = tile_at(item, w.num_tiles_m, kTilesN, kRasterGroup);
    s = {t.m * kSize.rows, t.n * kSize.columns, 0, p.m, 0, w.num_tiles_m, {0, p.k_blocks}};
  }
  // Without any K, D is what it was, or one block of zeros makes it zero.
  if (kColumnScales && !kAccumulate && s.k.blocks == 0) s.k = {kNowhere, 1};
  return s;
}

// A cluster's tile as this CTA has it.
KILN_DEVICE Site of_this_cta(Site s, const Work& w) {
  if constexpr (!kColumnScales) s.k = {0, kPartStages};
  if (!s.lone) s.row += w.cta_m * kBlockM;
  s.column += w.cta_n * kBlockN;
  return s;
}

// The slice of B, or under grouped_k of D, that a group has; num_slices for any that does not
// exist.
KILN_DEVICE u32 slice_of(const GemmParams& p, u32 group) {
  const u32 slice = p.expert_map == nullptr ? group : static_cast<u32>(p.expert_map[group]);
  return slice < p.num_slices ? slice : p.num_slices;
}

// Nothing to compute: no K to add, or no slice to store in.
KILN_DEVICE bool is_void(const GemmParams& p, const Site& s) {
  if constexpr (kLayout == kGroupedK)
    return s.k.blocks == 0 || slice_of(p, s.group) == p.num_slices;
  return kColumnScales && s.k.blocks == 0;
}

// Calls visit(site) for every tile of this CTA. The producers' common loop: each goes through the
// same tiles, so that they agree on stages without talking to each other.
template <class Params, class Visit>
KILN_DEVICE void for_each_tile(const Params& p, const Work& w, u32 smem, Visit visit) {
  if constexpr (kRowGroups) {
    const SharedTable table = group_table(smem);
    RowGroupWalk<SharedArray> walk(table, gemm_of(p).groups, kSize,
                                   {kTilesN, w.num_clusters, kRasterGroup}, w.cluster, w.cta_m);
    for (Site s; walk.next(s);) visit(of_this_cta(s, w));
  } else {
    for (u32 item = w.cluster; item < gemm_of(p).num_tiles; item += w.num_clusters) {
      const Site s = site_of(p, w, item);
      if (!is_void(gemm_of(p), s)) visit(of_this_cta(s, w));
    }
  }
}

// Rows of the tile that are the group's.
KILN_DEVICE u32 valid_rows(u32 row, u32 row_end) {
  const u32 rows = row_end > row ? row_end - row : 0;
  return rows < kBlockM ? rows : kBlockM;
}

// ---- rows of no group ----

// Which rows of D no group has: after a group's last row, and where no label is.
KILN_DEVICE bool is_padding(const GemmParams& p, const SharedTable& table, u32 row) {
  if constexpr (kLabels) return static_cast<u32>(p.grouping[row]) >= p.groups;
  return row >= table.end(find_group(table.start, p.groups, row));
}

// All consumer warps of the grid together, a row each at a time.
KILN_DEVICE void zero_padding(const GemmParams& p, u32 smem) {
  constexpr u32 kUnitColumns = 16 / kOutBytes;
  const SharedTable table = group_table(smem);
  const u32 warp = blockIdx.x * kConsumers * 4 + threadIdx.x / 32 - 4, lane = threadIdx.x % 32;
  for (u32 row = warp; row < p.m; row += gridDim.x * kConsumers * 4) {
    if (!is_padding(p, table, row)) continue;
    uint4* const d = reinterpret_cast<uint4*>(static_cast<u8*>(p.d_rows) + row * p.ldd * kOutBytes);
    for (u32 unit = lane; unit < kN / kUnitColumns; unit += 32) d[unit] = uint4{0, 0, 0, 0};
  }
}
