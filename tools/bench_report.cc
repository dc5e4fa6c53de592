#include "tools/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tools/table.h"

namespace kiln::tools {
namespace {

constexpr std::string_view kAllLayouts = "all";
constexpr LtScaling kRivals[] = {LtScaling::kBlockWise, LtScaling::kPerTensor};

double tflops(const BenchRow& row) { return row.flops / row.timing->median_us / 1e6; }
double gb_per_s(const BenchRow& row) { return row.bytes / row.timing->median_us / 1e3; }
double roofline_percent(const BenchRow& row) {
  return 100 * row.roofline_us / row.timing->median_us;
}

// A sample that the empty interval swallows whole has no rate.
bool has_time(const std::optional<Timing>& timing) { return timing && timing->median_us > 0; }

nlohmann::ordered_json timing_json(const Timing& timing) {
  return {{"us", timing.median_us},
          {"p10_us", timing.p10_us},
          {"p90_us", timing.p90_us},
          {"best_us", timing.best_us},
          {"samples", timing.samples}};
}

nlohmann::ordered_json or_null(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

nlohmann::ordered_json check_json(const std::optional<CheckResult>& check) {
  if (!check) return nullptr;
  return {{"difference", check->difference},
          {"max_abs_error", check->max_abs_error},
          {"stray_rows", check->stray_rows},
          {"passed", check->passed}};
}

nlohmann::ordered_json rivals_json(const BenchRow& row) {
  auto out = nlohmann::ordered_json::object();
  for (const Rival& rival : row.rivals) {
    nlohmann::ordered_json entry = {{"us", nullptr}};
    if (rival.timing) entry = timing_json(*rival.timing);
    entry["speedup"] = or_null(speedup(row, rival));
    entry["reason"] = rival.reason;
    out[rival.name] = entry;
  }
  return out;
}

nlohmann::ordered_json references_json(const BenchRow& row) {
  auto out = nlohmann::ordered_json::array();
  for (const ReferenceTime& reference : row.references) {
    out.push_back({{"by", reference.by},
                   {"us", reference.us},
                   {"scaled_us", reference.us * work_ratio(row, reference)},
                   {"speedup", or_null(speedup(row, reference))}});
  }
  return out;
}

std::string ratio_cell(const std::optional<double>& ratio) {
  return ratio ? fmt::format("{:.2f}x", *ratio) : "-";
}

std::string check_cell(const BenchRow& row) {
  if (!row.error.empty()) return "FAILED";
  if (!row.check) return "-";
  if (row.check->passed) return fmt::format("ok {:.1e}", row.check->difference);
  if (row.check->stray_rows > 0) return fmt::format("WRONG, {} stray rows", row.check->stray_rows);
  return fmt::format("WRONG {:.1e}", row.check->difference);
}

std::vector<Column> columns(bool rivals, bool references) {
  std::vector<Column> all = {{"problem"},
                             {"G", Align::kRight},
                             {"M", Align::kRight},
                             {"N", Align::kRight},
                             {"K", Align::kRight},
                             {"tile"},
                             {"us", Align::kRight},
                             {"+-", Align::kRight},
                             {"TFLOPS", Align::kRight},
                             {"GB/s", Align::kRight},
                             {"of roofline", Align::kRight}};
  if (rivals) {
    for (const char* title : {"Lt block us", "/ Kiln", "Lt tensor us", "/ Kiln"})
      all.push_back({title, Align::kRight});
  }
  if (references) {
    all.push_back({"reference us", Align::kRight});
    all.push_back({"/ Kiln", Align::kRight});
  }
  all.push_back({"check"});
  return all;
}

// The weight gradient of a dense layer is another kernel than its forward pass.
std::string layout_of(const jit::Problem& problem) {
  const std::string layout(jit::name(problem.layout));
  const bool gradient =
      problem.layout == jit::Layout::kDense && problem.scaling == jit::Scaling::k1d1d;
  return gradient ? layout + " 1d1d" : layout;
}

std::string means_text(const MeanSpeedups& means) {
  if (means.empty()) return "";
  Table table({{"geometric mean"}, {"layout"}, {"/ Kiln", Align::kRight}, {"rows", Align::kRight}});
  for (const auto& [other, layouts] : means) {
    for (const auto& [layout, mean] : layouts)
      table.add({other, layout, fmt::format("{:.3f}x", mean.mean), fmt::to_string(mean.rows)});
  }
  return "\n" + table.text();
}

std::vector<std::string> problem_cells(const std::string& name, const jit::Problem& problem,
                                       std::int64_t m) {
  return {name.empty() ? std::string(jit::name(problem.layout)) : name,
          jit::is_grouped(problem) ? fmt::to_string(problem.groups) : "-", fmt::to_string(m),
          fmt::to_string(problem.n), fmt::to_string(problem.k)};
}

}  // namespace

void BenchRow::add_draw(const BenchRow& draw) {
  if (!draw.passed()) {
    *this = draw;
    return;
  }
  ++draws;
  const auto add = [this](double& mean, double value) { mean += (value - mean) / draws; };
  add(timing->median_us, draw.timing->median_us);
  add(timing->p10_us, draw.timing->p10_us);
  add(timing->p90_us, draw.timing->p90_us);
  add(timing->best_us, draw.timing->best_us);
  timing->samples += draw.timing->samples;
  for (double BenchRow::*mean : {&BenchRow::empty_us, &BenchRow::flops, &BenchRow::bytes,
                                 &BenchRow::roofline_us, &BenchRow::total})
    add(this->*mean, draw.*mean);
  if (check->difference < draw.check->difference) check = draw.check;
  after = draw.after;
}

double work_ratio(const BenchRow& row, const ReferenceTime& reference) {
  if (reference.total == 0 || row.total == 0) return 1;
  return row.total / static_cast<double>(reference.total);
}

std::optional<double> speedup(const BenchRow& row, const Rival& rival) {
  if (!has_time(row.timing) || !has_time(rival.timing)) return std::nullopt;
  return rival.timing->median_us / row.timing->median_us;
}

std::optional<double> speedup(const BenchRow& row, const ReferenceTime& reference) {
  if (!has_time(row.timing)) return std::nullopt;
  return reference.us * work_ratio(row, reference) / row.timing->median_us;
}

nlohmann::ordered_json to_json(const BenchRow& row) {
  nlohmann::ordered_json out = {
      {"name", row.asked.name}, {"problem", to_json(row.asked.problem)}, {"m", row.asked.sizing.m}};
  if (row.timing) {
    auto sizes = nlohmann::ordered_json::array();
    for (const Range& group : row.workload.groups) sizes.push_back(group.size());
    out.update({{"launch_m", row.workload.m},
                {"launch_k", row.workload.k},
                {"group_sizes", sizes},
                {"draws", row.draws},
                {"total", row.total},
                {"tile", jit::describe(from_c(row.plan.full_tile))},
                {"reason", row.plan.reason},
                {"empty_us", row.empty_us},
                {"flops", row.flops},
                {"bytes", row.bytes},
                {"roofline_us", row.roofline_us}});
    out.update(timing_json(*row.timing));
    const bool rated = has_time(row.timing);
    out["tflops"] = or_null(rated ? std::optional(tflops(row)) : std::nullopt);
    out["gb_per_s"] = or_null(rated ? std::optional(gb_per_s(row)) : std::nullopt);
    out["roofline_percent"] = or_null(rated ? std::optional(roofline_percent(row)) : std::nullopt);
  }
  out["rivals"] = rivals_json(row);
  out["references"] = references_json(row);
  out["gpu"] = {{"before", to_json(row.before)}, {"after", to_json(row.after)}};
  out["check"] = check_json(row.check);
  out["error"] = row.error;
  return out;
}

MeanSpeedups mean_speedups(const std::vector<BenchRow>& rows) {
  MeanSpeedups means;
  const auto add = [&](const std::string& other, const BenchRow& row,
                       const std::optional<double>& ratio) {
    if (!ratio) return;
    for (const std::string& layout : {std::string(kAllLayouts), layout_of(row.asked.problem)}) {
      MeanSpeedup& mean = means[other][layout];
      mean.mean += std::log(*ratio);
      ++mean.rows;
    }
  };
  for (const BenchRow& row : rows) {
    for (const Rival& rival : row.rivals) add(rival.name, row, speedup(row, rival));
    for (const ReferenceTime& reference : row.references)
      add(reference.by, row, speedup(row, reference));
  }
  for (auto& [other, layouts] : means) {
    for (auto& [layout, mean] : layouts) mean.mean = std::exp(mean.mean / mean.rows);
  }
  return means;
}

nlohmann::ordered_json to_json(const MeanSpeedups& means) {
  auto out = nlohmann::ordered_json::object();
  for (const auto& [other, layouts] : means) {
    for (const auto& [layout, mean] : layouts)
      out[other][layout] = {{"geometric_mean", mean.mean}, {"rows", mean.rows}};
  }
  return out;
}

BenchTable::BenchTable(const std::vector<NamedProblem>& problems, bool rivals, bool references)
    : rivals_(rivals) {
  for (const NamedProblem& p : problems)
    references_ = references_ || (references && !p.references.empty());
  const std::vector<Column> all = columns(rivals_, references_);
  widest_.assign(all.size(), "123456.78");
  widest_[5] = "256x256/2x1/s16/c2x1/r16";
  widest_.back() = "ok 1.0e-05";
  for (std::size_t i = 0; i < 5; ++i) widest_[i].clear();
  for (const NamedProblem& p : problems) {
    for (const std::int64_t m : p.m) {
      const std::vector<std::string> cells = problem_cells(p.name, p.problem, m);
      for (std::size_t i = 0; i < cells.size(); ++i) {
        if (cells[i].size() > widest_[i].size()) widest_[i] = cells[i];
      }
    }
  }
}

std::string BenchTable::header() const {
  return Table(columns(rivals_, references_)).header(widest_);
}

std::string BenchTable::line(const BenchRow& row) const {
  return Table(columns(rivals_, references_)).line(widest_, cells(row));
}

std::vector<std::string> BenchTable::cells(const BenchRow& row) const {
  std::vector<std::string> out =
      problem_cells(row.asked.name, row.asked.problem, row.asked.sizing.m);
  if (!row.timing) {
    out.resize(widest_.size() - 1, "-");
    out.push_back(check_cell(row));
    return out;
  }
  const bool rated = has_time(row.timing);
  out.push_back(jit::describe(from_c(row.plan.full_tile)));
  out.push_back(fmt::format("{:.2f}", row.timing->median_us));
  out.push_back(fmt::format("{:.1f} %", 100 * row.timing->noise()));
  out.push_back(rated ? fmt::format("{:.1f}", tflops(row)) : "-");
  out.push_back(rated ? fmt::format("{:.0f}", gb_per_s(row)) : "-");
  out.push_back(rated ? fmt::format("{:.1f} %", roofline_percent(row)) : "-");
  if (rivals_) {
    for (const LtScaling scaling : kRivals) {
      const auto rival = std::find_if(row.rivals.begin(), row.rivals.end(),
                                      [&](const Rival& r) { return r.name == name(scaling); });
      const bool there = rival != row.rivals.end() && rival->timing;
      out.push_back(there ? fmt::format("{:.2f}", rival->timing->median_us) : "-");
      out.push_back(there ? ratio_cell(speedup(row, *rival)) : "-");
    }
  }
  if (references_) {
    const bool there = !row.references.empty();
    out.push_back(
        there ? fmt::format("{:.2f}", row.references[0].us * work_ratio(row, row.references[0]))
              : "-");
    out.push_back(there ? ratio_cell(speedup(row, row.references[0])) : "-");
  }
  out.push_back(check_cell(row));
  return out;
}

std::string summary_text(const std::vector<BenchRow>& rows) {
  std::string out;
  out += means_text(mean_speedups(rows));
  std::map<std::string, int> reasons;
  std::set<std::string> throttled;
  for (const BenchRow& row : rows) {
    for (const Rival& rival : row.rivals) {
      if (!rival.timing) ++reasons[fmt::format("{}: {}", rival.name, rival.reason)];
    }
    for (const std::string_view reason : throttle_reasons(row.after.throttle_bits.value_or(0)))
      throttled.emplace(reason);
  }
  for (const auto& [reason, count] : reasons)
    out += fmt::format("- in {} row{}: {}\n", count, count == 1 ? "" : "s", reason);
  for (const std::string& reason : throttled)
    out += fmt::format("the GPU's clocks were held down after at least one row: {}\n", reason);
  return out;
}

}  // namespace kiln::tools
