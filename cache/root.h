// One opened cache root: its file names, reading a whole file, and publishing one so that others
// see all of it or nothing. Knows no entry format. Internal to cache/; the protocol is described in
// disk_cache.cc.
//
// Thread-safe: a Root never changes after it was made.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cache/digest.h"
#include "cache/files.h"
#include "cache/trust.h"

namespace kiln::cache {

inline constexpr const char* kVersionDirectory = "v1";
inline constexpr const char* kTemporaryDirectory = "v1/tmp";
inline constexpr const char* kLockDirectory = "v1/lock";
inline constexpr const char* kQuarantineDirectory = "v1/bad";
inline constexpr const char* kToolchainDirectory = "v1/toolchain";
inline constexpr const char* kEvictionLock = "v1/lock/evict";
inline constexpr std::string_view kEntrySuffix = ".kiln";
inline constexpr std::string_view kQuarantineSuffix = ".bad";

// All relative to the root.
std::string shard_of(const Digest& key);         // "ab"
std::string entry_path(const Digest& key);       // "v1/ab/<62 hex>.kiln"
std::string lock_path(const Digest& key);        // "v1/lock/ab"
std::string quarantine_path(const Digest& key);  // "v1/bad/<64 hex>.bad"

struct Root {
  const Files* files;
  std::string path;  // as the caller named it, for messages
  Fd fd;
  FileTrust trust;
  bool writable;

  int at() const { return fd.get(); }
};

// Tells a file from another one that took its name later, or from itself after a change.
struct Identity {
  dev_t device = 0;
  ino_t inode = 0;
  off_t bytes = 0;
  std::int64_t modified_ns = 0;
  bool operator==(const Identity&) const = default;
};
Identity identity_of(const struct stat& status);
std::int64_t modified_ns(const struct stat& status);
std::int64_t now_ns();  // wall clock, comparable with modified_ns

enum class ReadStatus {
  kRead,
  kAbsent,
  kUntrusted,  // a symbolic link, not a regular file, or owner or mode refused
  kTooSmall,   // below the least size, or it shrank while it was read
  kTooLarge,
  kFailed,     // the system reported `error`
};

struct ReadResult {
  ReadStatus status = ReadStatus::kFailed;
  int error = 0;
  std::vector<std::byte> bytes;
  struct stat file {};  // of the open file; all zero when it was never open
  Fd fd;
};

// Reads a file of between `least` and `most` bytes into memory. Tries once more after ESTALE, EIO
// and EINTR, which network file systems give when a file is replaced.
ReadResult read_file(const Root& root, const std::string& path, std::size_t least,
                     std::size_t most);

enum class Publication { kStored, kExisted, kFailed };
struct PublishResult {
  Publication publication = Publication::kFailed;
  const char* step = "";  // the system call that failed
  int error = 0;
};

// Gives `bytes` the name `directory`/`name`; `directory` lies in v1. With replace = false a file
// that is there stays and wins.
PublishResult publish_file(const Root& root, const std::string& directory, const std::string& name,
                           std::span<const std::byte> bytes, bool replace, bool sync);

// Makes v1, its informative files when v1 is new, and `directory` in it. ENOENT: the root is gone.
int make_directories(const Root& root, const std::string& directory);

// True when the root's directory was removed while it was open.
bool is_removed(const Root& root);

}  // namespace kiln::cache
