#include "runtime/tuned_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "jit/error.h"
#include "runtime/strict_json.h"
#include "runtime/text.h"

namespace kiln::runtime {
namespace {

constexpr std::size_t kMaxTextBytes = 4096;
constexpr std::size_t kMaxWordBytes = 64;
constexpr std::int64_t kMaxNumSms = 1024;
constexpr double kShortestUs = 1e-3, kLongestUs = 1e9;
constexpr std::int64_t kMaxExtent = (std::int64_t{1} << 31) - 512;

constexpr std::array<std::string_view, 9> kFileKeys = {
    "$schema", "format", "gpu", "cuda", "driver", "library", "date", "method", "entries"};
constexpr std::array<std::string_view, 2> kGpuKeys = {"name", "num_sms"};
constexpr std::array<std::string_view, 12> kEntryKeys = {
    "layout", "scaling", "n",          "k",      "a",          "b",
    "out",    "sfa",     "accumulate", "groups", "group_form", "intervals"};
constexpr std::array<std::string_view, 9> kIntervalKeys = {"m_min",        "m_max",    "tile",
                                                           "measured_m",   "us",       "runner_up",
                                                           "runner_up_us", "noise_us", "samples"};
constexpr std::int32_t kMaxSamples = 1'000'000'000;

// ---- Reading ----

// A word that may be repeated in a message: short and printable, without blanks.
std::string read_word(const JsonView& value) {
  std::string text = value.string(kMaxTextBytes);
  const bool is_word =
      text.size() <= kMaxWordBytes &&
      std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 127; });
  if (!is_word) value.fail_value(fmt::format("must be a word of at most {} bytes", kMaxWordBytes));
  return text;
}

template <typename Parse>
auto read_enum(const JsonView& value, Parse parse) {
  return parse(read_word(value), fmt::format("{}: {}", value.file(), value.place()));
}

jit::Problem read_problem(const JsonView& entry) {
  jit::Problem p;
  p.layout = read_enum(entry.at("layout"), jit::parse_layout);
  p.scaling = read_enum(entry.at("scaling"), jit::parse_scaling);
  p.n = entry.at("n").integer(1, kMaxExtent);
  p.k = entry.at("k").integer(1, kMaxExtent);
  p.a = read_enum(entry.at("a"), jit::parse_fp8_type);
  p.b = read_enum(entry.at("b"), jit::parse_fp8_type);
  p.out = read_enum(entry.at("out"), jit::parse_output_type);
  p.sfa_major = read_enum(entry.at("sfa"), jit::parse_scale_major);
  p.accumulate = entry.at("accumulate").boolean();
  if (jit::is_grouped(p) || entry.has("group_form"))
    p.group_form = read_enum(entry.at("group_form"), jit::parse_group_form);
  if (jit::is_grouped(p) || entry.has("groups"))
    p.groups = static_cast<std::int32_t>(entry.at("groups").integer(1, jit::kMaxGroups));
  p = tuned_problem(p);
  try {
    jit::validate(p);
  } catch (const Error& error) {
    entry.fail(error.what());
  }
  return p;
}

jit::Tile read_tile(const JsonView& value, const jit::Problem& problem, std::int32_t num_sms) {
  const std::string text = read_word(value);
  const jit::Tile tile = jit::parse_tile(text, fmt::format("{}: {}", value.file(), value.place()));
  // One spelling for each tile: nothing is left to a default that may change.
  if (jit::describe(tile) != text)
    value.fail_value(fmt::format("must be spelled in full, as {}", jit::describe(tile)));
  try {
    jit::validate(tile, problem);
  } catch (const Error& error) {
    value.fail(error.what());
  }
  if (jit::cluster_size(tile) > num_sms)
    value.fail_value(fmt::format("must have clusters of at most the {} SMs of the GPU", num_sms));
  return tile;
}

