#include "tools/tune_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "tools/tune_cover.h"

namespace kiln::tools {

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

namespace {

struct Trial {
  jit::Tile tile;
  std::vector<double> times_us;
  double median_us = 0;
  double difference = 0;
};

std::string rejection(const TileMeasurement& m) {
  if (!m.error.empty()) return m.error;
  if (!m.checked) return "the result is wrong";
  return "no times were measured";
}

class Screening {
 public:
  Screening(const TuneMeasuring& rules, const jit::Problem& problem, std::int64_t m,
            Measurer& measurer, IntervalResult& result)
      : rules_(rules), problem_(problem), m_(m), measurer_(measurer), result_(result) {}

  void run(const std::vector<Candidate>& candidates) {
    int since_best = 0;
    for (const Candidate& candidate : candidates) {
      since_best = measure(candidate.tile) ? 0 : since_best + 1;
      if (since_best >= rules_.patience) return;
    }
  }

  void refine(const TuneConfig& config) {
    std::vector<jit::Tile> seeds;
    for (const Trial& trial : best(trials_.size())) seeds.push_back(trial.tile);
    std::vector<jit::Tile> tiles = refinements_of_best(config, problem_, m_, seeds);
    std::erase_if(tiles, [&](const jit::Tile& tile) { return seen_.count(tile) > 0; });
    measurer_.expect(problem_, tiles);
    for (const jit::Tile& tile : tiles) measure(tile);
  }

  // The fastest first.
  std::vector<Trial> best(std::size_t count) const {
    std::vector<Trial> sorted = trials_;
    std::sort(sorted.begin(), sorted.end(), [](const Trial& a, const Trial& b) {
      return a.median_us != b.median_us ? a.median_us < b.median_us : a.tile < b.tile;
    });
    if (sorted.size() > count) sorted.resize(count);
    return sorted;
  }

 private:
  bool measure_more(Trial& trial, int repeats) {
    if (repeats <= 0) return true;
    const TileMeasurement m = measurer_.measure(problem_, m_, trial.tile, repeats);
    if (!m.usable()) {
      result_.rejected.push_back({trial.tile, rejection(m)});
      return false;
    }
    trial.times_us.insert(trial.times_us.end(), m.times_us.begin(), m.times_us.end());
    trial.median_us = median(trial.times_us);
    trial.difference = std::max(trial.difference, m.difference);
    return true;
  }

  // True when it is the best so far.
  bool measure(const jit::Tile& tile) {
    if (!seen_.insert(tile).second) return false;
    ++result_.measured;
    Trial trial{tile, {}, 0, 0};
    if (!measure_more(trial, rules_.probe_repeats)) return false;
    if (trial.median_us * 100 > best_us_ * rules_.early_stop_percent) {
      ++result_.hopeless;
    } else if (!measure_more(trial, rules_.repeats - rules_.probe_repeats)) {
      return false;
    }
    const bool is_best = trial.median_us < best_us_;
    best_us_ = std::min(best_us_, trial.median_us);
    trials_.push_back(std::move(trial));
    return is_best;
  }

  const TuneMeasuring& rules_;
  const jit::Problem& problem_;
  std::int64_t m_;
  Measurer& measurer_;
  IntervalResult& result_;
  std::set<jit::Tile> seen_;
  std::vector<Trial> trials_;
  double best_us_ = std::numeric_limits<double>::infinity();
};

struct Finalist {
  jit::Tile tile;
  double difference = 0;
  std::vector<double> round_us;  // median of each round
  std::int64_t samples = 0;
  std::string error;

