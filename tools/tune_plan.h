// What a tuning run is going to do: the problems of this shard, their intervals and candidates.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/shapes.h"
#include "tools/tune_compile.h"
#include "tools/tune_space.h"
#include "tools/work_share.h"

namespace kiln::tools {

// Seconds of the GPU, and of one core for the compilers.
struct TuneEstimate {
  double compile = 0;
  double reference = 0;   // what results are checked against
  double candidates = 0;  // all of them and the refinements of the best, with every repeat
  double finals = 0;

  double measure() const { return reference + candidates + finals; }
};

struct PlannedProblem {
  std::string name;  // of the first problem of the shapes file with these kernels
  jit::Problem problem;
  std::vector<TuneInterval> intervals;
  std::size_t candidates = 0;          // of all intervals together
  std::vector<jit::GemmSpec> kernels;  // of them, each once: the most promising of each first
  TuneEstimate seconds;                // at most, by the model: every candidate in full
  std::string error;                   // not empty: the problem cannot be computed
};

// Problems that differ in their names alone are one; their listed M count together.
std::vector<PlannedProblem> plan_problems(const TuneConfig& config,
                                          const std::vector<NamedProblem>& problems,
                                          const TuneTarget& target, const Shard& part);

nlohmann::ordered_json to_json(const std::vector<PlannedProblem>& plan);
std::string plan_text(const std::vector<PlannedProblem>& plan, std::int64_t jobs);
// Its last lines: what there is to do in all, and how long each phase takes at most.
std::string plan_summary(const std::vector<PlannedProblem>& plan, std::int64_t jobs);

}  // namespace kiln::tools
