// When entries of a writable root are removed; what may go is eviction.h's business. Internal to
// cache/. Knows no entry format, no lookup and no publishing: it is told what was published.
#pragma once

#include <atomic>
#include <cstdint>

#include "cache/root.h"
#include "cache/types.h"

namespace kiln::cache {

// Keeps one writable root within its limits, as one of several processes. Thread-safe.
class Evictor {
 public:
  Evictor(std::uint64_t max_bytes, std::uint64_t max_entries)
      : max_bytes_(max_bytes), max_entries_(max_entries) {}

  // After each entry of so many bytes that this process has published: looks at the root when that
  // is due, and removes what is too much. Returns how many entries it removed.
  std::uint64_t after_publish(const Root& root, std::uint64_t bytes);

 private:
  std::uint64_t evict(const Root& root);

  const std::uint64_t max_bytes_, max_entries_;
  std::atomic<std::uint64_t> bytes_since_look_{0};
  std::atomic<std::uint64_t> entries_since_look_{0};
  std::atomic<bool> published_before_{false};
};

// At once and on request: the contract of DiskCache::prune(). `root` is writable.
PruneResult prune_root(const Root& root, std::uint64_t max_bytes, bool everything);

}  // namespace kiln::cache
