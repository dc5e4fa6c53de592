// Every system call of the cache fails at every occurrence, one way after another: nothing may
// throw, a lookup finds the right bytes or nothing, and the next process finds a cache that works.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <tuple>
#include <type_traits>

#include "cache/files.h"
#include "hooked_files.h"
#include "scenarios.h"
#include "support.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

namespace kiln::cache::test {
namespace {

using kiln::test::kIsSanitized;
using kiln::test::report_figures;
using kiln::test::with_commas;

enum class Mode {
  kFail,          // the call does nothing and fails
  kFailFromHere,  // so do all later ones
  kFailAfter,     // the call does its work and reports failure, as network file systems can
  kShort,         // a read, a write or random bytes come short; other calls work
};

struct Fault {
  Mode mode = Mode::kFail;
  int at = 0;  // the number of the call, from 1; 0: none
  int error = EIO;
};

Fault current_fault;
int calls = 0;
int faults = 0;  // that were really injected

bool strikes() {
  ++calls;
  const bool now = current_fault.at == calls;
  const bool later = current_fault.mode == Mode::kFailFromHere && current_fault.at != 0 &&
                     calls > current_fault.at;
  faults += now || later;
  return now || later;
}

template <auto Member>
struct Faulty;

template <typename R, typename... Args, R (*Files::*Member)(Args...)>
struct Faulty<Member> {
  static R call(Args... args) {
    const auto real = real_files().*Member;
    if (!strikes()) return real(args...);
    // A descriptor or stream that was to be closed is closed in any case, as on Linux.
    constexpr bool closes = std::is_same_v<Faulty, Faulty<&Files::close>> ||
                            std::is_same_v<Faulty, Faulty<&Files::closedir>>;
    constexpr bool opens = std::is_same_v<Faulty, Faulty<&Files::openat>>;
    if (current_fault.mode == Mode::kShort) return come_short(args...);
    if constexpr (closes) {
      real(args...);
    } else if constexpr (!std::is_pointer_v<R>) {
      if (current_fault.mode == Mode::kFailAfter) {
        const R result = real(args...);
        if (opens && result >= 0) real_files().close(static_cast<int>(result));
      }
    }
    return hooked::failed_call<R>(current_fault.error);
  }

