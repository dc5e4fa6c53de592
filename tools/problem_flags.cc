#include "tools/problem_flags.h"

#include "tools/shapes.h"

namespace kiln::tools {

std::vector<Flag> problem_flags() {
  return {
      {"--layout", "LAYOUT", "dense (default)"},
      {"--m", "M", "rows of A and D, 0 or more"},
      {"--n", "N", "rows of B, columns of D; a multiple of 8"},
      {"--k", "K", "columns of A and B; a multiple of 16"},
      {"--a", "TYPE", "element type of A: e4m3 (default) or e5m2"},
      {"--b", "TYPE", "element type of B: e4m3 (default) or e5m2"},
      {"--out", "TYPE", "type of D: bf16 (default) or f32"},
      {"--accumulate", "", "D += A*B instead of D = A*B; needs --out f32"},
      {"--sfa", "MAJOR", "contiguous index of A's scales: row (default) or m"},
      {"--tile", "TILE",
       "this tile instead of the default choice: BMxBN[/WMxWN[/sSTAGES[/cCMxCN[/rRASTER]]]]"},
  };
}

std::optional<jit::Tile> read_tile(const Args& args) {
  const std::optional<std::string> text = args.text("--tile");
  if (!text) return std::nullopt;
  return jit::parse_tile(*text, "--tile");
}

ProblemFlags read_problem_flags(const Args& args) {
  ProblemFlags flags;
  jit::Problem& problem = flags.problem;
  problem.layout = jit::parse_layout(args.text("--layout", "dense"), "--layout");
  flags.m = args.required_integer("--m", 0, jit::kMaxM);
  problem.n = args.required_integer("--n", 1, kMaxExtent);
  problem.k = args.required_integer("--k", 1, kMaxExtent);
  problem.a = jit::parse_fp8_type(args.text("--a", "e4m3"), "--a");
  problem.b = jit::parse_fp8_type(args.text("--b", "e4m3"), "--b");
  problem.out = jit::parse_output_type(args.text("--out", "bf16"), "--out");
  problem.accumulate = args.has("--accumulate");
  problem.sfa_major = jit::parse_scale_major(args.text("--sfa", "row"), "--sfa");
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
