// A progress bar on stderr while rows of a table go to stdout. Draws nothing unless stderr is a
// terminal that can redraw a line.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

namespace kiln::tools {

class Progress {
 public:
  explicit Progress(std::size_t total);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // One more of `total` is done. `note` follows the counts.
  void advance(std::string note);
  // Redraws, with the time left as estimated now.
  void draw();
  // Wipes the bar, so that other output starts on a clean line.
  void clear();

 private:
  std::string line(std::size_t columns) const;

  std::size_t total_ = 0;
  std::size_t done_ = 0;
  std::string note_;
  bool enabled_ = false;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace kiln::tools