  double time_us() const { return median(round_us); }
};

void final_rounds(const TuneMeasuring& rules, const jit::Problem& problem, std::int64_t m,
                  Measurer& measurer, std::vector<Finalist>& finalists) {
  for (int round = 0; round < rules.final_rounds; ++round) {
    for (std::size_t i = 0; i < finalists.size(); ++i) {
      Finalist& f = finalists[round % 2 == 0 ? i : finalists.size() - 1 - i];
      if (!f.error.empty()) continue;
      const TileMeasurement measured = measurer.measure(problem, m, f.tile, rules.final_repeats);
      if (!measured.usable()) {
        f.error = rejection(measured);
        continue;
      }
      f.round_us.push_back(median(measured.times_us));
      f.samples += static_cast<std::int64_t>(measured.times_us.size());
      f.difference = std::max(f.difference, measured.difference);
    }
  }
}

// Of the mean of the rounds' differences.
double standard_error(const std::vector<double>& a, const std::vector<double>& b) {
  const std::size_t count = a.size();
  double mean = 0, squares = 0;
  for (std::size_t i = 0; i < count; ++i) mean += (a[i] - b[i]) / static_cast<double>(count);
  for (std::size_t i = 0; i < count; ++i) squares += std::pow(a[i] - b[i] - mean, 2);
  return std::sqrt(squares / static_cast<double>(count - 1) / static_cast<double>(count));
}

// `finalists` have passed every check; the fastest first.
void decide(const TuneMeasuring& rules, const jit::Tile& current_tile,
            const std::vector<Finalist>& finalists, IntervalResult& result) {
  if (finalists.empty()) return;
  const auto timed = [](const Finalist& f) { return TimedTile{f.tile, f.time_us()}; };
  const Finalist* winner = &finalists.front();
  const auto current = std::find_if(finalists.begin(), finalists.end(),
                                    [&](const Finalist& f) { return f.tile == current_tile; });
  if (current != finalists.end()) {
    result.current = timed(*current);
    result.gain_us = current->time_us() - winner->time_us();
    // Where nothing is faster, the noise is that of the next one's distance.
    const Finalist* other = &*current != winner ? winner : winner + 1;
    if (finalists.size() > 1) result.noise_us = standard_error(current->round_us, other->round_us);
    if (result.gain_us <= result.noise_us * rules.noise_percent / 100) winner = &*current;
  }
  result.winner = timed(*winner);
  result.difference = winner->difference;
  result.samples = winner->samples;
  for (const Finalist& f : finalists) {
    if (&f == winner) continue;
    result.runner_up = timed(f);
    break;
  }
}

std::vector<Finalist> pick_finalists(const TuneMeasuring& rules, const Screening& screening,
                                     const std::vector<jit::Tile>& standing,
                                     const IntervalResult& result) {
  std::vector<Finalist> finalists;
  for (const Trial& trial : screening.best(result.measured)) {
    const bool has_room = finalists.size() < static_cast<std::size_t>(rules.finalists);
    const bool has_passed = result.times_us.count(trial.tile) > 0;
    const bool is_standing =
        std::find(standing.begin(), standing.end(), trial.tile) != standing.end();
    if (has_passed && (has_room || is_standing))
      finalists.push_back({trial.tile, trial.difference, {}, 0, ""});
  }
  return finalists;
}

// Keeps those that passed every check, the fastest first; false when none did.
bool sift(std::vector<Finalist>& finalists, IntervalResult& result) {
  for (const Finalist& f : finalists) {
    if (f.error.empty()) {
      result.times_us[f.tile] = f.time_us();
    } else {
      result.rejected.push_back({f.tile, f.error});
      result.times_us.erase(f.tile);
    }
  }
  std::erase_if(finalists, [](const Finalist& f) { return !f.error.empty(); });
  std::sort(finalists.begin(), finalists.end(), [](const Finalist& a, const Finalist& b) {
    return a.time_us() != b.time_us() ? a.time_us() < b.time_us() : a.tile < b.tile;
  });
  return !finalists.empty();
}

}  // namespace

IntervalResult search_interval(const TuneConfig& config, const jit::Problem& problem,
                               const TuneInterval& interval, const TuneTarget& target,
                               Measurer& measurer) {
  IntervalResult result;
  result.interval = interval;
  const TuneMeasuring& rules = config.measuring;
  const std::vector<Candidate> order = candidates(config, problem, interval.m, target);
  result.candidates = order.size();
  const std::vector<jit::Tile> standing = standing_choices(problem, interval.m, target);
  std::vector<jit::Tile> tiles;
  for (const Candidate& candidate : order) tiles.push_back(candidate.tile);
  measurer.expect(problem, tiles);

  // 1. and 2.
  Screening screening(rules, problem, interval.m, measurer, result);
  screening.run(order);
  screening.refine(config);
  for (const Trial& trial : screening.best(result.measured))
    result.times_us[trial.tile] = trial.median_us;

  // 3. Again without those that failed, should none of them pass.
  std::vector<Finalist> finalists;
  do {
    finalists = pick_finalists(rules, screening, standing, result);
    final_rounds(rules, problem, interval.m, measurer, finalists);
  } while (!finalists.empty() && !sift(finalists, result));

  // 4.
  decide(rules, standing.front(), finalists, result);
  return result;
}

namespace {

bool was_rejected(const IntervalResult& result, const jit::Tile& tile) {
  return std::any_of(result.rejected.begin(), result.rejected.end(),
                     [&](const RejectedTile& r) { return r.tile == tile; });
}

// Infinity where the tile cannot serve.
double time_in(const TuneConfig& config, const jit::Problem& problem, IntervalResult& result,
               const jit::Tile& tile, Measurer& measurer) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (tile == result.winner->tile) return result.winner->time_us;
  const auto known = result.times_us.find(tile);
  // Measured faster than the winner and yet not chosen: that was within the noise.
  if (known != result.times_us.end()) return std::max(known->second, result.winner->time_us);
  if (was_rejected(result, tile)) return kInfinity;
  const TileMeasurement m =
      measurer.measure(problem, result.interval.m, tile, config.measuring.repeats);
  if (!m.usable()) {
    result.rejected.push_back({tile, rejection(m)});
    return kInfinity;
  }
  result.times_us[tile] = median(m.times_us);
  return std::max(result.times_us[tile], result.winner->time_us);
}

void choose_jointly(const TuneConfig& config, Measurer& measurer, ProblemResult& result) {
  std::vector<IntervalResult*> served;
  std::set<jit::Tile> distinct;
  for (IntervalResult& interval : result.intervals) {
    if (!interval.winner) continue;
    served.push_back(&interval);
    distinct.insert(interval.winner->tile);
  }
  const std::vector<jit::Tile> tiles(distinct.begin(), distinct.end());
  const auto max_kernels = static_cast<std::size_t>(config.measuring.max_kernels);
  const bool few = tiles.size() <= max_kernels;
  if (!few) measurer.expect(result.problem, tiles);
  std::vector<std::vector<double>> times;
  for (IntervalResult* interval : served) {
    std::vector<double> row;
    for (const jit::Tile& tile : tiles) {
      // With few winners each interval has its own, and no other matters.
      const bool own = tile == interval->winner->tile;
      row.push_back(few && !own ? std::numeric_limits<double>::infinity()
                                : time_in(config, result.problem, *interval, tile, measurer));
    }
    times.push_back(std::move(row));
  }
  const KernelChoice choice =
      choose_kernels(times, max_kernels, config.measuring.max_loss_percent / 100.0);
  for (std::size_t i = 0; i < served.size(); ++i) {
    const std::size_t k = choice.kernel[i];
    result.chosen.push_back({served[i]->interval, {tiles[k], times[i][k]}, choice.loss[i]});
  }
  result.kernels = choice.kept;
  result.max_loss = choice.max_loss;
}

}  // namespace

ProblemResult search_problem(const TuneConfig& config, const jit::Problem& problem,
                             const std::vector<TuneInterval>& intervals, const TuneTarget& target,
                             Measurer& measurer, const SearchHooks& hooks) {
  ProblemResult result;
  result.problem = problem;
  for (const TuneInterval& interval : intervals) {
    if (hooks.stop && hooks.stop()) {
      result.complete = false;
      break;
    }
    result.intervals.push_back(search_interval(config, problem, interval, target, measurer));
    if (hooks.ended) hooks.ended(result.intervals.back());
  }
  choose_jointly(config, measurer, result);
  return result;
}

}  // namespace kiln::tools
