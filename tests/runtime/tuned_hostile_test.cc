// Random and hostile tables: whatever they say, a plan has legal tiles for every M.
#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "tests/runtime/tuned_support.h"
#include "tests/support/gate.h"

namespace kiln::test {

namespace {

// Values that are right, at an edge, or plainly wrong.
class Hostile {
 public:
  explicit Hostile(std::uint32_t seed) : random_(seed) {}

  std::uint32_t below(std::uint32_t count) { return random_() % count; }
  bool one_in(std::uint32_t count) { return below(count) == 0; }

  std::string number(std::int64_t usual) {
    if (!one_in(60)) return fmt::to_string(usual);
    static const char* const kOdd[] = {"-1",
                                       "0",
                                       "1.5",
                                       "1e3",
                                       "2147483136",
                                       "2147483137",
                                       "9223372036854775807",
                                       "18446744073709551615",
                                       "1e300",
                                       "null",
                                       "true",
                                       "\"8\"",
                                       "[]",
                                       "{}",
                                       "-9223372036854775808"};
    return kOdd[below(std::size(kOdd))];
  }

  template <std::size_t kCount>
  std::string word(const char* const (&usual)[kCount]) {
    if (one_in(60)) return one_in(2) ? "\"\\u0000%s%n\"" : number(7);
    return fmt::format("\"{}\"", usual[below(kCount)]);
  }

  std::int32_t dimension(std::initializer_list<std::int32_t> usual) {
    static constexpr std::int32_t kOdd[] = {-2147483647 - 1, -128,      -1, 0, 3, 63,
                                            1 << 20,         2147483647};
    if (one_in(40)) return kOdd[below(std::size(kOdd))];
    return usual.begin()[below(static_cast<std::uint32_t>(usual.size()))];
  }

  std::string tile_text() {
    if (one_in(200)) return "\"64x64/\"";
    const jit::Tile t{dimension({64, 64, 128, 128, 192, 256}),
                      dimension({16, 32, 64, 64, 96, 128, 128, 160, 192, 256}),
                      dimension({1, 1, 2, 2, 3}),
                      dimension({1, 1, 1, 2}),
                      dimension({2, 3, 4, 4, 5, 8, 16}),
                      dimension({1, 1, 1, 2, 4}),
                      dimension({1, 1, 1, 2, 8}),
                      dimension({1, 8, 8, 16, 1024})};
    return fmt::format("\"{}\"", jit::describe(t));
  }

  std::string interval(std::int64_t& next) {
    const std::int64_t m_min = one_in(40) ? next - 5 : next + (one_in(3) ? below(100) : 0);
    const std::int64_t m_max = one_in(8) ? jit::kMaxM : m_min + below(2000);
    next = m_max + 1;
    std::string text =
        fmt::format(R"({{"m_min":{},"m_max":{},"tile":{},"measured_m":{},"us":{})", number(m_min),
                    number(m_max), tile_text(), number(m_max), one_in(80) ? number(-3) : "12.5");
    if (one_in(4)) text += fmt::format(R"(,"runner_up":{},"runner_up_us":9)", tile_text());
    if (one_in(100)) text += ",\"extra\":1";
    return text + "}";
  }

  std::string entry(const jit::Problem& p) {
    std::string text = fmt::format(
        R"({{"layout":"{}","scaling":"{}","n":{},"k":{},"a":{},"b":{},"out":{},"sfa":"{}","accumulate":{})",
        jit::name(p.layout), jit::name(p.scaling), number(p.n), number(p.k), word({"e4m3"}),
        word({"e4m3"}), word({"bf16"}), jit::name(p.sfa_major), one_in(60) ? "1" : "false");
    if (jit::is_grouped(p))
      text += fmt::format(R"(,"group_form":"{}","groups":{})", jit::name(p.group_form),
                          number(p.groups));
    text += ",\"intervals\":[";
    std::int64_t next = 0;
    const std::uint32_t count = one_in(50) ? below(70) : 1 + below(2);
    for (std::uint32_t i = 0; i < count; ++i)
      text += fmt::format("{}{}", i == 0 ? "" : ",", interval(next));
    return text + (one_in(200) ? "],\"n\":8}" : "]}");
  }

  // Damage to single bytes of a whole file.
  void vandalise(std::string& text) {
    for (std::uint32_t i = 0, count = 1 + below(4); i < count; ++i) {
      const std::size_t at = below(static_cast<std::uint32_t>(text.size()));
      switch (below(3)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 1:
          text.erase(at, 1 + below(8));
          break;
        default:
          text.insert(at, text, below(static_cast<std::uint32_t>(text.size())), below(40));
          break;
      }
    }
  }

