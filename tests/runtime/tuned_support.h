// Tables of tuned tiles for tests, and what every plan made of them obeys.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "jit/error.h"
#include "runtime/tile_plan.h"
#include "runtime/tuned_table.h"
#include "tests/runtime/support.h"

namespace kiln::test {

using runtime::TileSource;
using runtime::TunedEntry;
using runtime::TunedFile;
using runtime::TunedMatch;
using runtime::TunedTable;
using runtime::TunedTables;

inline constexpr jit::Machine kMachine{132};

inline jit::Tile tile(const char* text) { return jit::parse_tile(text, "tile"); }
inline constexpr const char* kSmall = "64x64/1x1/s8/c1x1/r8";
inline constexpr const char* kLarge = "128x128/2x1/s4/c1x1/r8";

inline jit::Problem dense(std::int64_t n = 4096, std::int64_t k = 7168) {
  jit::Problem p;
  p.n = n;
  p.k = k;
  return p;
}

inline jit::Problem contiguous(std::int32_t groups, std::int32_t alignment = 128) {
  jit::Problem p = dense();
  p.layout = jit::Layout::kGroupedContiguous;
  p.group_form = jit::GroupForm::kEnds;
  p.groups = groups;
  p.alignment = alignment;
  return p;
}

// kSmall up to M = 64, kLarge above.
inline TunedEntry entry(const jit::Problem& problem = dense()) {
  return {runtime::tuned_problem(problem),
          {{0, 64, tile(kSmall), 64, 3.25, tile(kLarge), 3.5},
           {65, jit::kMaxM, tile(kLarge), 4096, 123.456, {}, 0}}};
}

inline TunedFile file_of(std::vector<TunedEntry> entries) {
  return {"NVIDIA H200", 132,          "13.0",      "580.159",
          "0.1.0",       "2026-01-01", "by a test", std::move(entries)};
}

inline TunedTable table_of(std::vector<TunedEntry> entries,
                           const std::string& source = "test.json") {
  TunedTable table = TunedTable::load(runtime::to_text(file_of(std::move(entries))), source);
  INFO(table.first_rejection());
  REQUIRE(table.num_rejected() == 0);
  return table;
}

inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  INFO(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

// What load() says of a text that it refuses as a whole; "" when it does not.
inline std::string refusal(const std::string& text) {
  try {
    TunedTable::load(text, "test.json");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline TunedTables tables_of(std::vector<TunedEntry> entries) {
  TunedTables tables;
  tables.add(table_of(std::move(entries)));
  return tables;
}

// The rules of TilePlan, which hold whatever the tables say.
inline std::string broken_rule(const runtime::TilePlan& plan, const jit::Problem& problem) {
  std::set<jit::Tile> tiles;
  std::int64_t next = 0;
  for (const auto& [interval, source] : plan.tiles) {
    if (interval.m_min != next || interval.m_max < interval.m_min) return "gap or overlap";
    if (!jit::is_legal(interval.tile, problem)) return "illegal tile";
    if (jit::parse_tile(jit::describe(interval.tile), "") != interval.tile) return "odd tile";
    tiles.insert(interval.tile);
    next = interval.m_max + 1;
  }
  if (next != jit::kMaxM + 1) return "does not reach the largest M";
  if (tiles.size() > jit::kMaxPlanTiles) return "too many tiles";
  if (problem.batch_invariant && plan.tiles.size() != 1) return "not one tile";
  return "";
}

}  // namespace kiln::test
