#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "support.h"
#include "tests/support/catch.h"

namespace kiln::cache::test {
namespace fs = std::filesystem;
namespace {

using Bytes = std::vector<std::byte>;

std::optional<Entry> look(DiskCache& cache, const Entry& entry) {
  return cache.lookup(entry.key, sample_toolchain());
}

// Damages the entry's file, then expects: a miss, one warning, the file moved aside, a new publish
// that replaces it, and a hit.
template <typename Damage>
Stats expect_miss_and_repair(Damage&& damage) {
  TempDir dir;
  std::vector<std::string> warnings;
  Options options = options_for(dir / "cache");
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  const Entry entry = sample_entry(1);
  REQUIRE(DiskCache(options).publish(entry));
  const std::string file = entry_file(options.directory, entry.key);
  damage(file);
  DiskCache cache(options);
  CHECK_FALSE(look(cache, entry));
  CHECK(warnings.size() == 1);
  CHECK_FALSE(exists(file));
  CHECK(names_in(options.directory + "/v1/bad") == std::vector{to_hex(entry.key) + ".bad"});
  CHECK(cache.publish(entry));
  CHECK(look(cache, entry) == entry);
  CHECK(look(cache, entry) == entry);
  CHECK(warnings.size() == 1);
  const Stats stats = cache.stats();
  CHECK(stats.misses == 1);
  CHECK(stats.hits == 2);
  CHECK(stats.quarantined == 1);
  CHECK(stats.published == 1);
  return stats;
}

}  // namespace

TEST_CASE("a published entry is found by the same and by another cache", "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  CHECK(cache.state() == DirectoryState::kUsable);
  CHECK(cache.state_message().empty());
  const Entry entry = sample_entry(1, 70'000);
  CHECK_FALSE(look(cache, entry));
  CHECK(cache.publish(entry));
  CHECK(look(cache, entry) == entry);
  DiskCache other(options_for(dir / "cache"));
  CHECK(look(other, entry) == entry);
  CHECK_FALSE(look(other, sample_entry(2)));
  const Stats stats = cache.stats();
  CHECK(stats.hits == 1);
  CHECK(stats.misses == 1);
  CHECK(stats.miss_absent == 1);
  CHECK(stats.published == 1);
}

TEST_CASE("directories are 0700 and files 0600 under any umask", "[cache][disk]") {
  for (const mode_t mask : {0000, 0022, 0777}) {
    TempDir dir;
    const mode_t before = ::umask(mask);
    DiskCache cache(options_for(dir / "a/b/cache"));
    const Entry entry = sample_entry(1);
    CHECK(cache.publish(entry));
    cache.record_toolchain("toolchain");
    { const KeyLock lock = cache.lock(entry.key, 0); }
    ::umask(before);
    const std::string root = dir / "a/b/cache";
    CAPTURE(mask);
    for (const std::string& path :
         {dir / "a", dir / "a/b", root, root + "/v1", root + "/v1/tmp", root + "/v1/lock",
          root + "/v1/toolchain", root + "/v1/" + to_hex(entry.key).substr(0, 2)}) {
      CHECK((status_of(path).st_mode & 07777) == 0700);
    }
    CHECK((status_of(entry_file(root, entry.key)).st_mode & 07777) == 0600);
    CHECK(names_in(root + "/v1/tmp").empty());
    CHECK(exists(root + "/CACHEDIR.TAG"));
    CHECK(exists(root + "/VERSION"));
    CHECK(DiskCache(options_for(root)).lookup(entry.key, entry.toolchain) == entry);
  }
}

TEST_CASE("a second publisher of a key loses the race and changes nothing", "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  Entry entry = sample_entry(1);
  CHECK(cache.publish(entry));
  Entry other = entry;
  other.log = "another";
  CHECK(cache.publish(other));
  CHECK(look(cache, entry) == entry);
  CHECK(cache.stats().published == 1);
  CHECK(cache.stats().publish_lost_race == 1);
  CHECK(names_in(dir / "cache/v1/tmp").empty());
}

TEST_CASE("a truncated entry is a miss and is replaced", "[cache][disk]") {
  for (const std::size_t size : {0, 1, 255, 256, 700}) {
    const Stats stats = expect_miss_and_repair(
        [&](const std::string& file) { REQUIRE(::truncate(file.c_str(), size) == 0); });
    CHECK(stats.miss_truncated == 1);
  }
}

TEST_CASE("a damaged entry is a miss and is replaced", "[cache][disk][C1]") {
  const auto flip = [](const std::string& file, std::size_t offset) {
    Bytes bytes = read_bytes(file);
    bytes.at(offset) ^= std::byte{0x10};
    write_bytes(file, bytes);
  };
  CHECK(expect_miss_and_repair([&](const auto& f) { flip(f, 3); }).miss_format == 1);
  CHECK(expect_miss_and_repair([&](const auto& f) { flip(f, 40); }).miss_checksum == 1);
  CHECK(expect_miss_and_repair([&](const auto& f) { flip(f, 700); }).miss_checksum == 1);
}

TEST_CASE("an entry larger than the largest allowed is a miss and is not read", "[cache][disk]") {
  const Stats stats = expect_miss_and_repair([](const std::string& file) {
    REQUIRE(::truncate(file.c_str(), static_cast<off_t>(kMaxEntryBytes + 1)) == 0);
  });
  CHECK(stats.miss_format == 1);
}

TEST_CASE("an intact entry under another key's name is a miss and is replaced", "[cache][disk]") {
  const Stats stats = expect_miss_and_repair(
      [](const std::string& file) { write_bytes(file, encode(sample_entry(2))); });
  CHECK(stats.miss_key == 1);
}

TEST_CASE("anything that is not a regular file under an entry's name is a miss and is replaced",
          "[cache][disk]") {
  const auto replaced_by = [](auto make) {
    return expect_miss_and_repair([&](const std::string& file) {
             REQUIRE(::unlink(file.c_str()) == 0);
             REQUIRE(make(file) == 0);
           }).miss_untrusted;
  };
  CHECK(replaced_by([](const auto& f) { return ::mkfifo(f.c_str(), 0600); }) == 1);
  CHECK(replaced_by([](const auto& f) { return ::mkdir(f.c_str(), 0700); }) == 1);
  CHECK(replaced_by([](const auto& f) { return ::symlink("/etc/passwd", f.c_str()); }) == 1);
  CHECK(replaced_by([](const auto& f) { return ::symlink("nowhere", f.c_str()); }) == 1);
}

TEST_CASE("an entry of another toolchain is a miss and the next publish replaces it",
          "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  Entry entry = sample_entry(1);
  CHECK(cache.publish(entry));
  const Digest other = sha256("another toolchain");
  CHECK_FALSE(cache.lookup(entry.key, other));
  CHECK(cache.stats().miss_toolchain == 1);
  CHECK(cache.lookup(entry.key, entry.toolchain) == entry);  // it was not moved aside
  entry.toolchain = other;
  CHECK(cache.publish(entry));
  CHECK(cache.lookup(entry.key, other) == entry);
}

TEST_CASE("a rejected entry is moved aside and rebuilt", "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  const Entry entry = sample_entry(1);
  CHECK(cache.publish(entry));
  cache.reject(entry.key);
  CHECK_FALSE(look(cache, entry));
  CHECK(cache.stats().quarantined == 1);
  CHECK(cache.publish(entry));
  CHECK(look(cache, entry) == entry);
  cache.reject(sample_entry(2).key);  // one that is not there
  CHECK(cache.stats().quarantined == 1);
}

TEST_CASE("at most eight damaged entries are kept aside, the newest", "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  for (int i = 0; i < 20; ++i) {
    const Entry entry = sample_entry(i);
    REQUIRE(cache.publish(entry));
    write_text(entry_file(dir / "cache", entry.key), "damaged");
    CHECK_FALSE(look(cache, entry));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // time stamps that differ
  }
  CHECK(cache.stats().quarantined == 20);
  std::vector<std::string> kept = names_in(dir / "cache/v1/bad");
  CHECK(kept.size() == 8);
  for (int i = 12; i < 20; ++i) {
    CHECK(std::count(kept.begin(), kept.end(), to_hex(sample_entry(i).key) + ".bad") == 1);
  }
}

TEST_CASE("what cannot be an entry is not stored", "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  Entry empty = sample_entry(1);
  empty.cubin.clear();
  CHECK_FALSE(cache.publish(empty));
  Entry large = sample_entry(2, kMaxEntryBytes);
  CHECK_FALSE(cache.publish(large));
  Entry wide = sample_entry(3);
  wide.sm = 0x10000;
  CHECK_FALSE(cache.publish(wide));
  CHECK(cache.stats().publish_failed == 3);
  CHECK(cache.list().empty());
}

TEST_CASE("without a directory everything is a miss and nothing is stored", "[cache][disk]") {
  DiskCache cache(Options{});
  CHECK(cache.state() == DirectoryState::kDisabled);
  CHECK_FALSE(cache.state_message().empty());
  const Entry entry = sample_entry(1);
  CHECK_FALSE(cache.publish(entry));
  CHECK_FALSE(look(cache, entry));
  CHECK_FALSE(cache.lock(entry.key, 1000).held());
  cache.record_toolchain("toolchain");
  CHECK(cache.recorded_toolchains().empty());
  CHECK(cache.list().empty());
  CHECK(cache.prune(0, true).removed_entries == 0);
  cache.reject(entry.key);
}

TEST_CASE("a directory that cannot be made is unusable with a reason", "[cache][disk]") {
  TempDir dir;
  write_text(dir / "file", "");
  std::vector<std::string> warnings;
  Options options = options_for(dir / "file/cache");
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  DiskCache cache(options);
  CHECK(cache.state() == DirectoryState::kUnusable);
  CHECK(warnings == std::vector{cache.state_message()});
  CHECK(cache.state_message().find("file") != std::string::npos);
  CHECK_FALSE(cache.publish(sample_entry(1)));
  CHECK_FALSE(look(cache, sample_entry(1)));
}

TEST_CASE("a cache opened for reading only finds entries and changes nothing", "[cache][disk]") {
  TempDir dir;
  Options options = options_for(dir / "cache");
  options.read_only = true;
  CHECK(DiskCache(options).state() == DirectoryState::kUnusable);  // and it is not created
  CHECK_FALSE(exists(dir / "cache"));

  const Entry good = sample_entry(1);
  const Entry damaged = sample_entry(2);
  {
    DiskCache writer(options_for(dir / "cache"));
    REQUIRE(writer.publish(good));
    REQUIRE(writer.publish(damaged));
    write_text(entry_file(dir / "cache", damaged.key), "damaged");
    set_age(entry_file(dir / "cache", good.key), 10'000);
  }
  const std::string before = snapshot(dir / "cache");
  DiskCache cache(options);
  CHECK(cache.state() == DirectoryState::kReadOnly);
  CHECK(look(cache, good) == good);
  CHECK_FALSE(look(cache, damaged));
  CHECK_FALSE(cache.publish(sample_entry(3)));
  CHECK_FALSE(cache.lock(good.key, 1000).held());
  CHECK(cache.prune(0, true).removed_entries == 0);
  CHECK(cache.list().size() == 2);
  cache.record_toolchain("toolchain");
  cache.reject(good.key);
  CHECK(snapshot(dir / "cache") == before);
}

TEST_CASE("a hit refreshes an entry's time stamp at most once an hour", "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  const Entry entry = sample_entry(1);
  REQUIRE(cache.publish(entry));
  const std::string file = entry_file(dir / "cache", entry.key);
  set_age(file, 1800);
  const auto half_an_hour_ago = status_of(file).st_mtim.tv_sec;
  CHECK(look(cache, entry));
  CHECK(status_of(file).st_mtim.tv_sec == half_an_hour_ago);
  set_age(file, 7200);
  CHECK(look(cache, entry));
  CHECK(status_of(file).st_mtim.tv_sec > half_an_hour_ago);
}

TEST_CASE("a cache whose directory is removed makes it again", "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  const Entry entry = sample_entry(1);
  REQUIRE(cache.publish(entry));
  REQUIRE(fs::remove_all(dir / "cache") > 0);
  CHECK(cache.publish(entry));  // without a lookup before
  CHECK(look(cache, entry) == entry);
  REQUIRE(fs::remove_all(dir / "cache") > 0);
  CHECK_FALSE(look(cache, entry));
  CHECK(cache.publish(entry));
  CHECK(look(cache, entry) == entry);
  REQUIRE(fs::remove_all(dir / "cache/v1") > 0);
  CHECK(cache.publish(entry));
  CHECK(look(cache, entry) == entry);
}

TEST_CASE("a reader follows when another process makes a removed directory again",
          "[cache][disk]") {
  TempDir dir;
  DiskCache reader(options_for(dir / "cache"));
  const Entry entry = sample_entry(1);
  REQUIRE(fs::remove_all(dir / "cache") > 0);
  REQUIRE(DiskCache(options_for(dir / "cache")).publish(entry));
  CHECK_FALSE(look(reader, entry));  // sees that its directory is gone
  CHECK(look(reader, entry) == entry);
}

TEST_CASE("recorded toolchains come back newest first, each once", "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  const auto file = [&](const char* text) {
    return dir / ("cache/v1/toolchain/" + to_hex(sha256(text)));
  };
  CHECK(cache.recorded_toolchains().empty());
  for (const char* text : {"one", "two", "three"}) cache.record_toolchain(text);
  set_age(file("one"), 30);
  set_age(file("two"), 20);
  set_age(file("three"), 10);
  CHECK(cache.recorded_toolchains() == std::vector<std::string>{"three", "two", "one"});
  cache.record_toolchain("one");
  CHECK(cache.recorded_toolchains() == std::vector<std::string>{"one", "three", "two"});
  set_age(file("one"), 5);  // two of one tick of the file system's clock have no order
  write_text(file("three"), "Three");
  CHECK(cache.recorded_toolchains() == std::vector<std::string>{"one", "two"});
  cache.record_toolchain("three");
  CHECK(cache.recorded_toolchains() == std::vector<std::string>{"three", "one", "two"});
  set_age(file("three"), 5);
  cache.record_toolchain("");
  cache.record_toolchain(std::string(4097, 'x'));
  CHECK(cache.recorded_toolchains().size() == 3);
  const std::string longest(4096, 'x');
  cache.record_toolchain(longest);
  CHECK(cache.recorded_toolchains().front() == longest);
}

TEST_CASE("at most sixty-four toolchains are kept, the newest", "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  for (int i = 0; i < 70; ++i) {
    const std::string text = "toolchain " + std::to_string(i);
    cache.record_toolchain(text);
    set_age(dir / ("cache/v1/toolchain/" + to_hex(sha256(text))), 1000 - i);
  }
  const std::vector<std::string> kept = cache.recorded_toolchains();
  REQUIRE(kept.size() == 64);
  CHECK(kept.front() == "toolchain 69");
  CHECK(kept.back() == "toolchain 6");
}