TunedInterval read_interval(const JsonView& object, const jit::Problem& problem,
                            std::int32_t num_sms) {
  object.expect_object(kIntervalKeys);
  TunedInterval i;
  i.m_min = object.at("m_min").integer(0, jit::kMaxM);
  i.m_max = object.at("m_max").integer(i.m_min, jit::kMaxM);
  i.tile = read_tile(object.at("tile"), problem, num_sms);
  i.measured_m = object.at("measured_m").integer(i.m_min, i.m_max);
  i.us = object.at("us").number(kShortestUs, kLongestUs);
  if (object.has("noise_us")) i.noise_us = object.at("noise_us").number(0, kLongestUs);
  if (object.has("samples"))
    i.samples = static_cast<std::int32_t>(object.at("samples").integer(0, kMaxSamples));
  if (object.has("runner_up") != object.has("runner_up_us"))
    object.fail("runner_up and runner_up_us belong together: give both or none");
  if (!object.has("runner_up")) return i;
  i.runner_up = read_tile(object.at("runner_up"), problem, num_sms);
  i.runner_up_us = object.at("runner_up_us").number(kShortestUs, kLongestUs);
  return i;
}

TunedEntry read_entry(const JsonView& object, std::int32_t num_sms) {
  object.expect_object(kEntryKeys);
  TunedEntry entry;
  entry.problem = read_problem(object);
  const JsonView list = object.at("intervals");
  const std::size_t count = list.expect_array(1, kMaxTunedIntervals);
  std::set<jit::Tile> tiles;
  for (std::size_t i = 0; i < count; ++i) {
    TunedInterval interval = read_interval(list.at(i), entry.problem, num_sms);
    if (i > 0 && interval.m_min <= entry.intervals.back().m_max)
      list.at(i).at("m_min").fail_value(
          fmt::format("must lie behind the interval before it, which ends at {}",
                      entry.intervals.back().m_max));
    tiles.insert(interval.tile);
    entry.intervals.push_back(std::move(interval));
  }
  if (tiles.size() > jit::kMaxPlanTiles)
    list.fail(fmt::format("must name at most {} different tiles, got {}", jit::kMaxPlanTiles,
                          tiles.size()));
  return entry;
}

void read_envelope(const JsonView& root, TunedFile& file) {
  root.expect_object(kFileKeys);
  if (root.has("$schema")) root.at("$schema").string(kMaxTextBytes);
  const JsonView gpu = root.at("gpu");
  gpu.expect_object(kGpuKeys);
  file.gpu = gpu.at("name").string(kMaxTextBytes);
  file.num_sms = static_cast<std::int32_t>(gpu.at("num_sms").integer(1, kMaxNumSms));
  file.cuda = root.at("cuda").string(kMaxTextBytes);
  file.driver = root.at("driver").string(kMaxTextBytes);
  file.library = root.at("library").string(kMaxTextBytes);
  file.date = root.at("date").string(kMaxTextBytes);
  file.method = root.at("method").string(kMaxTextBytes);
}

// Before anything else is looked at: a newer format may have other keys.
void check_format(const JsonView& root, const nlohmann::json& document) {
  if (!document.is_object()) root.fail_value("must be an object");
  const std::int64_t format = root.at("format").integer(1, INT64_MAX);
  if (format == kTunedFormat) return;
  throw Error(Status::kUnsupported,
              fmt::format("{}: format: is {}, this version reads {}: use a newer library, or make "
                          "the table again with this one",
                          root.file(), format, kTunedFormat));
}

// ---- Finding ----

// How the rows of groups are told matters little to which tile is best.
bool same_form(jit::GroupForm a, jit::GroupForm b, jit::Layout layout) {
  return a == b || layout == jit::Layout::kGroupedContiguous;
}

bool same_class(const jit::Problem& a, const jit::Problem& b) {
  return a.layout == b.layout && a.scaling == b.scaling && a.a == b.a && a.b == b.b &&
         a.out == b.out && a.accumulate == b.accumulate &&
         same_form(a.group_form, b.group_form, a.layout);
}

// How often the smaller goes into the larger.
double factor(std::int64_t a, std::int64_t b) {
  return static_cast<double>(std::max(a, b)) / static_cast<double>(std::min(a, b));
}

// How often all SMs are filled by the tiles of one tile row.
std::int64_t rounds(const jit::Problem& problem, const jit::Tile& tile, std::int32_t num_sms) {
  return jit::ceil_div(jit::ceil_div(problem.n, tile.block_n) * tile.cluster_k, num_sms);
}

