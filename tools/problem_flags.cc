#include "tools/problem_flags.h"

#include <fmt/format.h>

#include "jit/error.h"
#include "tools/shapes.h"

namespace kiln::tools {
namespace {

LayoutFields read_layout_fields(const Args& args, const jit::Problem& problem) {
  const jit::Layout layout = problem.layout;
  const bool is_contiguous = layout == jit::Layout::kGroupedContiguous;
  require_layout(args, "--groups", jit::is_grouped(problem), "the grouped layouts", layout);
  require_layout(args, "--group-form", jit::is_grouped(problem), "the grouped layouts", layout);
  require_layout(args, "--alignment", is_contiguous, "grouped_contiguous", layout);
  LayoutFields fields;
  if (const auto text = args.text("--scaling"))
    fields.scaling = jit::parse_scaling(*text, "--scaling");
  if (const auto text = args.text("--sfa"))
    fields.sfa_major = jit::parse_scale_major(*text, "--sfa");
  if (const auto text = args.text("--group-form"))
    fields.group_form = jit::parse_group_form(*text, "--group-form");
  if (const auto value = args.integer("--alignment", 1, jit::kMaxAlignment))
    fields.alignment = static_cast<std::int32_t>(*value);
  if (jit::is_grouped(problem))
    fields.groups =
        static_cast<std::int32_t>(args.required_integer("--groups", 1, jit::kMaxGroups));
  return fields;
}

}  // namespace

std::vector<Flag> problem_flags() {
  return {
      {"--layout", "LAYOUT", "dense (default), grouped_contiguous, grouped_masked or grouped_k"},
      {"--groups", "G", "number of groups, 1 to 1024; grouped layouts only"},
      {"--m", "M",
       "rows of A and D, 0 or more; grouped_contiguous: mean rows of a group; grouped_masked: mean "
       "valid rows of a group"},
      {"--n", "N", "rows of B, columns of D; a multiple of 8"},
      {"--k", "K", "columns of A and B; a multiple of 16; grouped_k: mean K of a group"},
      {"--group-form", "FORM",
       "how a launch learns the groups: labels or ends (grouped_contiguous; default ends), rows "
       "(grouped_masked), ends or packed (grouped_k; default ends)"},
      {"--alignment", "A",
       "grouped_contiguous: groups begin at multiples of A rows; a power of two, 1 to 1024 "
       "(default 128; 1: no padding)"},
      {"--scaling", "SCALING",
       "1d2d: scales of A per 1x128 and of B per 128x128 (default); 1d1d: of both per 1x128 "
       "(dense; grouped_k always)"},
      {"--a", "TYPE", "element type of A: e4m3 (default) or e5m2"},
      {"--b", "TYPE", "element type of B: e4m3 (default) or e5m2"},
      {"--out", "TYPE", "type of D: bf16 (default) or f32"},
      {"--accumulate", "", "D += A*B instead of D = A*B"},
      {"--batch-invariant", "",
       "one tile for every M, so that a row does not depend on the rows computed with it"},
      {"--sfa", "MAJOR", "contiguous index of A's scales: row (default) or m; 1d1d: always m"},
      {"--tile", "TILE",
       "this tile instead of the default choice: BMxBN[/WMxWN[/sSTAGES[/cCMxCN[/rRASTER]]]]"},
  };
}

std::optional<jit::Tile> read_tile(const Args& args) {
  const std::optional<std::string> text = args.text("--tile");
  if (!text) return std::nullopt;
  return jit::parse_tile(*text, "--tile");
}

void require_layout(const Args& args, std::string_view flag, bool accepted,
                    std::string_view layouts, jit::Layout layout) {
  if (accepted || !args.has(flag)) return;
  throw Error(
      Status::kInvalidArgument,
      fmt::format("{} belongs to {}, got --layout {}: leave {} out, or choose such a layout", flag,
                  layouts, jit::name(layout), flag));
}

ProblemFlags read_problem_flags(const Args& args) {
  ProblemFlags flags;
  jit::Problem& problem = flags.problem;
  problem.layout = jit::parse_layout(args.text("--layout", "dense"), "--layout");
  set_layout_fields(read_layout_fields(args, problem), problem);
  flags.m = args.required_integer("--m", 0, jit::kMaxM);
  problem.n = args.required_integer("--n", 1, kMaxExtent);
  problem.k = args.required_integer("--k", 1, kMaxExtent);
  problem.a = jit::parse_fp8_type(args.text("--a", "e4m3"), "--a");
  problem.b = jit::parse_fp8_type(args.text("--b", "e4m3"), "--b");
  problem.out = jit::parse_output_type(args.text("--out", "bf16"), "--out");
  problem.accumulate = args.has("--accumulate");
  problem.batch_invariant = args.has("--batch-invariant");
  flags.tile = read_tile(args);
  jit::validate(problem);
  if (flags.tile) jit::validate(*flags.tile, problem);
  return flags;
}

std::vector<Flag> target_flags() {
  return {
      {"--arch", "ARCH", "the GPU to make kernels for: sm_90a"},
      {"--sms", "N", "its number of SMs, e.g. 132 (H100 SXM, H200), 114 (H100 PCIe), 78 (H20)"},
  };
}

Target read_target(const Args& args) {
  Target target;
  target.arch = jit::parse_arch(args.required_text("--arch"), "--arch");
  target.num_sms = static_cast<std::int32_t>(args.required_integer("--sms", 1, 1024));
  return target;
}

}  // namespace kiln::tools
