// Bundles: the same bytes from the same kernels, everything verified, nothing believed.
#include "cache/bundle.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "support.h"
#include "tests/support/catch.h"

namespace kiln::cache::test {
namespace {

// An entry as the engine makes them: its key is the digest of a key text that names the toolchain.
Entry made_entry(std::uint64_t seed, const std::string& toolchain = "fake 1.2 [--one]") {
  Entry entry = sample_entry(seed);
  entry.key_text = KeyBuilder("kiln-test-1")
                       .add("seed", static_cast<std::int64_t>(seed))
                       .add("toolchain", toolchain)
                       .add("last", "x")
                       .text();
  entry.key = sha256(entry.key_text);
  entry.toolchain = sha256(toolchain);
  return entry;
}

std::vector<std::byte> bundle_of(std::vector<Entry> entries) {
  auto encoded = encode_bundle(std::move(entries));
  if (const auto* error = std::get_if<BundleError>(&encoded)) FAIL(error->message);
  return std::get<std::vector<std::byte>>(std::move(encoded));
}

Bundle opened(const std::vector<std::byte>& bytes) {
  auto bundle = Bundle::of_bytes(bytes);
  if (const auto* error = std::get_if<BundleError>(&bundle)) FAIL(error->message);
  return std::get<Bundle>(std::move(bundle));
}

// Why these bytes are refused; fails when they are not.
std::string refusal(const std::vector<std::byte>& bytes) {
  const auto bundle = Bundle::of_bytes(bytes);
  const auto* error = std::get_if<BundleError>(&bundle);
  return error != nullptr ? error->message : std::string();
}

void put_u64(std::vector<std::byte>& bytes, std::size_t offset, std::uint64_t value) {
  for (std::size_t i = 0; i < 8; ++i) bytes[offset + i] = static_cast<std::byte>(value >> (8 * i));
}

// What a writer that means harm would do: the digest at the end is right whatever stands before it.
std::vector<std::byte> resealed(std::vector<std::byte> bytes) {
  const Digest sum = sha256(std::span<const std::byte>(bytes).first(bytes.size() - 32));
  std::memcpy(bytes.data() + bytes.size() - 32, sum.data(), sum.size());
  return bytes;
}

std::size_t manifest_offset(const std::vector<std::byte>& bytes) {
  std::uint64_t offset = 0;
  std::memcpy(&offset, bytes.data() + bytes.size() - 64, 8);
  return offset;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a bundle has the same bytes in whatever order and whenever its kernels were compiled",
          "[cache][bundle]") {
  std::vector<Entry> entries;
  for (std::uint64_t i = 0; i < 20; ++i) entries.push_back(made_entry(i));
  const auto bytes = bundle_of(entries);
  std::reverse(entries.begin(), entries.end());
  for (Entry& entry : entries) {
    entry.created_unix_s += 77;
    entry.compile_us += 5;
    entry.log += "compiled elsewhere";
  }
  entries.push_back(entries.front());
  CHECK(bundle_of(entries) == bytes);
  entries.front().cubin[0] ^= std::byte{1};
  CHECK(bundle_of(entries) != bytes);

  const Bundle bundle = opened(bytes);
  CHECK(bundle.items().size() == 20);
  CHECK(bundle.digest() == sha256(bytes));
  std::vector<Entry> read;
  for (const BundleItem& item : bundle.items()) read.push_back(std::get<Entry>(bundle.read(item)));
  CHECK(bundle_of(read) == bytes);
  CHECK(opened(bundle_of({})).items().empty());
}

TEST_CASE("an imported bundle hits as if its kernels had been compiled here", "[cache][bundle]") {
  TempDir dir;
  std::vector<Entry> entries;
  for (std::uint64_t i = 0; i < 10; ++i) entries.push_back(made_entry(i, i < 5 ? "one" : "two"));
  const auto bytes = bundle_of(entries);
  const Bundle bundle = opened(bytes);
  {
    DiskCache cache(options_for(dir / "own"));
    const ImportResult result = import_bundle(bundle, cache);
    CHECK(result.error.empty());
    CHECK(result.added.size() == 10);
    CHECK(result.present.empty());
  }
  DiskCache cache(options_for(dir / "own"));
  for (const Entry& entry : entries)
    CHECK(cache.lookup(entry.key, entry.toolchain) == bundled(entry));
  CHECK(cache.stats().misses == 0);
  const auto known = cache.recorded_toolchains();
  CHECK(std::set<std::string>(known.begin(), known.end()) == std::set<std::string>{"one", "two"});
  const ImportResult again = import_bundle(bundle, cache);
  CHECK(again.present.size() == 10);
  CHECK(again.added.empty());
}

TEST_CASE("an import keeps what is in the cache, names conflicts and replaces what is damaged",
          "[cache][bundle]") {
  TempDir dir;
  const Entry same = made_entry(1), other = made_entry(2), broken = made_entry(3);
  Entry mine = other;
  mine.cubin[0] ^= std::byte{1};
  {
    DiskCache cache(options_for(dir / "own"));
    REQUIRE((cache.publish(same) && cache.publish(mine) && cache.publish(broken)));
  }
  auto damaged = read_bytes(entry_file(dir / "own", broken.key));
  damaged.back() ^= std::byte{1};
  write_bytes(entry_file(dir / "own", broken.key), damaged);

  DiskCache cache(options_for(dir / "own"));
  const auto bytes = bundle_of({same, other, broken, made_entry(4)});
  const ImportResult result = import_bundle(opened(bytes), cache);
  CHECK(result.error.empty());
  CHECK(result.present == std::vector<Digest>{same.key});
  CHECK(result.conflicting == std::vector<Digest>{other.key});
  CHECK(result.added.size() == 2);
  CHECK(cache.lookup(other.key, other.toolchain) == mine);
  CHECK(cache.lookup(broken.key, broken.toolchain) == bundled(broken));
}

TEST_CASE("every truncation, every extension and every flipped bit of a bundle is refused",
          "[cache][bundle]") {
  const auto good = bundle_of({made_entry(1), made_entry(2)});
  REQUIRE(refusal(good).empty());
  std::size_t accepted = 0;  // counted, since a CHECK for each would take minutes
  for (std::size_t length = 0; length < good.size(); ++length) {
    const std::vector<std::byte> shorter(good.begin(),
                                         good.begin() + static_cast<std::ptrdiff_t>(length));
    accepted += refusal(shorter).empty();
  }
  auto bytes = good;
  for (std::size_t i = 0; i < 8 * good.size(); ++i) {
    bytes[i / 8] ^= std::byte{1} << (i % 8);
    accepted += refusal(bytes).empty();
    bytes[i / 8] = good[i / 8];
  }
  for (const std::size_t more : {1, 32, 64, 80, 4096}) {
    auto longer = good;
    longer.insert(longer.end(), more, std::byte{0});
    accepted += refusal(longer).empty();
  }
  CHECK(accepted == 0);
}

TEST_CASE("a bundle with right digests and wrong places, sizes or order is refused",
          "[cache][bundle]") {
  const auto good = bundle_of({made_entry(1), made_entry(2)});
  const std::size_t manifest = manifest_offset(good);
  const std::size_t trailer = good.size() - 64;
  const auto refuses = [&](auto&& change, const std::string& words) {
    auto bytes = good;
    change(bytes);
    const std::string why = refusal(resealed(bytes));
    INFO(why);
    CHECK(contains(why, words));
  };
  constexpr std::uint64_t kHuge[] = {
      0, 1, std::uint64_t{1} << 26, 1u << 31, UINT64_MAX, UINT64_MAX - 63, UINT64_MAX / 80 * 80};
  for (const std::uint64_t value : kHuge) {
    for (const std::size_t field : {manifest + 64, manifest + 72, manifest + 144, manifest + 152})
      refuses([&](auto& b) { put_u64(b, field, value); }, "entry ");
    for (const std::size_t field : {trailer, trailer + 8})
      refuses([&](auto& b) { put_u64(b, field, value); }, "manifest");
    refuses([&](auto& b) { put_u64(b, trailer + 16, value); }, "size");
  }
  refuses([&](auto& b) { b[trailer + 24] = std::byte{1}; }, "trailer");
  refuses([&](auto& b) { b[20] = std::byte{1}; }, "header");
  refuses([&](auto& b) { b[8] = std::byte{2}; }, "format 2");
  refuses([&](auto& b) { b[0] = std::byte{0}; }, "not a bundle");
  refuses([&](auto& b) { b[manifest - 1] = std::byte{1}; }, "");  // a gap, or the entry's last byte
  refuses([&](auto& b) { b[manifest + 32] ^= std::byte{1}; }, "its digest");
  refuses(
      [&](auto& b) {
        std::swap_ranges(b.begin() + static_cast<std::ptrdiff_t>(manifest),
                         b.begin() + static_cast<std::ptrdiff_t>(manifest + 32),
                         b.begin() + static_cast<std::ptrdiff_t>(manifest + 80));
      },
      "manifest is not valid");
}

TEST_CASE("a bundle whose digests are right but whose entries are not is refused",
          "[cache][bundle]") {
  const Entry good = made_entry(1);
  // Seals whatever `entry` encodes to into a bundle for one entry, as no writer of ours would.
  const auto refuses = [&](const Entry& entry, const Digest& key, const std::string& words) {
    const auto inner = encode(entry);
    auto bytes = bundle_of({good});
    const std::size_t old_manifest = manifest_offset(bytes);
    std::vector<std::byte> out(bytes.begin(), bytes.begin() + 64);
    out.insert(out.end(), inner.begin(), inner.end());
    out.resize((out.size() + 63) / 64 * 64);
    const std::size_t manifest = out.size();
    out.insert(out.end(), bytes.begin() + static_cast<std::ptrdiff_t>(old_manifest), bytes.end());
    const Digest content = sha256(inner);
    std::memcpy(out.data() + manifest, key.data(), key.size());
    std::memcpy(out.data() + manifest + 32, content.data(), content.size());
    put_u64(out, manifest + 72, inner.size());
    put_u64(out, manifest + 80, manifest);
    put_u64(out, manifest + 96, out.size());
    const std::string why = refusal(resealed(out));
    INFO(why);
    CHECK(why.empty() == words.empty());
    CHECK(contains(why, words));
  };
  refuses(bundled(good), good.key, "");  // the construction itself is right
  refuses(bundled(good), made_entry(2).key, "another key");
  refuses(good, good.key, "has times");
  Entry entry = bundled(good);
  entry.key_text += "x";
  refuses(entry, entry.key, "not the digest of its key text");
  entry.key = sha256(entry.key_text);
  refuses(entry, entry.key, "");  // what follows the toolchain is not ours to judge
  entry = bundled(good);
  entry.toolchain = sha256("another");
  refuses(entry, entry.key, "toolchain");
  entry = bundled(sample_entry(7));
  refuses(entry, entry.key, "toolchain");
  entry = bundled(made_entry(1, std::string(5000, 't')));
  refuses(entry, entry.key, "4096");
  entry = bundled(good);
  entry.cubin.clear();
  refuses(entry, entry.key, "(format)");
}

TEST_CASE("a pinned digest is that of the whole file and nothing else is taken",
          "[cache][bundle]") {
  TempDir dir;
  const auto bytes = bundle_of({made_entry(1)});
  write_bytes(dir / "one", bytes);
  CHECK(std::holds_alternative<Bundle>(Bundle::open(dir / "one", sha256(bytes))));
  const auto refused = Bundle::open(dir / "one", sha256("other"));
  REQUIRE(std::holds_alternative<BundleError>(refused));
  CHECK(contains(std::get<BundleError>(refused).message, to_hex(sha256(bytes))));
}

TEST_CASE("what is not a regular file is an error at once", "[cache][bundle]") {
  TempDir dir;
  REQUIRE(mkfifo((dir / "pipe").c_str(), 0600) == 0);
  write_text(dir / "empty", "");
  for (const std::string& path : {dir / "pipe", dir / "missing", dir.path(), dir / "empty"})
    CHECK(std::holds_alternative<BundleError>(Bundle::open(path)));
}

TEST_CASE("a bundle that changes under an import stops it, and what was imported is whole",
          "[cache][bundle]") {
  TempDir dir;
  std::vector<Entry> entries;
  for (std::uint64_t i = 0; i < 4; ++i) entries.push_back(made_entry(i));
  auto bytes = bundle_of(entries);
  write_bytes(dir / "bundle", bytes);
  const auto bundle = Bundle::open(dir / "bundle");
  REQUIRE(std::holds_alternative<Bundle>(bundle));
  const auto& items = std::get<Bundle>(bundle).items();
  bytes[items[2].offset + 100] ^= std::byte{1};
  write_bytes(dir / "bundle", bytes);
  DiskCache cache(options_for(dir / "own"));
  const ImportResult result = import_bundle(std::get<Bundle>(bundle), cache);
  CHECK(contains(result.error, "digest"));
  CHECK(result.added == std::vector<Digest>{items[0].key, items[1].key});
  for (const ListedEntry& entry : cache.list()) CHECK(std::holds_alternative<Entry>(entry.content));
}

TEST_CASE("an import into a cache that cannot store is an error", "[cache][bundle]") {
  TempDir dir;
  Options options = options_for(dir / "own");
  { DiskCache make(options); }
  options.read_only = true;
  DiskCache cache(options);
  const auto bytes = bundle_of({made_entry(1)});
  const ImportResult result = import_bundle(opened(bytes), cache);
  CHECK(result.added.empty());
  CHECK(contains(result.error, "could not be stored"));
}

TEST_CASE("an entry that no key leads to cannot be put into a bundle", "[cache][bundle]") {
  const auto refused = encode_bundle({made_entry(1), sample_entry(2)});
  REQUIRE(std::holds_alternative<BundleError>(refused));
  CHECK(contains(std::get<BundleError>(refused).message, "toolchain"));
}

TEST_CASE("the difference of two bundles is by key and by content", "[cache][bundle]") {
  Entry changed = made_entry(3);
  changed.registers += 1;
  const auto first_bytes = bundle_of({made_entry(1), made_entry(2), made_entry(3)});
  const auto second_bytes = bundle_of({made_entry(2), changed, made_entry(4)});
  const Bundle first = opened(first_bytes), second = opened(second_bytes);
  const BundleDiff found = diff(first.items(), second.items());
  CHECK(found.only_first == std::vector<Digest>{made_entry(1).key});
  CHECK(found.only_second == std::vector<Digest>{made_entry(4).key});
  CHECK(found.same == std::vector<Digest>{made_entry(2).key});
  CHECK(found.conflicting == std::vector<Digest>{changed.key});
}

}  // namespace kiln::cache::test