// The entry's intervals as this problem can have them, or nullopt: with fewer stages where its
// kernels need more shared memory for other things (row-major scales, a larger group table), and
// without tiles for few rows that fill the SMs once at the entry's N, and here a few of them again.
std::optional<std::vector<TunedInterval>> fitted(const TunedEntry& entry,
                                                 const jit::Problem& problem,
                                                 std::int32_t num_sms) {
  std::vector<TunedInterval> intervals = entry.intervals;
  for (TunedInterval& i : intervals) {
    while (i.tile.stages > 2 && !jit::is_legal(i.tile, problem)) --i.tile.stages;
    if (jit::cluster_size(i.tile) > num_sms || !jit::is_legal(i.tile, problem)) return std::nullopt;
  }
  std::erase_if(intervals, [&](const TunedInterval& i) {
    return jit::is_for_few_rows(i.tile) &&
           rounds(problem, i.tile, num_sms) > rounds(entry.problem, i.tile, num_sms);
  });
  if (intervals.empty()) return std::nullopt;
  return intervals;
}

// Distance of a problem of the same class, on the scale of logarithms; nullopt when too far.
std::optional<double> distance(const jit::Problem& a, const jit::Problem& b) {
  const double n = factor(a.n, b.n), k = factor(a.k, b.k), groups = factor(a.groups, b.groups);
  if (n > kNearestN || k > kNearestK || groups > kNearestGroups) return std::nullopt;
  // In units of what is allowed. The other major of SFA costs less than another N: 4096x2048x7168
  // with row-major scales takes 84.6 us with its M-major tile, and 93.1 with that of N = 2112 (H200).
  return std::log(n) / std::log(kNearestN) + std::log(k) / std::log(kNearestK) +
         std::log(groups) / std::log(kNearestGroups) + (a.group_form == b.group_form ? 0 : 0.5) +
         (a.sfa_major == b.sfa_major ? 0 : 0.1);
}

// The end of a long path: the text goes into fields of limited size.
std::string shortened(const std::string& path) {
  constexpr std::size_t kMaxShown = 80;
  return path.size() <= kMaxShown ? path : "..." + path.substr(path.size() - kMaxShown + 3);
}

