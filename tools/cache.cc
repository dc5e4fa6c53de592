// kiln cache: the actions on a directory, list, verify and prune, and where the others are found.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "tools/args.h"
#include "tools/cache_actions.h"
#include "tools/cache_directory.h"
#include "tools/commands.h"
#include "tools/table.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

const Flag kJsonFlag{"--json", "", "print JSON"};

const Command kListCommand{
    "cache list",
    "the kernels in a cache directory",
    "[--cache DIR] [--json]",
    R"(
JSON keys: cache_dir; total_bytes; entries: a list of {path, bytes, modified_unix_s, state: good |
untrusted | the defect's name} with, for readable ones, {key, kernel, registers, spill_bytes,
smem_bytes, cubin_bytes, compile_ms, compiler}.)",
    {kCacheFlag, kJsonFlag},
};

const Command kVerifyCommand{
    "cache verify",
    "read every entry and check it as a lookup would",
    "[--cache DIR] [--json]",
    R"(
Changes nothing. A bad entry is never used: it counts as a miss and is replaced by the next compile.

JSON keys: cache_dir, entries, good, bad: a list of {path, state}.

Exit codes: 0 all entries are good; 1 some are not, and each is named on stderr.)",
    {kCacheFlag, kJsonFlag},
};

const Command kPruneCommand{
    "cache prune",
    "remove the kernels that were not used for longest",
    "[--cache DIR] (--max-bytes N | --all) [--json]",
    R"(
Entries younger than 60 s stay, unless --all is given.

JSON keys: cache_dir, removed_entries, removed_bytes, removed_other, kept_entries, kept_bytes.)",
    {kCacheFlag,
     {"--max-bytes", "N", "keep at most so many bytes"},
     {"--all", "", "remove every entry, of every age and format version"},
     kJsonFlag},
};

struct CacheAction {
  std::string_view name;  // "cache list"
  std::string_view summary;
  int (*main)(Words);
};

std::string overview(const std::vector<CacheAction>& actions) {
  std::string out =
      "kiln cache: look after a cache directory, and carry kernels in bundles\n\n"
      "Usage: kiln cache ACTION [FLAGS]\n\n";
  for (const CacheAction& action : actions)
    out +=
        fmt::format("  {:<8} {}\n", action.name.substr(action.name.find(' ') + 1), action.summary);
  return out +
         "\n\"kiln cache ACTION --help\" says the rest.\n\n"
         "Whoever can write the cache directory, or makes a bundle that you import, can run code "
         "on your\nGPU and in your process. Checksums detect accidents, not attackers.\n";
}

nlohmann::ordered_json to_json(const cache::ListedEntry& listed) {
  nlohmann::ordered_json out = {{"path", listed.path},
                                {"bytes", listed.bytes},
                                {"modified_unix_s", listed.modified_unix_s},
                                {"state", state_of(listed)}};
  if (const auto* entry = std::get_if<cache::Entry>(&listed.content)) {
    out["key"] = cache::to_hex(entry->key);
    out["kernel"] = entry->description;
    out["registers"] = entry->registers;
    out["spill_bytes"] = entry->spill_store_bytes + entry->spill_load_bytes;
    out["smem_bytes"] = entry->dynamic_smem_bytes + entry->static_smem_bytes;
    out["cubin_bytes"] = entry->cubin.size();
    out["compile_ms"] = entry->compile_us / 1000.0;
    out["compiler"] = compiler_of(*entry);
  }
  return out;
}

int list(Words words) {
  const Args args(kListCommand, words);
  if (args.wants_help()) {
    print(help_text(kListCommand));
    return kExitOk;
  }
  const std::string directory = existing_directory(args);
  const std::vector<cache::ListedEntry> entries = read_entries(directory);
  std::uint64_t total_bytes = 0;
  for (const auto& entry : entries) total_bytes += entry.bytes;
  if (args.has("--json")) {
    auto rows = nlohmann::ordered_json::array();
    for (const auto& entry : entries) rows.push_back(to_json(entry));
    print_json({{"cache_dir", directory}, {"entries", rows}, {"total_bytes", total_bytes}});
    return kExitOk;
  }
  Table table({{"key"},
               {"kernel"},
               {"compiler"},
               {"regs", Align::kRight},
               {"size", Align::kRight},
               {"modified (UTC)"}});
  for (const cache::ListedEntry& listed : entries) {
    const auto* entry = std::get_if<cache::Entry>(&listed.content);
    const bool good = entry != nullptr && !listed.untrusted;
    table.add({good ? cache::to_hex(entry->key).substr(0, 12) : "-",
               good ? entry->description : fmt::format("[{}] {}", state_of(listed), listed.path),
               good ? compiler_of(*entry) : "-", good ? fmt::to_string(entry->registers) : "-",
               human_bytes(listed.bytes),
               fmt::format("{:%Y-%m-%d %H:%M}",
                           fmt::gmtime(static_cast<std::time_t>(listed.modified_unix_s)))});
  }
  if (table.rows() > 0) print(table.text());
  print(fmt::format("{} entries, {}; {}\n", entries.size(), human_bytes(total_bytes), directory));
  return kExitOk;
}

