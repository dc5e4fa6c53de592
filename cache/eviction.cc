#include "cache/eviction.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string_view>

namespace kiln::cache {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kYoung = 60 * kSecond;
constexpr std::int64_t kLeftover = 3600 * kSecond;
// A time stamp this far ahead of our clock is not a young file but a wrong clock.
constexpr std::int64_t kClockTolerance = 24 * 3600 * kSecond;
constexpr int kMaxDepth = 8;  // of directories of other layout versions

bool is_young(std::int64_t modified, std::int64_t now) {
  return now - modified < kYoung && modified - now < kClockTolerance;
}

bool is_shard(const std::string& name) {
  constexpr std::string_view kHex = "0123456789abcdef";
  return name.size() == 2 && kHex.find(name[0]) != kHex.npos && kHex.find(name[1]) != kHex.npos;
}

std::optional<Digest> key_of(const std::string& shard, const std::string& name) {
  if (!std::string_view(name).ends_with(kEntrySuffix)) return std::nullopt;
  return digest_from_hex(shard + name.substr(0, name.size() - kEntrySuffix.size()));
}

std::optional<Identity> examine(const Root& root, const std::string& path) {
  struct stat status;
  if (root.files->fstatat(root.at(), path.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
    return std::nullopt;
  }
  return identity_of(status);
}

bool remove_file(const Root& root, const std::string& path) {
  return root.files->unlinkat(root.at(), path.c_str(), 0) == 0;
}

bool is_other_version(const std::string& name) {
  if (name.size() < 2 || name[0] != 'v' || name == kVersionDirectory) return false;
  return std::all_of(name.begin() + 1, name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// A whole tree of a layout that this version does not know. Follows no symbolic link.
void remove_tree(const Root& root, const std::string& path, int depth, PruneResult& result) {
  if (depth > kMaxDepth) return;
  for (const std::string& name : list_names(*root.files, root.at(), path).names) {
    const std::string child = path + "/" + name;
    struct stat status;
    if (root.files->fstatat(root.at(), child.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (S_ISDIR(status.st_mode)) {
      remove_tree(root, child, depth + 1, result);
    } else if (remove_file(root, child)) {
      const bool entry = std::string_view(name).ends_with(kEntrySuffix);
      (entry ? result.removed_entries : result.removed_other) += 1;
      if (entry) result.removed_bytes += static_cast<std::uint64_t>(status.st_size);
    }
  }
  root.files->unlinkat(root.at(), path.c_str(), AT_REMOVEDIR);
}

struct Aged {
  std::string path;
  std::int64_t modified_ns = 0;
};

std::vector<Aged> files_of(const Root& root, const std::string& directory) {
  std::vector<Aged> files;
  for (const std::string& name : list_names(*root.files, root.at(), directory).names) {
    const std::string path = directory + "/" + name;
    struct stat status;
    if (root.files->fstatat(root.at(), path.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) {
      files.push_back({path, modified_ns(status)});
    }
  }
  return files;
}

// What was quarantined need not be a regular file.
bool remove_leftover(const Root& root, const std::string& path) {
  return remove_file(root, path) ||
         root.files->unlinkat(root.at(), path.c_str(), AT_REMOVEDIR) == 0;
}

}  // namespace

std::vector<ScannedEntry> scan_entries(const Root& root) {
  std::vector<ScannedEntry> entries;
  for (const std::string& shard : list_names(*root.files, root.at(), kVersionDirectory).names) {
    if (!is_shard(shard)) continue;
    const std::string directory = std::string(kVersionDirectory) + "/" + shard;
    for (const std::string& name : list_names(*root.files, root.at(), directory).names) {
      const auto key = key_of(shard, name);
      if (!key) continue;
      const std::string path = directory + "/" + name;
      if (const auto identity = examine(root, path)) entries.push_back({path, *key, *identity});
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.path < b.path; });
  return entries;
}

PruneResult remove_oldest(const Root& root, std::uint64_t keep_bytes, std::uint64_t keep_entries) {
  PruneResult result;
  std::vector<ScannedEntry> entries = scan_entries(root);
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return a.identity.modified_ns < b.identity.modified_ns;
  });
  for (const ScannedEntry& entry : entries) {
    result.kept_bytes += static_cast<std::uint64_t>(entry.identity.bytes);
  }
  result.kept_entries = entries.size();
  for (const ScannedEntry& entry : entries) {
    if (result.kept_bytes <= keep_bytes && result.kept_entries <= keep_entries) break;
    if (is_young(entry.identity.modified_ns, now_ns())) continue;
    // Once more: a reader may have touched it, or a publisher replaced it, since the scan.
    const std::optional<Identity> now = examine(root, entry.path);
    if (now && now != entry.identity) continue;
    const bool removed = now && remove_file(root, entry.path);
    if (!removed && examine(root, entry.path)) continue;
    const auto bytes = static_cast<std::uint64_t>(entry.identity.bytes);
    result.kept_entries -= 1;  // by this process or by another one
    result.kept_bytes -= bytes;
    if (!removed) continue;
    result.removed_entries += 1;
    result.removed_bytes += bytes;
  }
  return result;
}

std::uint64_t sweep_leftovers(const Root& root, bool all) {
  std::uint64_t removed = 0;
  for (const char* directory : {kTemporaryDirectory, kQuarantineDirectory}) {
    for (const Aged& file : files_of(root, directory)) {
      const std::int64_t age = now_ns() - file.modified_ns;
      const bool stale = age > kLeftover || age < -kClockTolerance;
      if ((all || stale) && remove_leftover(root, file.path)) ++removed;
    }
  }
  return removed;
}

PruneResult remove_everything(const Root& root) {
  PruneResult result;
  for (const ScannedEntry& entry : scan_entries(root)) {
    const auto bytes = static_cast<std::uint64_t>(entry.identity.bytes);
    if (remove_file(root, entry.path)) {
      result.removed_entries += 1;
      result.removed_bytes += bytes;
    } else if (examine(root, entry.path)) {
      result.kept_entries += 1;
      result.kept_bytes += bytes;
    }
  }
  for (const std::string& name : list_names(*root.files, root.at(), ".").names) {
    if (is_other_version(name)) remove_tree(root, name, 0, result);
  }
  result.removed_other += sweep_leftovers(root, true);
  return result;
}

void keep_newest(const Root& root, const std::string& directory, std::size_t keep) {
  std::vector<Aged> files = files_of(root, directory);
  if (files.size() <= keep) return;
  std::sort(files.begin(), files.end(),
            [](const Aged& a, const Aged& b) { return a.modified_ns < b.modified_ns; });
  files.resize(files.size() - keep);
  for (const Aged& file : files) remove_leftover(root, file.path);
}

}  // namespace kiln::cache
