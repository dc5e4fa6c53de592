// Every parser on damaged and hostile input: a deterministic loop that needs no fuzzer. The fuzz
// targets (fuzz_target.cc) go on from the same seeds with coverage as their guide.
#include <fmt/format.h>

#include <chrono>
#include <random>

#include "tests/fuzz/allocation_meter.h"
#include "tests/fuzz/parsers.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

namespace kiln::test {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
constexpr double kMaxSeconds = 2;  // for one input; what is refused at once takes none

class Mutator {
 public:
  Mutator(const FuzzedParser& parser, std::uint32_t seed) : parser_(parser), random_(seed) {}

  std::uint32_t below(std::size_t count) {
    return static_cast<std::uint32_t>(random_() % std::max<std::size_t>(count, 1));
  }

  std::string mutate(std::string text, const std::string& other) {
    for (std::uint32_t i = 0, count = 1 + below(5); i < count; ++i) mutate_once(text, other);
    return text;
  }

 private:
  void mutate_once(std::string& text, const std::string& other) {
    const std::size_t at = below(text.size() + 1);
    switch (below(8)) {
      case 0:
        text.resize(at);
        return;
      case 1:
        text.erase(at, 1 + below(64));
        return;
      case 2:
        text.insert(at, other, below(other.size()), below(256));
        return;
      case 3:
        if (!parser_.dictionary.empty())
          text.insert(at, parser_.dictionary[below(parser_.dictionary.size())]);
        return;
      case 4:
        overwrite(text, at, 8);
        return;  // a number of the format becomes an extreme one
      case 5:
        text.append(1 + below(300), static_cast<char>(random_()));
        return;
      default:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ 1 << below(8));
        return;
    }
  }

  void overwrite(std::string& text, std::size_t at, std::size_t bytes) {
    static constexpr std::uint64_t kExtremes[] = {0,          1,     0xff,      0x7fffffff,
                                                  0xffffffff, ~0ull, ~0ull >> 1};
    std::uint64_t value = kExtremes[below(std::size(kExtremes))];
    at = at / bytes * bytes;
    for (std::size_t i = 0; i < bytes && at + i < text.size(); ++i, value >>= 8)
      text[at + i] = static_cast<char>(value);
  }

  const FuzzedParser& parser_;
  std::mt19937 random_;
};

struct Tally {
  std::uint64_t inputs = 0, accepted = 0, resealed_accepted = 0;
  std::size_t most_bytes = 0;
  double slowest_s = 0;
};

// Parses once and takes time and memory; a broken promise passes through.
bool parse(const FuzzedParser& parser, const std::string& text, Tally& tally) {
  const std::size_t before = allocated_bytes();
  reset_peak();
  const Clock::time_point begin = Clock::now();
  const bool accepted = parser.accepts(text);
  const std::chrono::duration<double> elapsed = Clock::now() - begin;
  tally.slowest_s = std::max(tally.slowest_s, elapsed.count());
  tally.most_bytes = std::max(tally.most_bytes, peak_allocated_bytes() - before);
  ++tally.inputs;
  tally.accepted += accepted ? 1 : 0;
  return accepted;
}

Tally mutate_for(const FuzzedParser& parser, Clock::duration duration) {
  const std::vector<std::string> seeds = parser.seeds();
  Tally tally;
  for (const std::string& seed : seeds) parse(parser, seed, tally);
  Mutator mutator(parser, 1);
  std::vector<const std::string*> small;  // the large seeds were for the limits
  for (const std::string& seed : seeds)
    if (seed.size() < 100'000) small.push_back(&seed);
  const Clock::time_point end = Clock::now() + duration;
  while (Clock::now() < end) {
    const auto pick = [&]() -> const std::string& { return *small[mutator.below(small.size())]; };
    const std::string text = mutator.mutate(pick(), pick());
    parse(parser, text, tally);
    if (parser.reseal != nullptr)
      tally.resealed_accepted += parse(parser, parser.reseal(text), tally) ? 1 : 0;
  }
  return tally;
}

void check_parser(const char* name) {
  const FuzzedParser* const parser = find_fuzzed_parser(name);
  REQUIRE(parser != nullptr);
  const auto seconds = std::chrono::milliseconds(by_scale(1'800, 60'000));
  const Tally tally = mutate_for(*parser, seconds);
  CHECK(tally.inputs > 100);
  CHECK(tally.accepted > 0);  // the good seeds at least
  CHECK(tally.accepted < tally.inputs);
  if (parser->reseal != nullptr) CHECK(tally.resealed_accepted > 0);
  if (is_metered()) {
    CHECK(tally.most_bytes <= kMaxBytes);
    CHECK(tally.slowest_s < kMaxSeconds);
  }
  report_figures(
      fmt::format("{}: {} inputs in {:.0f} s, {} accepted, at most {:.1f} MiB and {:.2f} s", name,
                  with_commas(tally.inputs), seconds.count() / 1e3, with_commas(tally.accepted),
                  static_cast<double>(tally.most_bytes) / (1 << 20), tally.slowest_s));
}

}  // namespace

TEST_CASE("damaged cache entries are refused within 64 MiB", "[fuzz]") { check_parser("entry"); }
TEST_CASE("damaged bundles are refused within 64 MiB", "[fuzz]") { check_parser("bundle"); }
TEST_CASE("damaged shapes files are refused within 64 MiB", "[fuzz]") { check_parser("shapes"); }
TEST_CASE("damaged tune configurations are refused within 64 MiB", "[fuzz]") {
  check_parser("tune");
}
TEST_CASE("damaged tuned tables are refused within 64 MiB", "[fuzz]") { check_parser("tuned"); }

TEST_CASE("resealing makes a changed entry or bundle acceptable again", "[fuzz]") {
  for (const char* name : {"entry", "bundle"}) {
    INFO(name);
    const FuzzedParser& parser = *find_fuzzed_parser(name);
    std::string text = parser.seeds()[name == std::string("entry") ? 2 : 1];
    REQUIRE(parser.accepts(text));
    const std::size_t at = text.find("a kernel for a fuzzer");
    REQUIRE(at != std::string::npos);
    text[at] = 'A';
    CHECK_FALSE(parser.accepts(text));
    CHECK(parser.accepts(parser.reseal(text)));
  }
}

}  // namespace kiln::test
