// One named logger per engine, in front of a callback of the host or stderr. Knows no engine and no
// CUDA; log.cc alone includes spdlog.
//
// Thread-safe, never throws, and prints nothing unless the level asks for it.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

namespace kiln::runtime {

// Numbers of KILN_LOG_* in kiln.h.
enum class LogLevel : std::int32_t { kOff = 1, kError = 2, kWarning = 3, kInfo = 4, kDebug = 5 };

struct LogOptions {
  LogLevel level = LogLevel::kWarning;
  void (*callback)(std::int32_t level, const char* message, void* user) = nullptr;  // null: stderr
  void* user = nullptr;
};

class Log {
 public:
  explicit Log(const LogOptions& options);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  // Ask first where the text costs something to make.
  bool enabled(LogLevel level) const noexcept;
  void write(LogLevel level, std::string_view message) const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kiln::runtime
