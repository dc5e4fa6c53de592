// What `kiln bench` found out, as table rows and JSON. Knows no GPU.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tools/bench.h"
#include "tools/cublaslt.h"
#include "tools/measure.h"
#include "tools/nvml.h"
#include "tools/shapes.h"

namespace kiln::tools {

// Something that was compared with, in the same rounds.
struct Rival {
  std::string name;
  std::optional<Timing> timing;  // none: `reason` says why
  std::string reason;
};

struct BenchRow {
  BenchCase asked;
  std::vector<ReferenceTime> references;
  Status status = Status::kOk;
  std::string error;  // not empty: the rest is as far as it came
  Workload workload;  // of the first draw of the groups' sizes
  kiln_plan_description plan = KILN_PLAN_DESCRIPTION_INIT;
  std::optional<CheckResult> check;
  std::optional<Timing> timing;  // only of a result that passed the check
  double empty_us = 0;
  double flops = 0, bytes = 0, roofline_us = 0;
  std::vector<Rival> rivals;
  GpuState before, after;
  // Draws of the groups' sizes that times, flops, bytes and total are the mean of.
  int draws = 1;
  double total = 0;  // as computed_total() counts, and a reference's

  // Takes the same groups with other sizes into a row that passed. A draw that fails becomes the
  // row. Rivals stay as they are: none of them can time groups.
  void add_draw(const BenchRow& draw);

  bool passed() const { return error.empty() && check && check->passed; }
};

// What was computed here over what was computed in the reference's time: 1 where that is not said.
double work_ratio(const BenchRow& row, const ReferenceTime& reference);
// How much slower the other is: its time over Kiln's; empty when either is missing.
std::optional<double> speedup(const BenchRow& row, const Rival& rival);
std::optional<double> speedup(const BenchRow& row, const ReferenceTime& reference);

nlohmann::ordered_json to_json(const BenchRow& row);

// Geometric means of the speed-ups over the rows that have one.
struct MeanSpeedup {
  double mean = 0;
  int rows = 0;
};
// By the other's name, then by the problem's layout ("dense 1d1d" apart from "dense") and "all".
using MeanSpeedups = std::map<std::string, std::map<std::string, MeanSpeedup>>;
MeanSpeedups mean_speedups(const std::vector<BenchRow>& rows);
nlohmann::ordered_json to_json(const MeanSpeedups& means);

// The table: rivals get their columns when they are compared with, the first reference when it is
// asked for and any row has one.
class BenchTable {
 public:
  BenchTable(const std::vector<NamedProblem>& problems, bool rivals, bool references);

  std::string header() const;
  std::string line(const BenchRow& row) const;

 private:
  std::vector<std::string> cells(const BenchRow& row) const;

  bool rivals_ = false;
  bool references_ = false;
  std::vector<std::string> widest_;
};

// After the table: mean speed-ups, and each reason for a missing number once.
std::string summary_text(const std::vector<BenchRow>& rows);

}  // namespace kiln::tools
