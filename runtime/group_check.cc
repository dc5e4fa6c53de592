#include "runtime/group_check.h"

#include <fmt/format.h>

#include <cstddef>
#include <map>
#include <vector>

#include "jit/error.h"

namespace kiln::runtime {
namespace {

using jit::GroupForm;
using jit::Layout;

// The first row of a group.
void check_first_row(std::int64_t row, std::int32_t label, std::int32_t alignment) {
  if (row % alignment == 0) return;
  refuse(
      fmt::format("grouping[{}] must not begin group {} here (groups begin at multiples of the "
                  "plan's alignment, {}), got {}: pad with -1 up to row {}, or create the plan "
                  "with alignment 1",
                  row, label, alignment, label, jit::round_up(row, alignment)));
}

std::vector<std::int32_t> read_back(const Driver& driver, const std::int32_t* array,
                                    std::int64_t count, CUstream stream) {
  std::vector<std::int32_t> host(static_cast<std::size_t>(count));
  const auto address = static_cast<CUdeviceptr>(reinterpret_cast<std::uintptr_t>(array));
  driver.check(
      driver.cuMemcpyDtoHAsync(host.data(), address, host.size() * sizeof(std::int32_t), stream),
      "cuMemcpyDtoHAsync");
  driver.check(driver.cuStreamSynchronize(stream), "cuStreamSynchronize");
  return host;
}

void check_grouping(const jit::Problem& p, const kiln_operands& o, const LaunchSizes& sizes,
                    std::span<const std::int32_t> grouping) {
  if (p.group_form == GroupForm::kLabels) {
    check_labels(grouping, p.groups, p.alignment);
  } else if (p.group_form == GroupForm::kRows) {
    check_rows(grouping, o.m);
  } else if (p.layout == Layout::kGroupedK) {
    check_ends(grouping, sizes.k, "k", static_cast<std::int32_t>(jit::kScaleBlock));
  } else {
    check_ends(grouping, o.m, "m", p.alignment);
  }
}

}  // namespace

void check_labels(std::span<const std::int32_t> labels, std::int32_t groups,
                  std::int32_t alignment) {
  std::int32_t last = -1;        // the last label that is not padding
  std::int64_t padding_at = -1;  // the first row of padding since then
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    const std::int32_t label = labels[i];
    if (label < 0) {
      if (padding_at < 0) padding_at = row;
      continue;
    }
    if (label >= groups)
      refuse(fmt::format(
          "grouping[{}] must be below the plan's {} groups, got {}: label each row with "
          "its group, and padding with -1",
          row, groups, label));
    if (label < last)
      refuse(
          fmt::format("grouping[{}] must not be below the label before it, {}, got {}: sort the "
                      "rows by group",
                      row, last, label));
    if (label == last && padding_at >= 0)
      refuse(
          fmt::format("grouping[{}] must not return to group {} behind the padding at row {} (rows "
                      "of one group follow each other), got {}: move the padding behind the group",
                      row, last, padding_at, label));
    if (label != last) check_first_row(row, label, alignment);
    last = label;
    padding_at = -1;
  }
}

void check_ends(std::span<const std::int32_t> ends, std::int64_t extent, const char* extent_name,
                std::int32_t alignment) {
  std::int32_t last = 0;
  for (std::size_t g = 0; g < ends.size(); ++g) {
    const std::int32_t end = ends[g];
    if (end < 0 || end > extent)
      refuse(fmt::format(
          "grouping[{}] (the end of group {}) must be in 0..{} ({} of this launch), got "
          "{}: give positions from the start, or a larger {}",
          g, g, extent, extent_name, end, extent_name));
    if (end < last)
      refuse(
          fmt::format("grouping[{}] (the end of group {}) must not be below the end before it, {}, "
                      "got {}: give positions from the start, not sizes",
                      g, g, last, end));
    const std::int64_t begin = jit::round_up(last, alignment);
    if (end != last && end < begin)
      refuse(fmt::format(
          "grouping[{}] (the end of group {}) must not be before {}, where the group "
          "begins (the previous end, {}, rounded up to the alignment, {}), got {}: round "
          "the beginning of each group up, and repeat the previous end for an empty one",
          g, g, begin, last, alignment, end));
    last = end;
  }
}

void check_rows(std::span<const std::int32_t> rows, std::int64_t m) {
  for (std::size_t g = 0; g < rows.size(); ++g) {
    if (rows[g] >= 0 && rows[g] <= m) continue;
    refuse(fmt::format(
        "grouping[{}] (valid rows of group {}) must be in 0..{} (m of this launch), got "
        "{}: give how many of a group's first rows are valid",
        g, g, m, rows[g]));
  }
}

void check_expert_map(std::span<const std::int32_t> slices, std::int32_t num_slices,
                      bool distinct) {
  std::map<std::int32_t, std::size_t> first_use;
  for (std::size_t g = 0; g < slices.size(); ++g) {
    if (slices[g] < 0 || slices[g] >= num_slices)
      refuse(fmt::format(
          "expert_map[{}] (the slice of group {}) must be in 0..{} (num_slices - 1), got "
          "{}: number the slices from 0",
          g, g, num_slices - 1, slices[g]));
    const auto [use, is_first] = first_use.emplace(slices[g], g);
    if (is_first || !distinct) continue;
    refuse(fmt::format(
        "expert_map[{}] must not name a slice of D that another group has (expert_map[{}] "
        "does, and both groups would write it), got {}: give each group its own slice",
        g, use->second, slices[g]));
  }
}

void check_groups_on_device(const Device& device, const jit::Problem& p, const kiln_operands& o,
                            const LaunchSizes& sizes, CUstream stream) {
  const Driver& driver = device.driver();
  const ContextScope scope(driver, device.context());
  if (is_capturing(driver, stream)) return;
  const RelaxedCapture relaxed(driver);
  if (p.group_form != GroupForm::kPacked) {
    const std::int64_t count = p.group_form == GroupForm::kLabels ? o.m : p.groups;
    check_grouping(p, o, sizes, read_back(driver, o.grouping, count, stream));
  }
  if (o.expert_map == nullptr) return;
  check_expert_map(read_back(driver, o.expert_map, p.groups, stream), sizes.num_slices,
                   p.layout == Layout::kGroupedK);
}

}  // namespace kiln::runtime
