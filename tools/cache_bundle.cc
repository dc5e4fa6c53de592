// kiln cache export|import|merge|diff: bundles, one file that holds the kernels of many problems.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "cache/bundle.h"
#include "tools/args.h"
#include "tools/cache_actions.h"
#include "tools/cache_directory.h"
#include "tools/kernel_list.h"
#include "tools/output_file.h"
#include "tools/problem_flags.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

const Flag kJsonFlag{"--json", "", "print JSON"};
const Flag kOutFlag{"--out", "FILE", "the bundle to write; as a whole or not at all"};

const Command& export_command() {
  static const Command command = [] {
    Command c{"cache export",
              "put kernels into a bundle, one file for another machine",
              "(--all | --shapes FILE --arch ARCH --sms N [--casts]) --out FILE [--json]",
              R"(
With --shapes the bundle has exactly the kernels that "kiln warm" with these flags would make; when
one is not in the cache (or in a layer of KILN_CACHE_PATH), nothing is written. With --all it has
every good entry of the cache directory. The same kernels give the same bytes, wherever and whenever
they were compiled: a bundle holds no times and no compile logs.

JSON keys: bundle, digest: SHA-256 of the file, for "cache import --digest"; bytes; entries: a list
of {key, kernel}; missing: the same; skipped: a list of {path, state}; bad_problems: [{name, error}].

Exit codes: 0 written; 1 written without the problems that cannot be computed, or not written for
want of a usable cache or of room; 2 usage or a bad file; 4 kernels are missing.)",
              {{"--all", "", "every entry of the directory"},
               {"--shapes", "FILE", "the kernels of these problems (configs/shapes/*.json)"}}};
    for (const Flag& flag : target_flags()) c.flags.push_back(flag);
    for (const Flag& flag : {kCastsFlag, kOutFlag, kCacheFlag, kJsonFlag}) c.flags.push_back(flag);
    return c;
  }();
  return command;
}

const Command kImport{
    "cache import",
    "verify a bundle and add its kernels to the cache",
    "FILE [--digest SHA256] [--cache DIR] [--json]",
    R"(
Every byte of the bundle is verified before anything is stored: a bundle that is truncated, damaged
or built to harm is one error and changes nothing. Then each kernel is stored as a compile would
store it, whole or not at all; when that stops half-way (a full disk), what was stored stays and the
import can be repeated. An entry that the cache has already stays. An imported bundle is code that
will run on your GPU: take it from people you trust, and pin it with --digest.

JSON keys: cache_dir, digest, added, present, conflicting: lists of keys.

Exit codes: 0 every kernel of the bundle is in the cache; 1 not all: the cache has another kernel
under a key, or cannot store; 2 usage or a bad bundle.)",
    {{"--digest", "SHA256", "what the SHA-256 of the file must be, in hex"}, kCacheFlag, kJsonFlag},
};

const Command kMerge{
    "cache merge",
    "put several bundles together",
    "FILE FILE... --out FILE [--keep-first] [--json]",
    R"(
The result is the same in whatever order the files are given, unless they conflict: the same key
with another kernel, which compiling the same thing twice does not give. Then nothing is written.

JSON keys: bundle, digest, bytes; entries: their number; files: a list of {file, added, same,
conflicting: [keys]}.

Exit codes: 0 written; 1 they conflict, or the bundle cannot be written; 2 usage or a bad file.)",
    {kOutFlag, {"--keep-first", "", "of conflicting kernels keep the first"}, kJsonFlag},
};

const Command kDiff{
    "cache diff",
    "compare two bundles or cache directories",
    "FIRST SECOND [--json]",
    R"(
A line per kernel: "-" in the first only, "+" in the second only, "!" in both with other content.
Times and compile logs do not count. Of a directory, damaged entries are passed over.

JSON keys: only_first, only_second, conflicting: lists of {key, kernel}; same: a number.

Exit codes: 0 they have the same kernels; 1 they differ; 2 usage or a bad file.)",
    {kJsonFlag},
};

// The words before the first flag, and the flags.
std::pair<Words, Words> split(Words words) {
  std::size_t count = 0;
  while (count < words.size() && !words[count].starts_with("-")) ++count;
  return {words.first(count), words.subspan(count)};
}

[[noreturn]] void refuse_file(const std::string& path, const cache::BundleError& error) {
  throw Error(Status::kInvalidArgument, fmt::format("{}: {}", quote(path), error.message));
}