TEST_CASE("the list shows every entry, sorted, with what is wrong", "[cache][disk]") {
  TempDir dir;
  DiskCache cache(options_for(dir / "cache"));
  std::vector<Entry> entries;
  for (int i = 0; i < 6; ++i) entries.push_back(sample_entry(i));
  std::sort(entries.begin(), entries.end(), [](auto& a, auto& b) { return a.key < b.key; });
  for (const Entry& entry : entries) REQUIRE(cache.publish(entry));
  const auto file = [&](int i) { return entry_file(dir / "cache", entries[i].key); };
  write_bytes(file(1), encode(entries[0]));
  write_text(file(2), "damaged");
  REQUIRE(::chmod(file(3).c_str(), 0666) == 0);
  set_age(file(4), 5000);
  const std::vector<ListedEntry> listed = cache.list();
  REQUIRE(listed.size() == 6);
  for (int i = 0; i < 6; ++i) CHECK(listed[i].path == file(i));
  CHECK(std::get<Entry>(listed[0].content) == entries[0]);
  CHECK(std::get<Defect>(listed[1].content) == Defect::kKeyMismatch);
  CHECK(std::get<Defect>(listed[2].content) == Defect::kTruncated);
  CHECK(listed[3].untrusted);
  CHECK(std::get<Defect>(listed[3].content) == Defect::kFormat);
  CHECK(listed[4].modified_unix_s < listed[5].modified_unix_s - 4000);
  CHECK(listed[5].bytes == encode(entries[5]).size());
  CHECK_FALSE(listed[5].untrusted);
}

