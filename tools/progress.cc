#include "tools/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "tools/commands.h"

namespace kiln::tools {
namespace {

bool terminal_redraws() {
  if (::isatty(STDERR_FILENO) == 0) return false;
  const char* term = std::getenv("TERM");
  return term != nullptr && std::string_view(term) != "dumb";
}

std::size_t terminal_columns() {
  winsize size{};
  const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

}  // namespace

Progress::Progress(std::size_t total) : total_(total), enabled_(total > 0 && terminal_redraws()) {}

void Progress::advance(std::string note) {
  ++done_;
  note_ = std::move(note);
  draw();
}

void Progress::draw() {
  if (!enabled_) return;
  std::fflush(stdout);
  print_error("\r\033[K" + line(terminal_columns()));
  drawn_ = true;
}

void Progress::clear() {
  if (!drawn_) return;
  print_error("\r\033[K");
  drawn_ = false;
}

std::string Progress::line(std::size_t columns) const {
  const double elapsed_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  std::string tail = fmt::format(" {}/{}  {}", done_, total_, note_);
  if (done_ > 0 && done_ < total_) {
    const double left_s =
        elapsed_s / static_cast<double>(done_) * static_cast<double>(total_ - done_);
    tail += fmt::format("  {:.0f} s left", left_s);
  }
  constexpr std::size_t kWidest = 40;
  // One column stays free: a full line would wrap and could not be wiped.
  const std::size_t space =
      columns > tail.size() + 3 ? std::min(columns - tail.size() - 3, kWidest) : 0;
  const std::size_t filled = space * done_ / total_;
  const std::string bar =
      space < 4 ? ""
                : fmt::format("[{}{}]", std::string(filled, '#'), std::string(space - filled, '.'));
  return (bar + tail).substr(0, columns > 0 ? columns - 1 : 0);
}

}  // namespace kiln::tools
