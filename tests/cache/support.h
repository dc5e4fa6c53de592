// What the cache's tests share: scratch directories, sample entries, raw file access, processes.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cache/disk_cache.h"

namespace kiln::cache::test {

// A new directory, 0755, removed with all it holds at the end. 0755 so that a child process that
// gave up its rights can go through it.
class TempDir {
 public:
  enum class Where { kAnywhere, kInMemory };  // in memory where the system has a place for that
  explicit TempDir(Where where = Where::kAnywhere);
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

// Small and fast random numbers, the same on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  std::uint64_t next();
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }

 private:
  std::uint64_t state_;
};

// Every field set, everything derived from the seed.
Entry sample_entry(std::uint64_t seed, std::size_t cubin_bytes = 300);
Digest sample_toolchain();

std::vector<std::byte> read_bytes(const std::string& path);
void write_bytes(const std::string& path, const std::vector<std::byte>& bytes);
void write_text(const std::string& path, std::string_view text);
bool exists(const std::string& path);
struct stat status_of(const std::string& path);
void set_age(const std::string& path, std::int64_t age_s);  // modification time = now - age

std::string entry_file(const std::string& root, const Digest& key);
std::vector<std::string> names_in(const std::string& directory);  // empty when it does not exist
std::uint64_t entry_bytes_in(const std::string& root);
std::size_t open_descriptors();

// One line per file below the directory: name, inode, mode, size and times except the access time.
std::string snapshot(const std::string& directory);

Options options_for(const std::string& directory);  // without fsync, no warnings shown

// Runs body in a forked process and returns its exit status, or 1000 + the signal that ended it.
// The child never returns into the test runner; an exception there is status 99.
pid_t start_child(const std::function<int()>& body);
int wait_for(pid_t child);
int in_child(const std::function<int()>& body);

// Becomes another user for good; false when that is not possible.
bool become(uid_t uid);

}  // namespace kiln::cache::test
