#include "tools/tune_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <utility>

#include "jit/error.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

using runtime::TunedEntry;
using runtime::TunedFile;
using runtime::TunedTable;

// To the nanosecond: what is beyond is noise, and makes lines long. Never 0, which is no time.
double rounded(double us) { return std::max(1.0, std::round(us * 1000)) / 1000; }

// More is better.
std::tuple<std::size_t, std::string, double> evidence(const TunedEntry& entry,
                                                      const std::string& date) {
  double sum = 0;
  for (const runtime::TunedInterval& i : entry.intervals) sum += i.us;
  return {entry.intervals.size(), date, -sum};
}

void require_same_origin(const TunedFile& a, const TunedFile& b, const std::string& name) {
  const auto differ = [&](const char* what, const std::string& x, const std::string& y) {
    throw Error(Status::kInvalidArgument,
                fmt::format("{}: {} is {}, and {} in the files before it: tables of one {} only "
                            "can be merged, tune again where it differs",
                            name, what, quote(y), quote(x), what));
  };
  if (a.gpu != b.gpu) differ("gpu", a.gpu, b.gpu);
  if (a.num_sms != b.num_sms)
    differ("num_sms", std::to_string(a.num_sms), std::to_string(b.num_sms));
  if (a.cuda != b.cuda) differ("cuda", a.cuda, b.cuda);
  if (a.driver != b.driver) differ("driver", a.driver, b.driver);
  if (a.library != b.library) differ("library", a.library, b.library);
}

}  // namespace

TunedEntry to_entry(const ProblemResult& result) {
  TunedEntry entry{runtime::tuned_problem(result.problem), {}};
  for (const ChosenTile& chosen : result.chosen) {
    const auto found =
        std::find_if(result.intervals.begin(), result.intervals.end(),
                     [&](const IntervalResult& i) { return i.interval == chosen.interval; });
    // The joint choice may have taken the runner-up: then the interval's winner is the other one.
    const bool is_winner = chosen.chosen.tile == found->winner->tile;
    const std::optional<TimedTile> other = is_winner ? found->runner_up : found->winner;
    runtime::TunedInterval i;
    i.m_min = chosen.interval.m_min;
    i.m_max = chosen.interval.m_max;
    i.tile = chosen.chosen.tile;
    i.measured_m = chosen.interval.m;
    i.us = rounded(chosen.chosen.time_us);
    if (other) {
      i.runner_up = other->tile;
      i.runner_up_us = rounded(other->time_us);
    }
    if (found->noise_us > 0) i.noise_us = rounded(found->noise_us);
    if (is_winner) i.samples = static_cast<std::int32_t>(found->samples);
    entry.intervals.push_back(i);
  }
  return entry;
}

TunedFile parse_tuned_file(std::string_view text, const std::string& name) {
  const TunedTable table = TunedTable::load(text, name);
  if (table.num_rejected() > 0)
    throw Error(
        Status::kInvalidArgument,
        fmt::format("{} ({} of the entries cannot be used: remove them, or tune them again)",
                    table.first_rejection(), table.num_rejected()));
  return table.file();
}

void merge(TunedFile& into, const TunedFile& part, const std::string& part_name,
           std::vector<std::string>& conflicts) {
  require_same_origin(into, part, part_name);
  for (const TunedEntry& entry : part.entries) {
    const auto found =
        std::find_if(into.entries.begin(), into.entries.end(),
                     [&](const TunedEntry& e) { return e.problem == entry.problem; });
    if (found == into.entries.end()) {
      into.entries.push_back(entry);
      continue;
    }
    if (*found == entry) continue;
    const bool takes_new = evidence(*found, into.date) < evidence(entry, part.date);
    conflicts.push_back(fmt::format(
        "{} is in {} and in a file before it: kept that of {} ({} intervals against {})",
        jit::describe(entry.problem), part_name, takes_new ? part_name : "the file before",
        takes_new ? entry.intervals.size() : found->intervals.size(),
        takes_new ? found->intervals.size() : entry.intervals.size()));
    if (takes_new) *found = entry;
  }
  into.date = std::max(into.date, part.date);
}

}  // namespace kiln::tools
