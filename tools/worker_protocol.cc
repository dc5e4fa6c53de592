#include "tools/worker_protocol.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/shapes.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

using nlohmann::json;

// One line, whatever bytes a compile log holds.
std::string dump(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

// A request has one key, which says what kind of kernel is asked for.
constexpr const char* kGemm = "gemm";
constexpr const char* kCast = "cast";
constexpr const char* kFill = "fill";
constexpr const char* kReference = "reference";

// Casts are few, and the line that describes one is unique: it stands for the cast.
std::string text_of(const jit::QuantizeSpec& cast) { return jit::describe({cast, {}}); }

jit::QuantizeSpec cast_of(const std::string& text) {
  for (const jit::QuantizeSpec& cast : jit::all_casts())
    if (text_of(cast) == text) return cast;
  throw Error(Status::kInvalidArgument,
              fmt::format("{} must describe a cast of kiln_quantize, got {}: kiln warm and its "
                          "compiler processes must be of one build",
                          kCast, quote(text)));
}

}  // namespace

std::string encode_request(const jit::AnyKernel& spec) {
  struct Visitor {
    json operator()(const jit::GemmSpec& s) const {
      return {{kGemm, {{"problem", to_json(s.problem)}, {"tile", jit::describe(s.tile)}}}};
    }
    json operator()(const jit::QuantizeSpec& s) const { return {{kCast, text_of(s)}}; }
    json operator()(const jit::FillSpec&) const { return {{kFill, true}}; }
    json operator()(const jit::ReferenceSpec& s) const {
      return {{kReference, to_json(s.problem)}};
    }
  };
  return dump(std::visit(Visitor{}, spec));
}

jit::AnyKernel decode_request(std::string_view line) {
  const json document = json::parse(line);
  if (document.is_object() && document.size() == 1) {
    const std::string& kind = document.begin().key();
    const json& value = document.begin().value();
    if (kind == kGemm)
      return jit::GemmSpec{problem_from_json(value.at("problem")),
                           jit::parse_tile(value.at("tile").get<std::string>(), "tile")};
    if (kind == kCast) return cast_of(value.get<std::string>());
    if (kind == kFill && value == true) return jit::FillSpec{};
    if (kind == kReference) return jit::ReferenceSpec{problem_from_json(value)};
  }
  throw Error(Status::kInvalidArgument,
              fmt::format("a request must be an object of one key ({}, {}, {} or {}), got {}: kiln "
                          "warm and its compiler processes must be of one build",
                          kGemm, kCast, kFill, kReference, quote(line)));
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
