#include "tools/tune_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "cache/digest.h"
#include "jit/error.h"
#include "runtime/tuned_table.h"
#include "tools/strict_json.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

constexpr std::size_t kMaxTextBytes = 4096;
constexpr std::size_t kMaxAxis = 64;
constexpr std::size_t kMaxUppers = runtime::kMaxTunedIntervals - 1;  // the rest is one more
constexpr std::int64_t kMaxProduct = 1'000'000;                      // candidates before pruning

// What an axis may hold: the range, and the step that every tile obeys whatever the other axes say.
struct Axis {
  std::string_view name;
  std::vector<std::int32_t> TuneAxes::*values;
  std::int64_t min, max;
  bool is_optional = false;  // 1 where it is left out
};
constexpr std::array kAxes{Axis{"block_m", &TuneAxes::block_m, 8, 256},
                           Axis{"block_n", &TuneAxes::block_n, 8, 256},
                           Axis{"warpgroups_m", &TuneAxes::warpgroups_m, 1, 4},
                           Axis{"warpgroups_n", &TuneAxes::warpgroups_n, 1, 4},
                           Axis{"stages", &TuneAxes::stages, 0, 32},
                           Axis{"cluster_m", &TuneAxes::cluster_m, 1, 8},
                           Axis{"cluster_n", &TuneAxes::cluster_n, 1, 8},
                           Axis{"raster_group", &TuneAxes::raster_group, 0, 1024},
                           Axis{"warpgroups_k", &TuneAxes::warpgroups_k, 1, 4, true},
                           Axis{"cluster_k", &TuneAxes::cluster_k, 1, 8, true},
                           Axis{"stage_blocks", &TuneAxes::stage_blocks, 1, 8, true}};

constexpr std::array<std::string_view, 8> kFileKeys = {
    "$schema", "format", "comment", "machine", "axes", "constraints", "intervals", "measuring"};
constexpr std::array<std::string_view, 2> kMachineKeys = {"arch", "num_sms"};
constexpr std::array<std::string_view, 3> kIntervalKeys = {"upper", "cover", "max_rows"};

void require_legal(const Axis& axis, const JsonView& element, std::int64_t value) {
  const bool is_low = value == 8 || value == 16 || value == 32;
  if (axis.name == "block_m" && value % 64 != 0 && !is_low) {
    element.fail(fmt::format(
        "must be a multiple of 64 (a wave has 64 rows), or 8, 16 or 32, got {}: take {}", value,
        std::max<std::int64_t>(value < 64 ? 32 : 64, value / 64 * 64)));
  }
  if (axis.name == "block_n" && value % 8 != 0) {
    element.fail(fmt::format(
        "must be a multiple of 8 (a WGMMA has a multiple of 8 columns), got {}: take {}", value,
        value / 8 * 8));
  }
  const bool is_power = axis.name.starts_with("cluster") || axis.name == "stage_blocks";
  if (is_power && (value & (value - 1)) != 0) {
    element.fail(fmt::format("must be 1, 2, 4 or 8, got {}: take {}", value, value < 4 ? 2 : 4));
  }
  if (axis.name == "stages" && value == 1)
    element.fail("must be 2 to 32, or 0 for as many as fit, got 1: take 0");
}

std::vector<std::int32_t> read_axis(const Axis& axis, const JsonView& list) {
  const std::size_t count = list.expect_array(1, kMaxAxis);
  std::vector<std::int32_t> values;
  for (std::size_t i = 0; i < count; ++i) {
    const JsonView element = list.at(i);
    const auto value = static_cast<std::int32_t>(element.integer(axis.min, axis.max));
    require_legal(axis, element, value);
    if (std::find(values.begin(), values.end(), value) != values.end())
      element.fail(fmt::format("{} is listed twice: remove one of them", value));
    values.push_back(value);
  }
  return values;
}

TuneAxes read_axes(const JsonView& object) {
  std::vector<std::string_view> keys;
  for (const Axis& axis : kAxes) keys.push_back(axis.name);
  object.expect_object(keys);
  TuneAxes axes;
  std::int64_t product = 1;
  for (const Axis& axis : kAxes) {
    const bool left_out = axis.is_optional && !object.has(axis.name);
    axes.*axis.values = left_out ? std::vector{1} : read_axis(axis, object.at(axis.name));
    product *= static_cast<std::int64_t>((axes.*axis.values).size());
    if (product > kMaxProduct)
      object.fail(
          fmt::format("the product of the axes must be at most {}, got {} up to {}: list "
                      "fewer values",
                      kMaxProduct, product, axis.name));
  }
  return axes;
}

// A member that may be left out, with its range.
template <typename Struct, typename Value>
struct Field {
  std::string_view name;
  Value Struct::*value;
  std::int64_t min, max;
};

template <typename Struct, std::size_t kCount>
Struct read_fields(const JsonView& object,
                   const std::array<Field<Struct, std::int32_t>, kCount>& fields) {
  std::vector<std::string_view> keys;
  for (const auto& field : fields) keys.push_back(field.name);
  object.expect_object(keys);
  Struct out;
  for (const auto& field : fields) {
    if (object.has(field.name))
      out.*field.value =
          static_cast<std::int32_t>(object.at(field.name).integer(field.min, field.max));
  }
  return out;
}

