#include "runtime/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "runtime/c_struct.h"
#include "runtime/c_tile.h"
#include "runtime/group_check.h"
#include "runtime/operand_check.h"

namespace kiln::runtime {
namespace {

constexpr auto kMaxPackedGroups = static_cast<std::int32_t>(device::kMaxPackedGroups);

TilePlan choose_tiles(const Engine& engine, const jit::Problem& problem,
                      const std::optional<jit::Tile>& tile) {
  jit::validate(problem);
  if (!tile) return plan_tiles(problem, engine.machine(), engine.tuned());
  jit::validate(*tile, problem);
  return {{{{0, jit::kMaxM, *tile}, TileSource::kCaller}}, TunedMatch::kNone, ""};
}

LaunchOptions launch_options(const kiln_operands& o) {
  return {(o.flags & KILN_LAUNCH_PROGRAMMATIC) != 0};
}

}  // namespace

Plan::Plan(std::shared_ptr<Engine> engine, const jit::Problem& problem,
           std::optional<jit::Tile> tile)
    : engine_(std::move(engine)), problem_(problem), kernel_problem_(jit::canonical(problem)) {
  TilePlan plan = choose_tiles(*engine_, problem, tile);
  tuned_why_ = std::move(plan.why);
  tuned_match_ = plan.match;
  slots_ = std::vector<Slot>(plan.tiles.size());
  for (std::size_t i = 0; i < plan.tiles.size(); ++i) fill_slot(plan.tiles[i], &slots_[i]);
}

void Plan::fill_slot(const PlannedTile& planned, Slot* slot) const {
  const jit::Tile& tile = planned.interval.tile;
  slot->interval = planned.interval;
  slot->source = planned.source;
  slot->rows_per_tile = std::int64_t{tile.block_m} * tile.cluster_m;
  slot->tiles_n = jit::ceil_div(problem_.n, std::int64_t{tile.block_n} * tile.cluster_n);
  slot->cluster = static_cast<std::uint32_t>(jit::cluster_size(tile));
  slot->boxes = map_boxes(problem_, tile);
}

const Plan::Slot& Plan::slot_for(std::int64_t m) const {
  return *std::partition_point(slots_.begin(), slots_.end(),
                               [m](const Slot& slot) { return slot.interval.m_max < m; });
}

jit::KernelSpec Plan::spec_of(const Slot& slot) const {
  return {jit::GemmSpec{kernel_problem_, slot.interval.tile}, engine_->arch()};
}

std::string Plan::reason(const Slot& slot) const {
  const auto& [m_min, m_max, tile] = slot.interval;
  if (slot.source == TileSource::kCaller)
    return fmt::format("tile {} is the caller's, for every M", jit::describe(tile));
  const bool is_default = slot.source == TileSource::kDefault;
  const char* const m = problem_.layout == jit::Layout::kGroupedMasked ? "expected_m" : "M";
  const bool is_gap = is_default && tuned_match_ != TunedMatch::kNone;
  return fmt::format("tile {} is {} for {} in [{}, {}] on {} SMs{}: {}{}", jit::describe(tile),
                     is_default ? "the default choice" : "tuned", m, m_min, m_max,
                     engine_->num_sms(), problem_.batch_invariant ? " (batch_invariant)" : "",
                     is_gap ? "outside the intervals of the " : "", tuned_why_);
}

// ---- Preparing ----

void Plan::prepare(std::int64_t m_min, std::int64_t m_max) {
  check_range("m_min", m_min, 0, jit::kMaxM, "rows of A");
  check_range("m_max", m_max, m_min, std::numeric_limits<std::int64_t>::max(), "not below m_min");
  engine_->refuse_in_capture("kiln_plan_prepare");
  for (const Slot& slot : slots_) {
    if (slot.interval.m_max < m_min || slot.interval.m_min > m_max) continue;
    if (engine_->has_device()) {
      publish(slot.interval.tile, engine_->kernel_for(spec_of(slot), reason(slot)));
    } else {
      engine_->prepare(spec_of(slot), reason(slot));
    }
  }
}

// Several intervals can share a tile, and with it the kernel.
void Plan::publish(const jit::Tile& tile, const LoadedKernel& kernel) const {
  for (const Slot& slot : slots_) {
    if (slot.interval.tile == tile) slot.kernel.store(&kernel, std::memory_order_release);
  }
}

const LoadedKernel& Plan::ready_kernel(const Slot& slot, CUstream stream) const {
  if (const LoadedKernel* kernel = slot.kernel.load(std::memory_order_acquire)) [[likely]]
    return *kernel;
  const LoadedKernel& kernel = engine_->kernel_at_launch(spec_of(slot), stream, reason(slot));
  publish(slot.interval.tile, kernel);
  return kernel;
}

// ---- Launching ----

// Work items of one launch, in whole clusters. Which rows belong to a group is known on the device
// alone: for the row groups this is a bound. No product overflows: M and N have 31 bits, tiles at
// least 8 rows and 8 columns, and there are at most 2^10 groups; what is too much anyway is cut.
std::uint32_t Plan::most_tiles(const Slot& slot, const kiln_operands& o) const {
  const std::int64_t tiles_m = jit::ceil_div(o.m, slot.rows_per_tile);
  constexpr std::int64_t kTooMany = std::int64_t{1} << 40;
  std::int64_t tiles = std::min(tiles_m * slot.tiles_n, kTooMany);
  switch (problem_.layout) {
    case jit::Layout::kDense: break;
    case jit::Layout::kGroupedContiguous: tiles += problem_.groups * slot.tiles_n; break;
    case jit::Layout::kGroupedMasked: tiles *= problem_.groups; break;
    case jit::Layout::kGroupedK:
      tiles *= problem_.group_form == jit::GroupForm::kPacked
                   ? std::min(problem_.groups, kMaxPackedGroups)
                   : problem_.groups;
      break;
  }
  if (tiles <= std::numeric_limits<std::int32_t>::max()) [[likely]]
    return static_cast<std::uint32_t>(tiles);
  throw Error(
      Status::kInvalidArgument,
      fmt::format(
          "m must give at most 2^31-1 tiles of {} in D{}, got m = {} with {} tiles: split M "
          "over several launches",
          jit::describe(slot.interval.tile),
          jit::is_grouped(problem_) ? fmt::format(" of {} groups", problem_.groups) : "", o.m,
          tiles));
}

// Persistent CTAs, in whole clusters: as many as there is room or work for.
std::uint32_t Plan::num_ctas(const Slot& slot, const kiln_operands& o,
                             std::uint32_t num_tiles) const {
  const std::int32_t num_sms =
      o.num_sms == 0 ? engine_->num_sms() : std::min(o.num_sms, engine_->num_sms());
  const std::uint32_t clusters = static_cast<std::uint32_t>(num_sms) / slot.cluster;
  if (clusters == 0) [[unlikely]] {
    throw Error(
        Status::kInvalidArgument,
        fmt::format(
            "num_sms must be at least the {} CTAs of a cluster of tile {}, got {}: allow more "
            "SMs, or create the plan with a tile of smaller clusters",
            slot.cluster, jit::describe(slot.interval.tile), num_sms));
  }
  return std::min(clusters, num_tiles) * slot.cluster;
}

void Plan::launch(const kiln_operands& o, CUstream stream) const {
  const Device& gpu = engine_->device();
  const LaunchSizes sizes = check_operands(problem_, o);
  if (o.m == 0) return;
  const bool row_groups = jit::has_row_groups(problem_);
  const Slot& slot = slot_for(problem_.layout == jit::Layout::kGroupedMasked ? o.expected_m : o.m);
  const std::uint32_t num_tiles = most_tiles(slot, o);
  const std::uint32_t ctas = num_ctas(slot, o, num_tiles);
  if (engine_->check_groups() && jit::is_grouped(problem_)) [[unlikely]]
    check_groups_on_device(gpu, problem_, o, sizes, stream);
  if (sizes.k == 0 && problem_.accumulate) [[unlikely]]
    return;  // adds nothing
  const LoadedKernel& kernel = ready_kernel(slot, stream);

  const Driver& driver = gpu.driver();
  const ContextScope scope(driver, gpu.context());
  const GemmCall call{driver, problem_, o, sizes, slot.boxes};
  if (problem_.group_form == jit::GroupForm::kPacked)
    return launch_packed(call, slot, kernel, stream);
  device::GemmParams params{};
  fill_params(call, &params);
  params.num_tiles = row_groups ? 0 : num_tiles;
  kernel.launch(ctas, &params, stream, launch_options(o));
}

// On its own, so that no other launch pays for 26 KiB of stack. The parameters behind the last
// group are never read and stay as they were. Once the first launch is enqueued no map can be
// refused any more: the others differ in address and K alone, and those obey the driver's rules.
[[gnu::noinline]] void Plan::launch_packed(const GemmCall& call, const Slot& slot,
                                           const LoadedKernel& kernel, CUstream stream) const {
  const kiln_operands& o = call.operands;
  const std::int64_t tiles_per_group = jit::ceil_div(o.m, slot.rows_per_tile) * slot.tiles_n;
  device::PackedGemmParams params;
  for (std::int32_t first = 0; first < problem_.groups; first += kMaxPackedGroups) {
    const std::int32_t count = std::min(problem_.groups - first, kMaxPackedGroups);
    params.gemm = {};
    fill_params(call, first, count, &params);
    params.gemm.num_tiles = static_cast<std::uint32_t>(count * tiles_per_group);
    kernel.launch(num_ctas(slot, o, params.gemm.num_tiles), &params, stream, launch_options(o));
  }
}

// ---- Describing ----

void Plan::describe(std::int64_t m, kiln_plan_description* out) const {
  check_range("m", m, 0, jit::kMaxM, "TMA coordinates are 32-bit");
  const Slot& slot = slot_for(m);
  const jit::KernelSpec spec = spec_of(slot);
  const jit::Tile& tile = slot.interval.tile;
  out->full_tile = to_c(tile);
  std::memcpy(&out->tile, &out->full_tile, sizeof out->tile);
  out->tile.struct_size = sizeof out->tile;
  out->m_min = slot.interval.m_min;
  out->m_max = slot.interval.m_max;
  out->source = static_cast<std::int32_t>(slot.source);
  out->threads = jit::threads(tile);
  out->dynamic_smem_bytes = jit::smem_bytes(tile, problem_);
  out->estimate_us = jit::estimate_us(problem_, tile, m, engine_->machine());
  copy_text(reason(slot), out->reason);
  const KernelInfo* info = engine_->find_prepared(spec);
  copy_text(info != nullptr ? info->key : engine_->key_for(spec), out->key);
  if (info == nullptr) return;
  out->ready = 1;
  out->from_disk = info->from_disk ? 1 : 0;
  out->registers = info->registers;
  out->spill_bytes = info->spill_bytes;
  out->cubin_bytes = info->cubin_bytes;
  out->compile_ms = info->compile_ms;
}

}  // namespace kiln::runtime
