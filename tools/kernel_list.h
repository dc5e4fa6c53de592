// From problems to the kernels that they need: each kernel once, with who uses it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "jit/source.h"
#include "jit/tile.h"
#include "runtime/tuned_table.h"
#include "tools/args.h"
#include "tools/shapes.h"

namespace kiln::tools {

struct KernelUse {
  std::string problem;                // its name in the shapes file
  std::int64_t m_min = 0, m_max = 0;  // grouped_masked: of the expected rows
};

struct NeededKernel {
  // A GEMM's is of the canonical problem: what kernels take at run time has a fixed value.
  jit::AnyKernel spec;
  // Who needs it; empty for the casts and the fill, which belong to no problem.
  std::vector<KernelUse> uses;
};

struct BadProblem {
  std::string name;
  std::string error;
};

struct KernelList {
  // GEMMs in the order of the problems, then of M; behind them the others.
  std::vector<NeededKernel> kernels;
  std::vector<BadProblem> bad;  // cannot be computed, and why
};

// kGemmsAndCasts: also every kernel of kiln_quantize, and those with which `kiln run --check` fills
// and checks the operands of the problems that are not bad.
enum class KernelKinds { kGemms, kGemmsAndCasts };

// Complete for every M: the plan of a problem says which tiles it can use.
KernelList list_kernels(const std::vector<NamedProblem>& problems, const jit::Machine& machine,
                        const runtime::TunedTables& tuned = {},
                        KernelKinds kinds = KernelKinds::kGemms);

// The switch that asks for kGemmsAndCasts, the same wherever a shapes file is turned into kernels.
inline constexpr Flag kCastsFlag{"--casts", "",
                                 "also every kernel of kiln_quantize, and those that \"kiln run "
                                 "--check\" needs for the problems"};
KernelKinds read_kinds(const Args& args);

// The kernels whose position is `index` modulo `count`; index from 0. All parts together hold each
// kernel once, and neighbours (which take alike long to compile) go to different parts.
std::vector<NeededKernel> shard(const std::vector<NeededKernel>& kernels, std::int64_t index,
                                std::int64_t count);

}  // namespace kiln::tools