cache::Bundle open_bundle(const std::string& path, const std::optional<cache::Digest>& pinned) {
  auto bundle = cache::Bundle::open(path, pinned);
  if (const auto* error = std::get_if<cache::BundleError>(&bundle)) refuse_file(path, *error);
  return std::get<cache::Bundle>(std::move(bundle));
}

cache::Entry read_entry(const cache::Bundle& bundle, const cache::BundleItem& item,
                        const std::string& path) {
  auto entry = bundle.read(item);
  if (const auto* error = std::get_if<cache::BundleError>(&entry)) refuse_file(path, *error);
  return std::get<cache::Entry>(std::move(entry));
}

nlohmann::ordered_json to_json(const std::map<cache::Digest, std::string>& kernels) {
  auto list = nlohmann::ordered_json::array();
  for (const auto& [key, kernel] : kernels)
    list.push_back({{"key", cache::to_hex(key)}, {"kernel", kernel}});
  return list;
}

nlohmann::ordered_json to_json(const std::vector<cache::Digest>& keys) {
  auto list = nlohmann::ordered_json::array();
  for (const cache::Digest& key : keys) list.push_back(cache::to_hex(key));
  return list;
}

struct Written {
  std::string digest;
  std::uint64_t bytes = 0;
};

Written write_bundle(OutputFile& out, std::vector<cache::Entry> entries) {
  const auto encoded = cache::encode_bundle(std::move(entries));
  if (const auto* error = std::get_if<cache::BundleError>(&encoded))
    throw Error(Status::kInternal, error->message);
  const auto& bytes = std::get<std::vector<std::byte>>(encoded);
  out.write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  return {cache::to_hex(cache::sha256(bytes)), bytes.size()};
}

// ---- export ----

struct Exported {
  std::vector<cache::Entry> entries;
  std::map<cache::Digest, std::string> kernels;
  nlohmann::ordered_json missing = nlohmann::ordered_json::array();
  nlohmann::ordered_json skipped = nlohmann::ordered_json::array();
  nlohmann::ordered_json bad_problems = nlohmann::ordered_json::array();

  void add(cache::Entry entry) {
    kernels.emplace(entry.key, entry.description);
    entries.push_back(std::move(entry));
  }
};

Exported collect_all(const std::string& directory) {
  Exported out;
  for (cache::ListedEntry& listed : read_entries(directory)) {
    std::string state(state_of(listed));
    auto* entry = std::get_if<cache::Entry>(&listed.content);
    if (state == "good") state = cache::bundle_problem(*entry);
    if (state.empty()) {
      out.add(std::move(*entry));
      continue;
    }
    out.skipped.push_back({{"path", listed.path}, {"state", state}});
    print_error(fmt::format("kiln cache export: {}: {}: it is left out\n", listed.path, state));
  }
  return out;
}

Exported collect_shapes(const Args& args, const std::string& directory) {
  const Target target = read_target(args);
  const ShapesFile shapes = load_shapes(args.required_text("--shapes"));
  kiln_engine_options options = offline_options(target.arch, target.num_sms);
  options.cache_dir = directory.c_str();
  options.miss_policy = KILN_MISS_FROZEN;  // only looks up
  const EngineHandle handle(options);
  runtime::Engine& engine = handle.engine();
  const KernelList needed =
      list_kernels(shapes.problems, engine.machine(), engine.tuned(), read_kinds(args));
  Exported out;
  for (const BadProblem& problem : needed.bad) {
    out.bad_problems.push_back({{"name", problem.name}, {"error", problem.error}});
    print_error(fmt::format("kiln cache export: {}: {}\n", problem.name, problem.error));
  }
  for (const NeededKernel& kernel : needed.kernels) {
    const jit::KernelSpec spec{kernel.spec, engine.arch()};
    try {
      out.add(engine.cubin_for(spec).entry);
    } catch (const Error& error) {
      if (error.status() != Status::kFrozen) throw;
      out.missing.push_back({{"key", engine.key_for(spec)}, {"kernel", jit::describe(spec)}});
      print_error(fmt::format("kiln cache export: missing: {}\n", jit::describe(spec)));
    }
  }
  return out;
}

