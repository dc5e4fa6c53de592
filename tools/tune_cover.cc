#include "tools/tune_cover.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace kiln::tools {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kMostSets = 200'000;

using Times = std::vector<std::vector<double>>;
using Set = std::vector<std::size_t>;  // ascending

double best_time(const std::vector<double>& row) {
  return *std::min_element(row.begin(), row.end());
}

// What a set costs; smaller is better. Beyond the limit the largest loss decides, within it the
// sum.
std::pair<double, double> cost(const Times& times, const Set& set, double max_loss) {
  double sum = 0, largest = 0;
  for (const std::vector<double>& row : times) {
    double time = kInfinity;
    for (const std::size_t k : set) time = std::min(time, row[k]);
    const double loss = time / best_time(row) - 1;
    sum += loss;
    largest = std::max(largest, loss);
  }
  return {std::max(0.0, largest - max_loss), sum};
}

double count_sets(std::size_t of, std::size_t size) {
  double count = 1;
  for (std::size_t i = 0; i < size; ++i)
    count *= static_cast<double>(of - i) / static_cast<double>(i + 1);
  return count;
}

// The next set of as many of `of` kernels, in lexicographic order; false after the last.
bool advance(Set& set, std::size_t of) {
  for (std::size_t i = set.size(); i-- > 0;) {
    if (set[i] + (set.size() - i) >= of) continue;
    ++set[i];
    std::iota(set.begin() + static_cast<std::ptrdiff_t>(i) + 1, set.end(), set[i] + 1);
    return true;
  }
  return false;
}

Set exact(const Times& times, std::size_t of, std::size_t size, double max_loss) {
  Set set(size), best;
  std::iota(set.begin(), set.end(), std::size_t{0});
  std::pair<double, double> best_cost{kInfinity, kInfinity};
  do {
    const auto now = cost(times, set, max_loss);
    if (best.empty() || now < best_cost) {
      best = set;
      best_cost = now;
    }
  } while (advance(set, of));
  return best;
}

Set greedy(const Times& times, std::size_t of, std::size_t size, double max_loss) {
  Set set(of);
  std::iota(set.begin(), set.end(), std::size_t{0});
  while (set.size() > size) {
    Set best;
    std::pair<double, double> best_cost{kInfinity, kInfinity};
    for (std::size_t i = 0; i < set.size(); ++i) {
      Set smaller = set;
      smaller.erase(smaller.begin() + static_cast<std::ptrdiff_t>(i));
      const auto now = cost(times, smaller, max_loss);
      if (best.empty() || now < best_cost) {
        best = std::move(smaller);
        best_cost = now;
      }
    }
    set = std::move(best);
  }
  return set;
}

}  // namespace

KernelChoice choose_kernels(const std::vector<std::vector<double>>& times, std::size_t max_kernels,
                            double max_loss) {
  KernelChoice choice;
  if (times.empty()) return choice;
  const std::size_t of = times.front().size();
  const std::size_t size = std::min(max_kernels, of);
  const Set set = count_sets(of, size) <= kMostSets ? exact(times, of, size, max_loss)
                                                    : greedy(times, of, size, max_loss);
  std::vector<bool> used(of);
  for (const std::vector<double>& row : times) {
    const auto faster = [&](std::size_t a, std::size_t b) { return row[a] < row[b]; };
    const std::size_t kernel = *std::min_element(set.begin(), set.end(), faster);
    used[kernel] = true;
    choice.kernel.push_back(kernel);
    choice.loss.push_back(row[kernel] / best_time(row) - 1);
    choice.max_loss = std::max(choice.max_loss, choice.loss.back());
  }
  choice.kept = static_cast<std::size_t>(std::count(used.begin(), used.end(), true));
  return choice;
}

}  // namespace kiln::tools
