// Several processes or threads on one cache directory.
#include <fcntl.h>
#include <signal.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "cache/files.h"
#include "support.h"
#include "tests/support/catch.h"

namespace kiln::cache::test {
namespace {

using Clock = std::chrono::steady_clock;

// A wait of a few hundred milliseconds ends within this on a machine that is busy with others.
constexpr double kBoundedMs = 5000;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Publishes and reads the keys [0, keys) in an order of its own; 0 when nothing was ever wrong.
int publish_and_read(const std::string& root, int keys, std::uint64_t seed) {
  DiskCache cache(options_for(root));
  std::vector<int> order(keys);
  for (int i = 0; i < keys; ++i) order[i] = i;
  Random random(seed);
  for (int i = keys - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  for (const int i : order) {
    const Entry entry = sample_entry(i, 20'000);
    const auto found = cache.lookup(entry.key, entry.toolchain);
    if (found && *found != entry) return 1;
    if (!found && !cache.publish(entry)) return 2;
  }
  for (const int i : order) {
    const Entry entry = sample_entry(i, 20'000);
    if (cache.lookup(entry.key, entry.toolchain) != entry) return 3;
  }
  const Stats stats = cache.stats();
  return stats.misses == stats.miss_absent && stats.publish_failed == 0 ? 0 : 4;
}

// A child that takes the key's lock, says so through a pipe, and holds it until it is killed.
pid_t start_lock_holder(const std::string& root, const Digest& key) {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const pid_t child = start_child([&] {
    DiskCache cache(options_for(root));
    const KeyLock lock = cache.lock(key, 1000);
    const char answer = lock.held() ? 'y' : 'n';
    if (::write(ends[1], &answer, 1) != 1) return 1;
    for (;;) ::pause();
  });
  char answer = 0;
  REQUIRE(::read(ends[0], &answer, 1) == 1);
  REQUIRE(answer == 'y');
  ::close(ends[0]);
  ::close(ends[1]);
  return child;
}

void kill_and_wait(pid_t child) {
  ::kill(child, SIGKILL);
  CHECK(wait_for(child) == 1000 + SIGKILL);
}

}  // namespace

TEST_CASE("sixteen processes publish and read sixteen keys at once", "[cache][processes]") {
  TempDir dir;
  std::vector<pid_t> children;
  for (int i = 0; i < 16; ++i) {
    children.push_back(start_child([&, i] { return publish_and_read(dir / "cache", 16, i); }));
  }
  for (const pid_t child : children) CHECK(wait_for(child) == 0);
  DiskCache cache(options_for(dir / "cache"));
  CHECK(cache.list().size() == 16);
  CHECK(names_in(dir / "cache/v1/tmp").empty());
}

TEST_CASE("publishers and readers go on while the directory is removed again and again",
          "[cache][processes]") {
  TempDir dir;
  const std::string root = dir / "cache";
  // Opened before the removals begin: a cache that cannot make its directory when it is opened has
  // none from then on.
  DiskCache cache(options_for(root));
  const pid_t remover = start_child([&]() -> int {
    for (;;) {
      std::error_code ignored;
      std::filesystem::remove_all(root, ignored);
    }
  });
  int published = 0;
  // For a while the remover may win every race: then go on until one entry got through.
  for (int i = 0; i < 1000 || (published == 0 && i < 200'000); ++i) {
    const Entry entry = sample_entry(i % 20, 5000);
    published += cache.publish(entry);
    const auto found = cache.lookup(entry.key, entry.toolchain);
    REQUIRE((!found || *found == entry));
  }
  kill_and_wait(remover);
  CHECK(published > 0);
  // The last removal may have been cut off anywhere; what counts is that the cache works again.
  const Entry entry = sample_entry(1, 5000);
  cache.lookup(entry.key, entry.toolchain);
  CHECK(cache.publish(entry));
  CHECK(cache.lookup(entry.key, entry.toolchain) == entry);
}

TEST_CASE("threads of one cache publish, read, reject and list at once", "[cache][threads]") {
  TempDir dir;
  Options options = options_for(dir / "cache");
  options.max_bytes = 400'000;  // so that eviction takes part
  std::atomic<int> warnings{0};
  options.warn = [&](const std::string&) { ++warnings; };
  DiskCache cache(options);
  std::atomic<int> wrong{0};
  const auto work = [&](int number) {
    Random random(number);
    for (int i = 0; i < 150; ++i) {
      const Entry entry = sample_entry(random.below(32), 10'000);
      const auto found = cache.lookup(entry.key, entry.toolchain);
      if (found && *found != entry) ++wrong;
      if (!found) cache.publish(entry);
      switch (random.below(40)) {
        case 0: cache.reject(entry.key); break;
        case 1: cache.prune(100'000); break;
        case 2: wrong += cache.list().size() > 32; break;
        case 3: cache.record_toolchain(entry.log + std::to_string(number)); break;
        case 4: cache.recorded_toolchains(); break;
        case 5: wrong += cache.state() != DirectoryState::kUsable; break;
        case 6: cache.lock(entry.key, 2); break;
        case 7: cache.stats(); break;
        default: break;
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  const Stats stats = cache.stats();
  CHECK(stats.hits + stats.misses == 8 * 150);
  CHECK(stats.publish_failed == 0);
  CHECK(warnings == 0);
}

TEST_CASE("threads go on while the directory is removed under them", "[cache][threads]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int number = 0; number < 4; ++number) {
    threads.emplace_back([&, number] {
      for (int i = 0; i < 100; ++i) {
        const Entry entry = sample_entry((number + i) % 8, 2000);
        cache.publish(entry);
        const auto found = cache.lookup(entry.key, entry.toolchain);
        if (found && *found != entry) ++wrong;
        if (i % 10 == number) {
          std::error_code ignored;
          std::filesystem::remove_all(dir / "cache", ignored);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("a lock is held by one process and free when its holder is killed", "[cache][locks]") {
  TempDir dir;
  const Digest key = sample_entry(1).key;
  const pid_t holder = start_lock_holder(dir / "cache", key);
  DiskCache cache(options_for(dir / "cache"));
  auto start = Clock::now();
  CHECK_FALSE(cache.lock(key, 150).held());
  CHECK(ms_since(start) >= 150);
  CHECK(ms_since(start) < kBoundedMs);
  CHECK_FALSE(cache.lock(key, 0).held());
  CHECK(cache.stats().lock_waits == 2);
  CHECK(cache.stats().lock_timeouts == 2);
  kill_and_wait(holder);
  start = Clock::now();
  CHECK(cache.lock(key, 20'000).held());
  CHECK(ms_since(start) < kBoundedMs);
}

TEST_CASE("a lock holder that is stopped delays the others only until their timeout",
          "[cache][locks]") {
  TempDir dir;
  const Entry entry = sample_entry(1);
  const pid_t holder = start_lock_holder(dir / "cache", entry.key);
  REQUIRE(::kill(holder, SIGSTOP) == 0);
  DiskCache cache(options_for(dir / "cache"));
  const auto start = Clock::now();
  CHECK_FALSE(cache.lock(entry.key, 200).held());
  CHECK(ms_since(start) < kBoundedMs);
  CHECK(cache.publish(entry));  // correctness does not hang on the lock
  CHECK(cache.lookup(entry.key, entry.toolchain) == entry);
  ::kill(holder, SIGCONT);
  kill_and_wait(holder);
}

TEST_CASE("a waiter gets the lock as soon as it is released", "[cache][locks]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  const Digest key = sample_entry(1).key;
  KeyLock held = cache.lock(key, 0);
  REQUIRE(held.held());
  std::atomic<bool> got{false};
  std::thread waiter([&] { got = cache.lock(key, 10'000).held(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  CHECK_FALSE(got);
  held = KeyLock();
  waiter.join();
  CHECK(got);
  CHECK(cache.stats().lock_timeouts == 0);
}

TEST_CASE("a lock moves with its owner and is released once", "[cache][locks]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  const Digest key = sample_entry(1).key;
  KeyLock first = cache.lock(key, 0);
  KeyLock second = std::move(first);
  CHECK_FALSE(first.held());
  CHECK(second.held());
  CHECK_FALSE(cache.lock(key, 0).held());
  { const KeyLock third = std::move(second); }
  CHECK(cache.lock(key, 0).held());
}

TEST_CASE("a forked child that lives on does not keep its parent's lock", "[cache][locks]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  const Digest key = sample_entry(1).key;
  KeyLock held = cache.lock(key, 0);
  REQUIRE(held.held());
  const pid_t child = start_child([]() -> int {
    for (;;) ::pause();
  });
  held = KeyLock();
  CHECK(cache.lock(key, 0).held());
  kill_and_wait(child);
}

TEST_CASE("on a network file system no lock is taken and nothing waits", "[cache][locks]") {
  TempDir dir;
  Files files = real_files();
  files.fstatfs = [](int fd, struct statfs* out) {
    const int result = ::fstatfs(fd, out);
    out->f_type = 0x6969;  // NFS
    return result;
  };
  DiskCache cache(options_for(dir / "cache"), files);
  const auto start = Clock::now();
  CHECK_FALSE(cache.lock(sample_entry(1).key, 20'000).held());
  CHECK(ms_since(start) < kBoundedMs);
  CHECK(cache.stats().lock_waits == 0);
}

}  // namespace kiln::cache::test
