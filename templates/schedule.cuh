// The order in which persistent CTAs visit output tiles. Also compiled as host C++, where the tests
// check exhaustively that every tile is visited exactly once.
//
// Work item i belongs to cluster i % num_clusters. Items run through bands of `raster_group` tile
// rows; inside a band the row index runs fastest. The tiles in flight then cover a near-square part
// of D, so that the operand rows they share stay in L2.
#pragma once

#include "base.cuh"

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

KILN_END_SHARED
