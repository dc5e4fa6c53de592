// DiskCache: key -> entry on disk, over read-only layers and one writable directory.
//
// Contract: a hit returns exactly the bytes that were published under that key, anything else is a
// miss; no cache fault ever makes a call fail (one warning, a counter, a miss). No function here
// throws, except std::bad_alloc. Thread-safe. Layout, publish and lookup: disk_cache.cc;
// permissions: trust.h; what is removed, and when: evictor.cc. README "The cache" has the rules.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "cache/digest.h"
#include "cache/entry.h"
#include "cache/types.h"

namespace kiln::cache {

struct Files;  // the system calls, cache/files.h

struct Options {
  std::string directory;            // writable root; empty: memory only
  std::vector<std::string> layers;  // read-only roots, searched first, in order
  std::uint64_t max_bytes = std::uint64_t{2} << 30;
  std::uint64_t max_entries = 100'000;
  bool fsync = true;
  bool read_only = false;                        // look up only, never publish, touch or evict
  std::function<void(const std::string&)> warn;  // called without locks held; may be empty
};

inline constexpr std::size_t kCountedLayers = 8;

struct Stats {
  std::uint64_t hits = 0, misses = 0;
  std::uint64_t directory_hits = 0;
  // By place in Options::layers; those from the eighth on count together.
  std::array<std::uint64_t, kCountedLayers> layer_hits{};
  std::uint64_t miss_absent = 0, miss_truncated = 0, miss_format = 0, miss_checksum = 0;
  std::uint64_t miss_key = 0, miss_toolchain = 0, miss_untrusted = 0, miss_io = 0;
  std::uint64_t published = 0, publish_lost_race = 0, publish_failed = 0;
  std::uint64_t quarantined = 0, evicted = 0, lock_waits = 0, lock_timeouts = 0;
};

struct ListedEntry {
  std::string path;
  std::uint64_t bytes = 0;
  std::int64_t modified_unix_s = 0;
  std::variant<Entry, Defect> content;  // as decode() says; kTruncated when it cannot be read
  bool untrusted = false;               // owner, mode or kind of file refused: not read, kFormat
};

class DiskCache {
 public:
  explicit DiskCache(Options options);
  DiskCache(Options options, const Files& files);  // for tests that let system calls fail
  ~DiskCache();
  DiskCache(const DiskCache&) = delete;
  DiskCache& operator=(const DiskCache&) = delete;

  // The entry of exactly this key and toolchain, or nullopt with the reason counted. A damaged
  // file of the writable directory is moved aside (at most 8 are kept) so that it is rebuilt.
  // `why`, when given, becomes the reason of a miss in words: "it is absent".
  std::optional<Entry> lookup(const Digest& key, const Digest& toolchain,
                              std::string_view* why = nullptr);

  // True when some root has a file of this key's name. It is not read, so it may be no good; no
  // counter changes.
  bool has_file(const Digest& key) const;

  // Writes the entry so that others see all of it or nothing. Returns false when nothing was
  // stored; the caller keeps its own bytes either way and never reads them back.
  bool publish(const Entry& entry);

  // For an entry that decoded well but failed where it was used (the driver refused its cubin, or
  // META disagreed with the loaded kernel): moved aside, so the next lookup misses.
  void reject(const Digest& key);

  // At most `timeout_ms` of waiting for other processes' compile of this key's shard; a lock that
  // is not held means: go on without. Look up again after getting it.
  KeyLock lock(const Digest& key, std::uint32_t timeout_ms);

  // Toolchains that entries here were built with: remembered so that a machine without a compiler
  // can still form keys. `text` is the compiler's fingerprint. Newest first.
  void record_toolchain(const std::string& text);
  std::vector<std::string> recorded_toolchains() const;

  DirectoryState state() const;
  std::string state_message() const;  // why, in one sentence with a remedy; empty when usable
  Stats stats() const;

  // Maintenance, for the CLI. Sorted by path.
  std::vector<ListedEntry> list() const;

  // Oldest first until at most max_bytes are left; entries younger than 60 s always stay. With
  // everything = true: all entries of any age and format version go.
  PruneResult prune(std::uint64_t max_bytes, bool everything = false);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kiln::cache
