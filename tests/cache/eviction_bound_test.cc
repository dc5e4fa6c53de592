// Many writers on one directory with a limit: how large it gets, and that nobody loses what is
// young.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "support.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

namespace kiln::cache::test {
namespace {

using kiln::test::by_scale;
using kiln::test::report_figures;
using kiln::test::with_commas;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kLargestCubin = 64'000;
constexpr std::uint64_t kKeys = 5000;

Entry entry_of(std::uint64_t key) {
  return sample_entry(10'000 + key, 4000 + key % 16 * (kLargestCubin - 4000) / 15);
}

// Publishes and reads for ever; ends when a lookup is wrong, or when an entry that is young went.
int write_for_ever(const std::string& root, std::uint64_t cap, std::uint64_t seed) {
  Options options = options_for(root);
  options.max_bytes = cap;
  DiskCache cache(options);
  Random random(seed);
  const Entry young = sample_entry(1000 + seed);  // of this writer, never made old
  if (!cache.publish(young)) return 1;
  for (;;) {
    const Entry entry = entry_of(random.below(kKeys));
    const auto found = cache.lookup(entry.key, entry.toolchain);
    if (found && *found != entry) return 2;
    if (!found) {
      if (!cache.publish(entry)) return 3;
      try {
        set_age(entry_file(root, entry.key), 100 + static_cast<int>(random.below(3000)));
      } catch (const std::exception&) {  // evicted already
      }
    }
    if (random.below(8) != 0) continue;
    set_age(entry_file(root, young.key), 0);  // throws when it is gone
    if (cache.lookup(young.key, young.toolchain) != young) return 4;
  }
}

struct Size {
  std::uint64_t old_bytes = 0;  // of entries that may be evicted
  std::uint64_t all_bytes = 0;
};

// With every writer stopped, so that it is the size at one moment.
Size size_at_a_moment(const std::string& root, const std::vector<pid_t>& writers) {
  for (const pid_t writer : writers) ::kill(writer, SIGSTOP);
  for (const pid_t writer : writers) {
    int status = 0;
    if (::waitpid(writer, &status, WUNTRACED) != writer || !WIFSTOPPED(status)) {
      FAIL("a writer ended with status " << status << ", see write_for_ever()");
    }
  }
  Size size;
  const auto now = ::time(nullptr);
  for (const std::string& shard : names_in(root + "/v1")) {
    if (shard.size() != 2) continue;
    for (const std::string& name : names_in(root + "/v1/" + shard)) {
      const struct stat status = status_of(root + "/v1/" + shard + "/" + name);
      const auto bytes = static_cast<std::uint64_t>(status.st_size);
      size.all_bytes += bytes;
      if (now - status.st_mtim.tv_sec >= 60) size.old_bytes += bytes;
    }
  }
  for (const pid_t writer : writers) ::kill(writer, SIGCONT);
  return size;
}

}  // namespace

TEST_CASE("many writers keep the directory within its limit and one entry for each of them",
          "[cache][eviction][C6]") {
  TempDir dir(TempDir::Where::kInMemory);
  const std::string root = dir / "cache";
  const int writers = by_scale(8, 16);
  const std::uint64_t cap = by_scale(std::uint64_t{2} << 20, std::uint64_t{8} << 20);
  const auto limit = std::chrono::seconds(by_scale(4, 600));
  const std::uint64_t largest = encode(entry_of(15)).size() + 64;
  const std::uint64_t bound = cap + static_cast<std::uint64_t>(writers) * largest;
  REQUIRE(DiskCache(options_for(root)).state() == DirectoryState::kUsable);
  std::vector<pid_t> children;
  for (int i = 0; i < writers; ++i) {
    children.push_back(start_child([&, i] { return write_for_ever(root, cap, i); }));
  }
  Size most;
  int samples = 0;
  for (const auto start = Clock::now(); Clock::now() - start < limit; ++samples) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const Size size = size_at_a_moment(root, children);
    most.old_bytes = std::max(most.old_bytes, size.old_bytes);
    most.all_bytes = std::max(most.all_bytes, size.all_bytes);
    REQUIRE(size.old_bytes <= bound);
  }
  for (const pid_t child : children) {
    ::kill(child, SIGKILL);
    REQUIRE(wait_for(child) == 1000 + SIGKILL);
  }
  CHECK(most.old_bytes > cap / 2);  // else eviction had little to do
  report_figures(std::to_string(writers) + " writers, limit " + with_commas(cap) + ", bound " +
                 with_commas(bound) + ": at most " + with_commas(most.old_bytes) + " bytes at " +
                 with_commas(static_cast<unsigned long long>(samples)) +
                 " moments (with young entries " + with_commas(most.all_bytes) +
                 "), 0 bad loads, 0 young entries lost");
}

}  // namespace kiln::cache::test
