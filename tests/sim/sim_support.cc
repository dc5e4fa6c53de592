#include "tests/sim/sim_support.h"

#include <cstdlib>
#include <span>

namespace kiln::test {
namespace {

struct Found {
  std::unique_ptr<Simulator> simulator;
  std::string reason;
};

const Found& found() {
  static const Found result = [] {
    try {
      return Found{std::make_unique<Simulator>(), ""};
    } catch (const Error& error) {
      return Found{nullptr, error.what()};
    }
  }();
  return result;
}

std::uint64_t hash_of(std::span<const std::byte> bytes) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3ull;
  return hash;
}

bool is_plain_dense(const jit::Problem& p) {
  return p.layout == jit::Layout::kDense && p.scaling == jit::Scaling::k1d2d;
}

}  // namespace

Simulator* Simulator::get() { return found().simulator.get(); }
const std::string& Simulator::skip_reason() { return found().reason; }

Simulator::Simulator(sim::TemplateOverrides overrides, std::int32_t num_sms) {
  const runtime::EngineHooks hooks = sim::simulator_hooks(std::move(overrides));
  control_ = &sim::control(hooks.driver_library);
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.device = 0;
  options.num_sms = num_sms;
  options.log_level = KILN_LOG_OFF;
  options.cache_dir = KILN_SIM_CACHE;
  options.cache_path = "";
  if (runtime::create_engine(&options, {}, hooks, &engine_) != KILN_OK)
    throw Error(Status::kNoDevice, kiln_last_error());
  gpu_ = std::make_unique<Gpu>(engine_);
}

Simulator::~Simulator() {
  gpu_.reset();
  kiln_engine_destroy(engine_);
}

std::uint64_t seeds(std::uint64_t usual) {
  const char* const asked = std::getenv("KILN_SIM_SEEDS");
  const std::uint64_t count = asked != nullptr ? std::strtoull(asked, nullptr, 10) : 0;
  return count > 0 ? count : usual;
}

SimCase::SimCase(Simulator& simulator, const GroupedCase& test)
    : simulator_(simulator), test_(test) {
  if (is_plain_dense(test.problem)) {
    dense_ = std::make_unique<GemmData>(simulator.gpu(),
                                        GemmCase{test.problem, test.m, test.tile, test.seed});
    dense_->fill_exact();
  } else {
    grouped_ = std::make_unique<GroupedGemm>(simulator.gpu(), test);
    grouped_->fill_exact();
    grouped_->upload();
  }
}

// With an odd seed one cluster does everything, so that tiles follow each other.
std::string SimCase::launch(std::uint64_t seed) {
  simulator_.control().seed = seed;
  const jit::Tile tile = test_.tile.value_or(jit::Tile{});
  const std::int32_t num_sms = seed % 2 == 1 ? tile.cluster_m * tile.cluster_n : 0;
  return dense_ != nullptr ? launch_dense(num_sms) : launch_grouped(num_sms);
}

std::string SimCase::launch_dense(std::int32_t num_sms) {
  dense_->d16.poison_all();  // what an earlier launch left must not pass for a result
  dense_->d32.poison_all();
  dense_->upload();
  kiln_operands operands = dense_->operands();
  operands.num_sms = num_sms;
  if (kiln_launch(dense_->plan(), &operands, simulator_.gpu().stream()) != KILN_OK)
    return kiln_last_error();
  if (!dense_->download()) return "wrong result: something was written around D";
  const std::span<const std::byte> bytes =
      test_.problem.out == jit::OutputType::kBf16 ? dense_->d16.bytes() : dense_->d32.bytes();
  const std::uint64_t hash = hash_of(bytes);
  if (has_hash_ && hash == hash_) return "";
  const std::int64_t mismatches = dense_->mismatches();
  if (mismatches > 0) return "wrong result: " + std::to_string(mismatches) + " elements";
  has_hash_ = true;
  hash_ = hash;
  return "";
}

std::string SimCase::launch_grouped(std::int32_t num_sms) {
  grouped_->reset_output();
  const kiln_operands operands = grouped_->operands(
      test_.zero_padding ? static_cast<std::uint32_t>(KILN_LAUNCH_ZERO_PADDING) : 0u, num_sms);
  if (kiln_launch(grouped_->plan(), &operands, simulator_.gpu().stream()) != KILN_OK)
    return kiln_last_error();
  const std::uint64_t hash = hash_of(grouped_->output_bytes());
  if (has_hash_ && hash == hash_) return "";
  const std::string defect = grouped_->defect();
  if (!defect.empty()) return "wrong result: " + defect;
  has_hash_ = true;
  hash_ = hash;
  return "";
}

void check_schedules(Simulator& simulator, const GroupedCase& test, std::uint64_t count) {
  INFO(describe(test));
  SimCase sim_case(simulator, test);
  for (std::uint64_t seed = 1; seed <= count; ++seed) {
    INFO("seed " << seed);
    REQUIRE(sim_case.launch(seed) == "");
  }
}

}  // namespace kiln::test
