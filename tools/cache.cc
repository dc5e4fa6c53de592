// kiln cache list|verify|prune
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "tools/args.h"
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

constexpr std::string_view kActions[] = {"list", "verify", "prune"};

std::string overview() {
  return fmt::format(
      "kiln cache: list, verify or prune a cache directory\n\n"
      "Usage: kiln cache list|verify|prune [FLAGS]\n\n"
      "  list     {}\n  verify   {}\n  prune    {}\n\n\"kiln cache ACTION --help\" says the "
      "rest.\n\n"
      "Whoever can write the cache directory can run code on your GPU and in your process. The "
      "checksum\n"
      "detects accidents, not attackers.\n",
      kListCommand.summary, kVerifyCommand.summary, kPruneCommand.summary);
}

// The directory must be there: making one in order to list it would hide a typo.
std::string existing_directory(const Args& args) {
  const std::string directory = cache_directory(args);
  if (directory.empty())
    throw Error(Status::kInvalidArgument, "there is no cache directory: give --cache DIR");
  struct stat status {};
  if (::stat(directory.c_str(), &status) != 0) {
    throw Error(Status::kInvalidArgument,
                fmt::format("the cache directory {} cannot be read: {}: check --cache",
                            quote(directory), std::strerror(errno)));
  }
  if (!S_ISDIR(status.st_mode)) {
    throw Error(Status::kInvalidArgument,
                fmt::format("{} is not a directory: check --cache", quote(directory)));
  }
  return directory;
}

cache::Options options_of(const std::string& directory, bool read_only) {
  cache::Options options;
  options.directory = directory;
  options.read_only = read_only;
  options.warn = [](const std::string& message) {
    print_error(fmt::format("kiln cache: {}\n", message));
  };
  return options;
}

// Everything in it, after making sure that it may be read at all.
std::vector<cache::ListedEntry> read_entries(const std::string& directory) {
  const cache::DiskCache cache(options_of(directory, true));
  if (cache.state() != cache::DirectoryState::kReadOnly &&
      cache.state() != cache::DirectoryState::kUsable) {
    throw Error(Status::kInternal, fmt::format("the cache directory {} is {}: {}", quote(directory),
                                               cache::name(cache.state()), cache.state_message()));
  }
  return cache.list();
}

std::string_view state_of(const cache::ListedEntry& entry) {
  if (entry.untrusted) return "untrusted";
  if (const auto* defect = std::get_if<cache::Defect>(&entry.content)) return cache::name(*defect);
  return "good";
}

std::string compiler_of(const cache::Entry& entry) {
  return fmt::format("NVRTC {}.{}", entry.compiler_version >> 16, entry.compiler_version & 0xffff);
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
  cache::DiskCache cache(options_of(directory, false));
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
  if (!words.empty() && (words[0] == "--help" || words[0] == "-h")) {
    print(overview());
    return kExitOk;
  }
  const std::string action = words.empty() ? "" : words[0];
  if (action == "list") return list(words.subspan(1));
  if (action == "verify") return verify(words.subspan(1));
  if (action == "prune") return prune(words.subspan(1));
  const std::string_view near = nearest(action, kActions);
  throw Error(
      Status::kInvalidArgument,
      fmt::format("{}: {}the actions are {}",
                  action.empty() ? "an action is missing" : "unknown action " + quote(action),
                  near.empty() ? "" : fmt::format("did you mean {}? ", near),
                  join(kActions, ", ")));
}

}  // namespace kiln::tools
