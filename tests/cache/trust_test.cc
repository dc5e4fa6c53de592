// Who may own and write a cache directory. The matrix runs as the user of the test and, when that
// is root, a second time in a process that gave up its rights.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>

#include "support.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

namespace kiln::cache::test {
namespace {

constexpr uid_t kOrdinary = 12'345;
constexpr uid_t kStranger = 54'321;
constexpr mode_t kOthersWrite = S_IWGRP | S_IWOTH;

bool is_root() { return ::geteuid() == 0; }

// The users that the matrix runs as.
std::vector<uid_t> actors() {
  if (is_root()) return {0, kOrdinary};
  WARN("not run: the rows of other users, since only root can become them and give files away");
  return {::geteuid()};
}

// The owners that a directory or a file can have in the matrix.
std::vector<uid_t> owners(uid_t actor) {
  if (!is_root()) return {actor};
  return actor == 0 ? std::vector<uid_t>{0, kStranger} : std::vector<uid_t>{actor, 0, kStranger};
}

void make_directory(const std::string& path, uid_t owner, mode_t mode) {
  REQUIRE(::mkdir(path.c_str(), 0700) == 0);
  REQUIRE(::lchown(path.c_str(), owner, owner) == 0);
  REQUIRE(::chmod(path.c_str(), mode) == 0);
}

void give(const std::string& path, uid_t owner) {
  REQUIRE(::lchown(path.c_str(), owner, owner) == 0);
}

// Runs a question about a cache as `actor` and returns its answer.
int as(uid_t actor, const std::function<int()>& question) {
  return in_child([&] { return become(actor) ? question() : 98; });
}

// What this program asked so far, and how often the answer was no.
int cases_asked = 0;
int cases_refused = 0;

void report_cases(const std::string& of) {
  kiln::test::report_figures(of + ": " + std::to_string(cases_asked) + " cases as " +
                             std::to_string(actors().size()) + " users, " +
                             std::to_string(cases_refused) + " refused");
  cases_asked = cases_refused = 0;
}

DirectoryState state_as(uid_t actor, const Options& options) {
  const auto state = static_cast<DirectoryState>(
      as(actor, [&] { return static_cast<int>(DiskCache(options).state()); }));
  ++cases_asked;
  cases_refused += state == DirectoryState::kUntrusted;
  return state;
}

constexpr int kHit = 1, kMissUntrusted = 2, kMissOther = 3;

int lookup_as(uid_t actor, const Options& options, const Entry& entry) {
  const int answer = as(actor, [&] {
    DiskCache cache(options);
    const auto found = cache.lookup(entry.key, entry.toolchain);
    if (found) return *found == entry ? kHit : 97;
    return cache.stats().miss_untrusted == 1 ? kMissUntrusted : kMissOther;
  });
  ++cases_asked;
  cases_refused += answer != kHit;
  return answer;
}

Options as_layer(const std::string& path) {
  Options options;
  options.layers = {path};
  return options;
}

// A cache directory of `owner` with one entry in it.
void fill_as(uid_t owner, const std::string& path, const Entry& entry) {
  make_directory(path, owner, 0700);
  REQUIRE(as(owner, [&] { return DiskCache(options_for(path)).publish(entry) ? 0 : 1; }) == 0);
}

}  // namespace

TEST_CASE("a directory is used only when this user owns it and nobody else can write it",
          "[cache][trust]") {
  TempDir dir;
  int number = 0;
  for (const uid_t actor : actors()) {
    for (const uid_t owner : owners(actor)) {
      for (const mode_t mode :
           {0700, 0755, 0750, 0711, 0720, 0702, 0770, 0775, 0777, 01777, 02755}) {
        const std::string path = dir / ("leaf" + std::to_string(number++));
        make_directory(path, owner, mode);
        const bool trusted = owner == actor && (mode & kOthersWrite) == 0;
        CAPTURE(actor, owner, mode);
        CHECK(state_as(actor, options_for(path)) ==
              (trusted ? DirectoryState::kUsable : DirectoryState::kUntrusted));
        if (!trusted) CHECK(names_in(path).empty());
      }
    }
  }
  report_cases("owner and mode of the directory");
}

TEST_CASE("a directory below one that others can write is refused", "[cache][trust]") {
  TempDir dir;
  int number = 0;
  for (const uid_t actor : actors()) {
    for (const uid_t owner : owners(actor)) {
      for (const mode_t mode : {0755, 0711, 0775, 0757, 0777, 01775, 01757, 01777}) {
        for (const bool parent : {true, false}) {  // or the parent's parent
          const std::string above = dir / ("above" + std::to_string(number++));
          make_directory(above, owner, mode);
          const std::string between = parent ? above : above + "/between";
          if (!parent) make_directory(between, actor, 0700);
          make_directory(between + "/cache", actor, 0700);
          const bool private_group = actor != 0 && owner == actor && (mode & S_IWOTH) == 0;
          const bool trusted = (mode & kOthersWrite) == 0 || (mode & S_ISVTX) != 0 || private_group;
          CAPTURE(actor, owner, mode, parent);
          CHECK(state_as(actor, options_for(between + "/cache")) ==
                (trusted ? DirectoryState::kUsable : DirectoryState::kUntrusted));
        }
      }
    }
  }
  report_cases("ancestors");
}

TEST_CASE("a directory is not created below one that others can write", "[cache][trust]") {
  TempDir dir;
  make_directory(dir / "open", ::geteuid(), 0777);
  make_directory(dir / "sticky", ::geteuid(), 01777);
  CHECK(DiskCache(options_for(dir / "open/a/cache")).state() == DirectoryState::kUntrusted);
  CHECK(names_in(dir / "open").empty());
  CHECK(DiskCache(options_for(dir / "sticky/a/cache")).state() == DirectoryState::kUsable);
}

TEST_CASE("an ancestor of another group than the user's own must not be writable by it",
          "[cache][trust]") {
  if (!is_root()) KILN_SKIP("only root can give a directory to another group");
  TempDir dir;
  make_directory(dir / "group", kOrdinary, 0775);
  make_directory(dir / "group/cache", kOrdinary, 0700);
  CHECK(state_as(kOrdinary, options_for(dir / "group/cache")) == DirectoryState::kUsable);
  REQUIRE(::lchown((dir / "group").c_str(), kOrdinary, kStranger) == 0);
  CHECK(state_as(kOrdinary, options_for(dir / "group/cache")) == DirectoryState::kUntrusted);
}

TEST_CASE("a cache directory that is a symbolic link is refused, as a layer it is followed",
          "[cache][trust]") {
  TempDir dir;
  for (const uid_t actor : actors()) {
    const std::string here = dir / std::to_string(actor);
    make_directory(here, actor, 0755);
    const Entry entry = sample_entry(1);
    fill_as(actor, here + "/real", entry);
    REQUIRE(::symlink("real", (here + "/link").c_str()) == 0);
    REQUIRE(::symlink((here + "/real").c_str(), (here + "/absolute").c_str()) == 0);
    REQUIRE(::symlink("loop", (here + "/loop").c_str()) == 0);
    for (const char* link : {"/link", "/link/", "/link/.", "/absolute"}) {
      CAPTURE(actor, link);
      CHECK(state_as(actor, options_for(here + link)) == DirectoryState::kUntrusted);
      CHECK(lookup_as(actor, options_for(here + link), entry) == kMissOther);
      CHECK(lookup_as(actor, as_layer(here + link), entry) == kHit);
    }
    CHECK(lookup_as(actor, as_layer(here + "/loop"), entry) == kMissOther);
  }
  report_cases("symbolic links");
}

TEST_CASE("a symbolic link on the way is followed and its target's ancestors are checked",
          "[cache][trust]") {
  TempDir dir;
  const uid_t self = ::geteuid();
  make_directory(dir / "good", self, 0755);
  make_directory(dir / "open", self, 0777);
  make_directory(dir / "open/below", self, 0755);
  REQUIRE(::symlink("good", (dir / "to_good").c_str()) == 0);
  REQUIRE(::symlink((dir / "open/below").c_str(), (dir / "to_open").c_str()) == 0);
  REQUIRE(::symlink("../good", (dir / "good/up").c_str()) == 0);
  REQUIRE(::symlink("to_good/up/up", (dir / "chain").c_str()) == 0);
  CHECK(DiskCache(options_for(dir / "to_good/cache")).state() == DirectoryState::kUsable);
  CHECK(exists(dir / "good/cache"));
  CHECK(DiskCache(options_for(dir / "chain/cache")).state() == DirectoryState::kUsable);
  const std::string winding = dir / "good/../good/./up//cache";
  CHECK(DiskCache(options_for(winding)).state() == DirectoryState::kUsable);
  CHECK(DiskCache(options_for(dir / "to_open/cache")).state() == DirectoryState::kUntrusted);
  CHECK_FALSE(exists(dir / "open/below/cache"));
}

TEST_CASE("a stranger's symbolic link in a sticky directory is not followed", "[cache][trust]") {
  if (!is_root()) KILN_SKIP("only root can make another user's link");
  TempDir dir;
  make_directory(dir / "sticky", 0, 01777);
  for (const uid_t actor : actors()) {
    const std::string real = dir / ("real" + std::to_string(actor));
    make_directory(real, actor, 0755);
    for (const uid_t owner : {kStranger, kOrdinary, uid_t{0}}) {
      const std::string link = dir / ("sticky/" + std::to_string(actor) + std::to_string(owner));
      REQUIRE(::symlink(real.c_str(), link.c_str()) == 0);
      give(link, owner);
      const bool trusted = owner == actor || owner == 0;
      CAPTURE(actor, owner);
      CHECK(state_as(actor, options_for(link + "/cache")) ==
            (trusted ? DirectoryState::kUsable : DirectoryState::kUntrusted));
    }
  }
}

TEST_CASE("a layer is used when this user or root owns it and nobody else can write it",
          "[cache][trust]") {
  TempDir dir;
  const Entry entry = sample_entry(1);
  int number = 0;
  for (const uid_t actor : actors()) {
    for (const uid_t owner : owners(actor)) {
      for (const mode_t mode : {0755, 0775, 0757, 0777}) {
        const std::string path = dir / ("layer" + std::to_string(number++));
        fill_as(0 == ::geteuid() ? owner : actor, path, entry);
        REQUIRE(::chmod(path.c_str(), mode) == 0);
        // The layer of a system is readable for all.
        REQUIRE(std::system(("chmod a+X '" + path + "'/v1 '" + path + "'/v1/*").c_str()) == 0);
        REQUIRE(::chmod(entry_file(path, entry.key).c_str(), 0644) == 0);
        const bool trusted = (owner == actor || owner == 0) && (mode & kOthersWrite) == 0;
        CAPTURE(actor, owner, mode);
        CHECK(lookup_as(actor, as_layer(path), entry) == (trusted ? kHit : kMissOther));
      }
    }
  }
  report_cases("layers");
}

TEST_CASE("an entry is loaded only when this user or root owns it and nobody else can write it",
          "[cache][trust]") {
  TempDir dir;
  const Entry entry = sample_entry(1);
  int number = 0;
  for (const uid_t actor : actors()) {
    for (const uid_t owner : owners(actor)) {
      for (const mode_t mode : {0600, 0644, 0444, 0620, 0602, 0664, 0646, 0666, 0777}) {
        const std::string path = dir / ("cache" + std::to_string(number++));
        fill_as(actor, path, entry);
        const std::string file = entry_file(path, entry.key);
        give(file, owner);
        REQUIRE(::chmod(file.c_str(), mode) == 0);
        const bool trusted = (owner == actor || owner == 0) && (mode & kOthersWrite) == 0;
        const bool readable = actor == 0 || owner == actor || (mode & S_IROTH) != 0;
        CAPTURE(actor, owner, mode);
        const int expected = !readable ? kMissOther : trusted ? kHit : kMissUntrusted;
        CHECK(lookup_as(actor, options_for(path), entry) == expected);
      }
    }
  }
  report_cases("entries");
}

// The root was checked; below it a directory may have been opened to others by hand.
TEST_CASE("an entry of a stranger is not loaded from a shard that others can write",
          "[cache][trust]") {
  if (!is_root()) KILN_SKIP("only root can make another user's entry");
  TempDir dir;
  const Entry entry = sample_entry(1);
  int number = 0;
  for (const uid_t actor : actors()) {
    for (const uid_t owner : owners(actor)) {
      for (const mode_t mode : {0755, 0775, 0777, 01777}) {
        for (const bool version_too : {false, true}) {
          const std::string path = dir / ("root" + std::to_string(number++));
          fill_as(actor, path, entry);
          REQUIRE(::chmod(path.c_str(), 0755) == 0);
          const std::string shard = path + "/v1/" + to_hex(entry.key).substr(0, 2);
          REQUIRE(::chmod(shard.c_str(), mode) == 0);
          if (version_too) REQUIRE(::chmod((path + "/v1").c_str(), mode) == 0);
          const std::string file = entry_file(path, entry.key);
          REQUIRE(::unlink(file.c_str()) == 0);  // replaced, as whoever may write the shard can
          write_bytes(file, encode(entry));
          REQUIRE(::chmod(file.c_str(), 0644) == 0);
          give(file, owner);
          CAPTURE(actor, owner, mode, version_too);
          CHECK(lookup_as(actor, options_for(path), entry) ==
                (owner == actor || owner == 0 ? kHit : kMissUntrusted));
        }
      }
    }
  }
  report_cases("entries of strangers in open shards");
}

TEST_CASE("a directory without write permission is read only and says so", "[cache][trust]") {
  if (!is_root()) KILN_SKIP("the case needs a user made for it, which only root can become");
  TempDir dir;
  const Entry entry = sample_entry(1);
  fill_as(kOrdinary, dir / "cache", entry);
  REQUIRE(::chmod((dir / "cache").c_str(), 0500) == 0);
  CHECK(state_as(kOrdinary, options_for(dir / "cache")) == DirectoryState::kReadOnly);
  CHECK(lookup_as(kOrdinary, options_for(dir / "cache"), entry) == kHit);
  CHECK(as(kOrdinary, [&] {
          DiskCache cache(options_for(dir / "cache"));
          return cache.publish(sample_entry(2)) || cache.state_message().empty() ? 1 : 0;
        }) == 0);
}

TEST_CASE("a refusal names the rule, the place and the remedy in one warning", "[cache][trust]") {
  TempDir dir;
  make_directory(dir / "cache", ::geteuid(), 0777);
  std::vector<std::string> warnings;
  Options options = options_for(dir / "cache");
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  DiskCache cache(options);
  CHECK(warnings == std::vector{cache.state_message()});
  CHECK(cache.state_message().find(dir / "cache") != std::string::npos);
  CHECK(cache.state_message().find("0777") != std::string::npos);
  CHECK(cache.state_message().find("chmod go-w") != std::string::npos);
  CHECK_FALSE(cache.publish(sample_entry(1)));
  CHECK(warnings.size() == 1);
}

}  // namespace kiln::cache::test