TEST_CASE("the default directory follows the environment and is never shared", "[cache][disk]") {
  TempDir dir;
  CHECK(in_child([&] {
          ::setenv("XDG_CACHE_HOME", (dir / "xdg").c_str(), 1);
          ::setenv("HOME", dir.path().c_str(), 1);
          if (default_directory() != dir / "xdg/kiln") return 1;
          ::setenv("XDG_CACHE_HOME", "relative", 1);
          if (default_directory() != dir / ".cache/kiln") return 2;
          ::unsetenv("XDG_CACHE_HOME");
          if (default_directory() != dir / ".cache/kiln") return 3;
          ::setenv("HOME", (dir / "nowhere").c_str(), 1);
          if (!default_directory().empty()) return 4;
          ::setenv("HOME", "", 1);
          if (!default_directory().empty()) return 5;
          ::unsetenv("HOME");
          return default_directory().empty() ? 0 : 6;
        }) == 0);
}

TEST_CASE("opening a cache and finding an entry cost little more than the digest that verifies it",
          "[cache][disk][speed]") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  KILN_SKIP("times under a sanitizer say nothing");
#else
  using Clock = std::chrono::steady_clock;
  TempDir dir;
  const Entry entry = sample_entry(1, 65536);
  REQUIRE(DiskCache(options_for(dir / "cache")).publish(entry));
  const std::vector<std::byte> bytes = encode(entry);
  std::vector<double> open_us, lookup_us, digest_us;
  const auto us = [](auto from, auto to) {
    return std::chrono::duration<double, std::micro>(to - from).count();
  };
  for (int i = 0; i < 301; ++i) {  // interleaved, so that a busy machine slows all three alike
    const auto start = Clock::now();
    DiskCache cache(options_for(dir / "cache"));
    const auto opened = Clock::now();
    REQUIRE(cache.lookup(entry.key, entry.toolchain));
    const auto found = Clock::now();
    REQUIRE(sha256(bytes) != Digest{});
    const auto digested = Clock::now();
    open_us.push_back(us(start, opened));
    lookup_us.push_back(us(opened, found));
    digest_us.push_back(us(found, digested));
  }
  for (auto* times : {&open_us, &lookup_us, &digest_us}) std::sort(times->begin(), times->end());
  INFO("medians: open " << open_us[150] << " us, lookup " << lookup_us[150] << " us, digest of "
                        << bytes.size() << " bytes " << digest_us[150] << " us");
  CHECK(open_us[150] < 10 * digest_us[150]);
  CHECK(lookup_us[150] < 10 * digest_us[150]);
#endif
}

}  // namespace kiln::cache::test
