#include "tools/tune_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

#include "jit/error.h"
#include "tools/shapes.h"
#include "tools/strict_json.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::size_t kMaxEntries = 10'000;
constexpr std::size_t kMaxIntervals = 64;
constexpr std::size_t kMaxTextBytes = 4096;
constexpr std::array<std::string_view, 9> kFileKeys = {
    "$schema", "format", "gpu", "cuda", "driver", "library", "date", "method", "entries"};
constexpr std::array<std::string_view, 2> kGpuKeys = {"name", "num_sms"};

constexpr std::array<std::pair<const char*, std::string TuneProvenance::*>, 5> kTexts{{
    {"cuda", &TuneProvenance::cuda},
    {"driver", &TuneProvenance::driver},
    {"library", &TuneProvenance::library},
    {"date", &TuneProvenance::date},
    {"method", &TuneProvenance::method},
}};

std::string line(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

// To the nanosecond: what is beyond is noise, and makes lines long.
double rounded(double us) { return std::round(us * 1000) / 1000; }

ordered_json to_json(const TuneEntry& entry) {
  ordered_json object = tools::to_json(entry.problem);
  object.erase("alignment");
  auto list = ordered_json::array();
  for (const TuneEntryInterval& i : entry.intervals) {
    ordered_json interval = {{"m_min", i.interval.m_min},
                             {"m_max", i.interval.m_max},
                             {"tile", jit::describe(i.chosen.tile)},
                             {"measured_m", i.interval.m},
                             {"us", rounded(i.chosen.time_us)}};
    if (i.runner_up) {
      interval["runner_up"] = jit::describe(i.runner_up->tile);
      interval["runner_up_us"] = rounded(i.runner_up->time_us);
    }
    list.push_back(std::move(interval));
  }
  object["intervals"] = std::move(list);
  return object;
}

TimedTile timed(const json& interval, const char* tile, const char* us, const jit::Problem& p) {
  const TimedTile timed{jit::parse_tile(interval.at(tile).get<std::string>(), tile),
                        interval.at(us).get<double>()};
  jit::validate(timed.tile, p);
  return timed;
}

TuneEntryInterval interval_from(const json& object, const jit::Problem& problem) {
  TuneEntryInterval out;
  out.interval = {object.at("m_min").get<std::int64_t>(), object.at("m_max").get<std::int64_t>(),
                  object.at("measured_m").get<std::int64_t>()};
  out.chosen = timed(object, "tile", "us", problem);
  if (object.contains("runner_up"))
    out.runner_up = timed(object, "runner_up", "runner_up_us", problem);
  return out;
}

TuneEntry entry_from(const json& object, const JsonView& place) {
  try {
    json with_alignment = object;
    with_alignment["alignment"] = jit::kScaleBlock;  // read for grouped_contiguous alone
    TuneEntry entry{problem_from_json(with_alignment), {}};
    jit::validate(entry.problem);
    std::int64_t first = 0;
    for (const json& interval : object.at("intervals")) {
      entry.intervals.push_back(interval_from(interval, entry.problem));
      const TuneInterval& i = entry.intervals.back().interval;
      if (i.m_min < first || i.m < i.m_min || i.m > i.m_max || i.m_max > jit::kMaxM)
        place.fail(
            fmt::format("intervals must ascend without overlap and hold their measured_m, "
                        "got {}..{} measured at {}",
                        i.m_min, i.m_max, i.m));
      first = i.m_max + 1;
    }
    if (entry.intervals.empty() || entry.intervals.size() > kMaxIntervals)
      place.fail(fmt::format("must have 1 to {} intervals, got {}", kMaxIntervals,
                             entry.intervals.size()));
    return entry;
  } catch (const json::exception& error) {
    place.fail(fmt::format("is no entry of a tuned table: {}", printable(error.what())));
  }
}

void sort(TuneTable& table) {
  std::sort(table.entries.begin(), table.entries.end(),
            [](const TuneEntry& a, const TuneEntry& b) { return a.problem < b.problem; });
}

// More is better.
std::tuple<std::size_t, std::string, double> evidence(const TuneEntry& entry,
                                                      const std::string& date) {
  double sum = 0;
  for (const TuneEntryInterval& i : entry.intervals) sum += i.chosen.time_us;
  return {entry.intervals.size(), date, -sum};
}

void require_same_origin(const TuneProvenance& a, const TuneProvenance& b,
                         const std::string& name) {
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

TuneEntry to_entry(const ProblemResult& result) {
  TuneEntry entry{result.problem, {}};
  if (entry.problem.layout == jit::Layout::kGroupedContiguous)
    entry.problem.alignment = static_cast<std::int32_t>(jit::kScaleBlock);
  for (const TunedInterval& chosen : result.chosen) {
    const auto found =
        std::find_if(result.intervals.begin(), result.intervals.end(),
                     [&](const IntervalResult& i) { return i.interval == chosen.interval; });
    // The joint choice may have taken the runner-up: then the interval's winner is the other one.
    std::optional<TimedTile> other = found->runner_up;
    if (chosen.chosen.tile != found->winner->tile) other = found->winner;
    entry.intervals.push_back({chosen.interval, chosen.chosen, other});
  }
  return entry;
}

std::string to_text(const TuneTable& table) {
  TuneTable sorted = table;
  sort(sorted);
  const TuneProvenance& from = table.provenance;
  std::string text = "{\n  \"$schema\": \"../schema/tuned.schema.json\",\n  \"format\": 1,\n";
  text += fmt::format("  \"gpu\": {},\n", line({{"name", from.gpu}, {"num_sms", from.num_sms}}));
  for (const auto& [key, member] : kTexts)
    text += fmt::format("  \"{}\": {},\n", key, line(from.*member));
  text += "  \"entries\": [";
  for (std::size_t i = 0; i < sorted.entries.size(); ++i)
    text += fmt::format("{}\n    {}", i == 0 ? "" : ",", line(to_json(sorted.entries[i])));
  return text + (sorted.entries.empty() ? "]\n}\n" : "\n  ]\n}\n");
}

TuneTable parse_tune_table(std::string_view text, const std::string& file) {
  const json document = parse_json(text, file);
  const JsonView root(document, file, "");
  root.expect_object(kFileKeys);
  root.at("format").integer(1, 1);
  TuneTable table;
  root.at("gpu").expect_object(kGpuKeys);
  table.provenance.gpu = root.at("gpu").at("name").string(kMaxTextBytes);
  table.provenance.num_sms =
      static_cast<std::int32_t>(root.at("gpu").at("num_sms").integer(1, 1024));
  for (const auto& [key, member] : kTexts)
    table.provenance.*member = root.at(key).string(kMaxTextBytes);
  const JsonView list = root.at("entries");
  const std::size_t count = list.expect_array(0, kMaxEntries);
  for (std::size_t i = 0; i < count; ++i)
    table.entries.push_back(entry_from(document["entries"][i], list.at(i)));
  sort(table);
  return table;
}

void merge(TuneTable& into, const TuneTable& part, const std::string& part_name,
           std::vector<std::string>& conflicts) {
  require_same_origin(into.provenance, part.provenance, part_name);
  for (const TuneEntry& entry : part.entries) {
    const auto found = std::find_if(into.entries.begin(), into.entries.end(),
                                    [&](const TuneEntry& e) { return e.problem == entry.problem; });
    if (found == into.entries.end()) {
      into.entries.push_back(entry);
      continue;
    }
    if (*found == entry) continue;
    const bool takes_new =
        evidence(*found, into.provenance.date) < evidence(entry, part.provenance.date);
    conflicts.push_back(
        fmt::format("{} is in {} and in a file before it: kept the {} one ({} "
                    "intervals against {})",
                    jit::describe(entry.problem), part_name, takes_new ? "later" : "earlier",
                    std::max(entry.intervals.size(), found->intervals.size()),
                    std::min(entry.intervals.size(), found->intervals.size())));
    if (takes_new) *found = entry;
  }
  into.provenance.date = std::max(into.provenance.date, part.provenance.date);
  sort(into);
}

}  // namespace kiln::tools
