#include "tools/kernel_list.h"

#include <map>
#include <utility>

#include "jit/error.h"
#include "runtime/tile_plan.h"

namespace kiln::tools {
namespace {

// Each kernel once, where it was first needed.
class Collector {
 public:
  NeededKernel& add(const jit::AnyKernel& spec) {
    const auto [position, is_new] = positions_.emplace(spec, kernels_.size());
    if (is_new) kernels_.push_back({spec, {}});
    return kernels_[position->second];
  }
  std::vector<NeededKernel> take() { return std::move(kernels_); }

 private:
  std::vector<NeededKernel> kernels_;
  std::map<jit::AnyKernel, std::size_t> positions_;
};

}  // namespace

KernelList list_kernels(const std::vector<NamedProblem>& problems, const jit::Machine& machine,
                        const runtime::TunedTables& tuned, KernelKinds kinds) {
  KernelList list;
  Collector kernels;
  std::vector<const NamedProblem*> good;
  for (const NamedProblem& problem : problems) {
    try {
      const runtime::TilePlan plan = runtime::plan_tiles(problem.problem, machine, tuned);
      const jit::Problem kernel_problem = jit::canonical(problem.problem);
      for (const auto& [interval, source] : plan.tiles) {
        kernels.add(jit::GemmSpec{kernel_problem, interval.tile})
            .uses.push_back({problem.name, interval.m_min, interval.m_max});
      }
      good.push_back(&problem);
    } catch (const Error& error) {
      list.bad.push_back({problem.name, error.what()});
    }
  }
  if (kinds == KernelKinds::kGemmsAndCasts) {
    for (const jit::QuantizeSpec& cast : jit::all_casts()) kernels.add(cast);
    kernels.add(jit::FillSpec{});
    for (const NamedProblem* problem : good)
      kernels.add(jit::reference_of(problem->problem))
          .uses.push_back({problem->name, 0, jit::kMaxM});
  }
  list.kernels = kernels.take();
  return list;
}

KernelKinds read_kinds(const Args& args) {
  return args.has(kCastsFlag.name) ? KernelKinds::kGemmsAndCasts : KernelKinds::kGemms;
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
