#include "runtime/operands.h"

#include <fmt/format.h>

#include <limits>

#include "jit/error.h"
#include "runtime/operand_check.h"

namespace kiln::runtime {
namespace {

using jit::GroupForm;
using jit::Layout;
using jit::Problem;
using jit::Scaling;

constexpr std::uint32_t kKnownFlags = KILN_LAUNCH_PROGRAMMATIC | KILN_LAUNCH_ZERO_PADDING;
constexpr std::int64_t kDefaultK = -1;

// ---- Fields that belong to other layouts ----

[[noreturn]] void fail_unused(const Problem& p, const char* name, const std::string& value,
                              const char* owner) {
  const std::string form =
      jit::is_grouped(p) ? fmt::format(" with group_form {}", jit::name(p.group_form)) : "";
  refuse(fmt::format("{} must be left at its default for layout {}{} (it belongs to {}), got {}",
                     name, jit::name(p.layout), form, owner, value));
}

// A value that no kernel would read is a mistake of the caller's.
void check_unused(const Problem& p, bool used, const char* name, std::int64_t value,
                  const char* owner) {
  if (!used && value != 0) [[unlikely]]
    fail_unused(p, name, fmt::format("{}", value), owner);
}
void check_unused(const Problem& p, bool used, const char* name, const void* value,
                  const char* owner) {
  if (!used && value != nullptr) [[unlikely]]
    fail_unused(p, name, fmt::format("{}", value), owner);
}

void check_unused_fields(const Problem& p, const kiln_operands& o) {
  const bool masked = p.layout == Layout::kGroupedMasked;
  const bool packed = p.group_form == GroupForm::kPacked;
  const bool grouped = jit::is_grouped(p), row_groups = jit::has_row_groups(p);
  const bool sliced_d = masked || p.layout == Layout::kGroupedK;
  check_unused(p, grouped && !packed, "grouping", o.grouping, "labels, ends and rows");
  check_unused(p, grouped, "expert_map", o.expert_map, "the grouped layouts");
  check_unused(p, grouped, "num_slices", o.num_slices, "the grouped layouts");
  check_unused(p, packed, "host_group_k", o.host_group_k, "grouped_k with packed operands");
  check_unused(p, masked, "expected_m", o.expected_m, "grouped_masked");
  check_unused(p, masked, "a_group_stride", o.a_group_stride, "grouped_masked");
  check_unused(p, masked, "sfa_group_stride", o.sfa_group_stride, "grouped_masked");
  check_unused(p, row_groups, "b_group_stride", o.b_group_stride,
               "grouped_contiguous and grouped_masked");
  check_unused(p, row_groups, "sfb_group_stride", o.sfb_group_stride,
               "grouped_contiguous and grouped_masked");
  check_unused(p, sliced_d, "d_group_stride", o.d_group_stride, "grouped_masked and grouped_k");
  check_unused(p, !packed, "lda", o.lda, "operands that are not packed");
  check_unused(p, !packed, "ldb", o.ldb, "operands that are not packed");
  check_unused(p, false, "reserved", o.reserved, "a later version");
}

// ---- Sizes and flags ----

// The rules of an empty launch, too.
void check_every_launch(const Problem& p, const kiln_operands& o) {
  check_range("m", o.m, 0, jit::kMaxM, "TMA coordinates are 32-bit");
  check_range("num_sms", o.num_sms, 0, std::numeric_limits<std::int32_t>::max(), "0 for all");
  if ((o.flags & ~kKnownFlags) != 0) [[unlikely]] {
    refuse(fmt::format("flags must be a combination of KILN_LAUNCH_* ({:#x}), got {:#x}",
                       kKnownFlags, o.flags));
  }
  if ((o.flags & KILN_LAUNCH_ZERO_PADDING) == 0) [[likely]]
    return;
  if (p.layout != Layout::kGroupedContiguous || p.accumulate) {
    refuse(fmt::format(
        "flags must not have KILN_LAUNCH_ZERO_PADDING for layout {}{} (zeros are for the padding "
        "of grouped_contiguous without accumulation), got {:#x}",
        jit::name(p.layout), p.accumulate ? " with accumulate" : "", o.flags));
  }
}

std::int64_t sum_of_packed(const Problem& p, const kiln_operands& o) {
  if (o.host_group_k == nullptr) {
    refuse(
        fmt::format("host_group_k must be a host pointer to K of each of the {} groups, got null: "
                    "it says where the packed operands of a group begin",
                    p.groups));
  }
  std::int64_t sum = 0;
  for (std::int32_t g = 0; g < p.groups; ++g) {
    const std::int64_t k = o.host_group_k[g];
    if (k < 0 || k % jit::kScaleBlock != 0) [[unlikely]] {
      refuse(
          fmt::format("host_group_k[{}] must be 0 or a positive multiple of {} (one scale for each "
                      "so many), got {}: pad the group's A and B with zeros to {}",
                      g, jit::kScaleBlock, k, k < 0 ? 0 : jit::scale_blocks(k) * jit::kScaleBlock));
    }
    sum += k;
  }
  check_range("the sum of host_group_k", sum, 0, jit::kMaxM, "k-blocks are counted in 32 bits");
  if (o.k == kDefaultK || o.k == sum) return sum;
  refuse(fmt::format("k must be -1 or the sum of host_group_k, {}, got {}", sum, o.k));
}

std::int64_t launch_k(const Problem& p, const kiln_operands& o) {
  if (p.scaling == Scaling::k1d2d) [[likely]] {
    if (o.k == kDefaultK || o.k == p.k) [[likely]]
      return p.k;
    refuse(fmt::format(
        "k must be -1 or the plan's {} for scaling 1d2d (a constant of its kernels), got "
        "{}: create a plan for that k",
        p.k, o.k));
  }
  if (p.group_form == GroupForm::kPacked) return sum_of_packed(p, o);
  if (o.k == kDefaultK) {
    if (p.layout == Layout::kDense) return p.k;
    refuse(
        "k must be the columns of A and B, all groups together, for layout grouped_k (the plan has "
        "that of one group), got -1");
  }
  check_range("k", o.k, 0, jit::kMaxM, "TMA coordinates are 32-bit; -1 for the plan's");
  check_multiple("k", o.k, 16, "FP8 rows are loaded in 16-byte units");
  return o.k;
}

std::int32_t slice_count(const Problem& p, const kiln_operands& o) {
  if (!jit::is_grouped(p)) return 1;
  check_range("num_slices", o.num_slices, 0, std::numeric_limits<std::int32_t>::max(),
              "0: one for each group");
  if (o.num_slices == 0) return p.groups;
  if (o.expert_map != nullptr || o.num_slices >= p.groups) return o.num_slices;
  refuse(fmt::format(
      "num_slices must be at least the plan's {} groups without expert_map (group g uses slice g), "
      "got {}: give an expert_map, or all slices",
      p.groups, o.num_slices));
}

// ---- Groups ----

const char* array_of(const Problem& p) {
  switch (p.group_form) {
    case GroupForm::kLabels: return "the group of each of the m rows, int32";
    case GroupForm::kEnds: return "where each group ends, int32";
    default: return "the valid rows of each group, int32";
  }
}

void check_groups(const Problem& p, const kiln_operands& o) {
  if (p.group_form != GroupForm::kPacked) check_array("grouping", o.grouping, array_of(p));
  if (o.expert_map != nullptr)
    check_array("expert_map", o.expert_map, "the slice of each group, int32");
  if (p.layout == Layout::kGroupedMasked)
    check_range("expected_m", o.expected_m, 1, o.m,
                "about how many rows a group has, at most m: it chooses the tile");
  if (p.layout == Layout::kGroupedContiguous && o.m % p.alignment != 0) [[unlikely]] {
    refuse(
        fmt::format("m must be a multiple of the plan's alignment, {}, got {}: pad A, SFA and D to "
                    "{} rows, or create the plan with alignment 1",
                    p.alignment, o.m, jit::round_up(o.m, p.alignment)));
  }
}

// ---- Matrices ----

// One matrix, or slices of it when there are any. Returns their distance.
std::int64_t check_matrix(const StridedOperand& matrix, const char* field, std::int64_t given,
                          std::int64_t slices) {
  if (slices != 0) return check_slices(matrix, field, given, slices);
  check_operand(matrix);
  return 0;
}

void check_inputs(const Problem& p, const kiln_operands& o, LaunchSizes* s) {
  const bool packed = p.group_form == GroupForm::kPacked, m_major = p.scaling == Scaling::k1d1d;
  const std::int64_t a_slices = p.layout == Layout::kGroupedMasked ? p.groups : 0;
  const std::int64_t b_slices = jit::has_row_groups(p) ? s->num_slices : 0;
  const std::int64_t blocks = jit::scale_blocks(s->k);
  // Packed, the groups' matrices together have the elements of one of all their columns.
  const char* const lda = packed ? "host_group_k" : "lda";
  const char* const ldb = packed ? "host_group_k" : "ldb";
  s->a_group_stride = check_matrix({"a", lda, o.a, packed ? s->k : o.lda, o.m, s->k, 16, 16, 1},
                                   "a_group_stride", o.a_group_stride, a_slices);
  s->b_group_stride = check_matrix({"b", ldb, o.b, packed ? s->k : o.ldb, p.n, s->k, 16, 16, 1},
                                   "b_group_stride", o.b_group_stride, b_slices);
  const StridedOperand sfa =
      p.sfa_major == jit::ScaleMajor::kM
          ? StridedOperand{"sfa", "ld_sfa", o.sfa, o.ld_sfa, blocks, o.m, 4, 16, 4}
          : StridedOperand{"sfa", "ld_sfa", o.sfa, o.ld_sfa, o.m, blocks, 1, 4, 4};
  s->sfa_group_stride = check_matrix(sfa, "sfa_group_stride", o.sfa_group_stride, a_slices);
  const StridedOperand sfb =
      m_major ? StridedOperand{"sfb", "ld_sfb", o.sfb, o.ld_sfb, blocks, p.n, 4, 16, 4}
              : StridedOperand{"sfb",  "ld_sfb", o.sfb, o.ld_sfb, jit::scale_blocks(p.n),
                               blocks, 1,        4,     4};
  s->sfb_group_stride = check_matrix(sfb, "sfb_group_stride", o.sfb_group_stride, b_slices);
}

void check_output(const Problem& p, const kiln_operands& o, LaunchSizes* s) {
  const std::int64_t slices = p.layout == Layout::kGroupedMasked ? p.groups
                              : p.layout == Layout::kGroupedK    ? s->num_slices
                                                                 : 0;
  const auto bytes = static_cast<std::int32_t>(jit::element_bytes(p.out));
  const StridedOperand d{"d", "ldd", o.d, o.ldd, o.m, p.n, 16 / bytes, 16, bytes};
  s->d_group_stride = check_matrix(d, "d_group_stride", o.d_group_stride, slices);
  if (slices != 0) check_disjoint(d, "d_group_stride", s->d_group_stride, slices);
}

}  // namespace

LaunchSizes check_operands(const Problem& p, const kiln_operands& o) {
  check_every_launch(p, o);
  LaunchSizes sizes;
  if (o.m == 0) return sizes;
  check_unused_fields(p, o);
  if (jit::is_grouped(p)) check_groups(p, o);
  sizes.k = launch_k(p, o);
  sizes.num_slices = slice_count(p, o);
  if (sizes.k != 0) [[likely]]
    check_inputs(p, o, &sizes);
  check_output(p, o, &sizes);
  return sizes;
}

}  // namespace kiln::runtime
