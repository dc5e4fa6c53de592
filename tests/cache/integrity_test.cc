// Damage of every kind to entries of every kind: none is ever accepted.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "cache/entry.h"
#include "support.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

namespace kiln::cache::test {
namespace {

using Bytes = std::vector<std::byte>;
using kiln::test::by_scale;
using kiln::test::is_full_scale;
using kiln::test::report_figures;
using kiln::test::with_commas;

struct Subject {
  const char* name;
  Bytes bytes;
};

std::vector<Subject> subjects() {
  Entry least;
  least.cubin = {std::byte{1}};
  Entry typical = sample_entry(5, 64 << 10);
  typical.log.clear();
  Entry with_log = sample_entry(6, 3000);
  with_log.log = std::string(2000, 'w');
  return {{"least", encode(least)}, {"64 KiB", encode(typical)}, {"with log", encode(with_log)}};
}

bool accepted(std::span<const std::byte> bytes) {
  return std::holds_alternative<Entry>(decode(bytes));
}

// Runs try_one(i, copy) for i = 0, step, 2 step, ... below count on two threads; each has a copy of
// the bytes, which try_one leaves as it found them. Returns how many were accepted.
template <typename TryOne>
std::uint64_t accepted_of(const Bytes& bytes, std::size_t count, std::size_t step,
                          TryOne&& try_one) {
  std::atomic<std::uint64_t> wrong{0};
  const auto work = [&](std::size_t first) {
    Bytes copy = bytes;
    for (std::size_t i = first; i < count; i += 2 * step) wrong += try_one(i, copy) ? 1 : 0;
  };
  std::thread other(work, step);
  work(0);
  other.join();
  return wrong;
}

}  // namespace

TEST_CASE("no flipped bit, truncation, extension or zeroed block of any entry is accepted",
          "[cache][entry][C1]") {
  std::uint64_t flips = 0, truncations = 0, extensions = 0, blocks = 0;
  for (const Subject& subject : subjects()) {
    CAPTURE(subject.name);
    const Bytes& bytes = subject.bytes;
    REQUIRE(accepted(bytes));
    // The short form takes every bit of the small ones and each 61st of the large one.
    const bool large = bytes.size() > 10'000;
    const std::size_t step = large ? by_scale<std::size_t>(61, 1) : 1;
    REQUIRE(accepted_of(bytes, 8 * bytes.size(), step, [](std::size_t i, Bytes& copy) {
              copy[i / 8] ^= static_cast<std::byte>(1 << i % 8);
              const bool wrong = accepted(copy);
              copy[i / 8] ^= static_cast<std::byte>(1 << i % 8);
              return wrong;
            }) == 0);
    flips += (8 * bytes.size() + step - 1) / step;
    REQUIRE(accepted_of(bytes, bytes.size(), 1, [](std::size_t size, Bytes& copy) {
              return accepted(std::span(copy).first(size));
            }) == 0);
    truncations += bytes.size();
    for (const std::byte filler : {std::byte{0}, std::byte{0xff}, std::byte{'\n'}}) {
      REQUIRE(accepted_of(bytes, 4096, by_scale<std::size_t>(large ? 16 : 1, 1),
                          [&](std::size_t i, Bytes& copy) {
                            Bytes longer = copy;
                            longer.resize(copy.size() + i + 1, filler);
                            return accepted(longer);
                          }) == 0);
      extensions += 4096 / by_scale<std::size_t>(large ? 16 : 1, 1);
    }
    for (const std::size_t block : {std::size_t{512}, std::size_t{4096}}) {
      const std::size_t count = (bytes.size() + block - 1) / block;
      REQUIRE(accepted_of(bytes, count, 1, [&](std::size_t i, Bytes& copy) {
                const std::size_t at = i * block, size = std::min(block, copy.size() - at);
                std::fill_n(copy.begin() + static_cast<std::ptrdiff_t>(at), size, std::byte{0});
                const bool changed = copy != bytes;
                const bool wrong = changed && accepted(copy);
                std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), size,
                            copy.begin() + static_cast<std::ptrdiff_t>(at));
                return wrong;
              }) == 0);
      blocks += count;
    }
  }
  report_figures(with_commas(flips) + " flipped bits, " + with_commas(truncations) +
                 " truncations, " + with_commas(extensions) + " extensions, " +
                 with_commas(blocks) + " zeroed blocks of 3 entries: 0 accepted");
}

TEST_CASE("an entry under the name of any other is never returned", "[cache][disk][C1]") {
  TempDir dir(TempDir::Where::kInMemory);
  const std::string root = dir / "cache";
  const int entries = by_scale(12, 64);
  for (int i = 0; i < entries; ++i) {
    REQUIRE(DiskCache(options_for(root)).publish(sample_entry(i)));
  }
  int swaps = 0;
  for (int i = 0; i < entries; ++i) {
    const Entry wanted = sample_entry(i);
    const std::string file = entry_file(root, wanted.key);
    for (int j = 0; j < entries; ++j) {
      if (i == j) continue;
      write_bytes(file, encode(sample_entry(j)));
      Options options = options_for(root);
      options.read_only = true;
      DiskCache cache(options);
      REQUIRE_FALSE(cache.lookup(wanted.key, wanted.toolchain));
      REQUIRE(cache.stats().miss_key == 1);
      ++swaps;
    }
    write_bytes(file, encode(wanted));
  }
  report_figures(with_commas(swaps) + " swaps of two entries: 0 accepted");
}

TEST_CASE("damage to files is a miss, the right bytes are stored again and found",
          "[cache][disk][C1]") {
  TempDir dir(TempDir::Where::kInMemory);
  const std::string root = dir / "cache";
  const Entry entry = sample_entry(7, 20'000);
  const Bytes good = encode(entry);
  Random random(41);
  const int rounds = by_scale(500, 20'000);
  for (int i = 0; i < rounds; ++i) {
    DiskCache cache(options_for(root));
    REQUIRE(cache.publish(entry));
    Bytes bad = good;
    switch (random.below(3)) {
      case 0:
        bad[random.below(bad.size())] ^= static_cast<std::byte>(1 << random.below(8));
        break;
      case 1:
        bad.resize(random.below(bad.size()));
        break;
      default:
        bad.resize(bad.size() + 1 + random.below(4096));
        break;
    }
    write_bytes(entry_file(root, entry.key), bad);
    REQUIRE_FALSE(cache.lookup(entry.key, entry.toolchain));
    REQUIRE(cache.publish(entry));
    REQUIRE(cache.lookup(entry.key, entry.toolchain) == entry);
  }
  report_figures(with_commas(rounds) + " damaged files: 0 accepted, all stored again");
}

}  // namespace kiln::cache::test
