// A real full disk: a small tmpfs in a mount namespace of its own.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <source_location>
#include <stdexcept>

#include "support.h"
#include "tests/support/catch.h"

namespace kiln::cache::test {
namespace {

constexpr int kCannotMount = 77;  // a child's exit status
constexpr const char* kNoMount = "this user cannot mount a small tmpfs";

bool write_small(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  const auto size = static_cast<ssize_t>(text.size());
  const bool ok = fd >= 0 && ::write(fd, text.data(), text.size()) == size;
  if (fd >= 0) ::close(fd);
  return ok;
}

// Mounts a tmpfs of this size where only this process sees it.
bool mount_small(const std::string& at, const char* options) {
  const uid_t user = ::geteuid();
  const gid_t group = ::getegid();
  if (::unshare(CLONE_NEWNS) != 0) {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    const auto map = [](unsigned id) { return "0 " + std::to_string(id) + " 1"; };
    if (!write_small("/proc/self/setgroups", "deny") ||
        !write_small("/proc/self/uid_map", map(user)) ||
        !write_small("/proc/self/gid_map", map(group))) {
      return false;
    }
  }
  ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  return ::mount("tmpfs", at.c_str(), "tmpfs", 0, options) == 0;
}

// In the child a failed expectation ends it, with the line on stderr.
void expect(bool condition, std::source_location where = std::source_location::current()) {
  if (!condition) {
    throw std::runtime_error("line " + std::to_string(where.line()) + " is not true");
  }
}

// Fills the disk through the cache, then makes room again.
int fill_and_recover(const std::string& root, std::size_t cubin_bytes) {
  std::vector<std::string> warnings;
  Options options = options_for(root);
  options.fsync = true;
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  DiskCache cache(options);
  expect(cache.state() == DirectoryState::kUsable);
  int stored = 0;
  while (stored < 1000 && cache.publish(sample_entry(stored, cubin_bytes))) ++stored;
  expect(stored > 2);
  expect(stored < 1000);
  for (int i = 0; i < 5; ++i) expect(!cache.publish(sample_entry(2000 + i, cubin_bytes)));
  expect(warnings.size() == 1);
  expect(cache.stats().publish_failed == 6);
  expect(names_in(root + "/v1/tmp").empty());
  for (int i = 0; i < stored; ++i) {
    const Entry entry = sample_entry(i, cubin_bytes);
    expect(cache.lookup(entry.key, entry.toolchain) == entry);
  }
  expect(!cache.lookup(sample_entry(2000, cubin_bytes).key, sample_toolchain()));
  expect(cache.list().size() == static_cast<std::size_t>(stored));
  cache.prune(0, true);
  expect(cache.publish(sample_entry(2000, cubin_bytes)));
  return 0;
}

int run_mounted(const char* mount_options, std::size_t cubin_bytes) {
  TempDir dir;
  return in_child([&] {
    if (!mount_small(dir.path(), mount_options)) {
      std::fprintf(stderr, "mount: %s\n", std::strerror(errno));
      return kCannotMount;
    }
    return fill_and_recover(dir / "cache", cubin_bytes);
  });
}

}  // namespace

TEST_CASE("on a full disk publishing fails quietly and entries stay whole", "[cache][full]") {
  const int result = run_mounted("size=512k,mode=700", 20'000);
  if (result == kCannotMount) KILN_SKIP(kNoMount);
  CHECK(result == 0);
}

TEST_CASE("on a disk without free inodes publishing fails quietly and entries stay whole",
          "[cache][full]") {
  const int result = run_mounted("size=64m,nr_inodes=40,mode=700", 1000);
  if (result == kCannotMount) KILN_SKIP(kNoMount);
  CHECK(result == 0);
}

TEST_CASE("on a disk that is full from the start the cache is unusable or stores nothing",
          "[cache][full]") {
  TempDir dir;
  const int result = in_child([&] {
    if (!mount_small(dir.path(), "size=64k,mode=700")) return kCannotMount;
    const int fd = ::open((dir / "filler").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    const char block[4096] = {};
    while (::write(fd, block, sizeof block) > 0) {
    }
    ::close(fd);
    DiskCache cache(options_for(dir / "cache"));
    const Entry entry = sample_entry(1);
    expect(!cache.publish(entry));
    expect(!cache.lookup(entry.key, entry.toolchain));
    cache.record_toolchain("toolchain");
    expect(cache.recorded_toolchains().empty());
    expect(::unlink((dir / "filler").c_str()) == 0);
    DiskCache next(options_for(dir / "cache"));
    expect(next.publish(entry));
    expect(next.lookup(entry.key, entry.toolchain) == entry);
    return 0;
  });
  if (result == kCannotMount) KILN_SKIP(kNoMount);
  CHECK(result == 0);
}

}  // namespace kiln::cache::test
