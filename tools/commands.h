// The subcommands of `kiln`, and what they share: exit codes, output, handles of the C API.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "jit/error.h"
#include "runtime/c_tile.h"
#include "runtime/engine.h"
#include "runtime/kiln.h"
#include "tools/shapes.h"

namespace kiln::tools {

// Exit codes of every subcommand.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,   // something that should have worked did not
  kExitUsage = 2,     // the command line or a file given on it is wrong
  kExitNoDevice = 3,  // no usable GPU or driver
  kExitMiss = 4,      // a kernel is not in the cache and compiling is not allowed
};
ExitCode exit_code(Status status);

// Each gets the words behind its name and returns the exit code. Throws Error.
using Words = std::span<const std::string>;
int warm(Words words);
int run(Words words);
int tune(Words words);
int bench_command(Words words);
int explain(Words words);
int cache_command(Words words);
int doctor(Words words);
int version(Words words);
int warm_worker(Words words);  // started by warm, not by people

// To stdout and stderr, unformatted. A failed write to stdout is reported by main() at the end.
void print(std::string_view text);
void print_error(std::string_view text);
void print_json(const nlohmann::ordered_json& document);

// The C API with its failures as Error, and its handles as owners.
void check(kiln_status status);

template <typename T, void (*kDestroy)(T*)>
class Handle {
 public:
  Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { kDestroy(handle_); }
  T* get() const { return handle_; }
  T** out() { return &handle_; }

 private:
  T* handle_ = nullptr;
};
using PlanHandle = Handle<kiln_plan, kiln_plan_destroy>;
using QuantizerHandle = Handle<kiln_quantizer, kiln_quantizer_destroy>;

class EngineHandle {
 public:
  explicit EngineHandle(const kiln_engine_options& options) {
    check(kiln_engine_create(&options, handle_.out()));
  }
  // With stand-ins for the driver and the compiler.
  EngineHandle(const kiln_engine_options& options, const runtime::EngineHooks& hooks);
  kiln_engine* get() const { return handle_.get(); }
  runtime::Engine& engine() const { return runtime::engine_of(handle_.get()); }

 private:
  Handle<kiln_engine, kiln_engine_destroy> handle_;
};

// Options of an engine that only plans and compiles.
kiln_engine_options offline_options(jit::Arch arch, std::int32_t num_sms);

kiln_problem to_c(const jit::Problem& problem);
using runtime::from_c;
using runtime::to_c;

}  // namespace kiln::tools
