#include "tools/worker_protocol.h"

#include <nlohmann/json.hpp>

#include "tools/shapes.h"

namespace kiln::tools {
namespace {

using nlohmann::json;

// One line, whatever bytes a compile log holds.
std::string dump(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

std::string encode_request(const jit::GemmSpec& spec) {
  return dump({{"problem", to_json(spec.problem)}, {"tile", jit::describe(spec.tile)}});
}

jit::GemmSpec decode_request(std::string_view line) {
  const json document = json::parse(line);
  return {problem_from_json(document.at("problem")),
          jit::parse_tile(document.at("tile").get<std::string>(), "tile")};
}

std::string encode_reply(const WorkerReply& reply) {
  if (const auto* failure = std::get_if<WorkerFailure>(&reply)) {
    return dump({{"status", static_cast<int>(failure->status)}, {"message", failure->message}});
  }
  const auto& info = std::get<runtime::KernelInfo>(reply);
  return dump({{"status", 0},
               {"key", info.key},
               {"from_disk", info.from_disk},
               {"registers", info.registers},
               {"spill_bytes", info.spill_bytes},
               {"static_smem_bytes", info.static_smem_bytes},
               {"dynamic_smem_bytes", info.launch.dynamic_smem_bytes},
               {"threads", info.launch.threads},
               {"cubin_bytes", info.cubin_bytes},
               {"compile_ms", info.compile_ms}});
}

WorkerReply decode_reply(std::string_view line) {
  try {
    const json document = json::parse(line);
    const auto status = static_cast<Status>(document.at("status").get<int>());
    if (status != Status::kOk)
      return WorkerFailure{status, document.at("message").get<std::string>()};
    runtime::KernelInfo info;
    info.key = document.at("key").get<std::string>();
    info.from_disk = document.at("from_disk").get<bool>();
    info.registers = document.at("registers").get<int>();
    info.spill_bytes = document.at("spill_bytes").get<int>();
    info.static_smem_bytes = document.at("static_smem_bytes").get<int>();
    info.launch.dynamic_smem_bytes = document.at("dynamic_smem_bytes").get<std::int64_t>();
    info.launch.threads = document.at("threads").get<std::int32_t>();
    info.cubin_bytes = document.at("cubin_bytes").get<std::int64_t>();
    info.compile_ms = document.at("compile_ms").get<double>();
    return info;
  } catch (const json::exception& error) {
    return WorkerFailure{
        Status::kInternal,
        std::string("the compiler process gave no readable answer: ") + error.what()};
  }
}

}  // namespace kiln::tools
