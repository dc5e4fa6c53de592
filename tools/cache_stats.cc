// kiln cache stats: what is in the cache directory and in the read-only layers in front of it.
#include <fmt/format.h>

#include <map>

#include "runtime/options.h"
#include "tools/args.h"
#include "tools/cache_actions.h"
#include "tools/cache_directory.h"
#include "tools/table.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

const Command kStats{
    "cache stats", "count entries by compiler, state and layer", "[--cache DIR] [--json]",
    R"(
Directories in the order in which a lookup searches them: those of KILN_CACHE_PATH, then the cache
directory. Reads every entry and changes nothing. Hits and misses are counters of a running engine:
kiln_cache_stats() in kiln.h.

JSON keys: directories: a list of {path, role: layer | directory, state: usable | read-only |
untrusted | unusable, message, entries, bytes, good, bad: {state: count}, compilers: {name: count},
toolchains}.

Exit codes: 0, also when something is not usable or not good; 2 usage.)",           {kCacheFlag, {"--json", "", "print JSON"}},
};

struct RootStats {
  std::string path;
  bool is_layer = false;
  cache::DirectoryState state = cache::DirectoryState::kUnusable;
  std::string message;
  std::uint64_t entries = 0, bytes = 0, good = 0;
  std::map<std::string, std::uint64_t> bad;
  std::map<std::string, std::uint64_t> compilers;
  std::size_t toolchains = 0;
};

RootStats look_at(const std::string& path, bool is_layer) {
  cache::Options options;  // warnings are part of the answer here
  options.directory = path;
  options.read_only = true;
  const cache::DiskCache cache(options);
  RootStats stats;
  stats.path = path;
  stats.is_layer = is_layer;
  stats.state = cache.state();
  if (stats.state != cache::DirectoryState::kReadOnly) {
    stats.message = cache.state_message();
    return stats;
  }
  stats.toolchains = cache.recorded_toolchains().size();
  for (const cache::ListedEntry& entry : cache.list()) {
    ++stats.entries;
    stats.bytes += entry.bytes;
    if (state_of(entry) == "good") {
      ++stats.good;
      ++stats.compilers[compiler_of(std::get<cache::Entry>(entry.content))];
    } else {
      ++stats.bad[std::string(state_of(entry))];
    }
  }
  return stats;
}

std::string counts(const std::map<std::string, std::uint64_t>& by_name) {
  std::string out;
  for (const auto& [name, count] : by_name)
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", count, name);
  return out.empty() ? "-" : out;
}

nlohmann::ordered_json to_json(const RootStats& stats) {
  nlohmann::ordered_json out = {{"path", stats.path},
                                {"role", stats.is_layer ? "layer" : "directory"},
                                {"state", cache::name(stats.state)},
                                {"message", stats.message},
                                {"entries", stats.entries},
                                {"bytes", stats.bytes},
                                {"good", stats.good}};
  out["bad"] = nlohmann::ordered_json::object();
  out["compilers"] = nlohmann::ordered_json::object();
  for (const auto& [name, count] : stats.bad) out["bad"][name] = count;
  for (const auto& [name, count] : stats.compilers) out["compilers"][name] = count;
  out["toolchains"] = stats.toolchains;
  return out;
}

}  // namespace

int cache_stats(Words words) {
  const Args args(kStats, words);
  if (args.wants_help()) {
    print(help_text(kStats));
    return kExitOk;
  }
  const std::string directory = existing_directory(args);
  const runtime::EngineOptions resolved =
      runtime::resolve(offline_options(jit::Arch{}, 132), runtime::Environment::read());
  std::vector<RootStats> roots;
  for (const std::string& layer : resolved.cache_layers) roots.push_back(look_at(layer, true));
  roots.push_back(look_at(directory, false));
  if (args.has("--json")) {
    auto rows = nlohmann::ordered_json::array();
    for (const RootStats& root : roots) rows.push_back(to_json(root));
    print_json({{"directories", rows}});
    return kExitOk;
  }
  Table table({{"directory"},
               {"role"},
               {"state"},
               {"entries", Align::kRight},
               {"size", Align::kRight},
               {"bad"},
               {"compilers"}});
  for (const RootStats& root : roots) {
    table.add({root.path, root.is_layer ? "layer" : "directory",
               std::string(cache::name(root.state)), fmt::to_string(root.entries),
               human_bytes(root.bytes), counts(root.bad), counts(root.compilers)});
  }
  print(table.text());
  for (const RootStats& root : roots) {
    if (!root.message.empty()) print_error(fmt::format("kiln cache stats: {}\n", root.message));
  }
  return kExitOk;
}

}  // namespace kiln::tools
