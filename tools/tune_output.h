// What a tuning run leaves: a table of tiles by problem and interval of M, in the form of
// configs/tuned/*.json, and putting several of them together.
//
// The text depends on nothing but the table: sorted, one line per problem, numbers as they are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/tune_search.h"

namespace kiln::tools {

// Where numbers come from. Results of other GPUs or software do not mix.
struct TuneProvenance {
  std::string gpu;
  std::int32_t num_sms = 0;
  std::string cuda, driver, library;
  std::string date;  // UTC, "2026-01-31"; of parts: the latest
  std::string method;

  bool operator==(const TuneProvenance&) const = default;
};

struct TuneEntryInterval {
  TuneInterval interval;
  TimedTile chosen;
  std::optional<TimedTile> runner_up;

  bool operator==(const TuneEntryInterval&) const = default;
};

struct TuneEntry {
  jit::Problem problem;
  std::vector<TuneEntryInterval> intervals;  // ascending

  bool operator==(const TuneEntry&) const = default;
};

struct TuneTable {
  TuneProvenance provenance;
  std::vector<TuneEntry> entries;  // sorted by problem, each once

  bool operator==(const TuneTable&) const = default;
};

// The intervals that have a tile, as an entry; the alignment of groups, which no tile depends on,
// has a fixed value.
TuneEntry to_entry(const ProblemResult& result);

std::string to_text(const TuneTable& table);

// Throws Error{kInvalidArgument} naming file and place.
TuneTable parse_tune_table(std::string_view text, const std::string& file);

// Adds the entries of `part`. Of two for the same problem the one with better evidence stays: more
// intervals measured, then the later date, then the smaller sum of times (then the one that is
// there). What was dropped is described in `conflicts`, one line each. Throws Error when GPU, SM
// count or software differ.
void merge(TuneTable& into, const TuneTable& part, const std::string& part_name,
           std::vector<std::string>& conflicts);

}  // namespace kiln::tools
