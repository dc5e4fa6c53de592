// The tuner's journal: every measurement, in a file before the search sees it.
//
// A file of JSON lines. The first says what the measurements belong to; the others are
// measurements in the order in which they were made. Each is written whole before the search goes
// on, so a kill costs at most the measurement under way, and synced once a second, so a machine
// that dies costs little more; a torn last line is cut off when the journal is opened. Since the
// search is a function of what it was answered (tune_search.h), answering from the journal first
// makes a resumed run end as an uninterrupted one.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>

#include "tools/tune_measure.h"

namespace kiln::tools {

class TuneJournal {
 public:
  // Opens or creates. `identity` is a flat object of texts and numbers (configuration, shapes, GPU,
  // kernels, ...). Throws Error{kInvalidArgument} when the file is of another identity, naming the
  // first member that differs, or is no journal (it is not touched then), and another Error
  // when it cannot be written or another process has it open.
  TuneJournal(const std::string& path, const nlohmann::ordered_json& identity);
  ~TuneJournal();
  TuneJournal(const TuneJournal&) = delete;
  TuneJournal& operator=(const TuneJournal&) = delete;

  std::size_t recorded() const { return recorded_; }  // measurements found when it was opened
  bool was_torn() const { return was_torn_; }

  // The next recorded answer to this question, or false. Equal questions are answered in order.
  bool take(const jit::Problem& problem, std::int64_t m, const jit::Tile& tile, int repeats,
            TileMeasurement& out);
  // Throws Error when the line cannot be written.
  void append(const jit::Problem& problem, std::int64_t m, const jit::Tile& tile, int repeats,
              const TileMeasurement& measurement);

 private:
  using Question = std::tuple<std::string, std::int64_t, std::string, int>;

  void read(const nlohmann::ordered_json& identity);
  void write_line(const nlohmann::ordered_json& line);
  void cut(std::size_t bytes);
  bool remember(const std::string& line);

  std::string path_;
  int file_ = -1;
  std::size_t recorded_ = 0;
  bool was_torn_ = false;
  std::chrono::steady_clock::time_point synced_{};
  std::map<Question, std::deque<TileMeasurement>> answers_;
};

// Answers from the journal, and asks `next` for the rest. What the driver fails with is most likely
// the tile's doing and leaves a GPU that cannot be used any more: it is recorded as the tile's
// error and then thrown, so that the next run goes on behind it.
class JournaledMeasurer final : public Measurer {
 public:
  JournaledMeasurer(TuneJournal& journal, Measurer& next) : journal_(journal), next_(next) {}
  TileMeasurement measure(const jit::Problem& problem, std::int64_t m, const jit::Tile& tile,
                          int repeats) override;
  void expect(const jit::Problem& problem, const std::vector<jit::Tile>& tiles) override {
    next_.expect(problem, tiles);
  }

 private:
  TuneJournal& journal_;
  Measurer& next_;
};

}  // namespace kiln::tools
