// The order in which persistent CTAs visit output tiles, and which group a tile belongs to. Also
// compiled as host C++, where the tests check exhaustively that every tile is visited exactly once.
//
// Work item i belongs to cluster i % num_clusters. Items run through bands of `raster_group` tile
// rows; inside a band the row index runs fastest. The tiles in flight then cover a near-square part
// of D, so that the operand rows they share stay in L2.
//
// Row groups (grouped_contiguous, grouped_masked): the tile rows of all groups, one after the
// other, are the rows of that order. A group's tiles start at its first row (or up to row_unit - 1
// before), so that no tile, and no cluster, computes rows of two groups; a group's last tile may be
// partly valid. grouped_k: every group has all tiles of its D; groups follow each other.
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

KILN_SHARED_CODE u32 tiles_of(GroupRows rows, TileSize size) {
  if (rows.end <= rows.start) return 0;
  return (rows.end - first_tile_row(rows.start, size) + size.rows - 1) / size.rows;
}

// The group of a tile row: the last one whose first tile is not behind it. first_tile(g) for g in
// 0..groups never decreases and ends with the number of all tile rows; `tile` is below that.
template <class Array>
KILN_SHARED_CODE u32 find_group(const Array& first_tile, u32 groups, u32 tile) {
  u32 low = 0, high = groups;  // first_tile(low) <= tile < first_tile(high)
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (first_tile(middle) <= tile) {
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

// By group: the tile rows before it (with their number behind the last group), and its rows.
template <class Array>
struct GroupTable {
  Array first_tile, start, end;
};

template <class Array>
KILN_SHARED_CODE Site row_group_site(const GroupTable<Array>& table, u32 groups, TileCoord t,
                                     TileSize size) {
  const u32 group = find_group(table.first_tile, groups, t.m);
  const u32 first = table.first_tile(group);
  return {first_tile_row(table.start(group), size) + (t.m - first) * size.rows,
          t.n * size.columns,
          table.start(group),
          table.end(group),
          group,
          table.first_tile(group + 1) - first,
          {0, 0}};
}

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
