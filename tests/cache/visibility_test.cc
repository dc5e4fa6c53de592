// Network file systems: what one node wrote the others may not see for a minute, and the answer to
// a call that was done may be lost. No process depends on either.
#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

#include "engine_support.h"
#include "hooked_files.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

namespace kiln::cache::test {
namespace {

using kiln::test::by_scale;
using kiln::test::report_figures;

enum class Trouble {
  kHidden,  // no entry is ever seen, not even one's own: a negative name cached for a minute
  kHiddenOfOthers,  // entries of other processes are not seen
  kStale,           // opening an entry gives ESTALE, unlinking gives EBUSY
  kLostReplies,     // link, rename, unlink and mkdir are done and reported as failed
  kLostRename,      // no links; rename is done and reported as ENOENT
  kNoLockServer,    // flock() gives ENOLCK
};
constexpr Trouble kTroubles[] = {Trouble::kHidden,     Trouble::kHiddenOfOthers,
                                 Trouble::kStale,      Trouble::kLostReplies,
                                 Trouble::kLostRename, Trouble::kNoLockServer};

bool is_entry(std::string_view path) { return path.ends_with(".kiln"); }

class Network final : public CallHook {
 public:
  explicit Network(Trouble trouble) : trouble_(trouble) {}

  int before(const Call& call) override {
    const bool reads_entry = call.name == "openat" && is_entry(call.path);
    switch (trouble_) {
      case Trouble::kHidden:
        return reads_entry ? ENOENT : 0;
      case Trouble::kHiddenOfOthers:
        return reads_entry && own_.count(call.path) == 0 ? ENOENT : 0;
      case Trouble::kStale:
        if (call.name == "unlinkat") return EBUSY;
        return reads_entry ? ESTALE : 0;
      case Trouble::kLostRename:
        return call.name == "linkat" ? EPERM : 0;
      case Trouble::kNoLockServer:
        return call.name == "flock" ? ENOLCK : 0;
      case Trouble::kLostReplies:
        return 0;
    }
    return 0;
  }

  int after(const Call& call, bool succeeded) override {
    if (!succeeded) return 0;
    if (call.name == "linkat") own_.insert(call.second_path);
    if (trouble_ == Trouble::kLostReplies) {
      if (call.name == "linkat" || call.name == "mkdirat") return EEXIST;
      if (call.name == "unlinkat") return ENOENT;
      if (call.name == "close") return ESTALE;
    }
    if (trouble_ == Trouble::kLostRename && call.name == "renameat") return ENOENT;
    return 0;
  }

 private:
  const Trouble trouble_;
  std::set<std::string> own_;
};

}  // namespace

TEST_CASE("processes on a network file system never need to see what others wrote",
          "[contract][C5]") {
  Crowd crowd;
  crowd.processes = by_scale(4, 32);
  crowd.keys = by_scale(8, 64);
  crowd.compile_ms = 1;
  crowd.files = &hooked_files();
  int runs = 0;
  for (const Trouble trouble : kTroubles) {
    for (int round = 0; round < by_scale(2, 10); ++round) {
      TempDir dir;
      crowd.prepare = [trouble](int) { call_hook = new Network(trouble); };
      CAPTURE(static_cast<int>(trouble), round);
      const CrowdResult result = run_crowd(dir / "cache", crowd);
      REQUIRE(result.failed_processes == 0);
      REQUIRE(result.compiles >= crowd.keys);
      REQUIRE(result.compiles <= crowd.keys * crowd.processes);
      // A node that sees all finds whole entries, or none.
      DiskCache cache(options_for(dir / "cache"));
      for (const ListedEntry& entry : cache.list()) {
        REQUIRE(std::holds_alternative<Entry>(entry.content));
      }
      ++runs;
    }
  }
  report_figures(std::to_string(std::size(kTroubles)) + " kinds of network trouble, " +
                 std::to_string(runs) + " runs of " + std::to_string(crowd.processes) +
                 " processes x " + std::to_string(crowd.keys) + " keys: 0 failures");
}

TEST_CASE("an engine gives the right kernel whichever system call of its cache fails",
          "[contract][C2]") {
  struct Failing final : CallHook {
    int before(const Call&) override {
      ++calls;
      if (calls != at || after_it) return 0;
      return error;
    }
    int after(const Call&, bool) override { return calls == at && after_it ? error : 0; }
    int at = 0, error = 0, calls = 0;
    bool after_it = false;
  } failing;
  const jit::KernelSpec spec = kernel_number(1);
  const auto run = [&](int at, int error, bool after_it) {
    TempDir dir(TempDir::Where::kInMemory);
    failing.at = at;
    failing.error = error;
    failing.after_it = after_it;
    failing.calls = 0;
    call_hook = &failing;
    {
      runtime::Engine engine(engine_options(dir / "cache", &hooked_files()));
      REQUIRE(is_right(spec, engine.cubin_for(spec)));
      REQUIRE(is_right(spec, engine.cubin_for(spec)));
    }
    call_hook = nullptr;
    runtime::Engine next(engine_options(dir / "cache"));
    REQUIRE(is_right(spec, next.cubin_for(spec)));
    REQUIRE(is_right(spec, next.cubin_for(spec)));
    REQUIRE(next.hits() >= 1);  // healed
  };
  run(0, 0, false);
  const int last = failing.calls;
  REQUIRE(last > 40);
  std::vector<int> errors = {ENOSPC, EIO, ESTALE};
  if (kiln::test::is_full_scale()) {
    errors = {ENOSPC, EIO,   EDQUOT, EROFS,  EACCES, EPERM,   EMFILE,
              ENFILE, EINTR, ESTALE, ENOMEM, ENOENT, ENOTDIR, EEXIST};
  }
  int runs = 0;
  for (int at = 1; at <= last; ++at) {
    for (const int error : errors) {
      for (const bool after_it : {false, true}) {
        CAPTURE(at, error, after_it);
        run(at, error, after_it);
        ++runs;
      }
    }
  }
  report_figures("engine: " + std::to_string(last) + " system calls, " +
                 kiln::test::with_commas(runs) + " faults, 0 failed calls, all healed");
}

}  // namespace kiln::cache::test
