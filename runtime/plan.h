// Plan: one problem with its tiles by interval of M, and the launch. For grouped_masked "M" is here
// the expected_m of a launch, the rows that a group is likely to have.
//
// Knows how a GEMM kernel is launched; leaves finding and building kernels to the engine, which it
// keeps alive. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jit/problem.h"
#include "jit/tile.h"
#include "runtime/engine.h"
#include "runtime/gemm_params.h"
#include "runtime/kiln.h"
#include "runtime/operands.h"
#include "runtime/tile_plan.h"

namespace kiln::runtime {

class Plan {
 public:
  // The engine's tiles (plan_tiles() with its tuned tables), or `tile` for every M. Pure CPU.
  // Throws Error{kInvalidArgument}.
  Plan(std::shared_ptr<Engine> engine, const jit::Problem& problem, std::optional<jit::Tile> tile);

  // Readies every kernel that an M in [m_min, m_max] needs. Throws Error{kCapturing} inside a
  // capture, and what Engine::prepare throws; what is ready then stays ready.
  void prepare(std::int64_t m_min, std::int64_t m_max);

  // The contract of kiln_launch. `operands` is complete: every byte of it is meant.
  void launch(const kiln_operands& operands, CUstream stream) const;

  // Fills everything but struct_size and struct_version.
  void describe(std::int64_t m, kiln_plan_description* description) const;

  Engine& engine() const { return *engine_; }
  const jit::Problem& problem() const { return problem_; }

 private:
  // One interval of M: what a launch reads of its tile, and its kernel once that is loaded.
  struct Slot {
    jit::TileInterval interval;
    TileSource source = TileSource::kDefault;
    std::int64_t rows_per_tile = 0;  // of a cluster
    std::int64_t tiles_n = 0;        // in clusters
    std::uint32_t cluster = 1;
    MapBoxes boxes;
    mutable std::atomic<const LoadedKernel*> kernel{nullptr};  // the engine owns it
  };

  void fill_slot(const PlannedTile& planned, Slot* slot) const;
  const Slot& slot_for(std::int64_t m) const;
  jit::KernelSpec spec_of(const Slot& slot) const;
  std::string reason(const Slot& slot) const;
  const LoadedKernel& ready_kernel(const Slot& slot, CUstream stream) const;
  void publish(const jit::Tile& tile, const LoadedKernel& kernel) const;
  std::uint32_t most_tiles(const Slot& slot, const kiln_operands& operands) const;
  std::uint32_t num_ctas(const Slot& slot, const kiln_operands& operands,
                         std::uint32_t num_tiles) const;
  void launch_packed(const GemmCall& call, const Slot& slot, const LoadedKernel& kernel,
                     CUstream stream) const;

  std::shared_ptr<Engine> engine_;
  jit::Problem problem_;
  jit::Problem kernel_problem_;  // canonical(problem_): what decides the kernels
  TunedMatch tuned_match_ = TunedMatch::kNone;
  std::string tuned_why_;    // which tuned entry serves the problem, or why none
  std::vector<Slot> slots_;  // ascending in M, from 0 to kMaxM, without gaps
};

}  // namespace kiln::runtime
