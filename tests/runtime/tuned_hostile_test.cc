// Random and hostile tables: whatever they say, a plan has legal tiles for every M.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/runtime/hostile_tables.h"
#include "tests/runtime/tuned_support.h"
#include "tests/support/gate.h"

namespace kiln::test {

namespace {

struct Tally {
  std::size_t entries = 0, accepted = 0, matched = 0, refused_files = 0;
};

// One file of hostile entries: loads, and asks for every problem that it was written for and for
// neighbours of it.
void try_file(Hostile& h, bool vandalise, Tally& tally) {
  constexpr int kEntries = 50;
  std::vector<jit::Problem> problems;
  for (int i = 0; i < kEntries; ++i) problems.push_back(random_problem(h));
  std::string text = hostile_table(h, problems);
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

// Full scale: a million entries.
constexpr std::uint32_t kSmallFiles = by_build(2'400, 240);
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
  CHECK(damaged.accepted > damaged.entries / 400);
  CHECK(damaged.refused_files > damaged_files / 4);
  report_figures(fmt::format(
      "{} hostile entries, {} accepted, {} used in plans, {} files refused, 0 illegal tiles",
      with_commas(clean.entries + damaged.entries), with_commas(clean.accepted + damaged.accepted),
      with_commas(clean.matched + damaged.matched),
      with_commas(clean.refused_files + damaged.refused_files)));
}

}  // namespace kiln::test