int finish_export(const Args& args, const std::string& path, OutputFile& file, Exported exported) {
  const bool complete = exported.missing.empty();
  const std::size_t count = exported.entries.size();
  Written written;
  if (complete) written = write_bundle(file, std::move(exported.entries));
  if (args.has("--json")) {
    print_json({{"bundle", complete ? path : ""},
                {"digest", written.digest},
                {"bytes", written.bytes},
                {"entries", to_json(exported.kernels)},
                {"missing", exported.missing},
                {"skipped", exported.skipped},
                {"bad_problems", exported.bad_problems}});
  } else if (complete) {
    print(fmt::format("{} kernels, {}, in {}\nsha256 {}\n", count, human_bytes(written.bytes), path,
                      written.digest));
  }
  if (!complete) {
    print_error(
        fmt::format("kiln cache export: {} of {} kernels are not in the cache, and no bundle is "
                    "written: make them with \"kiln warm{}\"\n",
                    exported.missing.size(), exported.missing.size() + count,
                    args.has(kCastsFlag.name) ? " --casts" : ""));
    return kExitMiss;
  }
  return exported.bad_problems.empty() ? kExitOk : kExitFailure;
}

// ---- import ----

cache::Digest read_digest(const std::string& text) {
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
  if (const auto digest = cache::digest_from_hex(lower)) return *digest;
  throw Error(Status::kInvalidArgument,
              fmt::format("--digest must be a SHA-256 in 64 hex digits, as sha256sum prints it, "
                          "got {}",
                          quote(text)));
}

int report_import(const Args& args, const std::string& directory, const cache::Bundle& bundle,
                  const cache::ImportResult& result) {
  for (const cache::Digest& key : result.conflicting) {
    print_error(
        fmt::format("kiln cache import: {}: the cache has another kernel under this key, which "
                    "stays; remove it with \"kiln cache prune\" to take the bundle's\n",
                    cache::to_hex(key)));
  }
  if (!result.error.empty())
    print_error(fmt::format("kiln cache import: stopped: {}\n", result.error));
  if (args.has("--json")) {
    print_json({{"cache_dir", directory},
                {"digest", cache::to_hex(bundle.digest())},
                {"added", to_json(result.added)},
                {"present", to_json(result.present)},
                {"conflicting", to_json(result.conflicting)}});
  } else {
    print(fmt::format("{} kernels: {} added, {} already there, {} conflicting; {}\n",
                      bundle.items().size(), result.added.size(), result.present.size(),
                      result.conflicting.size(), directory));
  }
  return result.error.empty() && result.conflicting.empty() ? kExitOk : kExitFailure;
}

// ---- merge ----

struct Merged {
  std::map<cache::Digest, cache::BundleItem> items;
  std::vector<cache::Entry> entries;
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  std::size_t conflicts = 0;
};

void merge_file(const std::string& path, Merged& into) {
  const cache::Bundle bundle = open_bundle(path, {});
  std::size_t added = 0, same = 0;
  std::vector<cache::Digest> conflicting;
  for (const cache::BundleItem& item : bundle.items()) {
    const auto [place, is_new] = into.items.emplace(item.key, item);
    if (is_new) {
      into.entries.push_back(read_entry(bundle, item, path));
      ++added;
    } else if (place->second.content == item.content) {
      ++same;
    } else {
      conflicting.push_back(item.key);
      print_error(
          fmt::format("kiln cache merge: {}: {} holds another kernel under this key than "
                      "a file before it\n",
                      cache::to_hex(item.key), path));
    }
  }
  into.conflicts += conflicting.size();
  into.files.push_back(
      {{"file", path}, {"added", added}, {"same", same}, {"conflicting", to_json(conflicting)}});
}

// ---- diff ----

struct Contents {
  std::vector<cache::BundleItem> items;  // ascending by key
  std::map<cache::Digest, std::string> kernels;
};

Contents contents_of_directory(const std::string& path) {
  Contents out;
  for (const cache::ListedEntry& listed : read_entries(path)) {
    if (state_of(listed) != "good") {
      print_error(fmt::format("kiln cache diff: {}: {}: it is passed over\n", listed.path,
                              state_of(listed)));
      continue;
    }
    const auto& entry = std::get<cache::Entry>(listed.content);
    out.items.push_back({entry.key, cache::sha256(cache::encode(cache::bundled(entry))), 0, 0});
    out.kernels.emplace(entry.key, entry.description);
  }
  std::sort(out.items.begin(), out.items.end(),
            [](const auto& a, const auto& b) { return a.key < b.key; });
  return out;
}

Contents contents_of(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return contents_of_directory(path);
  const cache::Bundle bundle = open_bundle(path, {});
  Contents out{bundle.items(), {}};
  for (const cache::BundleItem& item : bundle.items())
    out.kernels.emplace(item.key, read_entry(bundle, item, path).description);
  return out;
}