using C = TuneConstraints;
constexpr std::array kConstraints{
    Field<C, std::int32_t>{"min_warpgroup_n", &C::min_warpgroup_n, 8, 256},
    Field<C, std::int32_t>{"max_waves", &C::max_waves, 1, 4},
    Field<C, std::int32_t>{"max_cluster", &C::max_cluster, 1, 8},
    Field<C, std::int32_t>{"cluster_from_m", &C::cluster_from_m, 0, 1 << 30},
    Field<C, std::int32_t>{"max_spill_bytes", &C::max_spill_bytes, 0, 1 << 20},
    Field<C, std::int32_t>{"model_percent", &C::model_percent, 100, 100'000},
    Field<C, std::int32_t>{"max_candidates", &C::max_candidates, 1, 100'000}};

using M = TuneMeasuring;
constexpr std::array kMeasuring{
    Field<M, std::int32_t>{"probe_repeats", &M::probe_repeats, 1, 1000},
    Field<M, std::int32_t>{"repeats", &M::repeats, 1, 1000},
    Field<M, std::int32_t>{"early_stop_percent", &M::early_stop_percent, 100, 10'000},
    Field<M, std::int32_t>{"patience", &M::patience, 1, 100'000},
    Field<M, std::int32_t>{"draws", &M::draws, 1, 16},
    Field<M, std::int32_t>{"flush_mb", &M::flush_mb, 128, 65'536},
    Field<M, std::int32_t>{"finalists", &M::finalists, 1, 64},
    Field<M, std::int32_t>{"final_rounds", &M::final_rounds, 2, 1000},
    Field<M, std::int32_t>{"final_repeats", &M::final_repeats, 1, 1000},
    Field<M, std::int32_t>{"noise_percent", &M::noise_percent, 0, 10'000},
    Field<M, std::int32_t>{"max_kernels", &M::max_kernels, 1, 8},
    Field<M, std::int32_t>{"max_loss_percent", &M::max_loss_percent, 0, 1000}};

}  // namespace

std::string_view name(TuneCover value) { return value == TuneCover::kAll ? "all" : "listed"; }

TuneCover parse_tune_cover(std::string_view text, std::string_view field) {
  for (const TuneCover cover : {TuneCover::kAll, TuneCover::kListed}) {
    if (text == name(cover)) return cover;
  }
  throw Error(Status::kInvalidArgument,
              fmt::format("{} must be all or listed, got {}", field, quote(text)));
}

namespace {

TuneIntervals read_intervals(const JsonView& object) {
  object.expect_object(kIntervalKeys);
  TuneIntervals out;
  const JsonView list = object.at("upper");
  const std::size_t count = list.expect_array(1, kMaxUppers);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t last = list.at(i).integer(1, jit::kMaxM - 1);
    if (!out.upper.empty() && last <= out.upper.back())
      list.at(i).fail(fmt::format("must be more than the one before it ({}), got {}: sort the list",
                                  out.upper.back(), last));
    out.upper.push_back(last);
  }
  if (object.has("cover")) {
    const JsonView cover = object.at("cover");
    out.cover = parse_tune_cover(cover.string(kMaxTextBytes),
                                 fmt::format("{}: {}", cover.file(), cover.place()));
  }
  if (object.has("max_rows")) out.max_rows = object.at("max_rows").integer(1, jit::kMaxM);
  return out;
}

void read_machine(const JsonView& object, TuneConfig& config) {
  object.expect_object(kMachineKeys);
  const JsonView arch = object.at("arch");
  if (arch.string(kMaxTextBytes) != jit::name(config.arch))
    arch.fail_value(fmt::format("must be \"{}\"", jit::name(config.arch)));
  config.machine.num_sms = static_cast<std::int32_t>(object.at("num_sms").integer(1, 1024));
}

}  // namespace

TuneConfig parse_tune_config(std::string_view text, const std::string& file) {
  const nlohmann::json document = parse_json(text, file);
  const JsonView root(document, file, "");
  root.expect_object(kFileKeys);
  root.at("format").integer(1, 1);
  for (const char* key : {"$schema", "comment"}) {
    if (root.has(key)) root.at(key).string(kMaxTextBytes);
  }
  TuneConfig config;
  read_machine(root.at("machine"), config);
  config.axes = read_axes(root.at("axes"));
  if (root.has("constraints"))
    config.constraints = read_fields(root.at("constraints"), kConstraints);
  config.intervals = read_intervals(root.at("intervals"));
  if (root.has("measuring")) config.measuring = read_fields(root.at("measuring"), kMeasuring);
  const TuneMeasuring& m = config.measuring;
  if (m.probe_repeats > m.repeats)
    JsonView(document, file, "measuring")
        .fail(fmt::format("probe_repeats must be at most repeats = {}, got {}: the probe is the "
                          "beginning of them",
                          m.repeats, m.probe_repeats));
  config.digest = cache::to_hex(cache::sha256(text));
  return config;
}

TuneConfig load_tune_config(const std::string& path) {
  return parse_tune_config(read_file(path), path);
}

}  // namespace kiln::tools
