// A tile as the C API has it, and back: the one place that knows the members of both.
#pragma once

#include "jit/tile.h"
#include "runtime/kiln.h"

namespace kiln::runtime {

inline kiln_tile to_c(const jit::Tile& t) {
  kiln_tile out = KILN_TILE_INIT;
  out.block_m = t.block_m;
  out.block_n = t.block_n;
  out.warpgroups_m = t.warpgroups_m;
  out.warpgroups_n = t.warpgroups_n;
  out.stages = t.stages;
  out.cluster_m = t.cluster_m;
  out.cluster_n = t.cluster_n;
  out.raster_group = t.raster_group;
  out.warpgroups_k = t.warpgroups_k;
  out.cluster_k = t.cluster_k;
  out.stage_blocks = t.stage_blocks;
  return out;
}

inline jit::Tile from_c(const kiln_tile& t) {
  return {t.block_m,   t.block_n,      t.warpgroups_m, t.warpgroups_n, t.stages,      t.cluster_m,
          t.cluster_n, t.raster_group, t.warpgroups_k, t.cluster_k,    t.stage_blocks};
}

}  // namespace kiln::runtime