  // The byte count is the second argument of getrandom() and the third of pread() and write().
  static R come_short(Args... args) {
    constexpr bool random = std::is_same_v<Faulty, Faulty<&Files::getrandom>>;
    constexpr bool transfers = std::is_same_v<Faulty, Faulty<&Files::pread>> ||
                               std::is_same_v<Faulty, Faulty<&Files::write>>;
    if constexpr (random || transfers) {
      std::tuple<Args...> all(args...);
      size_t& bytes = std::get < random ? 1 : 2 > (all);
      bytes = bytes > 1 ? bytes / 2 : bytes;
      return std::apply(real_files().*Member, all);
    } else {
      --faults;
      return (real_files().*Member)(args...);
    }
  }
};

const Files& faulty_files() {
  static constexpr Files kTable = {
      .openat = Faulty<&Files::openat>::call,
      .close = Faulty<&Files::close>::call,
      .pread = Faulty<&Files::pread>::call,
      .write = Faulty<&Files::write>::call,
      .fsync = Faulty<&Files::fsync>::call,
      .fstat = Faulty<&Files::fstat>::call,
      .fstatat = Faulty<&Files::fstatat>::call,
      .fstatfs = Faulty<&Files::fstatfs>::call,
      .faccessat = Faulty<&Files::faccessat>::call,
      .fchmod = Faulty<&Files::fchmod>::call,
      .fchmodat = Faulty<&Files::fchmodat>::call,
      .futimens = Faulty<&Files::futimens>::call,
      .utimensat = Faulty<&Files::utimensat>::call,
      .mkdirat = Faulty<&Files::mkdirat>::call,
      .linkat = Faulty<&Files::linkat>::call,
      .renameat = Faulty<&Files::renameat>::call,
      .unlinkat = Faulty<&Files::unlinkat>::call,
      .readlinkat = Faulty<&Files::readlinkat>::call,
      .flock = Faulty<&Files::flock>::call,
      .getrandom = Faulty<&Files::getrandom>::call,
      .getcwd = Faulty<&Files::getcwd>::call,
      .fdopendir = Faulty<&Files::fdopendir>::call,
      .readdir = Faulty<&Files::readdir>::call,
      .closedir = Faulty<&Files::closedir>::call,
  };
  return kTable;
}

constexpr int kErrors[] = {ENOSPC, EIO,   EDQUOT, EROFS,  EACCES,  EPERM,  EMFILE,
                           ENFILE, EINTR, ESTALE, ENOMEM, ENOTDIR, ENOENT, EEXIST};

const Entry& kEntry = scenario_entry();

// The number of system calls of the scenario when none fails.
int count_calls(const Scenario& scenario) {
  TempDir dir(TempDir::Where::kInMemory);
  current_fault = {};
  scenario.prepare(dir / "cache");
  calls = 0;
  REQUIRE(scenario.run(dir / "cache", faulty_files()));
  return calls;
}

// With the faults over, a new process works on what was left behind.
void inject(const Scenario& scenario, Fault fault) {
  TempDir dir(TempDir::Where::kInMemory);
  current_fault = {};
  scenario.prepare(dir / "cache");
  const std::size_t descriptors = open_descriptors();
  CAPTURE(scenario.name, static_cast<int>(fault.mode), fault.at, fault.error);
  calls = 0;
  current_fault = fault;
  bool right = false;
  REQUIRE_NOTHROW(right = scenario.run(dir / "cache", faulty_files()));
  current_fault = {};
  REQUIRE(right);
  REQUIRE(open_descriptors() == descriptors);
  REQUIRE(what_is_wrong_with(dir / "cache") == "");
}

// Every call of the scenario fails in every way.
void inject_everywhere(const char* name) {
  const Scenario& chosen = scenario(name);
  const int last = count_calls(chosen);
  REQUIRE(last > 10);
  faults = 0;
  int runs = 0;
  const auto run = [&](Fault fault) {
    inject(chosen, fault);
    ++runs;
  };
  for (int at = 1; at <= last; ++at) {
    // Under a sanitizer each call fails in a third of the ways, and the next call in another.
    for (std::size_t i = kIsSanitized ? at % 3 : 0; i < std::size(kErrors);
         i += kIsSanitized ? 3 : 1)
      run({Mode::kFail, at, kErrors[i]});
    for (const int error : {ENOSPC, EMFILE, ESTALE, EINTR}) run({Mode::kFailFromHere, at, error});
    for (const int error : {EIO, ESTALE, EEXIST}) run({Mode::kFailAfter, at, error});
    run({Mode::kShort, at, 0});
  }
  CHECK(faults > last * kiln::test::by_build(20, 9));  // the faults were really there
  report_figures(std::string(name) + ": " + with_commas(last) + " system calls x " +
                 std::to_string(runs / last) + " faults, 0 failures");
}

}  // namespace

TEST_CASE("publishing survives any fault of any system call", "[cache][faults][C2]") {
  inject_everywhere("publish");
}

TEST_CASE("finding and rejecting survive any fault of any system call", "[cache][faults][C2]") {
  inject_everywhere("find and reject");
}

TEST_CASE("repairing damage survives any fault of any system call", "[cache][faults][C2]") {
  inject_everywhere("repair");
}

TEST_CASE("replacing an entry survives any fault of any system call", "[cache][faults][C2]") {
  inject_everywhere("replace");
}

TEST_CASE("importing a bundle survives any fault of any system call", "[cache][faults][C2]") {
  inject_everywhere("import");
}

TEST_CASE("eviction, locks and toolchains survive any fault of any system call",
          "[cache][faults][C2]") {
  inject_everywhere("evict");
}

TEST_CASE("short writes and short reads lose nothing", "[cache][faults]") {
  TempDir dir;
  Files files = real_files();
  files.write = [](int fd, const void* data, size_t bytes) {
    return ::write(fd, data, bytes > 7 ? 7 : bytes);
  };
  files.pread = [](int fd, void* data, size_t bytes, off_t offset) {
    return ::pread(fd, data, bytes > 5 ? 5 : bytes, offset);
  };
  DiskCache cache(options_for(dir / "cache"), files);
  CHECK(cache.publish(kEntry));
  CHECK(cache.lookup(kEntry.key, kEntry.toolchain) == kEntry);
  CHECK(DiskCache(options_for(dir / "cache")).lookup(kEntry.key, kEntry.toolchain) == kEntry);
}

TEST_CASE("an entry is written, synced and closed before it gets its name", "[cache][faults]") {
  static std::string order;
  Files files = real_files();
  files.write = [](int fd, const void* data, size_t bytes) {
    order += "w";
    return ::write(fd, data, bytes);
  };
  files.fsync = [](int fd) {
    order += "s";
    return ::fsync(fd);
  };
  files.close = [](int fd) {
    order += "c";
    return ::close(fd);
  };
  files.linkat = [](int from_dir, const char* from, int to_dir, const char* to, int flags) {
    order += "L";
    return ::linkat(from_dir, from, to_dir, to, flags);
  };
  for (const bool sync : {true, false}) {
    TempDir dir;
    REQUIRE(DiskCache(options_for(dir / "cache")).publish(sample_entry(2)));
    Options options = options_for(dir / "cache");
    options.fsync = sync;
    DiskCache cache(options, files);
    order.clear();
    REQUIRE(cache.publish(kEntry));
    const std::string expected = sync ? "wscL" : "wcL";
    CHECK(order.substr(0, order.find('L') + 1).ends_with(expected));
    CHECK((order.find('s') != std::string::npos) == sync);
  }
}

TEST_CASE("where hard links do not exist entries are published by renaming", "[cache][faults]") {
  for (const int error : {EPERM, EOPNOTSUPP, EXDEV, ENOSYS}) {
    TempDir dir;
    static int link_error;
    link_error = error;
    Files files = real_files();
    files.linkat = [](int, const char*, int, const char*, int) {
      errno = link_error;
      return -1;
    };
    DiskCache cache(options_for(dir / "cache"), files);
    CHECK(cache.publish(kEntry));
    CHECK(cache.stats().published == 1);
    CHECK(cache.lookup(kEntry.key, kEntry.toolchain) == kEntry);
    CHECK(names_in(dir / "cache/v1/tmp").empty());
  }
}

TEST_CASE("a stale file handle is opened once more", "[cache][faults]") {
  for (const int error : {ESTALE, EIO}) {
    TempDir dir;
    REQUIRE(DiskCache(options_for(dir / "cache")).publish(kEntry));
    static int left, read_error;
    left = 1;
    read_error = error;
    Files files = real_files();
    files.pread = [](int fd, void* data, size_t bytes, off_t offset) -> ssize_t {
      if (left-- <= 0) return ::pread(fd, data, bytes, offset);
      errno = read_error;
      return -1;
    };
    DiskCache cache(options_for(dir / "cache"), files);
    CHECK(cache.lookup(kEntry.key, kEntry.toolchain) == kEntry);
    left = 2;
    CHECK_FALSE(cache.lookup(kEntry.key, kEntry.toolchain));
    CHECK(cache.stats().miss_io == 1);
    CHECK(exists(entry_file(dir / "cache", kEntry.key)));  // a failed read is no damage
  }
}

TEST_CASE("a good entry that replaced a damaged one meanwhile is not moved aside",
          "[cache][faults]") {
  TempDir dir;
  scenario("repair").prepare(dir / "cache");
  static std::string file, spare;
  file = entry_file(dir / "cache", kEntry.key);
  spare = dir / "spare";
  write_bytes(spare, encode(kEntry));
  Files files = real_files();
  files.pread = [](int fd, void* data, size_t bytes, off_t offset) {
    const ssize_t got = ::pread(fd, data, bytes, offset);
    ::rename(spare.c_str(), file.c_str());  // what another process's publish does
    return got;
  };
  DiskCache cache(options_for(dir / "cache"), files);
  CHECK_FALSE(cache.lookup(kEntry.key, kEntry.toolchain));
  CHECK(cache.stats().quarantined == 0);
  CHECK(cache.lookup(kEntry.key, kEntry.toolchain) == kEntry);
}

TEST_CASE("a failing disk warns once, not once per kernel", "[cache][faults]") {
  TempDir dir;
  int warnings = 0;
  Options options = options_for(dir / "cache");
  options.warn = [&](const std::string&) { ++warnings; };
  Files files = real_files();
  files.write = [](int, const void*, size_t) -> ssize_t {
    errno = ENOSPC;
    return -1;
  };
  DiskCache cache(options, files);
  for (int i = 0; i < 10; ++i) CHECK_FALSE(cache.publish(sample_entry(i)));
  CHECK(warnings == 1);
  CHECK(cache.stats().publish_failed == 10);
}

}  // namespace kiln::cache::test
