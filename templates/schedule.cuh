// The order in which persistent CTAs visit output tiles, and which group a tile belongs to. Also
// compiled as host C++, where the tests check exhaustively that every tile is visited exactly once.
//
// Work item i belongs to cluster i % num_clusters. Items run through bands of `raster_group` tile
// rows; inside a band the row index runs fastest. The tiles in flight then cover a near-square part
// of D, so that the operand rows they share stay in L2.
//
// Row groups (grouped_contiguous, grouped_masked). A group's tiles start at its first row (or up to
// row_unit - 1 before), so that no tile, and no cluster, computes rows of two groups. Its last tile
// row may be partly valid, and then takes less time: whole and partial tile rows are dealt out to
// the clusters separately, whole ones from the first cluster on, in bands as above, partial ones
// from the last, so that all have about as much to do. A partial tile follows when its group's
// whole tiles are about done, while B is in L2. grouped_k: every group has all tiles of its D;
// groups follow each other.
#pragma once

#include "base.cuh"
#include "smem_layout.cuh"

KILN_BEGIN_SHARED

struct TileCoord {
  u32 m, n;  // in units of cluster tiles
};

// num_m is a run-time value; num_n and raster_group are constants of the kernel, so that in full
// bands the divisions are by constants.
KILN_SHARED_CODE TileCoord tile_at(u32 item, u32 num_m, u32 num_n, u32 raster_group) {
  const u32 band = item / (raster_group * num_n);
  const u32 in_band = item - band * (raster_group * num_n);
  const u32 first_m = band * raster_group;
  const u32 rows = num_m - first_m;
  if (rows >= raster_group) return {first_m + in_band % raster_group, in_band / raster_group};
  return {first_m + in_band % rows, in_band / rows};
}

// ---- groups of rows ----

struct GroupRows {
  u32 start, end;  // rows of D; none when end <= start
};

// What the device reads is not to be trusted: every value is brought into 0..limit.
KILN_SHARED_CODE u32 clamp_to(i32 value, u32 limit) {
  return value < 0 ? 0 : static_cast<u32>(value) < limit ? static_cast<u32>(value) : limit;
}

// A group that begins where the previous one ended, rounded up to the alignment.
KILN_SHARED_CODE GroupRows rows_between(i32 previous_end, i32 end, u32 alignment, u32 m) {
  const u32 start = (clamp_to(previous_end, m) + alignment - 1) / alignment * alignment;
  return {start, clamp_to(end, m)};
}

struct TileSize {
  u32 rows, columns;  // of a cluster
  u32 row_unit;       // a tile starts at a multiple of it, a power of two
};

// Where a group's first tile starts: at its first row, or up to row_unit - 1 rows before it.
KILN_SHARED_CODE u32 first_tile_row(u32 start, TileSize size) {
  return start & ~(size.row_unit - 1);
}

struct TileRows {
  u32 whole, partial;
};
KILN_SHARED_CODE TileRows tiles_of(GroupRows rows, TileSize size) {
  if (rows.end <= rows.start) return {0, 0};
  const u32 height = rows.end - first_tile_row(rows.start, size);
  return {height / size.rows, height % size.rows == 0 ? 0u : 1u};
}

// The last group whose `first` is not above the value. first(g) for g in 0..groups never decreases,
// and the value is in first(0)..first(groups) - 1.
template <class Array>
KILN_SHARED_CODE u32 find_group(const Array& first, u32 groups, u32 value) {
  u32 low = 0, high = groups;  // first(low) <= value < first(high)
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (first(middle) <= value) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// ---- ranges of K ----

constexpr u32 kNowhere = 0xffffff;  // a k-block behind every operand: it reads as zeros

struct KRange {
  u32 begin, blocks;  // in k-blocks
};

// Group g of grouped_k: from the previous end, rounded up to a whole block, to its own end.
KILN_SHARED_CODE KRange k_between(i32 previous_end, i32 end, u32 k_blocks) {
  const u32 limit = k_blocks * kBlockK;
  const u32 begin = (clamp_to(previous_end, limit) + kBlockK - 1) / kBlockK;
  const u32 stop = (clamp_to(end, limit) + kBlockK - 1) / kBlockK;
  return {begin, stop > begin ? stop - begin : 0};
}

// ---- where a cluster works ----

struct Site {
  u32 row, column;         // of the tile in D (masked, grouped_k: in the group's slice)
  u32 row_begin, row_end;  // rows before and from here on are not the tile's
  u32 group;
  u32 group_tiles;  // tile rows of the group: how often each element of B is read
  KRange k;
};

// By group: the whole and the partial tile rows before it (with their numbers behind the last
// group), and its rows.
template <class Array>
struct GroupTable {
  Array first_whole, first_partial, start, end;
};

struct Grid {
  u32 num_n;         // tiles of a tile row
  u32 num_clusters;  // that share the work
  u32 raster_group;
};

// A cluster's way through the tiles of row groups.
template <class Array>
struct RowGroupWalk {
  const GroupTable<Array>& table;
  u32 groups;
  TileSize size;
  Grid grid;
  u32 whole, partial;  // the cluster's next tile of each kind

  KILN_SHARED_CODE RowGroupWalk(const GroupTable<Array>& table, u32 groups, TileSize size,
                                Grid grid, u32 cluster)
      : table(table),
        groups(groups),
        size(size),
        grid(grid),
        whole(cluster),
        partial(grid.num_clusters - 1 - cluster) {}

  // The next tile, or false.
  KILN_SHARED_CODE bool next(Site& site) {
    const u32 whole_rows = table.first_whole(groups);
    const bool has_whole = whole < whole_rows * grid.num_n;
    if (partial < table.first_partial(groups) * grid.num_n) {
      const u32 group = find_group(table.first_partial, groups, partial / grid.num_n);
      const u32 rows_before = table.first_whole(group + 1);
      if (!has_whole || whole >= rows_before * grid.num_n) {
        site = at(group, rows_before - table.first_whole(group), partial % grid.num_n);
        partial += grid.num_clusters;
        return true;
      }
    }
    if (!has_whole) return false;
    const TileCoord t = tile_at(whole, whole_rows, grid.num_n, grid.raster_group);
    const u32 group = find_group(table.first_whole, groups, t.m);
    site = at(group, t.m - table.first_whole(group), t.n);
    whole += grid.num_clusters;
    return true;
  }

  KILN_SHARED_CODE Site at(u32 group, u32 index, u32 column) const {
    const u32 start = table.start(group);
    return {first_tile_row(start, size) + index * size.rows,
            column * size.columns,
            start,
            table.end(group),
            group,
            table.first_whole(group + 1) - table.first_whole(group) +
                table.first_partial(group + 1) - table.first_partial(group),
            {0, 0}};
  }
};

// The group of item `item` where each group has num_m x num_n tiles, and the tile in it.
struct GroupTile {
  u32 group;
  TileCoord tile;
};
KILN_SHARED_CODE GroupTile k_group_tile(u32 item, u32 num_m, u32 num_n, u32 raster_group) {
  const u32 group = item / (num_m * num_n);
  return {group, tile_at(item - group * (num_m * num_n), num_m, num_n, raster_group)};
}

KILN_END_SHARED
