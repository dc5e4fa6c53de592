// From checked operands to the kernels' parameters: tensor maps, pointers and counts, as
// templates/params.cuh says which layout reads what.
//
// Pure host work without allocation or lock. A map that the driver refuses is
// Error{kInvalidArgument}.
#pragma once

#include <cstdint>

#include "jit/problem.h"
#include "jit/tile.h"
#include "runtime/driver.h"
#include "runtime/kiln.h"
#include "runtime/operands.h"
#include "templates/params.cuh"

namespace kiln::runtime {

// Boxes of the tensor maps: what the kernel of a tile loads and stores at once.
struct MapBoxes {
  std::uint32_t a_rows = 0, b_rows = 0;
  std::uint32_t sfa_cols = 0, sfb_cols = 0;
  std::uint32_t d_chunk_bytes = 0, d_rows = 0;
  std::uint32_t k_blocks = 0;  // of A, B and SFA: those of a stage
};
MapBoxes map_boxes(const jit::Problem& problem, const jit::Tile& tile);

// One call of kiln_launch whose operands were checked.
struct GemmCall {
  const Driver& driver;
  const jit::Problem& problem;
  const kiln_operands& operands;
  const LaunchSizes& sizes;
  const MapBoxes& boxes;
};

// Everything but num_tiles. `params` holds zeros.
void fill_params(const GemmCall& call, device::GemmParams* params);

// The launch of `count` packed groups from `first` on, again without num_tiles. Only params->gemm
// needs to hold zeros; of the arrays the first `count` entries are written.
void fill_params(const GemmCall& call, std::int32_t first, std::int32_t count,
                 device::PackedGemmParams* params);

}  // namespace kiln::runtime
