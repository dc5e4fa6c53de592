// The tuner's configuration: which tiles to try, for which M, and how to measure
// (configs/tune/*.json, schema in configs/schema/tune.schema.json).
//
// Read strictly and wholly: an unknown key, an empty axis, a value that no tile can have throw
// Error{kInvalidArgument} naming file, place, rule and remedy. Every number is a whole one, so that
// a file means the same to every reader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "jit/source.h"
#include "jit/tile.h"

namespace kiln::tools {

// Candidates are the product of these. stages 0: as many as fit beside two slots for D;
// raster_group 0: what the default choice takes for the problem. The last three may be left out: 1. The model that orders candidates
// does not see these two: their first values are measured first, and the others of the best tiles
// only.
struct TuneAxes {
  std::vector<std::int32_t> block_m, block_n, warpgroups_m, warpgroups_n, stages, cluster_m,
      cluster_n, raster_group, warpgroups_k, cluster_k, stage_blocks;
};

struct TuneConstraints {
  std::int32_t min_warpgroup_n = 8;    // columns of one warpgroup
  std::int32_t max_waves = 4;          // of one warpgroup
  std::int32_t max_cluster = 8;        // CTAs
  std::int32_t cluster_from_m = 0;     // no clusters below this M
  std::int32_t max_spill_bytes = 0;    // of a compiled kernel
  std::int32_t model_percent = 1000;   // estimate, of the best estimate
  std::int32_t max_candidates = 1000;  // per interval, the first by the model
};

enum class TuneCover { kAll, kListed };
std::string_view name(TuneCover value);                                     // "all"
TuneCover parse_tune_cover(std::string_view text, std::string_view field);  // kInvalidArgument

struct TuneIntervals {
  std::vector<std::int64_t> upper;     // last M of each interval, ascending; the rest is one more
  TuneCover cover = TuneCover::kAll;   // listed: only those that hold an m of the shapes file
  std::int64_t max_rows = jit::kMaxM;  // of all groups together in a measurement
};

struct TuneMeasuring {
  std::int32_t probe_repeats = 3;         // of a candidate's first look
  std::int32_t repeats = 10;              // in all, of one that is not hopeless
  std::int32_t early_stop_percent = 115;  // of the best so far: beyond it is hopeless
  std::int32_t patience = 20;             // candidates in a row without a new best
  std::int32_t draws = 2;                 // of groups' rows: a repeat is the mean over them
  std::int32_t flush_mb = 8000;           // written before each launch, to empty L2
  std::int32_t finalists = 4;
  std::int32_t final_rounds = 8;  // through all finalists in turn
  std::int32_t final_repeats = 4;
  std::int32_t noise_percent = 200;  // of the standard error: what a gain must exceed
  std::int32_t max_kernels = 8;      // per problem, over all M
  std::int32_t max_loss_percent = 3;
};

struct TuneConfig {
  jit::Arch arch;
  jit::Machine machine;  // of a dry run; a run with a GPU takes the GPU's
  TuneAxes axes;
  TuneConstraints constraints;
  TuneIntervals intervals;
  TuneMeasuring measuring;
  std::string digest;  // of the text: a journal belongs to one configuration
};

TuneConfig load_tune_config(const std::string& path);
TuneConfig parse_tune_config(std::string_view text, const std::string& file);

}  // namespace kiln::tools
