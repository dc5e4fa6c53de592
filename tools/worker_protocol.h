// The lines between `kiln warm` and its compiler processes.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "jit/error.h"
#include "jit/source.h"
#include "runtime/loaded_kernel.h"

namespace kiln::tools {

inline constexpr std::string_view kWorkerCommand = "warm-worker";

std::string encode_request(const jit::AnyKernel& spec);
jit::AnyKernel decode_request(std::string_view line);  // throws on anything else

// What is known of the kernel, or what went wrong.
struct WorkerFailure {
  Status status = Status::kInternal;
  std::string message;
};
using WorkerReply = std::variant<runtime::KernelInfo, WorkerFailure>;
std::string encode_reply(const WorkerReply& reply);
WorkerReply decode_reply(std::string_view line);  // a line that is none is a kInternal failure

}  // namespace kiln::tools
