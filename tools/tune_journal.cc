#include "tools/tune_journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "jit/error.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

using nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr std::size_t kMaxBytes = std::size_t{1} << 30;

[[noreturn]] void fail(const std::string& path, const char* call) {
  throw Error(Status::kInternal, fmt::format("{}: {}: {}: choose another place by --journal", path,
                                             call, std::strerror(errno)));
}

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(Status::kInvalidArgument, fmt::format("{}: {}", path, why));
}

std::string read_all(int file, const std::string& path) {
  std::string text;
  char buffer[64 << 10];
  for (;;) {
    const ssize_t count = ::pread(file, buffer, sizeof buffer, static_cast<off_t>(text.size()));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(path, "read");
    if (count == 0) return text;
    text.append(buffer, static_cast<std::size_t>(count));
    if (text.size() > kMaxBytes)
      refuse(path, fmt::format("a journal has at most {} bytes: start a new one", kMaxBytes));
  }
}

ordered_json header_of(const ordered_json& identity) {
  ordered_json header = {{"journal", "kiln tune"}, {"format", kFormat}};
  header.update(identity);
  return header;
}

void require_same(const std::string& path, const ordered_json& found, const ordered_json& wanted) {
  for (const auto& [key, value] : wanted.items()) {
    if (found.contains(key) && found[key] == value) continue;
    refuse(path, fmt::format("the journal was begun with another {} ({}, now {}): give another "
                             "--journal, or delete this one",
                             key, found.contains(key) ? printable(found[key].dump()) : "none",
                             printable(value.dump())));
  }
}

// From the untrusted text of a line; throws nlohmann's exceptions for what is no measurement.
TileMeasurement measurement_from(const ordered_json& line) {
  TileMeasurement m;
  m.times_us = line.at("times_us").get<std::vector<double>>();
  m.checked = line.at("checked").get<bool>();
  m.difference = line.at("difference").get<double>();
  m.error = line.at("error").get<std::string>();
  return m;
}

}  // namespace

TuneJournal::TuneJournal(const std::string& path, const ordered_json& identity) : path_(path) {
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_APPEND, 0644);
  if (file_ < 0) fail(path, "open");
  try {
    if (::flock(file_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK)
        refuse(path,
               "another kiln tune writes this journal: wait for it, or give each shard its "
               "own --journal");
      fail(path, "flock");
    }
    read(header_of(identity));
  } catch (...) {
    ::close(file_);
    throw;
  }
}

TuneJournal::~TuneJournal() { ::close(file_); }

void TuneJournal::read(const ordered_json& identity) {
  const std::string text = read_all(file_, path_);
  std::size_t begin = 0;
  for (std::size_t number = 0;; ++number) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string line = text.substr(begin, end - begin);
    if (number == 0) {
      const ordered_json header = ordered_json::parse(line, nullptr, false);
      if (!header.is_object() || header.value("journal", ordered_json()) != "kiln tune")
        refuse(path_, "is no journal of kiln tune: give another --journal");
      require_same(path_, header, identity);
    } else if (!remember(line)) {
      break;  // what follows damage was measured after it: measured again, it stays in order
    }
    begin = end + 1;
  }
  // A header that never ended is one of ours only if it begins like one.
  if (begin == 0 && !text.empty() && !identity.dump().starts_with(text))
    refuse(path_, "is no journal of kiln tune: give another --journal");
  was_torn_ = begin < text.size();
  if (was_torn_) cut(begin);
  if (begin == 0) write_line(identity);
}

bool TuneJournal::remember(const std::string& text) {
  try {
    const ordered_json line = ordered_json::parse(text);
    Question question{line.at("problem").get<std::string>(), line.at("m").get<std::int64_t>(),
                      line.at("tile").get<std::string>(), line.at("repeats").get<int>()};
    answers_[std::move(question)].push_back(measurement_from(line));
    ++recorded_;
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

void TuneJournal::cut(std::size_t bytes) {
  if (::ftruncate(file_, static_cast<off_t>(bytes)) != 0) fail(path_, "ftruncate");
}

bool TuneJournal::take(const jit::Problem& problem, std::int64_t m, const jit::Tile& tile,
                       int repeats, TileMeasurement& out) {
  const auto found = answers_.find({jit::describe(problem), m, jit::describe(tile), repeats});
  if (found == answers_.end() || found->second.empty()) return false;
  out = std::move(found->second.front());
  found->second.pop_front();
  return true;
}

void TuneJournal::append(const jit::Problem& problem, std::int64_t m, const jit::Tile& tile,
                         int repeats, const TileMeasurement& measurement) {
  write_line({{"problem", jit::describe(problem)},
              {"m", m},
              {"tile", jit::describe(tile)},
              {"repeats", repeats},
              {"times_us", measurement.times_us},
              {"checked", measurement.checked},
              {"difference", measurement.difference},
              {"error", measurement.error}});
}

void TuneJournal::write_line(const ordered_json& line) {
  const std::string text =
      line.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
  for (std::size_t written = 0; written < text.size();) {
    const ssize_t count = ::write(file_, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(path_, "write");
    written += static_cast<std::size_t>(count);
  }
  const auto now = std::chrono::steady_clock::now();
  if (now - synced_ < std::chrono::seconds(1)) return;
  synced_ = now;
  // Pipes and the like have nothing to sync.
  if (::fdatasync(file_) != 0 && errno != EINVAL) fail(path_, "fdatasync");
}

TileMeasurement JournaledMeasurer::measure(const jit::Problem& problem, std::int64_t m,
                                           const jit::Tile& tile, int repeats) {
  TileMeasurement measurement;
  if (journal_.take(problem, m, tile, repeats, measurement)) return measurement;
  try {
    measurement = next_.measure(problem, m, tile, repeats);
  } catch (const Error& error) {
    if (error.status() != Status::kDriverError) throw;
    measurement.error = error.what();
    journal_.append(problem, m, tile, repeats, measurement);
    throw;
  }
  journal_.append(problem, m, tile, repeats, measurement);
  return measurement;
}

}  // namespace kiln::tools
