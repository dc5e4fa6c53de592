// What the parts of the cache and its users tell each other. No part knows DiskCache, which is made
// of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace kiln::cache {

struct Files;  // the system calls, cache/files.h

// The usable default: $XDG_CACHE_HOME/kiln or ~/.cache/kiln; empty when there is no usable home or
// the process runs with elevated rights (AT_SECURE). Never a shared directory such as /tmp.
std::string default_directory();

enum class DirectoryState : std::uint8_t {
  kUsable,
  kDisabled,   // no directory was given
  kReadOnly,   // lookups work, publishing does not
  kUntrusted,  // refused: owner, mode, symbolic link or an ancestor writable by others
  kUnusable,   // cannot be created or opened
};
std::string_view name(DirectoryState state);

// Held while one process compiles a key; an optimisation only, never needed for correctness.
class KeyLock {
 public:
  KeyLock() = default;
  explicit KeyLock(int fd, const Files* files = nullptr) : fd_(fd), files_(files) {}
  KeyLock(KeyLock&& other) noexcept;
  KeyLock& operator=(KeyLock&& other) noexcept;
  ~KeyLock();
  bool held() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
  const Files* files_ = nullptr;
};

// What was removed from a directory, and what is left.
struct PruneResult {
  std::uint64_t removed_entries = 0, removed_bytes = 0, kept_entries = 0, kept_bytes = 0;
  std::uint64_t removed_other = 0;  // stale temporary and quarantined files
};

}  // namespace kiln::cache
