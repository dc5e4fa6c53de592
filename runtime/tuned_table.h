// Tuned tables: the tiles that were measured to be the fastest, by problem and interval of M. Read
// from JSON (configs/tuned/*.json, schema in configs/schema/tuned.schema.json), written by
// `kiln tune`.
//
// A file is hints, not truth: nothing in it can make a launch do what a launch with the default
// choice could not. Every tile passes jit::validate() when it is loaded and again for the problem
// that it is used for. A damaged entry is left out; a damaged file is an Error, which the engine
// turns into one warning. Pure CPU, no files, no state; thread-safe once made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jit/problem.h"
#include "jit/tile.h"

namespace kiln::runtime {

inline constexpr std::int64_t kTunedFormat = 1;
inline constexpr std::size_t kMaxTunedEntries = 10'000;
inline constexpr std::size_t kMaxTunedIntervals = 64;  // of one entry

// The closed interval of M on which a tile was found best, and the times that say so.
struct TunedInterval {
  std::int64_t m_min = 0;
  std::int64_t m_max = 0;
  jit::Tile tile;
  std::int64_t measured_m = 0;  // in [m_min, m_max]
  double us = 0;                // kernel time at measured_m
  std::optional<jit::Tile> runner_up;
  double runner_up_us = 0;   // with runner_up
  double noise_us = 0;       // standard error of the two times' distance; 0: not said
  std::int32_t samples = 0;  // behind us; 0: not said

  bool operator==(const TunedInterval&) const = default;
};

// Intervals ascend and do not overlap; they may leave gaps, where the default choice serves. They
// name at most jit::kMaxPlanTiles different tiles.
struct TunedEntry {
  jit::Problem problem;  // batch_invariant false; grouped_contiguous: alignment kScaleBlock
  std::vector<TunedInterval> intervals;

  bool operator==(const TunedEntry&) const = default;
};

// What a file says, with where its numbers come from.
struct TunedFile {
  std::string gpu;           // as the driver names it, for people
  std::int32_t num_sms = 0;  // what decides whether the file is for a machine
  std::string cuda, driver, library, date, method;  // for people
  std::vector<TunedEntry> entries;

  bool operator==(const TunedFile&) const = default;
};

// The problem as an entry holds it: what no tile depends on has a fixed value.
jit::Problem tuned_problem(const jit::Problem& problem);

// The text of a file: entries sorted, one on each line. TunedTable::load() of it gives back the
// same file with its entries sorted, if every entry is valid.
std::string to_text(const TunedFile& file);

enum class TunedMatch : std::uint8_t { kNone, kNearest, kExact };

// kExact: an entry of this very problem (alignment and batch_invariant do not count; labels and
//   ends are different problems).
// kNearest: the nearest entry of the same layout, types and scaling (and group form, but for labels
//   and ends of grouped_contiguous, which are near each other, as are both majors of SFA) whose N
//   is within a factor of kNearestN, K of kNearestK and the number of groups of kNearestGroups, and
//   whose tiles are all legal for this problem, if need be with fewer stages. (Tiles for few rows
//   stay out where they would fill the SMs once more than for the entry's N.)
struct TunedLookup {
  TunedMatch match = TunedMatch::kNone;
  std::vector<TunedInterval> intervals;  // empty for kNone
  std::string why;                       // which entry of which file, or why none; one line
};

// N decides how many tiles there are, and so how evenly they fill the GPU; K only how long each
// takes.
inline constexpr double kNearestN = 1.25;
inline constexpr double kNearestK = 2.0;
inline constexpr double kNearestGroups = 2.0;

class TunedTable {
 public:
  // `source` names the file in messages. Refuses by Error{kInvalidArgument} text beyond 8 MiB, what
  // is not JSON, nesting beyond 16, a key twice in one object, more than kMaxTunedEntries entries,
  // and an envelope that is not as the schema says; by Error{kUnsupported} a newer format. An entry
  // that breaks a rule is left out.
  static TunedTable load(std::string_view text, const std::string& source);

  const std::string& source() const { return source_; }
  const TunedFile& file() const { return file_; }

  // Entries that were left out, and why the first of them was ("" when there is none).
  std::size_t num_rejected() const { return num_rejected_; }
  const std::string& first_rejection() const { return first_rejection_; }

  // Never throws but for want of memory, whatever the problem and the table hold.
  TunedLookup find(const jit::Problem& problem, const jit::Machine& machine) const;

 private:
  TunedLookup describe_match(const TunedEntry& entry, TunedMatch match) const;

  std::string source_;
  TunedFile file_;
  std::size_t num_rejected_ = 0;
  std::string first_rejection_;
};

// Several tables, searched in the order in which they were added: an exact match in any of them
// goes before a nearest in the first.
class TunedTables {
 public:
  void add(TunedTable table) { tables_.push_back(std::move(table)); }
  bool empty() const { return tables_.empty(); }
  const std::vector<TunedTable>& tables() const { return tables_; }
  TunedLookup find(const jit::Problem& problem, const jit::Machine& machine) const;

 private:
  std::vector<TunedTable> tables_;
};

// configs/tuned/nvidia-h200.json, as this library was built with it.
std::string_view builtin_tuned_text();
inline constexpr std::string_view kBuiltinTunedSource = "the built-in table (NVIDIA H200)";

}  // namespace kiln::runtime