int verify(Words words) {
  const Args args(kVerifyCommand, words);
  if (args.wants_help()) {
    print(help_text(kVerifyCommand));
    return kExitOk;
  }
  const std::string directory = existing_directory(args);
  const std::vector<cache::ListedEntry> entries = read_entries(directory);
  auto bad = nlohmann::ordered_json::array();
  for (const cache::ListedEntry& entry : entries) {
    if (state_of(entry) == "good") continue;
    bad.push_back({{"path", entry.path}, {"state", state_of(entry)}});
    print_error(
        fmt::format("kiln cache verify: {}: {}: it is not used; \"kiln warm\" makes it anew\n",
                    entry.path, state_of(entry)));
  }
  if (args.has("--json")) {
    print_json({{"cache_dir", directory},
                {"entries", entries.size()},
                {"good", entries.size() - bad.size()},
                {"bad", bad}});
  } else {
    print(fmt::format("{} entries: {} good, {} bad; {}\n", entries.size(),
                      entries.size() - bad.size(), bad.size(), directory));
  }
  return bad.empty() ? kExitOk : kExitFailure;
}

int prune(Words words) {
  const Args args(kPruneCommand, words);
  if (args.wants_help()) {
    print(help_text(kPruneCommand));
    return kExitOk;
  }
  args.exclude("--max-bytes", "--all", "all keeps nothing");
  if (!args.has("--all")) args.required_text("--max-bytes");
  const auto max_bytes = args.integer("--max-bytes", 0, std::int64_t{1} << 50, 0);
  const std::string directory = existing_directory(args);
  cache::DiskCache cache(directory_options(directory, false));
  require_usable_cache(cache, directory);
  const auto result = cache.prune(static_cast<std::uint64_t>(max_bytes), args.has("--all"));
  if (args.has("--json")) {
    print_json({{"cache_dir", directory},
                {"removed_entries", result.removed_entries},
                {"removed_bytes", result.removed_bytes},
                {"removed_other", result.removed_other},
                {"kept_entries", result.kept_entries},
                {"kept_bytes", result.kept_bytes}});
  } else {
    print(fmt::format("removed {} entries ({}) and {} stale files; kept {} entries ({}); {}\n",
                      result.removed_entries, human_bytes(result.removed_bytes),
                      result.removed_other, result.kept_entries, human_bytes(result.kept_bytes),
                      directory));
  }
  return kExitOk;
}

}  // namespace

int cache_command(Words words) {
  const std::vector<CacheAction> actions = {
      {kListCommand.name, kListCommand.summary, list},
      {"cache stats", "count entries by compiler, state and layer", cache_stats},
      {kVerifyCommand.name, kVerifyCommand.summary, verify},
      {kPruneCommand.name, kPruneCommand.summary, prune},
      {"cache export", "put kernels into a bundle, one file for another machine", cache_export},
      {"cache import", "verify a bundle and add its kernels to the cache", cache_import},
      {"cache merge", "put several bundles together", cache_merge},
      {"cache diff", "compare two bundles or cache directories", cache_diff},
  };
  if (!words.empty() && (words[0] == "--help" || words[0] == "-h")) {
    print(overview(actions));
    return kExitOk;
  }
  const std::string word = words.empty() ? "" : words[0];
  std::vector<std::string_view> names;
  for (const CacheAction& action : actions) {
    names.push_back(action.name.substr(action.name.find(' ') + 1));
    if (word == names.back()) return action.main(words.subspan(1));
  }
  const std::string_view near = nearest(word, names);
  throw Error(
      Status::kInvalidArgument,
      fmt::format("{}: {}the actions are {}",
                  word.empty() ? "an action is missing" : "unknown action " + quote(word),
                  near.empty() ? "" : fmt::format("did you mean {}? ", near), join(names, ", ")));
}

}  // namespace kiln::tools
