// The order in which persistent CTAs visit output tiles, and which group a tile belongs to. Also
// compiled as host C++, where the tests check exhaustively that every tile is visited exactly once.
//
// Work item i belongs to cluster i % num_clusters. Items run through bands of `raster_group` tile
// rows; inside a band the row index runs fastest. The tiles in flight then cover a near-square part
// of D, so that the operand rows they share stay in L2.
//
// Row groups (grouped_contiguous, grouped_masked). A group's tiles start at its first row (or up to
// row_unit - 1 before), so that no tile, and no cluster, computes rows of two groups. The last tile
// row may be partly valid, and then takes less time: whole tiles are dealt out to the clusters from
// the first one on, group by group, in bands that no two groups share; partial ones separately,
// from the last cluster on, so that all have about as much to do. A partial tile's turn comes with
// the whole ones of its column, while B is on its way to the SMs; those of the last group come
// last, where short tiles even out who is done when. (H200, 6 masked groups of about 1024 rows,
// 6144x7168: 411 us with partial tiles behind their group's whole ones and bands over group
// boundaries, 399 so.) In a cluster of two along M one CTA would have nothing to do where the last
// tile row has rows for the other alone: in such a lone tile row they take neighbouring columns,
// and share neither. (4 contiguous groups 6144x7168, 65 instead of 66 rounds: 2,116 us, so 2,087.)
// grouped_k: every group has all tiles of its D; groups follow each other.
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
  u32 lone_rows;      // of one CTA, where the cluster has lone tile rows
};

KILN_SHARED_CODE u32 lone_rows(u32 block_m, u32 cluster_m) { return cluster_m == 2 ? block_m : 0; }

// Where a group's first tile starts: at its first row, or up to row_unit - 1 rows before it.
KILN_SHARED_CODE u32 first_tile_row(u32 start, TileSize size) {
  return start & ~(size.row_unit - 1);
}

struct TileRows {
  u32 whole, partial, lone;  // at most one is not whole
  KILN_SHARED_CODE u32 all() const { return whole + partial + lone; }
  // Tiles of the partial or lone row; num_n are a row's.
  KILN_SHARED_CODE u32 partial_tiles(u32 num_n) const {
    return partial * num_n + lone * ((num_n + 1) / 2);
  }
};
KILN_SHARED_CODE TileRows tiles_of(GroupRows rows, TileSize size) {
  if (rows.end <= rows.start) return {0, 0, 0};
  const u32 height = rows.end - first_tile_row(rows.start, size), rest = height % size.rows;
  const u32 is_partial = rest == 0 ? 0 : 1, is_lone = rest <= size.lone_rows ? is_partial : 0;
  return {height / size.rows, is_partial - is_lone, is_lone};
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
  bool lone = false;  // the CTA's own tile, not the cluster's: it shares no B
};

// By group: whole tile rows and tiles of others before it (with their numbers behind the last
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

// Where a group's last band begins. Bands have raster_group rows, the last one up to half as many
// more or less.
KILN_SHARED_CODE u32 last_band(u32 rows, u32 raster_group) {
  const u32 bands = (rows + raster_group / 2) / raster_group;
  return bands == 0 ? 0 : (bands - 1) * raster_group;
}

// The tile of item `item` of a group with so many whole tile rows.
KILN_SHARED_CODE TileCoord tile_in_group(u32 item, u32 rows, u32 num_n, u32 raster_group) {
  const u32 last = last_band(rows, raster_group);
  const u32 before = item / (raster_group * num_n) * raster_group;
  const u32 band = before < last ? before : last;
  const u32 height = band < last ? raster_group : rows - last, in_band = item - band * num_n;
  return {band + in_band % height, in_band / height};
}

// A CTA's way through the tiles of row groups: the same for all of a cluster, but for lone tiles.
template <class Array>
struct RowGroupWalk {
  const GroupTable<Array>& table;
  u32 groups;
  TileSize size;
  Grid grid;
  u32 cta_m;           // the CTA's place in the cluster
  u32 whole, partial;  // the cluster's next tile of each kind

  u32 partial_group = 0, due = kUnknown;  // the next partial tile's, and before which whole one

  static constexpr u32 kNever = 0xffffffff, kUnknown = kNever - 1;

  KILN_SHARED_CODE RowGroupWalk(const GroupTable<Array>& table, u32 groups, TileSize size,
                                Grid grid, u32 cluster, u32 cta_m)
      : table(table),
        groups(groups),
        size(size),
        grid(grid),
        cta_m(cta_m),
        whole(cluster),
        partial(grid.num_clusters - 1 - cluster) {}

  // The next tile, or false.
  KILN_SHARED_CODE bool next(Site& site) {
    if (due == kUnknown) find_partial();
    if (whole >= due) {
      site = next_partial();
      partial += grid.num_clusters;
      due = kUnknown;
      return true;
    }
    const u32 row = whole / grid.num_n;
    if (row >= table.first_whole(groups)) return false;
    const u32 group = find_group(table.first_whole, groups, row);
    const u32 item = whole - table.first_whole(group) * grid.num_n;
    const TileCoord t = tile_in_group(item, rows_of(group), grid.num_n, grid.raster_group);
    site = at(group, t.m, t.n);
    whole += grid.num_clusters;
    return true;
  }

 private:
  KILN_SHARED_CODE u32 rows_of(u32 group) const {  // whole ones
    return table.first_whole(group + 1) - table.first_whole(group);
  }

  // The next partial tile's place in its row. Of lone ones each takes two columns.
  struct PartialColumn {
    u32 first;
    bool lone;
  };
  KILN_SHARED_CODE PartialColumn partial_column() const {
    const u32 first = table.first_partial(partial_group);
    const bool lone = table.first_partial(partial_group + 1) - first < grid.num_n;
    return {(partial - first) * (lone ? 2 : 1), lone};
  }

  KILN_SHARED_CODE void find_partial() {
    due = kNever;
    if (partial >= table.first_partial(groups)) return;
    partial_group = find_group(table.first_partial, groups, partial);
    // The last group's are due when no whole tile is left, others with their column in the last
    // band of their group.
    const u32 first = table.first_whole(partial_group), end = table.first_whole(partial_group + 1);
    due = end * grid.num_n;
    if (end == table.first_whole(groups)) return;
    const u32 band = first + last_band(end - first, grid.raster_group);
    due = band * grid.num_n + partial_column().first * (end - band);
  }

  KILN_SHARED_CODE Site next_partial() const {
    const PartialColumn column = partial_column();
    Site site = at(partial_group, rows_of(partial_group), column.first + (column.lone ? cta_m : 0));
    site.lone = column.lone;
    return site;
  }

  KILN_SHARED_CODE Site at(u32 group, u32 row, u32 column) const {
    const u32 start = table.start(group);
    const bool has_partial = table.first_partial(group + 1) != table.first_partial(group);
    return {first_tile_row(start, size) + row * size.rows,
            column * size.columns,
            start,
            table.end(group),
            group,
            rows_of(group) + (has_partial ? 1 : 0),
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