 private:
  std::mt19937 random_;
};

jit::Problem random_problem(Hostile& h) {
  jit::Problem p;
  p.layout = static_cast<jit::Layout>(h.below(4));
  p.n = 8 * (1 + h.below(600));
  p.k = 128 * (1 + h.below(40));
  p.group_form = jit::default_group_form(p.layout);
  if (p.layout == jit::Layout::kGroupedK || (p.layout == jit::Layout::kDense && h.one_in(3))) {
    p.scaling = jit::Scaling::k1d1d;
    p.sfa_major = jit::ScaleMajor::kM;
  }
  if (jit::is_grouped(p)) p.groups = static_cast<std::int32_t>(1 + h.below(jit::kMaxGroups));
  if (p.layout == jit::Layout::kGroupedContiguous) p.alignment = 1 << h.below(11);
  return p;
}

struct Tally {
  std::size_t entries = 0, accepted = 0, matched = 0, refused_files = 0;
};

// One file of hostile entries: loads, and asks for every problem that it was written for and for
// neighbours of it.
void try_file(Hostile& h, bool vandalise, Tally& tally) {
  constexpr int kEntries = 50;
  std::vector<jit::Problem> problems;
  std::string text = runtime::to_text(file_of({}));
  std::string list;
  for (int i = 0; i < kEntries; ++i) {
    problems.push_back(random_problem(h));
    list += fmt::format("{}{}", i == 0 ? "" : ",", h.entry(problems.back()));
  }
  text = replaced(text, "[]", fmt::format("[{}]", list));
  if (vandalise) h.vandalise(text);
  tally.entries += kEntries;
  TunedTables tables;
  try {
    TunedTable table = TunedTable::load(text, "hostile");
    tally.accepted += table.file().entries.size();
    tables.add(std::move(table));
  } catch (const Error&) {
    ++tally.refused_files;
    return;
  }
  for (jit::Problem p : problems) {
    if (h.one_in(2)) p.n += 8 * h.below(16);
    if (h.one_in(2) && jit::is_grouped(p)) p.groups = std::min(p.groups * 2, jit::kMaxGroups);
    p.batch_invariant = h.one_in(4);
    const auto found = tables.find(p, kMachine);
    for (const auto& interval : found.intervals) {
      if (!jit::is_legal(interval.tile, p)) FAIL(jit::describe(interval.tile));
    }
    if (found.match == TunedMatch::kNone) continue;
    ++tally.matched;
    const std::string rule = broken_rule(runtime::plan_tiles(p, kMachine, tables), p);
    if (!rule.empty()) FAIL(rule << ": " << jit::describe(p) << "\n" << text);
  }
}

}  // namespace

namespace {

// Sanitizers make the same test much slower. Full scale: a million entries.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint32_t kSmallFiles = 240;
#else
constexpr std::uint32_t kSmallFiles = 2'400;
#endif
constexpr std::uint32_t kFullFiles = 24'000;

}  // namespace

TEST_CASE("of 120,000 random and hostile entries none gets an illegal tile into a plan",
          "[tuned][hostile]") {
  Tally clean, damaged;
  const std::uint32_t files = by_scale(kSmallFiles, kFullFiles);
  const std::uint32_t damaged_files = files / 6, clean_files = files - damaged_files;
  for (std::uint32_t seed = 0; seed < clean_files; ++seed) {
    Hostile h(seed);
    INFO("seed " << seed);
    try_file(h, false, clean);
  }
  for (std::uint32_t seed = 100'000; seed < 100'000 + damaged_files; ++seed) {
    Hostile h(seed);
    INFO("seed " << seed);
    try_file(h, true, damaged);
  }
  // The test would prove nothing if all were refused, or none.
  INFO(clean.entries << " entries: " << clean.accepted << " accepted, " << clean.matched
                     << " matched, " << clean.refused_files << " files refused; damaged: "
                     << damaged.accepted << " accepted, " << damaged.refused_files << " refused");
  CHECK(clean.entries + damaged.entries == std::size_t{50} * files);
  CHECK(clean.accepted > clean.entries / 40);
  CHECK(clean.accepted < clean.entries / 2);
  CHECK(clean.matched > clean.entries / 40);
  CHECK(damaged.accepted > damaged.entries / 200);
  CHECK(damaged.refused_files > damaged_files / 4);
  report_figures(fmt::format(
      "{} hostile entries, {} accepted, {} used in plans, {} files refused, 0 illegal tiles",
      with_commas(clean.entries + damaged.entries), with_commas(clean.accepted + damaged.accepted),
      with_commas(clean.matched + damaged.matched),
      with_commas(clean.refused_files + damaged.refused_files)));
}

}  // namespace kiln::test
