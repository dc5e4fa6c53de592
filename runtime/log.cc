#include "runtime/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <string>

namespace kiln::runtime {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kOff: return spdlog::level::off;
    case LogLevel::kError: return spdlog::level::err;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kDebug: return spdlog::level::debug;
  }
  return spdlog::level::off;
}

LogLevel from_spdlog(spdlog::level::level_enum level) {
  if (level >= spdlog::level::err) return LogLevel::kError;
  if (level == spdlog::level::warn) return LogLevel::kWarning;
  return level == spdlog::level::info ? LogLevel::kInfo : LogLevel::kDebug;
}

// Hands messages to the host. Derives from the bare sink, not from base_sink: that one holds a
// mutex while it writes, and a callback must run without our locks.
class CallbackSink final : public spdlog::sinks::sink {
 public:
  explicit CallbackSink(const LogOptions& options) : options_(options) {}
  void log(const spdlog::details::log_msg& message) override {
    const std::string text(message.payload.data(), message.payload.size());
    options_.callback(static_cast<std::int32_t>(from_spdlog(message.level)), text.c_str(),
                      options_.user);
  }
  void flush() override {}
  void set_pattern(const std::string&) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

 private:
  const LogOptions options_;
};

std::shared_ptr<spdlog::sinks::sink> make_sink(const LogOptions& options) {
  if (options.callback != nullptr) return std::make_shared<CallbackSink>(options);
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  sink->set_pattern("%n: %l: %v");
  return sink;
}

}  // namespace

struct Log::Impl {
  explicit Impl(const LogOptions& options) : logger("kiln", make_sink(options)) {
    logger.set_level(to_spdlog(options.level));
    // spdlog's own handler prints; a message that cannot be written is dropped instead.
    logger.set_error_handler([](const std::string&) {});
  }
  spdlog::logger logger;
};

Log::Log(const LogOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Log::~Log() = default;

bool Log::enabled(LogLevel level) const noexcept {
  return impl_->logger.should_log(to_spdlog(level));
}

void Log::write(LogLevel level, std::string_view message) const noexcept {
  try {
    impl_->logger.log(to_spdlog(level), spdlog::string_view_t(message.data(), message.size()));
  } catch (...) {  // no memory for the message: nobody to tell
  }
}

}  // namespace kiln::runtime
