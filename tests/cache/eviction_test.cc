#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <ctime>

#include "cache/files.h"
#include "support.h"
#include "tests/support/catch.h"

namespace kiln::cache::test {
namespace {

constexpr std::uint64_t kCap = 1 << 20;
constexpr std::size_t kCubinBytes = 60'000;

}  // namespace

TEST_CASE("eviction keeps the directory under its limit and removes the oldest first",
          "[cache][eviction]") {
  TempDir dir;
  Options options = options_for(dir / "cache");
  options.max_bytes = kCap;
  DiskCache cache(options);
  const std::uint64_t largest = encode(sample_entry(0, kCubinBytes)).size() + 64;
  for (int i = 0; i < 100; ++i) {
    const Entry entry = sample_entry(i, kCubinBytes);
    REQUIRE(cache.publish(entry));
    set_age(entry_file(dir / "cache", entry.key), 10'000 - i);
    REQUIRE(entry_bytes_in(dir / "cache") <= kCap + largest);
  }
  CHECK(cache.stats().evicted > 80);
  bool seen = false;  // what is left is the newest, without a gap
  for (int i = 0; i < 100; ++i) {
    const bool there = exists(entry_file(dir / "cache", sample_entry(i, kCubinBytes).key));
    CHECK((there || !seen));
    seen = seen || there;
  }
  CHECK(exists(entry_file(dir / "cache", sample_entry(99, kCubinBytes).key)));
}

TEST_CASE("eviction by number of entries", "[cache][eviction]") {
  TempDir dir;
  Options options = options_for(dir / "cache");
  options.max_entries = 20;
  DiskCache cache(options);
  for (int i = 0; i < 60; ++i) {
    const Entry entry = sample_entry(i);
    REQUIRE(cache.publish(entry));
    set_age(entry_file(dir / "cache", entry.key), 10'000 - i);
  }
  const std::size_t left = cache.list().size();
  CHECK(left <= 18);
  CHECK(left >= 15);
}

TEST_CASE("an entry younger than a minute is never evicted", "[cache][eviction]") {
  TempDir dir;
  Options options = options_for(dir / "cache");
  options.max_bytes = 1000;
  DiskCache cache(options);
  for (int i = 0; i < 20; ++i) {
    const Entry entry = sample_entry(i, kCubinBytes);
    REQUIRE(cache.publish(entry));
    set_age(entry_file(dir / "cache", entry.key), 50);
  }
  CHECK(cache.stats().evicted == 0);
  CHECK(cache.list().size() == 20);
  const PruneResult result = cache.prune(0);
  CHECK(result.removed_entries == 0);
  CHECK(result.kept_entries == 20);
}

TEST_CASE("an entry that is used between the scan and its removal stays", "[cache][eviction]") {
  TempDir dir;
  const Entry entry = sample_entry(1);
  REQUIRE(DiskCache(options_for(dir / "cache")).publish(entry));
  static std::string file;
  static bool used;
  file = entry_file(dir / "cache", entry.key);
  used = false;
  set_age(file, 1000);
  Files files = real_files();
  files.fstatat = [](int at, const char* path, struct stat* out, int flags) {
    const int result = ::fstatat(at, path, out, flags);
    if (!used && std::string_view(file).ends_with(path)) {
      set_age(file, 0);  // what another process's lookup does
      used = true;
    }
    return result;
  };
  DiskCache cache(options_for(dir / "cache"), files);
  const PruneResult result = cache.prune(0);
  CHECK(used);
  CHECK(result.removed_entries == 0);
  CHECK(exists(file));
}

TEST_CASE("an entry with a time stamp far in the future can be evicted", "[cache][eviction]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  const Entry soon = sample_entry(1), far = sample_entry(2);
  REQUIRE(cache.publish(soon));
  REQUIRE(cache.publish(far));
  set_age(entry_file(dir / "cache", soon.key), -600);
  set_age(entry_file(dir / "cache", far.key), -10 * 24 * 3600);
  CHECK(cache.prune(0).removed_entries == 1);
  CHECK(cache.lookup(soon.key, soon.toolchain));
}

TEST_CASE("a lookup never evicts", "[cache][eviction]") {
  TempDir dir;
  const Entry entry = sample_entry(1, kCubinBytes);
  {
    DiskCache writer(options_for(dir / "cache"));
    for (int i = 0; i < 10; ++i) REQUIRE(writer.publish(sample_entry(i, kCubinBytes)));
  }
  for (int i = 0; i < 10; ++i) {
    set_age(entry_file(dir / "cache", sample_entry(i, kCubinBytes).key), 1000);
  }
  Options options = options_for(dir / "cache");
  options.max_bytes = 1;
  DiskCache cache(options);
  for (int i = 0; i < 100; ++i) CHECK(cache.lookup(entry.key, entry.toolchain));
  CHECK(cache.list().size() == 10);
}

TEST_CASE("a process looks after the directory at its first publish when nobody did for a minute",
          "[cache][eviction]") {
  TempDir dir;
  REQUIRE(DiskCache(options_for(dir / "cache")).publish(sample_entry(0)));
  const std::string lock = dir / "cache/v1/lock/evict";
  const std::string orphan = dir / "cache/v1/tmp/orphan";
  const auto publish_with_orphan = [&](int seed, std::int64_t age_of_last_eviction) {
    write_text(orphan, "left by a crash");
    set_age(orphan, 4000);
    set_age(lock, age_of_last_eviction);
    REQUIRE(DiskCache(options_for(dir / "cache")).publish(sample_entry(seed)));
    return exists(orphan);
  };
  CHECK(publish_with_orphan(1, 40));
  CHECK_FALSE(publish_with_orphan(2, 80));
  CHECK_FALSE(publish_with_orphan(3, -25 * 3600));
  CHECK(status_of(lock).st_mtim.tv_sec > ::time(nullptr) - 100);
}

TEST_CASE("eviction waits for whoever holds its lock, but not for long", "[cache][eviction]") {
  TempDir dir;
  Options options = options_for(dir / "cache");
  options.max_bytes = 1;
  DiskCache cache(options);
  REQUIRE(cache.publish(sample_entry(1)));
  set_age(entry_file(dir / "cache", sample_entry(1).key), 1000);
  const int fd = ::open((dir / "cache/v1/lock/evict").c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  REQUIRE(::flock(fd, LOCK_EX) == 0);
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(cache.publish(sample_entry(2)));
  const auto waited = std::chrono::steady_clock::now() - start;
  ::close(fd);
  CHECK(cache.stats().evicted == 1);
  CHECK(waited >= std::chrono::milliseconds(200));
  CHECK(waited < std::chrono::seconds(5));
}

TEST_CASE("pruning removes the oldest down to the size asked for, and stale leftovers",
          "[cache][eviction]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  std::uint64_t bytes[10];
  for (int i = 0; i < 10; ++i) {
    const Entry entry = sample_entry(i, kCubinBytes);
    bytes[i] = encode(entry).size();
    REQUIRE(cache.publish(entry));
    set_age(entry_file(dir / "cache", entry.key), 1000 - i);
  }
  REQUIRE(::mkdir((dir / "cache/v1/bad").c_str(), 0700) == 0);
  for (const char* name : {"tmp/old", "bad/old.bad", "tmp/new", "bad/new.bad"}) {
    write_text(dir / ("cache/v1/" + std::string(name)), "x");
  }
  set_age(dir / "cache/v1/tmp/old", 3700);
  set_age(dir / "cache/v1/bad/old.bad", 3700);
  const std::uint64_t keep = bytes[7] + bytes[8] + bytes[9];
  const PruneResult result = cache.prune(keep);
  CHECK(result.removed_entries == 7);
  CHECK(result.kept_entries == 3);
  CHECK(result.kept_bytes == keep);
  CHECK(result.removed_other == 2);
  CHECK(exists(dir / "cache/v1/tmp/new"));
  CHECK(exists(dir / "cache/v1/bad/new.bad"));
  for (int i = 7; i < 10; ++i) {
    CHECK(exists(entry_file(dir / "cache", sample_entry(i, kCubinBytes).key)));
  }
}

TEST_CASE("pruning everything removes entries of any age and version, and nothing foreign",
          "[cache][eviction]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  const Entry entry = sample_entry(1);
  REQUIRE(cache.publish(entry));
  { const KeyLock lock = cache.lock(entry.key, 0); }
  cache.record_toolchain("toolchain");
  REQUIRE(::mkdir((dir / "cache/v0").c_str(), 0700) == 0);
  REQUIRE(::mkdir((dir / "cache/v0/ab").c_str(), 0700) == 0);
  write_text(dir / "cache/v0/ab/x.kiln", "old");
  write_text(dir / "cache/v0/note", "old");
  write_text(dir / "cache/v1/tmp/new", "x");
  write_text(dir / "cache/mine.txt", "not ours");
  write_text(dir / ("cache/v1/" + to_hex(entry.key).substr(0, 2) + "/mine.txt"), "not ours");
  write_text(dir / "outside.kiln", "not ours");
  REQUIRE(::symlink(dir.path().c_str(), (dir / "cache/v2").c_str()) == 0);
  const PruneResult result = cache.prune(~std::uint64_t{0}, true);
  CHECK(result.removed_entries == 2);
  CHECK(result.removed_other == 2);
  CHECK(result.kept_entries == 0);
  CHECK_FALSE(exists(dir / "cache/v0"));
  CHECK(exists(dir / "cache/mine.txt"));
  CHECK(exists(dir / ("cache/v1/" + to_hex(entry.key).substr(0, 2) + "/mine.txt")));
  CHECK(exists(dir / "outside.kiln"));
  CHECK(exists(dir / ("cache/v1/lock/" + to_hex(entry.key).substr(0, 2))));
  CHECK(cache.recorded_toolchains().size() == 1);
  CHECK(cache.list().empty());
  CHECK(cache.publish(entry));
}

}  // namespace kiln::cache::test