bool is_valid(const jit::Problem& problem) {
  try {
    jit::validate(problem);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// ---- Writing ----

nlohmann::ordered_json to_json(const TunedInterval& i) {
  nlohmann::ordered_json object = {{"m_min", i.m_min},
                                   {"m_max", i.m_max},
                                   {"tile", jit::describe(i.tile)},
                                   {"measured_m", i.measured_m},
                                   {"us", i.us}};
  if (i.runner_up) {
    object["runner_up"] = jit::describe(*i.runner_up);
    object["runner_up_us"] = i.runner_up_us;
  }
  if (i.noise_us > 0) object["noise_us"] = i.noise_us;
  if (i.samples > 0) object["samples"] = i.samples;
  return object;
}

nlohmann::ordered_json to_json(const TunedEntry& entry) {
  const jit::Problem& p = entry.problem;
  nlohmann::ordered_json object = {{"layout", jit::name(p.layout)},
                                   {"scaling", jit::name(p.scaling)},
                                   {"n", p.n},
                                   {"k", p.k},
                                   {"a", jit::name(p.a)},
                                   {"b", jit::name(p.b)},
                                   {"out", jit::name(p.out)},
                                   {"sfa", jit::name(p.sfa_major)},
                                   {"accumulate", p.accumulate}};
  if (jit::is_grouped(p)) {
    object["group_form"] = jit::name(p.group_form);
    object["groups"] = p.groups;
  }
  auto intervals = nlohmann::ordered_json::array();
  for (const TunedInterval& interval : entry.intervals) intervals.push_back(to_json(interval));
  object["intervals"] = std::move(intervals);
  return object;
}

std::string line(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

jit::Problem tuned_problem(const jit::Problem& problem) {
  jit::Problem p = problem;
  p.batch_invariant = false;
  p.alignment =
      p.layout == jit::Layout::kGroupedContiguous ? static_cast<std::int32_t>(jit::kScaleBlock) : 0;
  return p;
}

std::string to_text(const TunedFile& file) {
  std::vector<TunedEntry> entries = file.entries;
  std::sort(entries.begin(), entries.end(),
            [](const TunedEntry& a, const TunedEntry& b) { return a.problem < b.problem; });
  std::string text = "{\n  \"$schema\": \"../schema/tuned.schema.json\",\n";
  text += fmt::format("  \"format\": {},\n", kTunedFormat);
  text += fmt::format("  \"gpu\": {},\n", line({{"name", file.gpu}, {"num_sms", file.num_sms}}));
  const std::pair<const char*, const std::string*> texts[] = {{"cuda", &file.cuda},
                                                              {"driver", &file.driver},
                                                              {"library", &file.library},
                                                              {"date", &file.date},
                                                              {"method", &file.method}};
  for (const auto& [key, value] : texts) text += fmt::format("  \"{}\": {},\n", key, line(*value));
  text += "  \"entries\": [";
  for (std::size_t i = 0; i < entries.size(); ++i)
    text += fmt::format("{}\n    {}", i == 0 ? "" : ",", line(to_json(entries[i])));
  return text + (entries.empty() ? "]\n}\n" : "\n  ]\n}\n");
}

TunedTable TunedTable::load(std::string_view text, const std::string& source) {
  const JsonLimits limits;
  if (text.size() > limits.max_bytes)
    throw Error(Status::kInvalidArgument, fmt::format("{}: larger than {}, the most that is read",
                                                      source, human_bytes(limits.max_bytes)));
  const nlohmann::json document = parse_json(text, source, limits);
  const JsonView root(document, source, "");
  check_format(root, document);
  TunedTable table;
  table.source_ = source;
  read_envelope(root, table.file_);
  const JsonView list = root.at("entries");
  const std::size_t count = list.expect_array(0, kMaxTunedEntries);
  std::set<jit::Problem> seen;
  for (std::size_t i = 0; i < count; ++i) {
    try {
      TunedEntry entry = read_entry(list.at(i), table.file_.num_sms);
      if (!seen.insert(entry.problem).second)
        list.at(i).fail("is an entry for the same problem as an earlier one: remove one of them");
      table.file_.entries.push_back(std::move(entry));
    } catch (const Error& error) {
      if (table.num_rejected_++ == 0) table.first_rejection_ = error.what();
    }
  }
  return table;
}

TunedLookup TunedTable::find(const jit::Problem& problem, const jit::Machine& machine) const {
  const auto none = [&](std::string why) {
    return TunedLookup{TunedMatch::kNone, {}, std::move(why)};
  };
  if (machine.num_sms != file_.num_sms)
    return none(fmt::format("{} is for {} SMs", source_, file_.num_sms));
  if (!is_valid(problem)) return none("the problem is not valid");
  const jit::Problem wanted = tuned_problem(problem);
  std::optional<TunedLookup> nearest;
  double nearest_distance = 0;
  for (const TunedEntry& entry : file_.entries) {
    if (!same_class(entry.problem, wanted)) continue;
    const std::optional<double> far = distance(entry.problem, wanted);
    if (!far || (nearest && *far >= nearest_distance)) continue;
    auto intervals = fitted(entry, problem, machine.num_sms);
    if (!intervals) continue;
    const bool exact = entry.problem == wanted;
    nearest = describe_match(entry, exact ? TunedMatch::kExact : TunedMatch::kNearest);
    nearest->intervals = std::move(*intervals);
    nearest_distance = *far;
    if (exact) break;
  }
  if (nearest) return *nearest;
  return none(fmt::format("no tuned entry near it in {}", shortened(source_)));
}

TunedLookup TunedTable::describe_match(const TunedEntry& entry, TunedMatch match) const {
  const jit::Problem& p = entry.problem;
  std::string which = fmt::format("n={} k={}", p.n, p.k);
  if (jit::is_grouped(p)) which += fmt::format(" groups={}", p.groups);
  return {match, entry.intervals,
          fmt::format("{} entry {} of {}", match == TunedMatch::kExact ? "exact" : "nearest", which,
                      shortened(source_))};
}

TunedLookup TunedTables::find(const jit::Problem& problem, const jit::Machine& machine) const {
  TunedLookup best;
  best.why = fmt::format("no tuned table for {} SMs", machine.num_sms);
  std::string misses;
  for (const TunedTable& table : tables_) {
    TunedLookup found = table.find(problem, machine);
    if (found.match == TunedMatch::kExact) return found;
    if (found.match == TunedMatch::kNone)
      misses += fmt::format("{}{}", misses.empty() ? "" : "; ", found.why);
    if (found.match > best.match) best = std::move(found);
  }
  if (best.match == TunedMatch::kNone && !misses.empty()) best.why = std::move(misses);
  return best;
}

}  // namespace kiln::runtime
