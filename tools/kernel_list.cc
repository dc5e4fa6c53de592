#include "tools/kernel_list.h"

#include <map>

#include "jit/error.h"
#include "runtime/tile_plan.h"

namespace kiln::tools {

KernelList list_kernels(const std::vector<NamedProblem>& problems, const jit::Machine& machine,
                        const runtime::TunedTables& tuned) {
  KernelList list;
  std::map<jit::GemmSpec, std::size_t> positions;
  for (const NamedProblem& problem : problems) {
    try {
      const runtime::TilePlan plan = runtime::plan_tiles(problem.problem, machine, tuned);
      const jit::Problem kernel_problem = jit::canonical(problem.problem);
      for (const auto& [interval, source] : plan.tiles) {
        const jit::GemmSpec spec{kernel_problem, interval.tile};
        const auto [position, is_new] = positions.emplace(spec, list.kernels.size());
        if (is_new) list.kernels.push_back({spec, {}});
        list.kernels[position->second].uses.push_back(
            {problem.name, interval.m_min, interval.m_max});
      }
    } catch (const Error& error) {
      list.bad.push_back({problem.name, error.what()});
    }
  }
  return list;
}

std::vector<NeededKernel> shard(const std::vector<NeededKernel>& kernels, std::int64_t index,
                                std::int64_t count) {
  std::vector<NeededKernel> part;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    if (static_cast<std::int64_t>(i) % count == index) part.push_back(kernels[i]);
  }
  return part;
}

}  // namespace kiln::tools
