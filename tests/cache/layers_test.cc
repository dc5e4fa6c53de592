#include <unistd.h>

#include "support.h"
#include "tests/support/catch.h"

namespace kiln::cache::test {

TEST_CASE("layers are searched in order before the directory and never written",
          "[cache][layers]") {
  TempDir dir;
  Entry first = sample_entry(1), second = sample_entry(1), own = sample_entry(1);
  first.log = "first";
  second.log = "second";
  own.log = "own";
  const Entry only_second = sample_entry(2), only_own = sample_entry(3), nowhere = sample_entry(4);
  {
    DiskCache one(options_for(dir / "one")), two(options_for(dir / "two")),
        three(options_for(dir / "own"));
    REQUIRE(one.publish(first));
    REQUIRE(two.publish(second));
    REQUIRE(two.publish(only_second));
    REQUIRE(three.publish(own));
    REQUIRE(three.publish(only_own));
    one.record_toolchain("of the first layer");
    three.record_toolchain("of the directory");
  }
  set_age(entry_file(dir / "one", first.key), 10'000);  // a touch would be due
  const std::string before = snapshot(dir / "one") + snapshot(dir / "two");

  Options options = options_for(dir / "own");
  options.layers = {dir / "one", dir / "two"};
  DiskCache cache(options);
  CHECK(cache.lookup(first.key, sample_toolchain()) == first);
  CHECK(cache.lookup(only_second.key, sample_toolchain()) == only_second);
  CHECK(cache.lookup(only_own.key, sample_toolchain()) == only_own);
  CHECK_FALSE(cache.lookup(nowhere.key, sample_toolchain()));
  CHECK(cache.publish(nowhere));
  CHECK(cache.lookup(nowhere.key, sample_toolchain()) == nowhere);
  CHECK(exists(entry_file(dir / "own", nowhere.key)));
  CHECK_FALSE(exists(entry_file(dir / "own", only_second.key)));  // hits are not copied
  cache.prune(0, true);
  CHECK(cache.recorded_toolchains().size() == 2);
  CHECK(snapshot(dir / "one") + snapshot(dir / "two") == before);
}

TEST_CASE("a damaged entry of a layer is passed over, not touched, and built once",
          "[cache][layers]") {
  TempDir dir;
  const Entry entry = sample_entry(1);
  REQUIRE(DiskCache(options_for(dir / "layer")).publish(entry));
  const std::string file = entry_file(dir / "layer", entry.key);
  std::vector<std::byte> bytes = read_bytes(file);
  bytes.back() ^= std::byte{1};
  write_bytes(file, bytes);
  const std::string before = snapshot(dir / "layer");

  std::vector<std::string> warnings;
  Options options = options_for(dir / "own");
  options.layers = {dir / "layer"};
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  DiskCache cache(options);
  CHECK_FALSE(cache.lookup(entry.key, entry.toolchain));
  CHECK(cache.publish(entry));
  CHECK(cache.lookup(entry.key, entry.toolchain) == entry);
  CHECK(cache.stats().miss_checksum == 1);
  CHECK(cache.stats().quarantined == 0);
  CHECK(warnings.size() == 1);
  CHECK(snapshot(dir / "layer") == before);

  DiskCache next(options);  // finds the good copy behind the damaged one
  CHECK(next.lookup(entry.key, entry.toolchain) == entry);
  CHECK(next.stats().misses == 0);
}

TEST_CASE("a rejected entry of a layer is not offered again", "[cache][layers]") {
  TempDir dir;
  const Entry entry = sample_entry(1);
  REQUIRE(DiskCache(options_for(dir / "layer")).publish(entry));
  Options options = options_for(dir / "own");
  options.layers = {dir / "layer"};
  DiskCache cache(options);
  CHECK(cache.lookup(entry.key, entry.toolchain));
  cache.reject(entry.key);
  CHECK_FALSE(cache.lookup(entry.key, entry.toolchain));
  Entry rebuilt = entry;
  rebuilt.log = "rebuilt";
  CHECK(cache.publish(rebuilt));
  CHECK(cache.lookup(entry.key, entry.toolchain) == rebuilt);
}

TEST_CASE("layers serve a cache without a directory", "[cache][layers]") {
  TempDir dir;
  const Entry entry = sample_entry(1);
  {
    DiskCache layer(options_for(dir / "layer"));
    REQUIRE(layer.publish(entry));
    layer.record_toolchain("the layer's");
  }
  Options options;
  options.layers = {dir / "layer"};
  DiskCache cache(options);
  CHECK(cache.state() == DirectoryState::kDisabled);
  CHECK(cache.lookup(entry.key, entry.toolchain) == entry);
  CHECK(cache.recorded_toolchains() == std::vector<std::string>{"the layer's"});
  CHECK_FALSE(cache.publish(sample_entry(2)));
}

TEST_CASE("a layer that does not exist is a warning, is skipped and is not made",
          "[cache][layers]") {
  TempDir dir;
  std::vector<std::string> warnings;
  Options options = options_for(dir / "own");
  options.layers = {dir / "missing"};
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  DiskCache cache(options);
  CHECK(cache.state() == DirectoryState::kUsable);
  CHECK(warnings.size() == 1);
  CHECK_FALSE(exists(dir / "missing"));
  CHECK(cache.publish(sample_entry(1)));
}

}  // namespace kiln::cache::test