std::map<cache::Digest, std::string> named(const std::vector<cache::Digest>& keys,
                                           const Contents& where) {
  std::map<cache::Digest, std::string> out;
  for (const cache::Digest& key : keys) out.emplace(key, where.kernels.at(key));
  return out;
}

}  // namespace

int cache_export(Words words) {
  const Args args(export_command(), words);
  if (args.wants_help()) {
    print(help_text(export_command()));
    return kExitOk;
  }
  for (const std::string_view flag : {"--shapes", "--arch", "--sms", "--casts"})
    args.exclude("--all", flag, "all is not a choice of problems");
  if (!args.has("--all")) args.required_text("--shapes");
  const std::string path = args.required_text("--out");
  const std::string directory = existing_directory(args);
  OutputFile file(path, "--out");
  return finish_export(
      args, path, file,
      args.has("--all") ? collect_all(directory) : collect_shapes(args, directory));
}

int cache_import(Words words) {
  const auto [files, flags] = split(words);
  const Args args(kImport, flags);
  if (args.wants_help()) {
    print(help_text(kImport));
    return kExitOk;
  }
  if (files.size() != 1) {
    throw Error(Status::kInvalidArgument,
                fmt::format("one FILE to import must be named, got {}", files.size()));
  }
  std::optional<cache::Digest> pinned;
  if (const auto text = args.text("--digest")) pinned = read_digest(*text);
  const cache::Bundle bundle = open_bundle(files[0], pinned);
  const std::string directory = cache_directory(args);
  cache::DiskCache cache(directory_options(directory, false));
  require_usable_cache(cache, directory);
  return report_import(args, directory, bundle, cache::import_bundle(bundle, cache));
}

int cache_merge(Words words) {
  const auto [files, flags] = split(words);
  const Args args(kMerge, flags);
  if (args.wants_help()) {
    print(help_text(kMerge));
    return kExitOk;
  }
  if (files.empty()) throw Error(Status::kInvalidArgument, "a FILE to merge is missing");
  const std::string path = args.required_text("--out");
  OutputFile file(path, "--out");
  Merged merged;
  for (const std::string& name : files) merge_file(name, merged);
  const bool writes = merged.conflicts == 0 || args.has("--keep-first");
  const std::size_t count = merged.entries.size();
  Written written;
  if (writes) written = write_bundle(file, std::move(merged.entries));
  if (args.has("--json")) {
    print_json({{"bundle", writes ? path : ""},
                {"digest", written.digest},
                {"bytes", written.bytes},
                {"entries", count},
                {"files", merged.files}});
  } else if (writes) {
    print(fmt::format("{} kernels of {} files, {}, in {}\nsha256 {}\n", count, files.size(),
                      human_bytes(written.bytes), path, written.digest));
  }
  if (writes) return kExitOk;
  print_error(
      fmt::format("kiln cache merge: {} kernels conflict, and no bundle is written: leave a file "
                  "out, or give --keep-first\n",
                  merged.conflicts));
  return kExitFailure;
}

int cache_diff(Words words) {
  const auto [sides, flags] = split(words);
  const Args args(kDiff, flags);
  if (args.wants_help()) {
    print(help_text(kDiff));
    return kExitOk;
  }
  if (sides.size() != 2) {
    throw Error(
        Status::kInvalidArgument,
        fmt::format("two bundles or cache directories must be named, got {}", sides.size()));
  }
  const Contents first = contents_of(sides[0]), second = contents_of(sides[1]);
  const cache::BundleDiff found = cache::diff(first.items, second.items);
  const auto removed = named(found.only_first, first);
  const auto added = named(found.only_second, second);
  const auto changed = named(found.conflicting, second);
  if (args.has("--json")) {
    print_json({{"only_first", to_json(removed)},
                {"only_second", to_json(added)},
                {"conflicting", to_json(changed)},
                {"same", found.same.size()}});
  } else {
    for (const auto& [mark, kernels] :
         {std::pair('-', &removed), std::pair('+', &added), std::pair('!', &changed)}) {
      for (const auto& [key, kernel] : *kernels)
        print(fmt::format("{} {}  {}\n", mark, cache::to_hex(key).substr(0, 12), kernel));
    }
    print(fmt::format("{} only in the first, {} only in the second, {} conflicting, {} the same\n",
                      removed.size(), added.size(), changed.size(), found.same.size()));
  }
  return removed.empty() && added.empty() && changed.empty() ? kExitOk : kExitFailure;
}

}  // namespace kiln::tools
