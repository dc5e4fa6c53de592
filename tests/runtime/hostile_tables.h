// Random and hostile tables of tuned tiles, from a seed: for the tests that load them, and for the
// one that runs on a GPU what was accepted of them.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "jit/problem.h"
#include "jit/tile.h"
#include "runtime/tuned_table.h"

namespace kiln::test {

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
      const std::size_t digit = text.find_first_of("0123456789", at);
      switch (below(4)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 2:  // mostly still a table
          if (digit != std::string::npos) text[digit] = static_cast<char>('0' + below(10));
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

inline jit::Problem random_problem(Hostile& h, std::uint32_t most_n = 4800,
                                   std::uint32_t most_k = 5120,
                                   std::int32_t most_groups = jit::kMaxGroups) {
  jit::Problem p;
  p.layout = static_cast<jit::Layout>(h.below(4));
  p.n = 8 * (1 + h.below(most_n / 8));
  p.k = 128 * (1 + h.below(most_k / 128));
  p.group_form = jit::default_group_form(p.layout);
  if (p.layout == jit::Layout::kGroupedK || (p.layout == jit::Layout::kDense && h.one_in(3))) {
    p.scaling = jit::Scaling::k1d1d;
    p.sfa_major = jit::ScaleMajor::kM;
  }
  if (jit::is_grouped(p))
    p.groups = static_cast<std::int32_t>(1 + h.below(static_cast<std::uint32_t>(most_groups)));
  if (p.layout == jit::Layout::kGroupedContiguous) p.alignment = 1 << h.below(11);
  return p;
}

// The text of a table with an entry for each problem.
inline std::string hostile_table(Hostile& h, const std::vector<jit::Problem>& problems) {
  std::string list;
  for (const jit::Problem& problem : problems)
    list += fmt::format("{}{}", list.empty() ? "" : ",", h.entry(problem));
  std::string text = runtime::to_text(runtime::TunedFile{
      "NVIDIA H200", 132, "13.0", "580.159", "0.1.0", "2026-01-01", "by a test", {}});
  return text.replace(text.find("[]"), 2, fmt::format("[{}]", list));
}

}  // namespace kiln::test
