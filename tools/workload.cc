#include "tools/workload.h"

#include <fmt/format.h>

#include <algorithm>

#include "jit/error.h"

namespace kiln::tools {
namespace {

using jit::Layout;

bool is_packed(const jit::Problem& p) { return p.group_form == jit::GroupForm::kPacked; }

// One after the other, each beginning at a multiple of `alignment`.
std::vector<Range> lay_out(const std::vector<std::int64_t>& sizes, std::int64_t alignment) {
  std::vector<Range> ranges;
  std::int64_t end = 0;
  for (const std::int64_t size : sizes) {
    const std::int64_t begin = jit::round_up(end, alignment);
    end = begin + size;
    ranges.push_back({begin, end});
  }
  return ranges;
}

void check_launch_extent(const char* what, std::int64_t value, const jit::Problem& p,
                         std::int64_t mean) {
  if (value <= jit::kMaxM) return;
  throw Error(Status::kInvalidArgument,
              fmt::format("all groups together must have at most {} {} (TMA coordinates are "
                          "32-bit), got {} from {} groups of {} on average: use fewer or smaller "
                          "groups",
                          jit::kMaxM, what, value, p.groups, mean));
}

void size_contiguous(Workload& w, const std::vector<std::int64_t>& sizes, std::int64_t mean) {
  w.groups = lay_out(sizes, w.problem.alignment);
  w.m = jit::round_up(w.groups.back().end, w.problem.alignment);
  check_launch_extent("rows", w.m, w.problem, mean);
  w.plan_m = w.m;
}

void size_masked(Workload& w, const std::vector<std::int64_t>& sizes, const Sizing& sizing,
                 std::int64_t largest) {
  for (const std::int64_t size : sizes) w.groups.push_back({0, size});
  w.m = jit::round_up(std::max<std::int64_t>(largest, 1), jit::kScaleBlock);
  if (sizing.max_m > 0) {
    w.m = sizing.max_m;
    if (w.m < largest) {
      throw Error(Status::kInvalidArgument,
                  fmt::format("--max-m must be at least {}, the most rows that a group of {} on "
                              "average gets with --skew {}, got {}",
                              largest, sizing.m, name(sizing.skew), w.m));
    }
  }
  check_launch_extent("allocated rows in one of them", w.m, w.problem, sizing.m);
  w.plan_m = std::clamp<std::int64_t>(sizing.m, 1, w.m);
}

// K of a group is a multiple of a scale's block, so the groups follow each other without gaps.
void size_grouped_k(Workload& w, std::vector<std::int64_t> sizes) {
  for (std::int64_t& size : sizes) size = jit::round_up(size, jit::kScaleBlock);
  w.groups = lay_out(sizes, jit::kScaleBlock);
  w.k = w.groups.back().end;
  check_launch_extent("of K", w.k, w.problem, w.problem.k);
}

std::int64_t slices(bool has_slices, const Workload& w) {
  return has_slices ? w.problem.groups : 1;
}
std::int64_t a_slices(const Workload& w) {
  return slices(w.problem.layout == Layout::kGroupedMasked, w);
}
std::int64_t b_slices(const Workload& w) { return slices(jit::has_row_groups(w.problem), w); }
std::int64_t d_slices(const Workload& w) {
  return slices(w.problem.layout == Layout::kGroupedMasked || w.problem.layout == Layout::kGroupedK,
                w);
}

// Elements of one slice of SFA and SFB.
std::int64_t sfa_slice(const Workload& w) {
  const bool row_major = w.problem.sfa_major == jit::ScaleMajor::kRow;
  return (row_major ? w.m : jit::scale_blocks(w.k)) * w.ld_sfa;
}
std::int64_t sfb_slice(const Workload& w) {
  const bool per_column = w.problem.scaling == jit::Scaling::k1d1d;
  return (per_column ? jit::scale_blocks(w.k) : jit::scale_blocks(w.problem.n)) * w.ld_sfb;
}

Product row_group_product(const Workload& w, std::int64_t group, const Range& rows) {
  const bool masked = w.problem.layout == Layout::kGroupedMasked;
  const bool row_major = w.problem.sfa_major == jit::ScaleMajor::kRow;
  const std::int64_t first_row = (masked ? group * w.m : 0) + rows.begin;
  Product p;
  p.m = rows.size();
  p.k = w.k;
  p.a = first_row * w.k;
  p.sfa = (masked ? group * sfa_slice(w) : 0) + rows.begin * (row_major ? w.ld_sfa : 1);
  p.b = group * w.problem.n * w.k;
  p.sfb = group * sfb_slice(w);
  p.d = first_row * w.problem.n;
  p.lda = p.ldb = w.k;
  return p;
}

Product k_group_product(const Workload& w, std::int64_t group, const Range& k) {
  const bool packed = is_packed(w.problem);
  const std::int64_t first_block = k.begin / jit::kScaleBlock;
  Product p;
  p.m = w.m;
  p.k = k.size();
  p.a = packed ? w.m * k.begin : k.begin;
  p.b = packed ? w.problem.n * k.begin : k.begin;
  p.lda = p.ldb = packed ? k.size() : w.k;
  p.sfa = first_block * w.ld_sfa;
  p.sfb = first_block * w.ld_sfb;
  p.d = group * w.m * w.problem.n;
  return p;
}

}  // namespace

Workload make_workload(const jit::Problem& problem, const Sizing& sizing) {
  jit::validate(problem);
  Workload w;
  w.problem = problem;
  w.m = w.plan_m = sizing.m;
  w.k = problem.k;
  const bool k_groups = problem.layout == Layout::kGroupedK;
  const SizeDraw draw{problem.groups, k_groups ? problem.k : sizing.m, sizing.skew, sizing.seed};
  switch (problem.layout) {
    case Layout::kDense:
      w.groups = {{0, w.m}};
      break;
    case Layout::kGroupedContiguous:
      size_contiguous(w, draw_sizes(draw), sizing.m);
      break;
    case Layout::kGroupedMasked:
      size_masked(w, draw_sizes(draw), sizing, largest_size(draw));
      break;
    case Layout::kGroupedK:
      size_grouped_k(w, draw_sizes(draw));
      break;
  }
  const std::int64_t blocks = jit::scale_blocks(w.k);
  const bool row_major = problem.sfa_major == jit::ScaleMajor::kRow;
  w.ld_sfa = row_major ? blocks : jit::round_up(std::max<std::int64_t>(w.m, 1), 4);
  w.ld_sfb = problem.scaling == jit::Scaling::k1d1d ? jit::round_up(problem.n, 4) : blocks;
  return w;
}

std::int64_t mean_plan_m(const jit::Problem& problem, std::int64_t m) {
  if (problem.layout == Layout::kGroupedMasked) return std::max<std::int64_t>(m, 1);
  if (problem.layout != Layout::kGroupedContiguous) return m;
  const std::int64_t rows = problem.groups * jit::round_up(m, problem.alignment);
  check_launch_extent("rows", rows, problem, m);
  return rows;
}

OperandSizes operand_sizes(const Workload& w) {
  const auto real = [](std::int64_t value) { return static_cast<double>(value); };
  const double m = real(w.m), n = real(w.problem.n), k = real(w.k);
  OperandSizes sizes;
  sizes.a = real(a_slices(w)) * m * k;
  sizes.b = real(b_slices(w)) * n * k;
  sizes.sfa = real(a_slices(w)) * real(sfa_slice(w));
  sizes.sfb = real(b_slices(w)) * real(sfb_slice(w));
  sizes.d = real(d_slices(w)) * m * n;
  const bool has_labels = w.problem.group_form == jit::GroupForm::kLabels;
  sizes.grouping = has_labels ? m : real(w.problem.groups);
  double most_m = 0, most_k = 0;
  for (const Range& range : w.groups) {
    const bool k_range = w.problem.layout == Layout::kGroupedK;
    most_m = std::max(most_m, k_range ? m : real(range.size()));
    most_k = std::max(most_k, k_range ? real(range.size()) : k);
  }
  sizes.widest_part = std::max(most_m, n) * most_k;
  return sizes;
}

std::vector<Product> products(const Workload& w) {
  std::vector<Product> list;
  for (std::size_t g = 0; g < w.groups.size(); ++g) {
    const auto group = static_cast<std::int64_t>(g);
    list.push_back(w.problem.layout == Layout::kGroupedK
                       ? k_group_product(w, group, w.groups[g])
                       : row_group_product(w, group, w.groups[g]));
  }
  return list;
}

std::vector<std::int32_t> grouping(const Workload& w) {
  std::vector<std::int32_t> values;
  if (w.problem.group_form == jit::GroupForm::kNone) return values;
  if (w.problem.group_form == jit::GroupForm::kLabels) {
    values.assign(static_cast<std::size_t>(w.m), -1);
    for (std::size_t g = 0; g < w.groups.size(); ++g) {
      std::fill(values.begin() + w.groups[g].begin, values.begin() + w.groups[g].end,
                static_cast<std::int32_t>(g));
    }
    return values;
  }
  const bool is_ends = w.problem.group_form == jit::GroupForm::kEnds;
  for (const Range& range : w.groups) {
    values.push_back(static_cast<std::int32_t>(is_ends ? range.end : range.size()));
  }
  return values;
}

std::vector<Range> rows_of_no_group(const Workload& w) {
  std::vector<Range> gaps;
  const auto add = [&](std::int64_t begin, std::int64_t end) {
    if (begin < end) gaps.push_back({begin, end});
  };
  std::int64_t next = 0;  // the first row that is not looked at yet
  for (std::size_t g = 0; g < w.groups.size() && jit::has_row_groups(w.problem); ++g) {
    const bool masked = w.problem.layout == Layout::kGroupedMasked;
    const std::int64_t slice = masked ? static_cast<std::int64_t>(g) * w.m : 0;
    add(next, slice + w.groups[g].begin);
    next = slice + w.groups[g].end;
  }
  if (jit::has_row_groups(w.problem)) add(next, d_slices(w) * w.m);
  return gaps;
}

std::int64_t computed_total(const Workload& w) {
  switch (w.problem.layout) {
    case jit::Layout::kDense:
      return 0;
    case jit::Layout::kGroupedContiguous:
      return w.m;
    case jit::Layout::kGroupedK:
      return w.k;
    case jit::Layout::kGroupedMasked: {
      std::int64_t rows = 0;
      for (const Range& group : w.groups) rows += group.size();
      return rows;
    }
  }
  return 0;
}

double flops(const Workload& w) {
  double sum = 0;
  for (const Product& p : products(w)) {
    sum +=
        2 * static_cast<double>(p.m) * static_cast<double>(w.problem.n) * static_cast<double>(p.k);
  }
  return sum;
}

double moved_bytes(const Workload& w) {
  const auto real = [](std::int64_t value) { return static_cast<double>(value); };
  const double n = real(w.problem.n);
  const double b_scales =
      w.problem.scaling == jit::Scaling::k1d1d ? n : real(jit::scale_blocks(w.problem.n));
  double sum = 0;
  for (const Product& p : products(w)) {
    if (p.m == 0) continue;
    const double m = real(p.m), k = real(p.k), blocks = real(jit::scale_blocks(p.k));
    sum += (m + n) * k + 4 * blocks * (m + b_scales);
    // D of a group without K is written as zeros, or left as it is when accumulating.
    const int passes = !w.problem.accumulate ? 1 : p.k > 0 ? 2 : 0;
    sum += m * n * real(jit::element_bytes(w.problem.out)) * passes;
  }
  return sum;
}

}  // namespace kiln::tools
