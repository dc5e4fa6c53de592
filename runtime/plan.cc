#include "runtime/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "runtime/c_struct.h"
#include "runtime/operand_check.h"
#include "runtime/tensor_map.h"

namespace kiln::runtime {
namespace {

constexpr std::uint32_t kKnownFlags = KILN_LAUNCH_PROGRAMMATIC;

std::vector<jit::TileInterval> choose_tiles(const jit::Problem& problem,
                                            const std::optional<jit::Tile>& tile,
                                            const jit::Machine& machine) {
  jit::validate(problem);
  if (!tile) return jit::plan_tiles(problem, machine);
  jit::validate(*tile, problem);
  return {{0, jit::kMaxM, *tile}};
}

kiln_tile to_c(const jit::Tile& tile) {
  return {sizeof(kiln_tile), 1,           tile.block_m,   tile.block_n,   tile.warpgroups_m,
          tile.warpgroups_n, tile.stages, tile.cluster_m, tile.cluster_n, tile.raster_group};
}

}  // namespace

Plan::Plan(std::shared_ptr<Engine> engine, const jit::Problem& problem,
           std::optional<jit::Tile> tile)
    : engine_(std::move(engine)), problem_(problem), tile_is_callers_(tile.has_value()) {
  const std::vector<jit::TileInterval> intervals = choose_tiles(problem, tile, engine_->machine());
  slots_ = std::vector<Slot>(intervals.size());
  for (std::size_t i = 0; i < intervals.size(); ++i) fill_slot(intervals[i], &slots_[i]);
}

void Plan::fill_slot(const jit::TileInterval& interval, Slot* slot) const {
  const jit::Tile& tile = interval.tile;
  const std::int64_t row_bytes =
      tile.block_n / tile.warpgroups_n * jit::element_bytes(problem_.out);
  slot->interval = interval;
  slot->rows_per_tile = std::int64_t{tile.block_m} * tile.cluster_m;
  slot->tiles_n = jit::ceil_div(problem_.n, std::int64_t{tile.block_n} * tile.cluster_n);
  slot->cluster = static_cast<std::uint32_t>(tile.cluster_m * tile.cluster_n);
  slot->a_box_rows = static_cast<std::uint32_t>(tile.block_m / tile.cluster_n);
  slot->b_box_rows = static_cast<std::uint32_t>(tile.block_n / tile.cluster_m);
  slot->sfa_box_cols = static_cast<std::uint32_t>(tile.block_m);
  slot->d_chunk_bytes = device::d_chunk_bytes(static_cast<std::uint32_t>(row_bytes));
}

const Plan::Slot& Plan::slot_for(std::int64_t m) const {
  return *std::partition_point(slots_.begin(), slots_.end(),
                               [m](const Slot& slot) { return slot.interval.m_max < m; });
}

jit::KernelSpec Plan::spec_of(const Slot& slot) const {
  return {jit::GemmSpec{problem_, slot.interval.tile}, engine_->arch()};
}

std::string Plan::reason(const Slot& slot) const {
  const auto& [m_min, m_max, tile] = slot.interval;
  if (tile_is_callers_)
    return fmt::format("tile {} is the caller's, for every M", jit::describe(tile));
  return fmt::format("tile {} is the default choice for M in [{}, {}] on {} SMs",
                     jit::describe(tile), m_min, m_max, engine_->num_sms());
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

void Plan::check(const kiln_operands& o) const {
  check_range("m", o.m, 0, jit::kMaxM, "TMA coordinates are 32-bit");
  check_range("num_sms", o.num_sms, 0, std::numeric_limits<std::int32_t>::max(), "0 for all");
  if ((o.flags & ~kKnownFlags) != 0) [[unlikely]] {
    throw Error(Status::kInvalidArgument,
                fmt::format("flags must be a combination of KILN_LAUNCH_* ({:#x}), got {:#x}",
                            kKnownFlags, o.flags));
  }
  if (o.m == 0) return;
  const std::int64_t blocks = jit::scale_blocks(problem_.k);
  check_operand({"a", "lda", o.a, o.lda, o.m, problem_.k, 16, 16, 1});
  check_operand({"b", "ldb", o.b, o.ldb, problem_.n, problem_.k, 16, 16, 1});
  if (problem_.sfa_major == jit::ScaleMajor::kM) {
    check_operand({"sfa", "ld_sfa", o.sfa, o.ld_sfa, blocks, o.m, 4, 16, 4});
  } else {
    check_operand({"sfa", "ld_sfa", o.sfa, o.ld_sfa, o.m, blocks, 1, 4, 4});
  }
  check_operand({"sfb", "ld_sfb", o.sfb, o.ld_sfb, jit::scale_blocks(problem_.n), blocks, 1, 4, 4});
  const auto bytes = static_cast<std::int32_t>(jit::element_bytes(problem_.out));
  check_operand({"d", "ldd", o.d, o.ldd, o.m, problem_.n, 16 / bytes, 16, bytes});
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
  check(o);
  if (o.m == 0) return;
  const Slot& slot = slot_for(o.m);
  const std::int64_t num_tiles = jit::ceil_div(o.m, slot.rows_per_tile) * slot.tiles_n;
  if (num_tiles > std::numeric_limits<std::int32_t>::max()) [[unlikely]] {
    throw Error(
        Status::kInvalidArgument,
        fmt::format(
            "m must give at most 2^31-1 tiles of {} in D, got m = {} with {} tiles: split M "
            "over several launches",
            jit::describe(slot.interval.tile), o.m, num_tiles));
  }
  const std::uint32_t ctas = num_ctas(slot, o, static_cast<std::uint32_t>(num_tiles));
  const LoadedKernel& kernel = ready_kernel(slot, stream);

  const Driver& driver = gpu.driver();
  const ContextScope scope(driver, gpu.context());
  device::GemmParams params{};
  encode_fp8(driver, "a", {o.a, o.m, problem_.k, o.lda}, slot.a_box_rows, &params.a);
  encode_fp8(driver, "b", {o.b, problem_.n, problem_.k, o.ldb}, slot.b_box_rows, &params.b);
  encode_output(driver, {o.d, o.m, problem_.n, o.ldd}, jit::element_bytes(problem_.out),
                slot.d_chunk_bytes, &params.d);
  if (problem_.sfa_major == jit::ScaleMajor::kM) {
    encode_scales(driver, {o.sfa, jit::scale_blocks(problem_.k), o.m, o.ld_sfa}, slot.sfa_box_cols,
                  &params.sfa);
  }
  params.sfa_rows = o.sfa;
  params.ld_sfa = o.ld_sfa;
  params.sfb_blocks = o.sfb;
  params.ld_sfb = o.ld_sfb;
  params.m = static_cast<std::uint32_t>(o.m);
  params.num_tiles = static_cast<std::uint32_t>(num_tiles);
  kernel.launch(ctas, &params, stream, {(o.flags & KILN_LAUNCH_PROGRAMMATIC) != 0});
}

// ---- Describing ----

void Plan::describe(std::int64_t m, kiln_plan_description* out) const {
  check_range("m", m, 0, jit::kMaxM, "TMA coordinates are 32-bit");
  const Slot& slot = slot_for(m);
  const jit::KernelSpec spec = spec_of(slot);
  const jit::Tile& tile = slot.interval.tile;
  out->tile = to_c(tile);
  out->m_min = slot.interval.m_min;
  out->m_max = slot.interval.m_max;
  out->source = tile_is_callers_ ? 1 : 0;
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
