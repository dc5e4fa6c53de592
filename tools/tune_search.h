// The search: from candidates and their measurements to the tiles that serve a problem.
//
// A deterministic function of what the Measurer answers: the same answers in the same order give
// the same result. Resuming after a kill is therefore replaying (tune_journal.h), and the search
// keeps no state of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tools/tune_config.h"
#include "tools/tune_measure.h"
#include "tools/tune_space.h"

namespace kiln::tools {

struct TimedTile {
  jit::Tile tile;
  double time_us = 0;

  bool operator==(const TimedTile&) const = default;
};

struct RejectedTile {
  jit::Tile tile;
  std::string reason;
};

// One interval of M by itself.
struct IntervalResult {
  TuneInterval interval;
  std::optional<TimedTile> winner;     // none: no candidate could be measured
  std::optional<TimedTile> current;    // what a plan launches now; none: it was rejected
  std::optional<TimedTile> runner_up;  // the best of the others in the final
  double gain_us = 0;                  // of the best finalist over the current choice
  double noise_us = 0;                 // standard error of that gain
  double difference = 0;               // of the winner's check
  std::int64_t samples = 0;            // repeats behind the winner's time
  std::size_t candidates = 0, measured = 0, hopeless = 0;
  std::vector<RejectedTile> rejected;
  std::map<jit::Tile, double> times_us;  // of everything that passed its check
};

// 1. Candidates in the model's order: a short look at each; hopeless ones get no more. After
//    `patience` in a row without a new best the rest is left out.
// 2. The other stages and raster groups of the best two.
// 3. The finalists and the standing choices in turn, there and back, so that a drift of the clocks
//    meets all alike.
// 4. The fastest wins when its gain over the current choice exceeds the noise; else nothing
// changes. A tile whose check fails or that cannot run at any step is out, whatever its time.
IntervalResult search_interval(const TuneConfig& config, const jit::Problem& problem,
                               const TuneInterval& interval, const TuneTarget& target,
                               Measurer& measurer);

// What an interval gets in the end.
struct ChosenTile {
  TuneInterval interval;
  TimedTile chosen;
  double loss = 0;  // against the interval's own winner: 0.02 is 2 %
};

struct ProblemResult {
  jit::Problem problem;
  std::vector<IntervalResult> intervals;
  std::vector<ChosenTile> chosen;  // of those with a winner
  std::size_t kernels = 0;
  double max_loss = 0;
  bool complete = true;  // false: `stop` cut it short; what is here is whole by itself
};

struct SearchHooks {
  std::function<bool()> stop;                        // asked before each interval
  std::function<void(const IntervalResult&)> ended;  // after each interval
};

// All intervals of a problem, and the joint choice of at most max_kernels tiles among the winners.
// When there are more winners than that, each is measured in every interval that it may serve.
ProblemResult search_problem(const TuneConfig& config, const jit::Problem& problem,
                             const std::vector<TuneInterval>& intervals, const TuneTarget& target,
                             Measurer& measurer, const SearchHooks& hooks);

}  // namespace kiln::tools
