// The one exception type of the library and the status values it carries.
//
// Thrown for a caller's mistake or a failing environment; expected outcomes (a cache miss, a tuning
// lookup) are ordinary values. The message states the rule, the value, the place and the remedy.
// The numbers are those of kiln_status in runtime/kiln.h (checked there) and are never reused.
#pragma once

#include <stdexcept>
#include <string>

namespace kiln {

enum class Status : int {
  kOk = 0,
  kInvalidArgument = 1,  // a value breaks a rule: field, value, rule and remedy are in the message
  kUnsupported = 2,      // well-formed, but not something this version or GPU can do
  kNoCompiler = 3,       // NVRTC was not found or cannot be used
  kCompileFailed = 4,    // NVRTC refused a program: the message carries its log
  kNoDriver = 5,         // libcuda was not found or cannot be used
  kNoDevice = 6,         // no usable Hopper GPU, or the engine was made without one
  kNotReady = 7,         // the kernel is not loaded and may not be built now
  kFrozen = 8,           // a miss where compiling is not allowed; the message names the key
  kCapturing = 9,        // the stream is being captured: this call may not run inside a capture
  kDriverError = 10,     // a CUDA driver call failed; the message names the call and its error
  kOutOfMemory = 11,
  kForked = 12,    // the process was forked after the engine was created
  kInternal = 13,  // a bug in Kiln
};

class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  Status status() const noexcept { return status_; }

 private:
  Status status_;
};

// For a value that breaks a rule; the message names field, rule, value and remedy.
[[noreturn]] inline void refuse(const std::string& message) {
  throw Error(Status::kInvalidArgument, message);
}

}  // namespace kiln
